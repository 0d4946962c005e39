"""Options of a concept as users write them, each declared once, beside the field of the controls that it sets.

A declaration says how an option is written, how it is read and checked, what the message says where it cannot be used,
what users are told of it, and whether it is an axis of a plot. Whatever lists options, reads them here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

_METADATA = "option"


class ControlsError(ValueError):
    """An option that cannot be used; the message says which and why."""


@dataclass(frozen=True)
class Documented:
    """A row of the table of options, in Markdown.

    Attributes:
        written: How the option is written.
        strength: What s is with it (see `alignit.algorithm.controls`); empty where it is about something else.
        meaning: What else there is to know.
    """

    written: str
    strength: str
    meaning: str


@dataclass(frozen=True)
class Option:
    """The declaration of an option.

    Attributes:
        help: How it is written, with an example, for the message that lists all options.
        pattern: What the whole of it matches: in lower case, with one space between two words; or, where
            ``case_matters``, as typed.
        read: Gives the fields of the controls that it changes, from the match and the option as typed. Raises
            `ControlsError` where it cannot be used.
        documented: Its rows of the table of options.
        case_matters: Whether its letters are taken as typed.
        axis: The name of its axis in a plot, or empty. The axis' values are what stands behind the option's first word.
    """

    help: str
    pattern: re.Pattern[str]
    read: Callable[[re.Match[str], str], dict[str, Any]]
    documented: tuple[Documented, ...]
    case_matters: bool = False
    axis: str = ""

    @property
    def keyword(self) -> str:
        """The first word."""
        return self.help.split()[0]

    @property
    def metadata(self) -> dict[str, Option]:
        """What makes a dataclass's field the one that this option sets."""
        return {_METADATA: self}


def options_of(controls: type[Any]) -> tuple[Option, ...]:
    """Return the options of a dataclass of controls, in the order of its fields."""
    return tuple(item.metadata[_METADATA] for item in fields(controls) if _METADATA in item.metadata)


def help_of(controls: type[Any]) -> str:
    """Return the list of a dataclass's options, for users."""
    return ", ".join(option.help for option in options_of(controls)) + ", with a semicolon between two"


def read_option(controls: type[Any], text: str) -> dict[str, Any]:
    """Return the fields that an option changes, from how it was typed.

    Raises:
        ControlsError: There is no such option, or it cannot be used.
    """
    lower = " ".join(text.lower().split())
    for option in options_of(controls):
        match = option.pattern.fullmatch(text if option.case_matters else lower)
        if match:
            return option.read(match, text)
    raise ControlsError(f"'{text}' is no option: there are {help_of(controls)}")
