"""The painter, its captions and their words."""

from __future__ import annotations

import random

import numpy as np
import pytest

from miniature.captions import caption, class_caption, describe, full_caption
from miniature.words import LENGTH, ROWS, VOCABULARY, WORDS, rows, split
from miniature.world import ATTRIBUTES, HELD_OUT, SIZE, Look, Scene, paint, random_scene


def scenes(count: int, seed: int = 0) -> list[Scene]:
    rng = random.Random(seed)
    return [random_scene(rng) for _ in range(count)]


def test_painting_is_the_same_for_the_same_seed_and_differs_for_others() -> None:
    for scene in scenes(20):
        first, again, other = (np.asarray(paint(scene, random.Random(seed))) for seed in (1, 1, 2))
        assert first.shape == (SIZE, SIZE, 3)
        assert (first == again).all()
        assert (first != other).any()


@pytest.mark.parametrize("name", list(ATTRIBUTES))
def test_every_attribute_is_seen_in_the_picture(name: str) -> None:
    base = Scene(Look("cat", "red", "striped", "white"), "beach", "ball", "hat")
    pictures = {}
    for choice in ATTRIBUTES[name]:
        values = base.values() | {name: choice}
        if (name, choice) in {("pattern", "plain"), ("second", "none")}:
            values |= {"pattern": "plain", "second": "none"}
        look = Look(values["class"], values["colour"], values["pattern"], values["second"])
        scene = Scene(look, values["background"], values["companion"], values["accessory"])
        pictures[choice] = paint(scene, random.Random(3)).tobytes()
    assert len(set(pictures.values())) == len(ATTRIBUTES[name])


def test_held_out_looks_are_never_drawn_at_random() -> None:
    drawn = {scene.look for scene in scenes(20_000)}
    assert len(drawn) > 500
    assert not drawn & set(HELD_OUT)


def test_a_plain_look_has_no_second_colour_and_others_have_a_different_one() -> None:
    for scene in scenes(500):
        look = scene.look
        assert (look.second == "none") == (look.pattern == "plain")
        assert look.second != look.colour


def test_a_full_caption_names_everything_and_nothing_else() -> None:
    rng = random.Random(4)
    for scene in scenes(300):
        words = set(split(full_caption(scene, rng)))
        values = scene.values()
        named = {values[name] for name in ("class", "colour", "background", "companion", "accessory")} - {"none"}
        assert named <= words
        others = {v for name in ("class", "background", "companion", "accessory") for v in ATTRIBUTES[name]} - named
        assert not words & others


def test_a_caption_names_the_class_where_it_has_no_stars_and_most_else_most_of_the_time() -> None:
    rng = random.Random(5)
    colours = stars = 0
    for scene in scenes(2000):
        words = split(caption(scene, rng))
        assert scene.look.kind in words or "*" in words
        colours += scene.look.colour in words
        stars += "*" in words
    assert colours > 0.65 * 2000
    assert 0.15 * 2000 < stars < 0.25 * 2000


def test_descriptions_name_the_second_colour_only_with_a_pattern() -> None:
    assert describe(Look("cat", "red", "plain", "none")) == "red plain cat"
    assert describe(Look("cat", "red", "striped", "white")) == "red cat with white stripes"
    assert describe(Look("cat", "red", "striped", "white"), second=False) == "red striped cat"
    assert class_caption(Scene(Look("robot", "red", "plain", "none"), "snow", "none", "none")) == "a robot"


def test_rows_are_77_and_stand_for_the_words() -> None:
    found = rows("A red cat, at night")
    tokens = [ROWS[row] for row in found]
    assert len(found) == LENGTH
    assert tokens[:7] == [49406, *(WORDS[word] for word in ("a", "red", "cat", ",", "at", "night"))]
    assert set(tokens[7:]) == {49407}
    assert max(ROWS) < VOCABULARY


def test_an_unknown_word_is_named() -> None:
    with pytest.raises(ValueError, match="'elephant'"):
        rows("a red elephant")


def test_too_many_words_are_refused() -> None:
    with pytest.raises(ValueError, match="75"):
        rows("cat " * 76)
