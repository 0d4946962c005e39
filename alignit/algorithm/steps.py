"""The part of a sampling pass in which concepts are injected."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StepRange:
    """A range of sampling steps.

    Attributes:
        start: Fraction of the steps, 0 to 1, before which nothing is injected.
        end: Fraction of the steps, 0 to 1, from which on nothing is injected.
    """

    start: float = 0.0
    end: float = 1.0

    @property
    def always(self) -> bool:
        """Whether concepts are injected at every step, as in the paper."""
        return self.start <= 0 and self.end >= 1

    def is_active(self, fraction: float) -> bool:
        """Say whether concepts are injected at a step, given as the fraction of the steps before it."""
        return self.start <= fraction and (fraction < self.end or self.end >= 1)
