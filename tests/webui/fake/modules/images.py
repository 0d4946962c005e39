from __future__ import annotations

from PIL import ImageFont


def get_font(_size: int) -> ImageFont.ImageFont:
    return ImageFont.load_default()
