"""The evaluation's command against a real WebUI."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluation.__main__ import main
from evaluation.errors import EvaluationError
from evaluation.makers import Settings, WebUIMaker
from evaluation.plan import ALIGNED, CLASS_WORD, PLAIN, Shot, Subject, shots
from evaluation.record import Record
from evaluation.run import run
from miniature.concepts import CONCEPTS, CONCEPTS_FOLDER, concept_file
from miniature.weights import load_classifier
from tests.evaluation.models import save_clip
from tests.evaluation.reader import PLACES, ReadByClassifier
from tests.host.webui import WebUI

SUBJECT = Subject("<my-cat=cat>", "cat")
SETTINGS = Settings(64, 4, 7.0)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def test_the_command_makes_scores_and_reports_the_pictures_of_the_webui(
    host: WebUI, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prompts.txt").write_text("photo of a {} on the moon\n{} in snow\n")
    (tmp_path / "references").mkdir()
    host.txt2img("a my-cat", width=64, height=64, steps=2)[0].image.save(tmp_path / "references" / "1.png")
    command = ["--webui", host.url, "--mark", SUBJECT.mark, "--class-word", "cat", "--mask", "none", "--seeds", "2"]
    command += ["--prompts", str(tmp_path / "prompts.txt"), "--references", str(tmp_path / "references")]
    command += ["--clip", str(save_clip(tmp_path / "clip")), "--size", "64", "--steps", "4", "--guidance", "7"]
    out = tmp_path / "out"
    assert main([*command, "--output", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "| AlignIT against the concept alone |" in printed
    assert "12 pictures of 4 prompts and seeds" in printed

    made = {"width": 64, "height": 64, "steps": 4, "cfg_scale": 7, "sampler_name": "DDIM", "seed": 2}
    expected = {
        "class-word": host.txt2img("cat in snow", **made),
        "plain": host.txt2img("my-cat in snow", **made),
        "alignit": host.txt2img("my-cat in snow", **made, alignit=[True, "my-cat=cat"]),
    }
    for way, pictures in expected.items():
        assert np.array_equal(pixels(out / "pictures" / f"001-2-{way}.png"), pictures[0].pixels), way
    assert main([*command, "--output", str(out)]) == 0
    assert "12 of 12 pictures are there already" in capsys.readouterr().err


def test_a_quick_run_says_what_it_measured(host: WebUI, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "prompts.txt").write_text("photo of a {} on the moon\n")
    (tmp_path / "references").mkdir()
    Image.new("RGB", (64, 64), "red").save(tmp_path / "references" / "1.png")
    command = ["--quick", "--webui", host.url, "--mark", "<my-toy=toy>", "--class-word", "toy", "--mask", "none"]
    command += ["--prompts", str(tmp_path / "prompts.txt"), "--references", str(tmp_path / "references")]
    command += ["--clip", str(save_clip(tmp_path / "clip")), "--size", "64", "--steps", "2"]
    assert main([*command, "--output", str(tmp_path / "out")]) == 0
    summary = (tmp_path / "out" / "summary.md").read_text(encoding="utf-8")
    assert summary in capsys.readouterr().out
    assert "1 prompts x 4 seeds" in summary
    assert re.search(rf"^- host: AUTOMATIC1111 WebUI v?{re.escape(host.version)}", summary, re.MULTILINE)
    assert f"- checkpoint: {host.get('/sdapi/v1/options')['sd_model_checkpoint']}\n" in summary
    assert "- concept: textual inversion, 3 vectors; class word: toy\n" in summary
    assert not any(word in summary for word in ("my-toy", "moon", str(tmp_path)))

    command[command.index("<my-toy=toy>")] = "<no-such-thing=toy>"
    assert main([*command, "--output", str(tmp_path / "other")]) == 1
    assert "finds no concept in '<no-such-thing=toy>" in capsys.readouterr().err
    assert not list((tmp_path / "other" / "pictures").iterdir())


def test_a_trained_concept_with_the_miniatures_own_scorer(host: WebUI, tmp_path: Path) -> None:
    spec = next(spec for spec in CONCEPTS if spec.name == "my-robot")
    trained = host.embeddings / f"{spec.name}.pt"
    shutil.copy(concept_file(CONCEPTS_FOLDER, spec, "textual_inversion"), trained)
    host.post("/sdapi/v1/refresh-embeddings")
    subject = Subject("<my-robot=robot>", "robot")
    scorer = ReadByClassifier(load_classifier(), spec.look.values(), "robot")
    record = Record(tmp_path / "run", {})
    page = run(WebUIMaker(host.url, Settings(96, 12, 2.5)), scorer, subject, list(shots(list(PLACES), 4)), record)
    trained.unlink()
    of_way = {way: [one for one in record.entries.values() if one.way == way] for way in (CLASS_WORD, PLAIN, ALIGNED)}
    for way, entries in of_way.items():
        assert len(entries) == 8
        assert not any(one.note for one in entries)
        assert sum(one.text for one in entries) >= 0.9 * 8, f"{way} shows what the prompts say"
    images = {way: sum(one.image for one in entries) for way, entries in of_way.items()}
    assert images[CLASS_WORD] <= 1
    assert images[PLAIN] >= 5
    assert images[ALIGNED] >= 5
    assert page.read_text(encoding="utf-8").count("<img") == 24
    assert "| AlignIT against the concept alone |" in (tmp_path / "run" / "table.md").read_text(encoding="utf-8")


def test_what_alignit_says_of_a_picture_is_kept(host: WebUI) -> None:
    maker = WebUIMaker(host.url, SETTINGS)
    _, note = maker.make(Shot(0, "a {}", 1, ALIGNED), Subject("my-cat", "cat"))
    assert "'my-cat' has no class word" in note
    for way in (PLAIN, CLASS_WORD):
        assert maker.make(Shot(0, "a {}", 1, way), SUBJECT)[1] == ""


def test_a_webui_without_alignit_and_a_setting_that_it_refuses(host: WebUI, plain_host: WebUI) -> None:
    with pytest.raises(EvaluationError, match="has no AlignIT"):
        WebUIMaker(plain_host.url, SETTINGS)
    with pytest.raises(EvaluationError, match="refused /sdapi/v1/txt2img"):
        WebUIMaker(host.url, Settings("wide")).make(Shot(0, "a {}", 1, PLAIN), SUBJECT)
