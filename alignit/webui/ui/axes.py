"""AlignIT's axes in the WebUI's X/Y/Z plot.

An axis sets arguments of a generation: they are kept on the copy of the processing object that the plot makes for each
cell, and come before those of the panel. Using one turns AlignIT on, but for the axis that turns it on and off.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modules import scripts

from alignit.webui.generation.arguments import Arguments, ArgumentsError
from alignit.webui.generation.generation import Generation
from alignit.webui.networks.networks import installed_concepts

_SWITCH = {"on": True, "off": False}


@dataclass(frozen=True)
class _Axis:
    """An axis.

    Attributes:
        label: What stands for it in the plot, after AlignIT's name.
        kind: The type of its values.
        fields: Gives the arguments that a value stands for.
        choices: Values to choose from, or None where users type them.
    """

    label: str
    kind: type
    fields: Callable[[Any], dict[str, Any]]
    choices: tuple[str, ...] | None = None


def _steps(text: str) -> dict[str, Any]:
    start, _dash, end = text.partition("-")
    try:
        return {"start": float(start), "end": float(end)}
    except ValueError:
        raise ArgumentsError(f"AlignIT: '{text}' is no range of steps: write two fractions, as in 0-0.5") from None


def _switch(text: str) -> dict[str, Any]:
    if text.lower() not in _SWITCH:
        raise ArgumentsError(f"AlignIT: '{text}' is neither on nor off")
    return {"enabled": _SWITCH[text.lower()]}


_AXES = (
    _Axis("On or off", str, _switch, tuple(_SWITCH)),
    _Axis("Class words", str, lambda text: {"class_words": text}),
    _Axis("Strength", float, lambda number: {"strength": number}),
    _Axis("Steps", str, _steps),
    _Axis("Layers", str, lambda text: {"controls": f"layers {text}"}),
    _Axis("Controls", str, lambda text: {"controls": text}),
)


def add_axes() -> None:
    """Add the axes to the plot, where it is loaded and does not have them yet."""
    for data in scripts.scripts_data:
        if data.script_class.__module__ != "xyz_grid.py":
            continue
        module = data.module
        labels = {option.label for option in module.axis_options}
        for axis in _AXES:
            label = f"[AlignIT] {axis.label}"
            if label not in labels:
                choices = axis.choices
                module.axis_options.append(
                    module.AxisOption(
                        label,
                        axis.kind,
                        _apply(axis),
                        confirm=_confirm(axis),
                        choices=None if choices is None else lambda choices=choices: list(choices),
                    )
                )
        label = "[AlignIT] Concept"
        if label not in labels:
            module.axis_options.append(module.AxisOption(label, str, _put_concept, confirm=_confirm_concepts))


def with_axes(p: Any, values: Sequence[Any]) -> Sequence[Any]:
    """Return a generation's arguments, as the host passes them, with those of the plot's cell in their place."""
    axes = Generation.axes(p)
    if not axes:
        return values
    given = {**Arguments.named(values), "enabled": True}
    for fields in axes.values():
        controls = [given.get("controls"), fields.get("controls")]
        if given.get("controls"):
            controls.append(_as_options(fields))  # what stands there counts before the sliders
        given |= fields
        given["controls"] = "; ".join(text for text in controls if text)
    return [given]


def _as_options(fields: Mapping[str, Any]) -> str:
    if "strength" in fields:
        return f"strength {fields['strength']:g}"
    return f"steps {fields['start']:g}-{fields['end']:g}" if "start" in fields else ""


def _apply(axis: _Axis) -> Callable[[Any, Any, Any], None]:
    def apply(p: Any, value: Any, _values: Any) -> None:
        Generation.set_axis(p, axis.label, axis.fields(value))

    return apply


def _confirm(axis: _Axis) -> Callable[[Any, Sequence[Any]], None]:
    def confirm(_p: Any, values: Sequence[Any]) -> None:
        for value in values:
            Arguments.from_list([{"enabled": True, **axis.fields(value)}])

    return confirm


def _put_concept(p: Any, value: str, values: Sequence[str]) -> None:
    p.prompt = p.prompt.replace(values[0], value)


def _confirm_concepts(p: Any, values: Sequence[str]) -> None:
    if values and values[0] not in p.prompt:
        raise ArgumentsError(f"AlignIT: the concept '{values[0]}', the first of the axis, is not in the prompt")
    installed = {name.lower() for name in installed_concepts()}
    for value in values:
        if value.lower() not in installed:
            raise ArgumentsError(f"AlignIT: there is no concept '{value}': check its name and folder")
