"""What a user can set for a generation, declared once: for the panel, its axes, the API, the info text and pasting it.

Whatever lists arguments reads the list here, by `Arguments.declared`; a new one is a new field, at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from alignit.algorithm.controls import MAX_STRENGTH, Controls
from alignit.algorithm.options import options_of
from alignit.algorithm.steps import StepRange
from alignit.maps.words import MapChoice
from alignit.prompt.class_words import ClassWords
from alignit.webui.generation.declarations import (
    SWITCH,
    Argument,
    ArgumentsError,
    Axis,
    Declaration,
    Paste,
    arguments_of,
)

__all__ = ["Arguments", "ArgumentsError"]


def _steps(text: str) -> dict[str, Any]:
    start, _dash, end = text.partition("-")
    try:
        return {"start": float(start), "end": float(end)}
    except ValueError:
        raise ArgumentsError(f"AlignIT: '{text}' is no range of steps: write two fractions, as in 0-0.5") from None


@dataclass(frozen=True)
class PlotAxis:
    """An axis of the WebUI's X/Y/Z plot.

    Attributes:
        label: What stands for it in the plot, after AlignIT's name.
        kind: The type of its values.
        values: Gives the arguments that a value stands for; raises `ArgumentsError`.
        option: Gives the same as an option of the controls, from these arguments by name; empty where there is none.
        choices: Values to choose from, or None where users type them.
    """

    label: str
    kind: type
    values: Callable[[Any], dict[str, Any]]
    option: Callable[..., str]
    choices: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Arguments:
    """The arguments of a generation, in the order of the API's list; new ones are added at the end only.

    Each is declared with its field: see `Declaration`.
    """

    enabled: bool = field(
        default=False,
        metadata=Declaration(
            label="AlignIT",
            description="Whether AlignIT does anything.",
            paste=Paste.SWITCH,
            axis=Axis("On or off"),
        ).metadata,
    )
    class_words: str = field(
        default="",
        metadata=Declaration(
            label="Class words",
            description="Class words by concept, `my-cat=cat, my-dog=golden retriever`. A word on its own is for every "
            "concept that the list does not name. A class word in the prompt, `<my-cat=cat>`, comes first.",
            info="What each concept is, in ordinary words. <my-cat=cat> in the prompt does the same.",
            placeholder="my-cat=cat, my-dog=golden retriever",
            check=lambda text: ClassWords(text, Controls().with_options),
            infotext="AlignIT class words",
            paste=Paste.WRITTEN,
            axis=Axis("Class words"),
        ).metadata,
    )
    strength: float = field(
        default=1.0,
        metadata=Declaration(
            label="Strength",
            description="0 is the class word alone, 1 the paper, above 1 extrapolates.",
            hint="0 is the class word alone, 1 is the paper's method, above 1 goes further than that.",
            row="steps",
            limits=(0, MAX_STRENGTH),
            infotext="AlignIT strength",
            paste=Paste.WRITTEN,
            axis=Axis("Strength", option=lambda strength: f"strength {strength:g}"),
        ).metadata,
    )
    start: float = field(
        default=0.0,
        metadata=Declaration(
            label="Start at",
            description="Fraction of the sampling steps before which nothing is injected.",
            hint="Fraction of the sampling steps before which the concept is not yet there: its class word is.",
            row="steps",
            infotext="AlignIT start",
            paste=Paste.WRITTEN,
            axis=Axis("Steps", _steps, option=lambda start, end: f"steps {start:g}-{end:g}"),
        ).metadata,
    )
    end: float = field(
        default=1.0,
        metadata=Declaration(
            label="End at",
            description="Fraction of the sampling steps from which on nothing is injected.",
            hint="Fraction of the sampling steps from which on the concept is not there any more: its class word is.",
            row="steps",
            infotext="AlignIT end",
            paste=Paste.WRITTEN,
        ).metadata,
    )
    controls: str = field(
        default="",
        metadata=Declaration(
            label="More controls",
            description="Options for all concepts that have none of their own, such as `keys; layers down mid`.",
            info="For all concepts; for one of them in the prompt: <my-cat=cat; 0.5; keys>.",
            placeholder="keys; layers down mid; falling",
            check=lambda text: Controls().with_options(text),
            infotext="AlignIT controls",
            paste=Paste.DEFAULT,
            axis=Axis("Controls"),
        ).metadata,
    )
    compare: bool = field(
        default=False,
        metadata=Declaration(
            label="Compare",
            description="Whether each picture is made three times, class word alone, concept alone and AlignIT, after "
            "a labelled grid of them.",
            hint="Make each picture three times, with the same seed: class word alone, concept alone, AlignIT; and a "
            "grid.",
        ).metadata,
    )
    attention_maps: bool = field(
        default=False,
        metadata=Declaration(
            label="Attention maps",
            description="Whether there is a sheet with attention maps behind the pictures, one for each of them, and "
            "the maps over the API. They are looked at and change no picture.",
            hint="Add a sheet behind each picture: where the model looked for each word. The picture stays the same.",
            row="maps",
        ).metadata,
    )
    map_words: str = field(
        default="",
        metadata=Declaration(
            label="Words to map",
            description="Of which words, in which layers and steps: `cat, ball; down mid; steps 0-0.5`. Empty: of "
            "every word.",
            hint="Empty: every word of the prompt. Else words with commas, and after a semicolon layers or steps.",
            placeholder="cat, ball; down mid; steps 0-0.5",
            row="maps",
            check=MapChoice.parse,
        ).metadata,
    )

    @classmethod
    def declared(cls) -> tuple[Argument, ...]:
        """Return the arguments, in the order of the API's list."""
        return arguments_of(cls)

    @classmethod
    def from_list(cls, values: Sequence[Any]) -> Arguments:
        """Read arguments as the host passes them: by position, or one mapping by name, which the API alone can send.

        Raises:
            ArgumentsError: A value has the wrong type or range, or a name is unknown; the message says which and why.
        """
        given = cls.named(values)
        if given.get("enabled") is False:
            return cls()  # what stands in a panel that is off is nobody's mistake
        known = {item.name: item for item in cls.declared()}
        unknown = [str(name) for name in given if name not in known]
        if unknown:
            raise ArgumentsError(f"AlignIT has no argument '{unknown[0]}': there are {', '.join(known)}")
        # The host passes None where a caller left something out.
        arguments = cls(**{name: known[name].checked(value) for name, value in given.items() if value is not None})
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
        names = [item.name for item in cls.declared()]
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

    @classmethod
    def schema(cls) -> dict[str, Any]:
        """Describe the arguments by name as JSON Schema, in their order."""
        properties = {item.name: item.schema() for item in cls.declared()}
        return {"title": "AlignIT", "type": "object", "properties": properties, "additionalProperties": False}

    @classmethod
    def axes(cls) -> list[PlotAxis]:
        """Return the axes of a plot: those of the arguments, and before those of the controls those of each option."""
        axes = []
        for item in cls.declared():
            if item.name == "controls":
                axes += [_option_axis(option.axis, option.keyword) for option in options_of(Controls) if option.axis]
            axis = item.declared.axis
            if axis is not None:
                kind = str if axis.read or isinstance(item.default, bool) else type(item.default)
                choices = tuple(SWITCH) if isinstance(item.default, bool) else None
                axes.append(PlotAxis(axis.label, kind, item.axis_values, axis.option or _no_option, choices))
        return axes


