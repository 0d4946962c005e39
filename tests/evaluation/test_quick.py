"""``--quick`` makes few pictures, and a summary that can be posted."""

from __future__ import annotations

import platform
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

pytest.importorskip("transformers")
pytest.importorskip("diffusers")

from evaluation.__main__ import main
from evaluation.commands import measure
from evaluation.plan import QUICK_PROMPTS
from evaluation.record import Record
from evaluation.report import table_lines
from miniature.concepts import CONCEPTS, CONCEPTS_FOLDER, concept_file
from miniature.pipeline import make_pipeline
from miniature.weights import load_miniature
from tests.evaluation.models import save_clip


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """The words of a quick run with the miniature in the place of a checkpoint, but for those that are left out."""
    monkeypatch.setattr(measure, "load_pipeline", lambda _path, _device: make_pipeline(load_miniature()))
    (tmp_path / "references").mkdir()
    Image.new("RGB", (48, 48), "red").save(tmp_path / "references" / "1.png")
    spec = next(spec for spec in CONCEPTS if spec.name == "my-fish")
    file = concept_file(CONCEPTS_FOLDER, spec, "textual_inversion")

    def words(*more: str) -> list[str]:
        command = ["--quick", "--checkpoint", str(tmp_path / "folder" / "tiny.safetensors"), "--file", str(file)]
        command += ["--mark", "<my-fish=fish>", "--class-word", "fish", "--references", str(tmp_path / "references")]
        return [*command, "--mask", "none", "--output", str(tmp_path / "out"), "--size", "32", "--steps", "1", *more]

    return words


def test_a_summary_to_post(
    tmp_path: Path, command: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command("--clip", str(save_clip(tmp_path / "my clip")))) == 0
    summary = (tmp_path / "out" / "summary.md").read_text(encoding="utf-8")
    assert summary in capsys.readouterr().out
    entries = list(Record.of_run(tmp_path / "out").entries.values())
    assert len(entries) == 5 * 4 * 3
    assert {entry.prompt for entry in entries} == {
        prompt.replace("{}", word) for prompt in QUICK_PROMPTS for word in ("fish", "<my-fish=fish>")
    }
    assert "\n".join(table_lines(entries)) in summary
    assert len(re.findall(r"^\| (?:Class word|Concept alone|AlignIT)", summary, re.MULTILINE)) == 4
    for line in (
        "**AlignIT, quick evaluation: 5 prompts x 4 seeds**",
        "- host: diffusers",
        "- checkpoint: tiny.safetensors",
        "- CLIP: my clip",
        "- pictures: 1 steps, guidance 7.5, 32 x 32",
        "- device here: cpu",
        "- pictures that AlignIT said something about: 0",
    ):
        assert line in summary.splitlines()
    assert re.search(
        r"^- concept: textual inversion, (1 vector|[2-9] vectors); class word: fish$", summary, re.MULTILINE
    )
    assert f"torch {torch.__version__.split('+')[0]}" in summary
    assert f"Python {platform.python_version()}" in summary
    assert not any(word in summary for word in ("my-fish", "snow", str(tmp_path)))


def test_the_first_prompts_of_a_list(tmp_path: Path, command: Callable[..., list[str]]) -> None:
    (tmp_path / "prompts.txt").write_text("".join(f"a {{}} and {number} boxes\n" for number in range(7)))
    clip = str(save_clip(tmp_path / "clip"))
    assert main(command("--clip", clip, "--prompts", str(tmp_path / "prompts.txt"))) == 0
    prompts = {
        entry.prompt for entry in Record.of_run(tmp_path / "out").entries.values() if "my-fish" not in entry.prompt
    }
    assert prompts == {f"a fish and {number} boxes" for number in range(5)}


def test_seeds_of_its_own_and_no_prompts_without_it(
    command: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command("--seeds", "9")) == 1
    assert "leave out one of --quick and --seeds" in capsys.readouterr().err
    assert main(command()[1:]) == 1
    assert "give a list with --prompts, or --quick" in capsys.readouterr().err
