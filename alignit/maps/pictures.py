"""Pictures of attention maps: one over its picture, several on a sheet, one as grey values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

# From cold to hot; lightness rises all the way, so that it reads in grey too.
_COLOURS = ((0, 32, 96), (90, 24, 140), (205, 40, 90), (250, 130, 30), (255, 240, 120))
_STRENGTH = 0.8  # of the colour where a map is at its peak: the picture still shows
_CELL = 256  # pixels, at most, of a picture's longer side on a sheet
_COLUMNS = 6
_MARGIN = 8
_PAPER, _INK = (24, 24, 27), (235, 235, 235)


def overlay(picture: Image.Image, relative: npt.NDArray[np.float32]) -> Image.Image:
    """Return a picture with a map in colours over it: the picture where the map is 0, mostly colour where it is 1.

    Args:
        picture: The picture.
        relative: The map, [height, width], from 0 to 1. It is stretched over the picture.
    """
    stretched = Image.fromarray(relative.astype(np.float32)).resize(picture.size, Image.Resampling.BICUBIC)
    heat = np.clip(np.asarray(stretched), 0, 1)
    at = np.linspace(0, 1, len(_COLOURS))
    colour = np.stack([np.interp(heat, at, channel) for channel in zip(*_COLOURS, strict=True)], axis=-1)
    alpha = _STRENGTH * heat[..., None]
    pixels = np.asarray(picture.convert("RGB")).astype(np.float32)
    return Image.fromarray((pixels * (1 - alpha) + colour * alpha).round().astype(np.uint8))


def grey(relative: npt.NDArray[np.float32]) -> Image.Image:
    """Return a map, [height, width] from 0 to 1, as a picture of its size in 256 grey values."""
    return Image.fromarray((np.clip(relative, 0, 1) * 255).round().astype(np.uint8))


def thumbnail(picture: Image.Image) -> Image.Image:
    """Return a picture in the size of a sheet's cells."""
    factor = min(1.0, _CELL / max(picture.size))
    width, height = (max(1, round(side * factor)) for side in picture.size)
    return picture.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)


def sheet(cells: Sequence[tuple[Image.Image, str]], font: Any) -> Image.Image:
    """Return pictures of one size side by side, in rows, each with its text underneath.

    Args:
        cells: Pictures and texts, at least one. A line of text that is too long for its cell is cut.
        font: Pillow's font for the texts.
    """
    columns = min(_COLUMNS, len(cells))
    width, height = cells[0][0].size
    line_height = int(font.getbbox("Ag")[3]) + _MARGIN // 2
    lines = max(text.count("\n") + 1 for _, text in cells)
    step_x, step_y = max(width, 64) + _MARGIN, height + lines * line_height + _MARGIN
    rows = math.ceil(len(cells) / columns)
    page = Image.new("RGB", (columns * step_x + _MARGIN, rows * step_y + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(page)
    for index, (picture, text) in enumerate(cells):
        row, column = divmod(index, columns)
        x, y = _MARGIN + column * step_x, _MARGIN + row * step_y
        page.paste(picture, (x, y))
        for number, line in enumerate(text.split("\n")):
            at = x, y + height + number * line_height
            draw.text(at, _cut(line, step_x - _MARGIN, font), fill=_INK, font=font)
    return page


def _cut(text: str, width: int, font: Any) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
