"""The arguments of a generation and the options of its controls: declared once, and what follows from that."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import alignit
from alignit.algorithm.controls import Controls
from alignit.algorithm.options import ControlsError, Documented, Option, help_of, options_of
from alignit.webui.generation.arguments import Arguments, restored_by, was_enabled
from alignit.webui.generation.declarations import Argument, ArgumentsError, Axis, Declaration, Paste

ROOT = Path(__file__).parents[2]
NAMES = ["enabled", "class_words", "strength", "start", "end", "controls", "compare", "attention_maps", "map_words"]


@dataclass(frozen=True)
class MoreControls(Controls):
    """Controls with one declaration more."""

    calm: float = field(
        default=0.0,
        metadata=Option(
            help="calm 0.5",
            pattern=re.compile(r"calm\s+(\S+)"),
            read=lambda match, text: {"calm": _calm(match[1], text)},
            documented=(Documented("`calm 0.5`", "is calm", "for this test"),),
            axis="Calm",
        ).metadata,
    )


def _calm(number: str, text: str) -> float:
    if number != "0.5":
        raise ControlsError(f"'{text}' is not calm")
    return float(number)


@dataclass(frozen=True)
class MoreArguments(Arguments):
    """Arguments with one declaration more."""

    grain: float = field(
        default=0.5,
        metadata=Declaration(
            label="Grain",
            description="For this test.",
            limits=(0, 3),
            infotext="AlignIT grain",
            paste=Paste.DEFAULT,
            axis=Axis("Grain"),
        ).metadata,
    )


def table(page: str, columns: str) -> list[list[str]]:
    """The rows of a page's table that has these columns."""
    text = (ROOT / "docs" / page).read_text(encoding="utf8")
    rows = text.split(f"{columns}\n", 1)[1].split("\n\n")[0].splitlines()[1:]
    return [[cell.strip() for cell in row.strip().strip("|").split("|")] for row in rows]


def test_a_new_control_is_one_declaration() -> None:
    assert MoreControls().with_options("keys; Calm  0.5") == MoreControls(values=False, calm=0.5)
    assert help_of(MoreControls) == help_of(Controls).replace(", with a", ", calm 0.5, with a")
    with pytest.raises(ControlsError, match=re.escape(f"'calmer' is no option: there are {help_of(MoreControls)}")):
        MoreControls().with_options("calmer")
    with pytest.raises(ControlsError, match=r"'calm 1' is not calm"):
        MoreControls().with_options("calm 1")
    with pytest.raises(ControlsError, match=r"'calm 0\.5' is no option"):
        Controls().with_options("calm 0.5")


def test_a_new_argument_is_one_declaration() -> None:
    assert [item.name for item in MoreArguments.declared()] == [*NAMES, "grain"]
    assert MoreArguments.from_list([True, "cat", 1, 0, 1, "", False, False, "", 2]).grain == 2  # type: ignore[attr-defined]
    with pytest.raises(ArgumentsError, match=r"grain must be from 0 to 3, not 4"):
        MoreArguments.from_list([{"enabled": True, "grain": 4}])
    with pytest.raises(ArgumentsError, match=r"no argument 'rain': there are enabled, .*, map_words, grain"):
        MoreArguments.from_list([{"enabled": True, "rain": 4}])
    known, new = (kind.schema()["properties"] for kind in (Arguments, MoreArguments))
    about = {"title": "Grain", "description": "For this test.", "default": 0.5}
    assert new == known | {"grain": {"type": "number", **about, "minimum": 0, "maximum": 3}}
    axis = MoreArguments.axes()[-1]
    assert (axis.label, axis.kind, axis.values(2.0), axis.choices) == ("Grain", float, {"grain": 2.0}, None)
    restored = restored_by(MoreArguments.declared()[-1])
    assert callable(restored)
    assert (restored({}), restored({"AlignIT grain": "2.0"})) == (0.5, "2.0")


