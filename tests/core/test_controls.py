"""The options of a concept: what users write, and what it means for layers and steps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignit.algorithm.controls import Controls, Schedule
from alignit.algorithm.injection import needs_projections, row_strength
from alignit.algorithm.layers import Layers
from alignit.algorithm.options import ControlsError
from alignit.algorithm.steps import StepRange

SD1 = [f"input_blocks.{n}.1" for n in (1, 2, 4, 5, 7, 8)] + ["middle_block.1"]
SD1 += [f"output_blocks.{n}.1" for n in range(3, 12)]


def layer(path: str, part: str = "k") -> str:
    return f"{path}.transformer_blocks.0.attn2.to_{part}"


def chosen(text: str, levels: int = 4, paths: list[str] = SD1) -> list[str]:
    layers = Layers.parse(text)
    return [path for path in paths if layers.include(layer(path), levels)]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", Controls()),
        (" ; ", Controls()),
        ("0.5", Controls(strength=0.5)),
        ("strength 2", Controls(strength=2)),
        ("keys", Controls(values=False)),
        ("Values", Controls(keys=False)),
        ("keys; keys and values", Controls()),
        ("steps 0.2-.8", Controls(steps=StepRange(0.2, 0.8))),
        ("falling; 1.5", Controls(strength=1.5, schedule=Schedule.FALLING)),
        ("layers  down, /4", Controls(layers=Layers(frozenset({"down"}), frozenset({2})))),
        ("layers all", Controls()),
        ("filler A", Controls(filler="A")),
        ("class word", Controls(strength=0, class_word=True)),
        ("Class  Word; 0.5; keys", Controls(strength=0, keys=True, values=False, class_word=True)),
    ],
)
def test_options(text: str, wanted: Controls) -> None:
    assert Controls().with_options(text) == wanted


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("2.1", "not from 0 to 2"),
        ("-1", "'-1' is no option"),
        ("nan", "'nan' is no option"),
        ("steps 0.5-0.2", "no range of steps"),
        ("steps 0-2", "no range of steps"),
        ("layers left", "no layers 'left'"),
        ("layers in4", "no layers 'in4'"),
        ("keys values", "'keys values' is no option: there are strength 0.5"),
        ("filler two words", "no option"),
    ],
)
def test_what_cannot_be_used_is_said(text: str, said: str) -> None:
    with pytest.raises(ControlsError, match=said):
        Controls().with_options(text)


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        controls = Controls().with_options(text)
    except ControlsError:
        return
    assert 0 <= controls.strength <= 2


def test_layers_of_sd1() -> None:
    assert chosen("all") == chosen("down mid up") == SD1
    assert chosen("down") == SD1[:6]
    assert chosen("mid") == ["middle_block.1"] == chosen("/8")
    assert chosen("up") == SD1[7:]
    assert chosen("/1") == [f"input_blocks.{n}.1" for n in (1, 2)] + [f"output_blocks.{n}.1" for n in (9, 10, 11)]
    assert chosen("/4 up") == [f"output_blocks.{n}.1" for n in (3, 4, 5)]
    assert chosen("in04 m00 OUT09") == ["input_blocks.4.1", "middle_block.1", "output_blocks.9.1"]


def test_layers_of_sdxl() -> None:
    paths = [f"input_blocks.{n}.1" for n in (4, 5, 7, 8)] + ["middle_block.1"]
    paths += [f"output_blocks.{n}.1" for n in range(6)]
    assert chosen("/4", 3, paths) == ["input_blocks.7.1", "input_blocks.8.1", "middle_block.1"] + [
        f"output_blocks.{n}.1" for n in (0, 1, 2)
    ]
    assert chosen("/1", 3, paths) == []


def test_keys_or_values() -> None:
    keys = Controls().with_options("keys; layers down")
    assert keys.chosen(layer(SD1[0], "k"), 4)
    assert not keys.chosen(layer(SD1[0], "v"), 4)
    assert not keys.chosen(layer(SD1[-1], "k"), 4)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("0.5", [0.5, 0.5, 0.5, 0.5]),
        ("steps 0.25-0.75", [0, 1, 1, 0]),
        ("falling", [1, 0.75, 0.5, 0.25]),
        ("2; rising", [0, 0.5, 1, 1.5]),
        ("falling; steps 0.5-1", [0, 0, 1, 0.5]),
        ("steps 0.5-0.5; falling", [0, 0, 0, 0]),
    ],
)
def test_strength_over_the_steps(text: str, wanted: list[float]) -> None:
    controls = Controls().with_options(text)
    assert [controls.strength_at(step / 4) for step in range(4)] == pytest.approx(wanted)


def test_uniform_needs_no_hook() -> None:
    assert Controls().with_options("0.5; steps 0-0.5; filler a").uniform
    assert not any(Controls().with_options(text).uniform for text in ("keys", "layers up", "rising"))


def test_the_class_word_alone_stays_so_whatever_is_said_nearer_to_the_concept() -> None:
    controls = Controls().with_options("class word").with_options("1.5; rising; values")
    assert [controls.strength_at(step / 4) for step in range(4)] == [0, 0, 0, 0]
    # The row is the base prompt's own, and nothing is computed in the layers: also where W_k and W_v change.
    for changes in (True, False):
        assert not needs_projections(controls, changes)
        assert row_strength(controls, changes) == 0
        assert needs_projections(Controls().with_options("1.5; rising"), changes)
