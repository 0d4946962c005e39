"""The demo's grid, with a miniature of random weights: what stands where, and what is said when a thing is missing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

import miniature.demo
from miniature.classifier import Classifier
from miniature.demo import PROMPTS, main
from miniature.model import TEXT_WIDTH, make_text_encoder, make_unet, make_vae
from miniature.pipeline import make_tokenizer
from miniature.weights import Miniature, save_weights
from miniature.words import ROWS, WORDS, rows

NAME = "my-fish"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("weights")
    miniature = Miniature(make_vae().eval(), make_unet().eval(), make_text_encoder().eval(), 0.7)
    save_weights(miniature, Classifier(), folder)
    return folder


@pytest.fixture
def concepts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of concepts, with one of textual inversion."""
    folder = tmp_path / "concepts"
    (folder / "textual_inversion").mkdir(parents=True)
    vectors = {"string_to_token": {"*": 265}, "string_to_param": {"*": torch.randn(1, TEXT_WIDTH)}}
    torch.save(vectors, folder / "textual_inversion" / f"{NAME}.pt")
    monkeypatch.setattr(miniature.demo, "CONCEPTS_FOLDER", folder)
    return folder


def test_words_have_the_numbers_that_training_gives_them() -> None:
    tokenizer = make_tokenizer()
    text = "A photo of a red cat, with * in the snow."
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert ids == [ROWS[row] for row in rows(text)[1 : len(ids) + 1]]
    text = "A photo of a red cat"
    assert tokenizer(text, padding="max_length").input_ids == [ROWS[row] for row in rows(text)]
    assert all(tokenizer(word, add_special_tokens=False).input_ids == [number] for word, number in WORDS.items())


@pytest.mark.usefixtures("concepts")
def test_a_row_for_each_prompt_and_a_column_for_each_way(weights: Path, tmp_path: Path, capsys) -> None:
    output = tmp_path / "new" / "grid.png"
    arguments = ["--weights", str(weights), "--output", str(output), "--prompt", PROMPTS[0], "--prompt", PROMPTS[1]]
    assert main(arguments) == 0
    assert str(output) in capsys.readouterr().out
    sheet = Image.open(output)
    shown = 144
    assert sheet.width > 3 * shown
    pictures = []
    for row in range(2):
        for column in range(3):
            left, top = 190 + column * (shown + 8), 44 + row * (shown + 8)
            pictures.append(sheet.crop((left, top, left + shown, top + shown)).tobytes())
    assert len(set(pictures)) == 6, "all six pictures differ"
    assert sheet.crop((0, 44, 180, 44 + shown)).getcolors() is not None
    assert len(sheet.crop((0, 44, 180, 44 + shown)).getcolors()) > 1, "the prompt stands beside its row"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--prompt", "a photo of a cat"], "no {} where the concept shall stand"),
        (["--prompt", "a photo of {} on the moon"], "does not know the word 'moon'"),
        (["--prompt", "a photo of {} and {moon}"], "does not know the word 'moon'"),
        (["--concept", "my-dog"], "no concept my-dog: choose of my-cat"),
        (["--weights", "nowhere"], "is missing"),
        (["--output", "/proc/no/grid.png", "--prompt", PROMPTS[0]], "can't be written"),
        (["--model", "nowhere.safetensors"], "needs --file"),
        (
            ["--model", "nowhere.safetensors", "--file", "nothing.pt", "--class-word", "cat"],
            "nowhere.safetensors is not",
        ),
    ],
)
@pytest.mark.usefixtures("concepts")
def test_what_is_missing_is_said(weights: Path, arguments: list[str], said: str, capsys) -> None:
    given = arguments if "--weights" in arguments else ["--weights", str(weights), *arguments]
    assert main(given) == 1
    assert said in capsys.readouterr().err


def test_damaged_and_missing_concepts(weights: Path, concepts: Path, capsys) -> None:
    file = concepts / "textual_inversion" / f"{NAME}.pt"
    file.write_bytes(b"<html>not found</html>")
    assert main(["--weights", str(weights)]) == 1
    assert file.name in capsys.readouterr().err
    file.unlink()
    assert main(["--weights", str(weights)]) == 1
    assert "has no files of my-fish" in capsys.readouterr().err