def _option_axis(label: str, keyword: str) -> PlotAxis:
    return PlotAxis(label, str, lambda text: {"controls": f"{keyword} {text}"}, _no_option)


def _no_option(**_values: Any) -> str:
    return ""


def restored_by(item: Argument) -> str | Callable[[Mapping[str, str]], Any] | None:
    """Return how an argument's field is restored from a picture's info: a key of it, or what is called with all of it.

    None where pasting leaves the field as it is. The host leaves a field as it is too where its key is absent.
    """
    key, default = item.declared.infotext, item.default
    if item.declared.paste is Paste.SWITCH:
        return was_enabled
    if item.declared.paste is Paste.DEFAULT:
        return lambda params: item.pasted(params.get(key, default))
    if item.declared.paste is Paste.WRITTEN:
        return key if isinstance(default, str) else lambda params: item.pasted(params.get(key))
    return None


def was_enabled(params: Mapping[str, str]) -> bool:
    """Say from a picture's info whether AlignIT was on: a key that is absent would leave the checkbox as it is."""
    return infotext_key("class_words") in params


def declaration(name: str) -> Declaration:
    """Return what is declared of an argument."""
    return next(item.declared for item in Arguments.declared() if item.name == name)


def infotext_key(name: str) -> str:
    """Return the key under which an argument stands in a picture's info text."""
    return declaration(name).infotext
