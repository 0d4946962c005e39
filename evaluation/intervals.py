"""95 % intervals: of bootstrap samples, of a share of independent answers, and of a share of people's answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_Z = 1.959964  # of the normal distribution, between whose -z and z 95 % are


def interval(samples: Sequence[float]) -> tuple[float, float]:
    """Return the bounds between which 95% of the samples are."""
    ordered = sorted(samples)
    return ordered[int(0.025 * len(ordered))], ordered[max(0, int(0.975 * len(ordered)) - 1)]


def wilson(hits: int, count: int) -> tuple[float, float]:
    """Return the bounds of Wilson's interval for a share of independent answers (E. B. Wilson, 1927).

    Args:
        hits: How many of them are so.
        count: How many there are, at least 1.
    """
    share, square = hits / count, _Z * _Z
    middle = (share + square / (2 * count)) / (1 + square / count)
    half = _Z / (1 + square / count) * (share * (1 - share) / count + square / (4 * count * count)) ** 0.5
    return max(0.0, middle - half), min(1.0, middle + half)


def clustered(hits: np.ndarray, counts: np.ndarray, samples: int = 2_000, seed: int = 0) -> tuple[float, float]:
    """Return the bounds of a bootstrap over people and prompts for a share of answers.

    Answers of one person are alike, and so are answers about one prompt: both are drawn again with replacement, each
    for itself.

    Args:
        hits: How many answers are so, [people, prompts].
        counts: How many answers there are, [people, prompts]; at least one in all.
        samples: How many samples are drawn.
        seed: Of the draw.
    """
    rng = np.random.default_rng(seed)
    people, prompts = (rng.multinomial(n, np.full(n, 1 / n), samples) for n in counts.shape)
    drawn = np.einsum("sp,pq,sq->s", people, counts, prompts, optimize=True)
    shares = np.einsum("sp,pq,sq->s", people, hits, prompts, optimize=True)[drawn > 0] / drawn[drawn > 0]
    return interval(shares.tolist())
