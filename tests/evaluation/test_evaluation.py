"""The evaluation makes, scores, keeps and reports what it says, and says what is in the way."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("transformers")
pytest.importorskip("diffusers")

from transformers import AutoProcessor, CLIPModel

from alignit.concepts.formats import load_concept
from alignit.diffusers import AlignIT
from evaluation.__main__ import main
from evaluation.clip import ClipScorer, Scores, Segmenter
from evaluation.errors import EvaluationError
from evaluation.makers import DiffusersMaker, Settings, WebUIMaker
from evaluation.pictures import read_pictures
from evaluation.plan import ALIGNED, CLASS_WORD, PLAIN, WAYS, Shot, Subject, read_prompts, shots
from evaluation.record import Entry, Record
from evaluation.report import make_page, make_table, means, rows
from evaluation.run import run
from miniature.concepts import CONCEPTS, CONCEPTS_FOLDER, concept_file
from miniature.pipeline import make_pipeline
from miniature.weights import load_classifier, load_miniature
from tests.evaluation.models import save_clip, save_segmenter
from tests.evaluation.reader import PLACES, ReadByClassifier

CAT = Subject("<my-cat=cat>", "cat", "<lora:style:1>")


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("clip") / "clip")


@pytest.fixture(scope="module")
def segmenter_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_segmenter(tmp_path_factory.mktemp("clip") / "segmenter")


def noise(seed: int, size: int = 48) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8))


# What is to be made


def test_prompts_of_the_three_ways() -> None:
    shot = Shot(0, "photo of a {}.", 1, ALIGNED)
    assert shot.prompt(CAT) == "photo of a <my-cat=cat>. <lora:style:1>"
    assert dataclasses.replace(shot, way=PLAIN).prompt(CAT) == shot.prompt(CAT)
    assert dataclasses.replace(shot, way=CLASS_WORD).prompt(CAT) == "photo of a cat."
    assert {dataclasses.replace(shot, way=way).text(CAT) for way in WAYS} == {"photo of a cat."}


def test_pictures_to_compare_have_the_same_noise_and_come_one_after_the_other() -> None:
    every = list(shots(["a {}", "the {}"], 3))
    assert len({shot.key for shot in every}) == len(every) == 2 * 3 * len(WAYS)
    for start in range(0, len(every), len(WAYS)):
        group = every[start : start + len(WAYS)]
        assert [shot.way for shot in group] == list(WAYS)
        assert len({(shot.number, shot.seed) for shot in group}) == 1


def test_every_list_of_customconcept101_is_read_or_refused_with_its_reason(shared: Path) -> None:
    folder = shared / "customconcept101"
    data = json.loads((folder / "dataset.json").read_text())
    read = set()
    for concept in data:
        path, class_word = folder / concept["prompt_filename"], concept["class_prompt"]
        if path.exists():
            prompts = read_prompts(path, class_word)
            assert len(prompts) >= 20, path
            assert all("{}" in prompt for prompt in prompts), path
            read.add(path.name)
    assert len(read) > 20
    for path in (folder / "prompts").glob("*.txt"):
        if "{0}" in path.read_text():
            with pytest.raises(EvaluationError, match="several concepts"):
                read_prompts(path, "cat")


def test_a_list_with_the_class_word_in_the_place_of_the_concept(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a moongate.\n{} of moongates and a moongate\n")
    assert read_prompts(tmp_path / "list.txt", "moongate") == ["a {}.", "{} of moongates and a moongate"]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "is empty"),
        ("\n \n", "is empty"),
        ("a {} cat\nno place", r"line 2: write \{\} once"),
        ("{} and {}", "line 1: write"),
        ("{0} and the {1}", "several concepts"),
        ("\xff\xfe".encode("latin-1"), "can't be read"),
    ],
)
def test_prompt_lists_that_cannot_be_used(tmp_path: Path, content: str | bytes, why: str) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(EvaluationError, match=why):
        read_prompts(path, "dog")
    with pytest.raises(EvaluationError, match="can't be read"):
        read_prompts(tmp_path / "none.txt", "dog")


# Scores


def test_clips_scores_are_cosines(clip_folder: Path) -> None:
    references, picture = [noise(1), noise(2)], noise(3)
    scores = ClipScorer(references, "cat", None, str(clip_folder)).score(picture, "a cat on the moon")

    model, processor = CLIPModel.from_pretrained(clip_folder), AutoProcessor.from_pretrained(clip_folder)
    inputs = processor(text=["a cat on the moon"], images=[picture, *references], return_tensors="pt", padding=True)
    with torch.no_grad():
        out = model(**inputs)
    of_text, of_pictures = out.text_embeds[0].tolist(), out.image_embeds.tolist()

    def cosine(a: list[float], b: list[float]) -> float:
        return math.fsum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)

    assert scores.text == pytest.approx(cosine(of_text, of_pictures[0]), abs=1e-5)
    expected = (cosine(of_pictures[0], of_pictures[1]) + cosine(of_pictures[0], of_pictures[2])) / 2
    assert scores.image == pytest.approx(expected, abs=1e-5)


class LeftHalf:
    """Finds the object in the left half of a picture; in none that is black."""

    def mask(self, picture: Image.Image, words: str) -> Image.Image | None:
        assert words == "cat"
        if not np.asarray(picture).any():
            return None
        mask = Image.new("L", picture.size)
        mask.paste(255, (0, 0, picture.width // 2, picture.height))
        return mask


def test_masked_image_alignment_looks_at_the_object_alone(clip_folder: Path) -> None:
    scorer = ClipScorer([noise(1)], "cat", LeftHalf(), str(clip_folder))
    same_left = noise(1)
    same_left.paste(noise(9), (24, 0))
    assert scorer.score(same_left, "a cat").image == pytest.approx(1, abs=1e-5)
    same_right = noise(1)
    same_right.paste(noise(9).crop((0, 0, 24, 48)), (0, 0))
    assert scorer.score(same_right, "a cat").image < 0.9999
    assert scorer.score(Image.new("RGB", (48, 48)), "a cat").image == 0
    assert ClipScorer([noise(1)], "cat", None, str(clip_folder)).score(same_left, "a cat").image < 0.9999


def test_the_segmenter_masks_where_its_probability_is_high(segmenter_folder: Path) -> None:
    everywhere = Segmenter(str(segmenter_folder), threshold=0.0).mask(noise(1, 64), "cat")
    assert everywhere is not None
    assert everywhere.size == (64, 64)
    assert np.asarray(everywhere).min() == 255
    assert Segmenter(str(segmenter_folder), threshold=1.0).mask(noise(1, 64), "cat") is None


def test_no_references_and_no_object_in_them(clip_folder: Path) -> None:
    with pytest.raises(EvaluationError, match="no reference pictures"):
        ClipScorer([], "cat", None, str(clip_folder))
    with pytest.raises(EvaluationError, match="finds no 'cat'"):
        ClipScorer([Image.new("RGB", (48, 48))], "cat", LeftHalf(), str(clip_folder))
    with pytest.raises(EvaluationError, match="can't be loaded"):
        ClipScorer([noise(1)], "cat", None, str(clip_folder / "none"))


# A run with the miniature and its own scorer


class Counting:
    """A maker that counts what it makes, and stops working after so many pictures."""

    def __init__(self, maker: DiffusersMaker, stop_after: int = 10**9) -> None:
        self.maker, self.left, self.made = maker, stop_after, 0

    def make(self, shot: Shot, subject: Subject) -> tuple[Image.Image, str]:
        if self.left == 0:
            raise EvaluationError("the WebUI has gone away")
        self.left -= 1
        self.made += 1
        return self.maker.make(shot, subject)

    def facts(self) -> dict[str, str]:
        return self.maker.facts()


def test_a_run_that_stops_half_way_goes_on_and_reports_all(tmp_path: Path) -> None:
    spec = next(spec for spec in CONCEPTS if spec.name == "my-fish")
    file = concept_file(CONCEPTS_FOLDER, spec, "textual_inversion")
    miniature, classifier = load_miniature(), load_classifier()
    pipe = make_pipeline(miniature)
    look = {"class": spec.look.kind, "colour": spec.look.colour}
    maker = DiffusersMaker(pipe, AlignIT(pipe, load_concept(file)), Settings(96, 4, 2.5), "miniature")
    subject = Subject("<my-fish=fish>", "fish")
    scorer = ReadByClassifier(classifier, look, "fish")
    every = list(shots(list(PLACES), 1))
    record = Record(tmp_path / "run", {"mark": subject.mark})
    stopping = Counting(maker, 4)
    with pytest.raises(EvaluationError, match="gone away"):
        run(stopping, scorer, subject, every, record)
    assert "4 pictures" in (tmp_path / "run" / "table.md").read_text(), "what there is, is reported"
    # Cut off in the middle of a line, as when the power fails.
    results = tmp_path / "run" / "results.jsonl"
    results.write_bytes(results.read_bytes()[:-7])

    record = Record(tmp_path / "run", {"mark": subject.mark})
    assert len(record.entries) == 3
    going_on = Counting(maker)
    page = run(going_on, scorer, subject, every, record)
    assert going_on.made == 3
    assert set(record.entries) == {shot.key for shot in every}
    shown = re.findall(r'src="([^"]+)"', page.read_text())
    assert len(shown) == 6
    assert all((page.parent / path).exists() for path in shown)
    for shot in every:
        picture, _ = maker.make(shot, subject)
        assert np.array_equal(np.asarray(picture), np.asarray(Image.open(record.picture(shot.key)))), shot
        assert scorer.score(picture, shot.text(subject)) == Scores(
            record.entries[shot.key].text, record.entries[shot.key].image
        )


# What is kept and reported


def entry(number: int, seed: int, way: str, text: float, image: float, note: str = "") -> Entry:
    return Entry(Shot(number, "", seed, way).key, number, seed, way, "a <b> & 'c'", text, image, note)


def test_the_table_compares_what_is_there_in_all_ways() -> None:
    entries = [
        entry(n, s, way, 0.1 * i + 0.01 * n, 0.5) for n in range(4) for s in (1, 2) for i, way in enumerate(WAYS)
    ]
    entries.append(entry(9, 1, ALIGNED, 99, 99))
    found = rows(entries, 100)
    assert found[ALIGNED][0][0] == pytest.approx(0.215)
    low, high = found[ALIGNED][0][1:]
    assert 0.2 <= low < 0.215 < high <= 0.23
    assert found[PLAIN][2][0] == pytest.approx((0.115 * 0.5) ** 0.5)
    assert "| AlignIT against the concept alone | +87.0 % | +0.0 % | +36.7 % |" in make_table(entries, {})


def test_geometric_means_of_what_is_negative() -> None:
    assert means([entry(0, 1, PLAIN, -0.1, 0.5)])[2] == 0


def test_what_prompts_and_notes_hold_cannot_be_code_of_the_page() -> None:
    page = make_page([entry(0, 1, ALIGNED, 0.2, 0.5, "<script>alert(1)</script> TABLE ROWS HEAD")], {"model": "<i>x"})
    assert "<script>alert" not in page
    assert "a &lt;b&gt; &amp; &#39;c&#39;" in page
    assert page.count("<table>") == 1
    assert "<i>x" not in page


def test_a_folder_with_other_settings_and_one_that_cannot_be_written(tmp_path: Path) -> None:
    Record(tmp_path / "run", {"steps": 50})
    with pytest.raises(EvaluationError, match=r"another steps \(50, now 20\)"):
        Record(tmp_path / "run", {"steps": 20})
    (tmp_path / "file").write_text("")
    with pytest.raises(EvaluationError, match="choose another with --output"):
        Record(tmp_path / "file", {})


# The command


@pytest.fixture
def command(tmp_path: Path, clip_folder: Path) -> Callable[..., list[str]]:
    (tmp_path / "prompts.txt").write_text("photo of a {}.\n")
    (tmp_path / "references").mkdir()
    noise(1).save(tmp_path / "references" / "1.png")

    def arguments(**changes: str | None) -> list[str]:
        options = {
            "webui": "http://127.0.0.1:1",
            "mark": "<my-cat=cat>",
            "class-word": "cat",
            "prompts": str(tmp_path / "prompts.txt"),
            "references": str(tmp_path / "references"),
            "output": str(tmp_path / "out"),
            "clip": str(clip_folder),
            "mask": "none",
        } | changes
        return [word for name, value in options.items() if value is not None for word in (f"--{name}", value)]

    return arguments


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, "start it with --api"),
        ({"prompts": "/nowhere.txt"}, "can't be read"),
        ({"class-word": " "}, "--class-word is empty"),
        ({"seeds": "0"}, "at least 1"),
        ({"webui": None, "checkpoint": "/nowhere.safetensors"}, "needs --file"),
        ({"webui": None, "checkpoint": "/nowhere.safetensors", "file": "x.pt"}, "is not there"),
        ({"output": "/proc/none"}, "choose another with --output"),
    ],
)
def test_what_is_in_the_way_is_said(
    command: Callable[..., list[str]], changes: dict[str, str | None], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(**changes)) == 1
    assert why in capsys.readouterr().err


def test_something_else_at_the_address_of_the_webui() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(5)
        server.listen()

        # Nobody answers, and the connection is closed.
        def close() -> None:
            connection, _ = server.accept()
            connection.close()

        threading.Thread(target=close, daemon=True).start()
        with pytest.raises(EvaluationError, match="start it with --api"):
            WebUIMaker(f"http://127.0.0.1:{server.getsockname()[1]}", Settings())


def test_reference_pictures_that_are_damaged(command: Callable[..., list[str]], tmp_path: Path) -> None:
    (tmp_path / "references" / "2.png").write_bytes(b"no picture")
    with pytest.raises(EvaluationError, match=r"2\.png can't be read"):
        read_pictures(tmp_path / "references")
    with pytest.raises(EvaluationError, match="no pictures"):
        read_pictures(tmp_path / "none")
    assert command()


def test_settings_of_a_run_are_kept(tmp_path: Path) -> None:
    Record(tmp_path / "run", {"prompts": ["a {}"], "steps": 5})
    assert json.loads((tmp_path / "run" / "settings.json").read_text()) == {"prompts": ["a {}"], "steps": 5}
