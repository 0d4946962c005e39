"""What AlignIT said and what went wrong, lately: kept in memory for a report, a few of each, and nowhere else."""

from __future__ import annotations

import sys
import traceback
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

KEPT = 10  # notes and failures each
_MAX_TEXT = 2000  # characters of a text
_MAX_PROMPTS = 4
_MAX_FRAMES = 30


@dataclass(frozen=True)
class RecentNote:
    """A note about a generation.

    Attributes:
        text: What the user was told.
        prompts: The generation's first prompts.
    """

    text: str
    prompts: tuple[str, ...]


@dataclass(frozen=True)
class RecentFailure:
    """An exception that AlignIT caught.

    Attributes:
        doing: What it was doing.
        error: The exception, with its type.
        frames: Where it was raised, the innermost last: file, line and function.
    """

    doing: str
    error: str
    frames: tuple[str, ...]


class Recent:
    """The last notes and failures, the oldest first."""

    def __init__(self) -> None:
        self._notes: deque[RecentNote] = deque(maxlen=KEPT)
        self._failures: deque[RecentFailure] = deque(maxlen=KEPT)

    @property
    def notes(self) -> list[RecentNote]:
        """The last notes."""
        return list(self._notes)

    @property
    def failures(self) -> list[RecentFailure]:
        """The last failures."""
        return list(self._failures)

    def note(self, text: str, prompts: Iterable[str]) -> None:
        """Keep a note, once while it is among the last."""
        kept = tuple(prompt[:_MAX_TEXT] for prompt, _ in zip(prompts, range(_MAX_PROMPTS), strict=False))
        said = RecentNote(text[:_MAX_TEXT], kept)
        if said not in self._notes:
            self._notes.append(said)

    def failure(self, doing: str) -> None:
        """Keep the exception that is being handled, if there is one; not the objects in its frames."""
        error = sys.exc_info()[1]
        if error is None:
            return
        frames = traceback.extract_tb(error.__traceback__)[-_MAX_FRAMES:]
        self._failures.append(
            RecentFailure(
                doing[:_MAX_TEXT],
                "".join(traceback.format_exception_only(type(error), error)).strip()[:_MAX_TEXT],
                tuple(f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in frames),
            )
        )


RECENT = Recent()
