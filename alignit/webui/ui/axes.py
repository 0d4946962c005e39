"""AlignIT's axes in the WebUI's X/Y/Z plot.

An axis is declared with the arguments of a generation that it sets. They are kept on the copy of the processing object
that the plot makes for each cell, and come before those of the panel. Using one turns AlignIT on, but for the axis that
turns it on and off.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from modules import scripts

from alignit.prompt.syntax import name_key, name_pattern
from alignit.webui.generation.arguments import Arguments, ArgumentsError, PlotAxis
from alignit.webui.generation.generation import Generation
from alignit.webui.networks.embeddings import written_name
from alignit.webui.networks.networks import installed_concepts

_PROMPTS = ("prompt", "hr_prompt")


def add_axes() -> None:
    """Add the axes to the plot, where it is loaded and does not have them yet."""
    for data in scripts.scripts_data:
        if data.script_class.__module__ != "xyz_grid.py":
            continue
        module = data.module
        labels = {option.label for option in module.axis_options}
        for axis in Arguments.axes():
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
    declared = {axis.label: axis for axis in Arguments.axes()}
    for label, of_axis in axes.items():
        controls = [given.get("controls"), of_axis.get("controls")]
        if given.get("controls"):
            controls.append(declared[label].option(**of_axis))  # what stands there counts before the sliders
        given |= of_axis
        given["controls"] = "; ".join(text for text in controls if text)
    return [given]


def _apply(axis: PlotAxis) -> Callable[[Any, Any, Any], None]:
    def apply(p: Any, value: Any, _values: Any) -> None:
        Generation.set_axis(p, axis.label, axis.values(value))

    return apply


def _confirm(axis: PlotAxis) -> Callable[[Any, Sequence[Any]], None]:
    def confirm(_p: Any, values: Sequence[Any]) -> None:
        for value in values:
            Arguments.from_list([{"enabled": True, **axis.values(value)}])

    return confirm


def _put_concept(p: Any, value: str, values: Sequence[str]) -> None:
    pattern, written = name_pattern(values[0]), written_name(value)
    for name in _PROMPTS:
        prompt = getattr(p, name, None)
        if prompt:
            setattr(p, name, pattern.sub(lambda _: written, prompt))


def _confirm_concepts(p: Any, values: Sequence[str]) -> None:
    prompts = [getattr(p, name, None) or "" for name in _PROMPTS]
    if values and not any(name_pattern(values[0]).search(prompt) for prompt in prompts):
        raise ArgumentsError(f"AlignIT: the concept '{values[0]}', the first of the axis, is not in the prompt")
    installed = set(map(name_key, installed_concepts()))
    for value in values:
        if name_key(value) not in installed:
            raise ArgumentsError(f"AlignIT: there is no concept '{value}': check its name and folder")
