"""AlignIT's axes in the X/Y/Z plot, over the host's API as its page calls it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.host.webui import Pictures, WebUI

PROMPT = "a photo of my-cat in snow"


def labels(host: WebUI) -> list[str]:
    scripts = host.get("/sdapi/v1/script-info")
    plot = next(item for item in scripts if item["name"] == "x/y/z plot" and not item["is_img2img"])
    return next(list(argument["choices"]) for argument in plot["args"] if argument["label"] == "X type")


def plot(host: WebUI, x: tuple[str, str], y: tuple[str, str] = ("Nothing", ""), **payload: Any) -> Pictures:
    """Make a plot; axes are (label, values separated by commas). The single pictures come after the grid."""
    choices = labels(host)
    (x_label, x_values), (y_label, y_values) = x, y
    arguments = [choices.index(x_label), x_values, [], choices.index(y_label), y_values, [], 0, "", []]
    # Legend, single pictures, grids within, seeds, margin, and values as text.
    arguments += [False, True, False, False, False, False, False, 0, True]
    pictures = host.txt2img(payload.pop("prompt", PROMPT), script_name="x/y/z plot", script_args=arguments, **payload)
    del pictures[0]
    return pictures


def test_on_and_off(host: WebUI) -> None:
    off, on = plot(host, ("[AlignIT] On or off", "off, on"), alignit=[True, "cat"])
    assert off == host.txt2img(PROMPT)[0]
    assert on == host.txt2img(PROMPT, alignit=[True, "cat"])[0]
    assert "AlignIT class words: my-cat=cat" in on.infotext
    assert "AlignIT" not in off.infotext
    # Also where the panel is off, whose class words count all the same.
    assert plot(host, ("[AlignIT] On or off", "off, on"), alignit=[False, "cat"]) == [off, on]


AXES = {
    "Class words": ("cat, my-cat=dog", [[True, "cat"], [True, "dog"]]),
    "Strength": ("0, 0.5, 1", [[True, "cat", s] for s in (0, 0.5, 1)]),
    "Steps": ("0-0.5, 0.5-1", [[True, "cat", 1, 0, 0.5], [True, "cat", 1, 0.5, 1]]),
    "Layers": ("all, down mid", [[True, "cat"], [True, "cat", 1, 0, 1, "layers down mid"]]),
    "Context": ("stars, prompt", [[True, "cat"], [True, "cat", 1, 0, 1, "context prompt"]]),
    "Reach": (
        "paper, difference 0.5",
        [[True, "cat"], [True, "cat", 1, 0, 1, "reach difference 0.5"]],
    ),
    "Controls": ("keys, falling; 2", [[True, "cat", 1, 0, 1, text] for text in ("keys", "falling; 2")]),
}


@pytest.mark.parametrize("axis", AXES)
def test_axes(host: WebUI, axis: str) -> None:
    values, arguments = AXES[axis]
    pictures = plot(host, (f"[AlignIT] {axis}", values), alignit=[True, "cat"])
    assert list(pictures) == [host.txt2img(PROMPT, alignit=each)[0] for each in arguments]
    assert len({picture.png for picture in pictures}) == len(pictures)


@pytest.mark.parametrize("axis", ["Strength", "Steps"])
def test_an_axis_counts_before_the_controls_of_the_panel(host: WebUI, axis: str) -> None:
    values, arguments = AXES[axis]
    panel = [True, "cat", 1, 0, 1, "0.7; steps 0.25-0.75; keys"]
    pictures = plot(host, (f"[AlignIT] {axis}", values), alignit=panel)
    rest = "steps 0.25-0.75; keys" if axis == "Strength" else "0.7; keys"
    assert list(pictures) == [host.txt2img(PROMPT, alignit=[*([*each, 0, 1][:5]), rest])[0] for each in arguments]


def test_two_axes_together(host: WebUI) -> None:
    pictures = plot(
        host, ("[AlignIT] Layers", "down, up"), ("[AlignIT] Controls", "keys, values"), alignit=[True, "cat"]
    )
    wanted = [
        host.txt2img(PROMPT, alignit=[True, "cat", 1, 0, 1, f"layers {layers}; {part}"])[0]
        for part in ("keys", "values")
        for layers in ("down", "up")
    ]
    assert list(pictures) == wanted


def test_concepts(host: WebUI) -> None:
    pictures = plot(host, ("[AlignIT] Concept", "my-cat, my-toy"), alignit=[True, "cat"])
    assert pictures[1] == host.txt2img(PROMPT.replace("my-cat", "my-toy"), alignit=[True, "cat"])[0]


@pytest.mark.host_errors
@pytest.mark.parametrize(
    ("axis", "values", "said"),
    [
        ("On or off", "on, maybe", "'maybe' is neither on nor off"),
        ("Class words", "cat, a:b", "contains ':'"),
        ("Strength", "1, 3", "strength must be from 0 to 2"),
        ("Steps", "0-0.5, late", "'late' is no range of steps"),
        ("Steps", "0.5-0.2", "must not be greater than end"),
        ("Layers", "down, left", "no layers 'left'"),
        ("Controls", "louder", "'louder' is no option"),
        ("Concept", "my-cat, nothing", "no concept 'nothing'"),
        ("Concept", "my-toy, my-cat", "is not in the prompt"),
    ],
)
def test_values_are_checked_before_the_run(host: WebUI, axis: str, values: str, said: str) -> None:
    with pytest.raises(Exception, match=said):
        plot(host, (f"[AlignIT] {axis}", values), alignit=[True, "cat"], reference={"count": True})
    assert "my-cat" not in str(host.get("/sdapi/v1/progress")["state"]["job"])
