"""What is declared of an argument, once: how it looks in the panel, what it may be, and how it is written and read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import Enum
from typing import Any

from alignit.algorithm.options import ControlsError
from alignit.prompt.class_words import ClassWordError

_METADATA = "declaration"
SWITCH = {"on": True, "off": False}


class ArgumentsError(Exception):
    """Arguments that cannot be used; the message says which and why.

    The host's API makes its answer of the attributes ``status_code`` and ``detail`` of an exception.
    """

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.status_code = 422
        self.detail = detail


class Paste(Enum):
    """What pasting an info text does to a field of the panel."""

    NEVER = "nothing: the argument is not in info texts, as it changes no picture"
    WRITTEN = "the argument is in each info text of AlignIT's; where its key is absent, the field stays as it is"
    DEFAULT = "the argument is in the info text where it is not the default, so an absent key means the default"
    SWITCH = "on for an info text of AlignIT's, off for another"


@dataclass(frozen=True)
class Axis:
    """An axis of a plot, by which an argument is set.

    Attributes:
        label: What stands for it in the plot, after AlignIT's name.
        read: Gives the arguments that a value stands for, where it is not the one argument's own. Raises
            `ArgumentsError`.
        option: Gives the same as an option of the controls, from these arguments by name, where there is such an
            option: what stands among the panel's controls would count before the argument.
    """

    label: str
    read: Callable[[Any], dict[str, Any]] | None = None
    option: Callable[..., str] | None = None


@dataclass(frozen=True)
class Declaration:
    """The declaration of an argument. Its type is that of its default: true or false, a number, or text.

    Attributes:
        label: Its label in the panel.
        description: What it means, for callers of the API.
        hint: What the panel says where the pointer rests on the field.
        info: What the panel says below the label.
        placeholder: What stands in an empty text field.
        row: Fields next to each other with the same name here are side by side.
        limits: The smallest and the largest value of a number.
        step: By how much the panel's slider moves.
        check: Reads a text; raises `ControlsError` or `ClassWordError` where it cannot be used.
        infotext: The key in the picture's info, or empty.
        paste: What pasting an info text does to the field.
        axis: Its axis of a plot, or None.
    """

    label: str
    description: str
    hint: str = ""
    info: str = ""
    placeholder: str = ""
    row: str = ""
    limits: tuple[float, float] = (0.0, 1.0)
    step: float = 0.05
    check: Callable[[str], object] = str
    infotext: str = ""
    paste: Paste = Paste.NEVER
    axis: Axis | None = None

    @property
    def metadata(self) -> dict[str, Declaration]:
        """What makes a dataclass's field the argument that this declares."""
        return {_METADATA: self}


@dataclass(frozen=True)
class Argument:
    """An argument: its name and default, and what is declared of it."""

    name: str
    default: Any
    declared: Declaration

    def checked(self, value: Any) -> Any:
        """Return a value of this argument.

        Raises:
            ArgumentsError: It has the wrong type or range; the message says which and why.
        """
        if isinstance(self.default, bool):
            if not isinstance(value, bool):
                raise ArgumentsError(f"AlignIT: {self.name} must be true or false, not {value!r}")
            return value
        if isinstance(self.default, str):
            if not isinstance(value, str):
                raise ArgumentsError(f"AlignIT: {self.name} must be text, not {value!r}")
            try:
                self.declared.check(value)
            except (ClassWordError, ControlsError) as error:
                raise ArgumentsError(f"AlignIT: {error}") from None
            return value
        low, high = self.declared.limits
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ArgumentsError(f"AlignIT: {self.name} must be a number from {low:g} to {high:g}, not {value!r}")
        if not low <= value <= high:
            raise ArgumentsError(f"AlignIT: {self.name} must be from {low:g} to {high:g}, not {str(value)[:20]}")
        return float(value)

    def pasted(self, value: Any) -> Any:
        """Return a value as it stands in an info text, where it can be one of this argument.

        Raises:
            ArgumentsError: It is no number, and has to be one.
        """
        if value is not None and not isinstance(self.default, str):
            try:
                float(value)
            except ValueError:
                raise ArgumentsError(
                    f"AlignIT: '{self.declared.infotext}' is '{str(value)[:40]}' in the info text, and must be a number"
                ) from None
        return value

    def schema(self) -> dict[str, Any]:
        """Describe the argument as JSON Schema."""
        about = {"title": self.declared.label, "description": self.declared.description, "default": self.default}
        if isinstance(self.default, bool):
            return {"type": "boolean", **about}
        if isinstance(self.default, str):
            return {"type": "string", **about}
        low, high = self.declared.limits
        return {"type": "number", **about, "minimum": low, "maximum": high}

    def axis_values(self, value: Any) -> dict[str, Any]:
        """Return the arguments that a value of the argument's axis stands for.

        Raises:
            ArgumentsError: The value cannot be read.
        """
        if self.declared.axis is not None and self.declared.axis.read is not None:
            return self.declared.axis.read(value)
        if isinstance(self.default, bool):
            if value.lower() not in SWITCH:
                raise ArgumentsError(f"AlignIT: '{value}' is neither on nor off")
            return {self.name: SWITCH[value.lower()]}
        return {self.name: value}


def arguments_of(declared: type[Any]) -> tuple[Argument, ...]:
    """Return the arguments that a dataclass declares, in their order."""
    return tuple(Argument(item.name, item.default, item.metadata[_METADATA]) for item in fields(declared))
