"""What a user can set for a generation, declared once: for the panel, the API, the info text and pasting it back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from alignit.algorithm.controls import MAX_STRENGTH, Controls, ControlsError
from alignit.algorithm.steps import StepRange
from alignit.maps.words import MapChoice
from alignit.prompt.class_words import ClassWordError, ClassWords


class ArgumentsError(Exception):
    """Arguments that cannot be used; the message says which and why.

    The host's API makes its answer of the attributes ``status_code`` and ``detail`` of an exception.
    """

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.status_code = 422
        self.detail = detail


@dataclass(frozen=True)
class Arguments:
    """The arguments of a generation, in the order of the API's list; new ones are added at the end only.

    Attributes:
        enabled: Whether AlignIT does anything at all.
        class_words: Class words by concept, ``my-cat=cat, my-dog=dog``; a word alone is for every other concept.
        strength: Blend of keys and values: 0 is the class word's, 1 the paper's, above 1 extrapolates.
        start: Fraction of the sampling steps before which nothing is injected.
        end: Fraction of the sampling steps from which on nothing is injected.
        controls: More of this, for all concepts that have no options of their own: see `alignit.algorithm.controls`.
        compare: Whether each picture is made three times: class word alone, concept alone, AlignIT.
        attention_maps: Whether attention maps are made. They are looked at and change no picture, so that neither this
            nor ``map_words`` is in the info text, and pasting one leaves both as they are.
        map_words: Of which words, and in which layers and steps: see `alignit.maps.words`.
    """

    enabled: bool = field(default=False, metadata={"label": "AlignIT"})
    class_words: str = field(default="", metadata={"label": "Class words", "infotext": "AlignIT class words"})
    strength: float = field(
        default=1.0, metadata={"label": "Strength", "infotext": "AlignIT strength", "range": (0, MAX_STRENGTH)}
    )
    start: float = field(default=0.0, metadata={"label": "Start at", "infotext": "AlignIT start", "range": (0, 1)})
    end: float = field(default=1.0, metadata={"label": "End at", "infotext": "AlignIT end", "range": (0, 1)})
    controls: str = field(default="", metadata={"label": "More controls", "infotext": "AlignIT controls"})
    compare: bool = field(default=False, metadata={"label": "Compare"})
    attention_maps: bool = field(default=False, metadata={"label": "Attention maps"})
    map_words: str = field(default="", metadata={"label": "Words to map"})

    @classmethod
    def from_list(cls, values: Sequence[Any]) -> Arguments:
        """Read arguments as the host passes them: by position, or one mapping by name, which the API alone can send.

        Raises:
            ArgumentsError: A value has the wrong type or range, or a name is unknown; the message says which and why.
        """
        given = cls.named(values)
        if given.get("enabled") is False:
            return cls()  # what stands in a panel that is off is nobody's mistake
        names = _names()
        unknown = [str(name) for name in given if name not in names]
        if unknown:
            raise ArgumentsError(f"AlignIT has no argument '{unknown[0]}': there are {', '.join(names)}")
        # The host passes None where a caller left something out.
        arguments = cls(**{name: _checked(name, value) for name, value in given.items() if value is not None})
        if arguments.start > arguments.end:
            raise ArgumentsError(
                f"AlignIT: start ({arguments.start:g}) must not be greater than end ({arguments.end:g})"
            )
        return arguments

    @classmethod
    def named(cls, values: Sequence[Any]) -> dict[str, Any]:
        """Return arguments as the host passes them by their names, unchecked.

        Raises:
            ArgumentsError: There are too many.
        """
        names = _names()
        if values and isinstance(values[0], Mapping):
            # The host fills the positions after the mapping with the defaults.
            return dict(values[0])
        if len(values) > len(names):
            raise ArgumentsError(
                f"AlignIT takes at most {len(names)} arguments ({', '.join(names)}), not {len(values)}"
            )
        return dict(zip(names, values, strict=False))

    @property
    def base_controls(self) -> Controls:
        """How concepts are put in that have no options of their own."""
        return Controls(self.strength, steps=StepRange(self.start, self.end)).with_options(self.controls)


def _names() -> list[str]:
    return [item.name for item in dataclasses.fields(Arguments)]


def infotext_key(name: str) -> str:
    """Return the key under which an argument stands in a picture's info text."""
    return str(_field(name).metadata["infotext"])


def label(name: str) -> str:
    """Return an argument's label in the panel."""
    return str(_field(name).metadata["label"])


def value_range(name: str) -> tuple[float, float]:
    """Return the smallest and the largest value of a numeric argument."""
    low, high = _field(name).metadata["range"]
    return low, high


def _field(name: str) -> dataclasses.Field[Any]:
    return next(item for item in dataclasses.fields(Arguments) if item.name == name)


_TEXTS = {
    "class_words": lambda text: ClassWords(text, Controls().with_options),
    "controls": Controls().with_options,
    "map_words": MapChoice.parse,
}


def _checked(name: str, value: Any) -> Any:
    default = _field(name).default
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise ArgumentsError(f"AlignIT: {name} must be true or false, not {value!r}")
        return value
    if isinstance(default, str):
        if not isinstance(value, str):
            raise ArgumentsError(f"AlignIT: {name} must be text, not {value!r}")
        try:
            _TEXTS[name](value)
        except (ClassWordError, ControlsError) as error:
            raise ArgumentsError(f"AlignIT: {error}") from None
        return value
    low, high = value_range(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ArgumentsError(f"AlignIT: {name} must be a number from {low:g} to {high:g}, not {value!r}")
    if not low <= value <= high:
        raise ArgumentsError(f"AlignIT: {name} must be from {low:g} to {high:g}, not {str(value)[:20]}")
    return float(value)
