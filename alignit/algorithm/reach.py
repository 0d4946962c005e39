"""What a concept does beyond its own rows, and what stands around it in its dummy prompt: beyond Algorithm 1.

The paper (arXiv 2406.18893) injects a concept at its own rows, index i, and nowhere else. A text encoder writes what it
makes of the whole prompt into the end token's row and those of the padding too, and these stay the base prompt's: a
concept whose look was learned there loses it. With `Reach`, those rows r get, for each concept,

    K[r] = K_p[r] + s d (K'[r] - K_o[r]),    V[r] = V_p[r] + s d (V'[r] - V_o[r])

with s as in `alignit.algorithm.controls` and d the reach's factor; K', V' are computed with the customised W_k and W_v,
and all else with the base model's. Whose conditioning they are made of is said at `Kind`. Several concepts add up.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from alignit.algorithm.options import ControlsError

MAX_FACTOR = 2.0

_REACH = re.compile(r"(paper|difference|target padding|padding|whole)(?: (\d+(?:\.\d+)?|\.\d+))?")


class Kind(Enum):
    """Which rows beyond its own a concept changes, and by what.

    - ``PAPER``: none.
    - ``DIFFERENCE``: the end token's and the padding's, by what the concept changes in its dummy prompt: K' is of the
      dummy prompt, K_o of the same one with the class word in the concept's place and the base model's text encoder.
    - ``TARGET_PADDING``: the same rows. K' is of the target prompt as the customisation method itself encodes it, with
      other concepts as their class words; K_o is K_p.
    - ``PADDING``: the same rows. K' is of the dummy prompt, and K_o is K_p: at d = 1 they are the dummy prompt's.
    - ``WHOLE``: as ``PADDING``, and the start token's row too.
    """

    PAPER = "paper"
    DIFFERENCE = "difference"
    TARGET_PADDING = "target padding"
    PADDING = "padding"
    WHOLE = "whole"


class Context(Enum):
    """What stands around a concept in its dummy prompt.

    - ``STARS``: the filler in each place, as in the paper.
    - ``PROMPT``: the base prompt's own words, so other concepts as their class words.
    """

    STARS = "stars"
    PROMPT = "prompt"


@dataclass(frozen=True)
class Reach:
    """What a concept does beyond its own rows.

    Attributes:
        kind: Which rows, and by what.
        factor: d above, from 0 to 2.
    """

    kind: Kind = Kind.PAPER
    factor: float = 1.0

    @classmethod
    def parse(cls, text: str) -> Reach:
        """Read it as users write it: ``difference 0.5``, with a factor of 1 where there is none.

        Raises:
            ControlsError: It is none of these, or the factor is out of its range.
        """
        match = _REACH.fullmatch(" ".join(text.lower().split()))
        if match is None or (match[1] == Kind.PAPER.value and match[2]):
            raise ControlsError(
                f"there is no reach '{text}': write paper, difference, target padding, padding or whole, and a factor "
                "where it shall not be 1, as in reach difference 0.5"
            )
        factor = float(match[2] or 1)
        if factor > MAX_FACTOR:
            raise ControlsError(f"the factor {match[2]} of the reach is not from 0 to {MAX_FACTOR:g}")
        return cls(Kind(match[1]), factor)

    def rows(self, text_stop: int, length: int) -> list[int]:
        """Return the rows of a chunk that it is about: none for the paper.

        Args:
            text_stop: The row after the last of the text, where the end token stands.
            length: How many rows the chunk has.
        """
        if self.kind is Kind.PAPER or self.factor == 0:
            return []
        return [*([0] if self.kind is Kind.WHOLE else []), *range(text_stop, length)]
