"""Labelled grids of pictures."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

_SHOWN = 144  # pixels of a picture in the grid, at least
_MARGIN, _LABEL, _SIDE = 8, 44, 190


def draw_grid(columns: Sequence[str], labels: Sequence[str], grid: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """Draw rows of pictures, with a label above each column and to the left of each row."""
    shown = max(_SHOWN, min(grid[0][0].width, 256))
    width = _SIDE + len(columns) * (shown + _MARGIN) + _MARGIN
    sheet = Image.new("RGB", (width, _LABEL + len(labels) * (shown + _MARGIN) + _MARGIN), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for column, name in enumerate(columns):
        draw.multiline_text((_SIDE + column * (shown + _MARGIN), 4), name, "black", font)
    for row, (label, pictures) in enumerate(zip(labels, grid, strict=True)):
        top = _LABEL + row * (shown + _MARGIN)
        draw.multiline_text((_MARGIN, top), _wrapped(label), "black", font)
        for column, picture in enumerate(pictures):
            left = _SIDE + column * (shown + _MARGIN)
            sheet.paste(picture.resize((shown, shown), Image.Resampling.LANCZOS), (left, top))
    return sheet


def _wrapped(text: str, length: int = 26) -> str:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > length:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)
