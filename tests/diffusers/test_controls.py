"""Words at words, and controls, on a diffusers pipeline against the brute-force reference."""

from __future__ import annotations

import pytest

from alignit.algorithm.controls import Controls
from alignit.algorithm.steps import StepRange
from alignit.diffusers import AlignIT, AlignITError
from tests.diffusers.conftest import Model
from tests.diffusers.reference import Injection, pictures, reference
from tests.diffusers.test_exact import assert_same, differs


def test_words_at_words_with_no_concept_at_all(sd1: Model) -> None:
    wanted = reference(sd1.pipe, "a red dog in snow", [Injection("* * cat * *", [3])], {})
    assert_same(pictures(AlignIT(sd1.pipe, []), "a red <cat=dog> in snow"), wanted)
    assert differs(wanted, pictures(sd1.pipe, "a red dog in snow"))


def test_options_in_the_prompt_and_for_all(sd1: Model) -> None:
    aligned = AlignIT(sd1.pipe, sd1.load("my-cat"))
    wanted = reference(sd1.pipe, "a cat in snow", [Injection("* <my-cat> * *", [2])], sd1.vectors, concept_strength=0.5)
    assert_same(pictures(aligned, "a <my-cat=cat; 0.5> in snow"), wanted)
    assert_same(pictures(aligned, "a <my-cat=cat> in snow", concept_controls="0.5"), wanted)
    # The same with hooks in each layer: all of them, one part after the other.
    hooked = pictures(aligned, "a <my-cat=cat> in snow", concept_controls="0.5; layers down mid up")
    assert_same(hooked, wanted)
    keys = pictures(aligned, "a <my-cat=cat; keys> in snow")
    assert differs(keys, pictures(aligned, "a <my-cat=cat; values> in snow"))
    assert differs(keys, pictures(aligned, "a <my-cat=cat> in snow"))


def test_controls_as_an_object(sd1: Model) -> None:
    aligned = AlignIT(sd1.pipe, sd1.load("my-cat"))
    for text, controls in (
        ("0.5", Controls(0.5)),
        ("keys; layers down mid; steps 0-0.5", Controls().with_options("keys; layers down mid; steps 0-0.5")),
        ("class word", Controls(class_word=True)),
    ):
        given = pictures(aligned, "a <my-cat=cat> in snow", concept_controls=controls)
        assert_same(given, pictures(aligned, "a <my-cat=cat> in snow", concept_controls=text))
    # What the prompt says counts before.
    ours = pictures(aligned, "a <my-cat=cat; 0.5> in snow", concept_controls=Controls(0))
    assert_same(ours, pictures(aligned, "a <my-cat=cat; 0.5> in snow"))


@pytest.mark.parametrize(
    ("controls", "strength", "said"),
    [
        (Controls(3), 1, "^strength must be from 0 to 2, not 3"),
        (Controls(steps=StepRange(0.5, 0.25)), 1, "^start .0.5. must not be greater than end .0.25."),
        (Controls(0.5), 0.5, "leave concept_strength, concept_start and concept_end out"),
    ],
)
def test_controls_that_cannot_be_used_are_refused(sd1: Model, controls: Controls, strength: float, said: str) -> None:
    with pytest.raises(AlignITError, match=said):
        pictures(AlignIT(sd1.pipe, []), "a dog", concept_controls=controls, concept_strength=strength)


@pytest.mark.parametrize(
    ("prompt", "controls", "said"),
    [
        ("a <my-cat=cat; louder> in snow", "", "In the prompt, 'louder' is no option"),
        ("a <my-cat=cat> in snow", "3", "In concept_controls, the strength 3 is not from 0 to 2"),
        ("a <my-cat=cat; keys> and <my-cat=cat>", "", "two sets of options"),
        ("a <my-cat=cat> in snow", "filler <|endoftext|>dog", "is 2 tokens"),
    ],
)
def test_what_cannot_be_used_is_refused(sd1: Model, prompt: str, controls: str, said: str) -> None:
    with pytest.raises(AlignITError, match=said):
        pictures(AlignIT(sd1.pipe, sd1.load("my-cat")), prompt, concept_controls=controls)