def test_arguments_have_their_places_for_good() -> None:
    assert [item.name for item in Arguments.declared()][: len(NAMES)] == NAMES


def test_axes() -> None:
    axes = {axis.label: axis for axis in Arguments.axes()}
    labels = ["On or off", "Class words", "Strength", "Steps", "Layers", "Others", "Context", "Reach", "Controls"]
    assert list(axes) == labels
    assert axes["On or off"].choices == ("on", "off")
    assert axes["On or off"].values("Off") == {"enabled": False}
    assert axes["Layers"].values("down mid") == {"controls": "layers down mid"}
    assert axes["Others"].values("masked 0.5") == {"controls": "others masked 0.5"}
    assert axes["Steps"].values("0-.5") == {"start": 0, "end": 0.5}
    # Where the panel's controls name the same, the axis counts.
    assert axes["Strength"].option(**axes["Strength"].values(0.5)) == "strength 0.5"
    assert axes["Steps"].option(**axes["Steps"].values("0-.5")) == "steps 0-0.5"
    assert axes["Class words"].option(**axes["Class words"].values("cat")) == ""


@pytest.mark.parametrize(
    ("params", "restored"),
    [
        # None: the host leaves the field as it is.
        ({}, {"enabled": False, "class_words": None, "strength": None, "controls": ""}),
        (
            {"AlignIT class words": "a=b", "AlignIT strength": "0.5", "AlignIT version": "9"},
            {"enabled": True, "class_words": "a=b", "strength": "0.5", "controls": ""},
        ),
        (
            {"AlignIT class words": "a=b", "AlignIT controls": "keys"},
            {"enabled": True, "class_words": "a=b", "strength": None, "controls": "keys"},
        ),
    ],
)
def test_what_pasting_restores(params: dict[str, str], restored: dict[str, Any]) -> None:
    rules = {item.name: restored_by(item) for item in Arguments.declared()}
    assert rules["enabled"] is was_enabled
    assert [name for name, rule in rules.items() if rule is None] == ["compare", "attention_maps", "map_words"]
    found = {name: rule(params) if callable(rule) else params.get(str(rule)) for name, rule in rules.items() if rule}
    assert {name: found[name] for name in restored} == restored


def test_the_documented_arguments_are_the_declared_ones() -> None:
    def kind(item: Argument) -> str:
        if isinstance(item.default, bool):
            return "true or false"
        return "text" if isinstance(item.default, str) else "{:g} to {:g}".format(*item.declared.limits)

    def default(item: Argument) -> str:
        if isinstance(item.default, bool):
            return str(item.default).lower()
        return f'`"{item.default}"`' if isinstance(item.default, str) else f"{item.default:g}"

    documented = table("api.md", "| position | name | type | default | meaning |")
    # What the page says of other pages is its own.
    without_links = [
        [*cells, re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", re.sub(r":? see \[[^\]]*\]\([^)]*\)", "", meaning))]
        for *cells, meaning in documented
    ]
    assert without_links == [
        [str(at), f"`{item.name}`", kind(item), default(item), item.declared.description]
        for at, item in enumerate(Arguments.declared())
    ]


def test_the_documented_options_are_the_declared_ones() -> None:
    assert table("controls.md", "| option | s | |") == [
        [row.written, row.strength, row.meaning] for option in options_of(Controls) for row in option.documented
    ]


def test_every_option_is_read_as_its_help_and_its_documentation_write_it() -> None:
    for option in options_of(Controls):
        written = [*option.help.split(", "), *(re.findall(r"`([^`]+)`", row.written)[0] for row in option.documented)]
        for text in written:
            assert Controls().with_options(text) != Controls(), text


def test_the_version_is_that_of_the_changelog() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf8")
    versions = re.findall(r"^## (\S+)", changelog, re.MULTILINE)
    assert versions[:2] == ["Unreleased", alignit.__version__]
    assert f'version = "{alignit.__version__}"' not in (ROOT / "pyproject.toml").read_text(encoding="utf8")
