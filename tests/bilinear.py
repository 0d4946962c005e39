"""Bilinear resizing in plain loops, for references."""

from __future__ import annotations

import numpy as np


def enlarged(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear, with the pixels' centres in place and the border's pixels repeated beyond it."""
    rows, columns = (
        np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        for new, old in zip(size, values.shape, strict=True)
    )
    result = np.zeros(size)
    for y, row in enumerate(rows):
        for x, column in enumerate(columns):
            top, left = int(row), int(column)
            bottom, right = min(top + 1, values.shape[0] - 1), min(left + 1, values.shape[1] - 1)
            b, r = row - top, column - left
            result[y, x] = (
                values[top, left] * (1 - b) * (1 - r)
                + values[top, right] * (1 - b) * r
                + values[bottom, left] * b * (1 - r)
                + values[bottom, right] * b * r
            )
    return result
