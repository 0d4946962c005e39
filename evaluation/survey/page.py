"""The page of a survey: one file that holds its pictures, asks, and gives the answers back as a file."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageOps

from evaluation.errors import EvaluationError
from evaluation.pages import render
from evaluation.record import Record
from evaluation.survey.pairs import KEY_NAME, Key, Pair, choose, texts

PAGE_NAME = "survey.html"
_REFERENCES = 6  # as many as can be looked at with a pair
_REFERENCE_SIZE = 384  # pixels
_QUALITY = 92


def write_survey(
    record: Record, references: Sequence[Image.Image], ways: tuple[str, str], count: int, seed: int, folder: Path
) -> tuple[Path, Key]:
    """Write the page of a run and its key into a folder; return the page's path, and the key.

    Args:
        record: The run.
        references: Pictures of the concept; the first few are shown.
        ways: The two to compare.
        count: How many pairs are shown, at most.
        seed: Of the choice of pairs, their order and their sides.
        folder: Where the two files go.

    Raises:
        EvaluationError: A picture cannot be read; the folder has another survey already, or cannot be written.
    """
    entries = list(record.entries.values())
    pairs = choose(entries, ways, count, seed)
    said = texts(entries)
    shown = [_embedded(_small(picture)) for picture in references[:_REFERENCES]]
    asked = [
        {
            "pair": pair.name,
            "text": said[pair.prompt],
            "pictures": [{"picture": name, "data": data} for name, data in _pictures(record, pair).items()],
        }
        for pair in pairs
    ]
    key = Key(_digest([shown, asked]), ways, pairs)
    page = render("survey.html.j2", survey={"survey": key.survey, "references": shown, "pairs": asked})
    _keep(folder, key, page)
    return folder / PAGE_NAME, key


def _keep(folder: Path, key: Key, page: str) -> None:
    path = folder / KEY_NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.read_text(encoding="utf-8", errors="replace") != key.to_json():
            raise EvaluationError(
                f"{folder} has another survey already, and without its key the answers to it can't be counted: "
                "choose another folder with --output"
            )
        path.write_text(key.to_json(), encoding="utf-8")
        (folder / PAGE_NAME).write_text(page, encoding="utf-8")
    except OSError as error:
        raise EvaluationError(f"{folder} can't be written ({error}): choose another with --output") from None


def _pictures(record: Record, pair: Pair) -> Mapping[str, str]:
    files = {
        entry.way: record.picture(entry.key)
        for entry in record.entries.values()
        if (entry.number, entry.seed) == (pair.prompt, pair.seed)
    }
    found = {}
    for name, way in pair.pictures.items():
        try:
            with Image.open(files[way]) as picture:
                found[name] = _embedded(picture)
        except (OSError, Image.DecompressionBombError) as error:
            raise EvaluationError(
                f"The picture {files[way]} can't be read ({error}): take it out, and let the run make it again"
            ) from None
    return found


def _small(picture: Image.Image) -> Image.Image:
    small = ImageOps.exif_transpose(picture)
    small.thumbnail((_REFERENCE_SIZE, _REFERENCE_SIZE))
    return small


def _embedded(picture: Image.Image) -> str:
    # The pixels alone: what else a file holds may say how the picture was made.
    bare = Image.new("RGB", picture.size)
    bare.paste(picture.convert("RGB"))
    file = io.BytesIO()
    bare.save(file, "JPEG", quality=_QUALITY, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
