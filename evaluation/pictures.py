"""The reference pictures of a concept."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from evaluation.errors import EvaluationError

_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def read_pictures(folder: Path) -> list[Image.Image]:
    """Read all pictures of a folder.

    Raises:
        EvaluationError: It has none, or one is damaged.
    """
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in _PICTURES)
    if not paths:
        raise EvaluationError(f"There are no pictures in {folder}: give the folder of the concept's with --references")
    found = []
    for path in paths:
        try:
            found.append(Image.open(path).convert("RGB"))
        except (OSError, Image.DecompressionBombError) as error:
            raise EvaluationError(f"The picture {path} can't be read ({error}): take it out") from None
    return found
