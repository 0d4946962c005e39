"""Runs and answers that are made up for tests of the survey; nobody's answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from evaluation.plan import ALIGNED, CLASS_WORD, PLAIN, Shot, Subject
from evaluation.record import Entry, Record
from evaluation.survey.pairs import Key

SUBJECT = Subject("<my-cat=cat>", "cat")
PROMPTS = ("a {} on the moon", 'a {} & a <b>dog</b> in the "snow" </script><script>\'', "{} at night", "the {}")
COLOURS = {CLASS_WORD: (0, 160, 0), PLAIN: (190, 30, 30), ALIGNED: (30, 30, 190)}


def colour(prompt: int, seed: int, way: str) -> tuple[int, int, int]:
    """A picture's colour: red is the plain concept, blue is AlignIT; no two pictures have the same."""
    red, green, blue = COLOURS[way]
    return red, green + 12 * prompt + 3 * seed, blue


def way_of(picture: Image.Image) -> str:
    red, _, blue = picture.convert("RGB").getpixel((5, 5))
    return PLAIN if red > blue else ALIGNED


def make_run(folder: Path, prompts: int = 4, seeds: int = 3) -> Record:
    """A run whose pictures are of one colour, and say in their files how they were made."""
    record = Record(folder, {"mark": SUBJECT.mark, "class_word": "cat", "prompts": list(PROMPTS[:prompts])})
    for number, template in enumerate(PROMPTS[:prompts]):
        for seed in range(1, seeds + 1):
            for way in (CLASS_WORD, PLAIN, ALIGNED):
                add_picture(record, Shot(number, template, seed, way))
    return record


def add_picture(record: Record, shot: Shot) -> None:
    picture = Image.new("RGB", (64, 48), colour(shot.number, shot.seed, shot.way))
    picture.info["comment"] = f"made by {shot.way}"
    entry = Entry(shot.key, shot.number, shot.seed, shot.way, shot.prompt(SUBJECT), 0.3, 0.7, f"a note on {shot.way}")
    record.add(shot, picture, entry)
    said = PngImagePlugin.PngInfo()
    said.add_text("parameters", f"made by {shot.way}")
    picture.save(record.picture(shot.key), pnginfo=said)


def make_references(folder: Path, count: int = 2) -> Path:
    folder.mkdir()
    for i in range(count):
        Image.new("RGB", (500 + i, 300), (200, 200, 10 * i)).save(folder / f"{i}.jpg", comment="my own cat")
    return folder


def answers_file(path: Path, key: Key, person: int, answers: list[Mapping[str, Any]], **changes: Any) -> Path:
    """A file as the page writes it."""
    content = {"format": "AlignIT survey answers, 1", "survey": key.survey, "person": f"{person:032x}"}
    path.write_text(json.dumps({**content, "answers": answers, **changes}), encoding="utf-8")
    return path
