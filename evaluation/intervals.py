"""Intervals of bootstrap samples."""

from __future__ import annotations

from collections.abc import Sequence


def interval(samples: Sequence[float]) -> tuple[float, float]:
    """Return the bounds between which 95% of the samples are."""
    ordered = sorted(samples)
    return ordered[int(0.025 * len(ordered))], ordered[max(0, int(0.975 * len(ordered)) - 1)]
