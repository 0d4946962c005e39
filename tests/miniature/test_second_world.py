"""The second edition's scenes of one or two objects, and their captions."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from miniature import world as first_world
from miniature.second.captions import caption, class_caption, full_caption
from miniature.second.world import ATTRIBUTES, LOOK, Scene, paint
from miniature.words import rows, split
from miniature.world import CELL, HELD_OUT, OBJECT, SIZE, Look
from tests.miniature.second_scenes import CAR, CAT, PAIR, scenes


def test_a_scene_of_one_object_is_painted_as_in_the_first_edition() -> None:
    for seed, scene in enumerate(scenes(20, 0.0)):
        before = first_world.Scene(scene.looks[0], scene.background, scene.companion, scene.accessory)
        now = paint(scene, random.Random(seed))
        assert now.tobytes() == first_world.paint(before, random.Random(seed)).tobytes()


def shows(values: dict[str, str]) -> Scene:
    """Return the scene of two objects with these values, plain where one has no second colour."""
    looks = []
    for side in ("", "other "):
        kind, colour, pattern, second = (values[f"{side}{name}"] for name in LOOK)
        plain = "none" in {pattern, second} or pattern == "plain"
        looks.append(Look(kind, colour, *(("plain", "none") if plain else (pattern, second))))
    return Scene(tuple(looks), values["background"], values["companion"], values["accessory"])


@pytest.mark.parametrize("name", list(ATTRIBUTES))
def test_every_attribute_of_a_pair_is_seen_in_the_picture(name: str) -> None:
    looks = Look("cat", "green", "striped", "white"), Look("car", "red", "spotted", "black")
    base = Scene(looks, "beach", "ball", "hat").values()
    taken = {"none", "cat", "car"} if name == "other class" else {"car"} if name == "class" else set()
    taken |= {"none"} if name in {"other colour", "other pattern"} else set()
    choices = [choice for choice in ATTRIBUTES[name] if choice not in taken]
    pictures = {paint(shows(base | {name: choice}), random.Random(3)).tobytes() for choice in choices}
    assert len(pictures) == len(choices) >= 3


def test_objects_stand_on_the_left_and_on_the_right() -> None:
    one, other = (np.asarray(paint(Scene((CAT, right), "beach", "none", "none"), random.Random(1)))
                  for right in (CAR, replace(CAR, colour="red")))  # fmt: skip
    changed = (one != other).any(axis=2)
    assert changed[:, OBJECT:].any()
    assert not changed[:, : OBJECT - 1].any()
    assert not changed[: CELL - 1].any()
    assert not changed[4 * CELL + 1 :].any()
    assert one.shape == (SIZE, SIZE, 3)


def test_a_scene_has_one_or_two_objects_of_different_classes() -> None:
    for looks in ((), (CAT, replace(CAT, colour="blue")), (CAT, CAR, Look("cup", "red", "plain", "none"))):
        with pytest.raises(ValueError, match="one object, or two"):
            Scene(looks, "beach", "none", "none")


def test_half_of_the_scenes_have_two_objects_and_none_a_held_out_look() -> None:
    drawn = scenes(4000)
    assert 0.45 < sum(len(scene.looks) == 2 for scene in drawn) / len(drawn) < 0.55
    assert not {look for scene in drawn for look in scene.looks} & set(HELD_OUT)
    for scene in drawn[:200]:
        assert [ATTRIBUTES[name][label] for name, label in zip(ATTRIBUTES, scene.labels(), strict=True)] == [
            scene.values()[name] for name in ATTRIBUTES
        ]


def test_a_pairs_values_say_which_object_has_what() -> None:
    values = PAIR.values()
    assert [values[name] for name in LOOK] == ["cat", "red", "striped", "white"]
    assert [values[f"other {name}"] for name in LOOK] == ["car", "blue", "plain", "none"]
    alone = replace(PAIR, looks=(CAT,)).values()
    assert {alone[f"other {name}"] for name in LOOK} == {"none"}


# Captions


def test_captions_name_objects_from_left_to_right_and_the_accessory_at_the_first() -> None:
    rng = random.Random(1)
    for _ in range(50):
        words = split(full_caption(PAIR, rng))
        assert words.index("red") < words.index("cat") < words.index("hat") < words.index("blue") < words.index("car")
        assert {"white", "stripes", "plain", "ball", "beach"} <= set(words)
    assert class_caption(PAIR) == "a cat and a car"


def test_training_captions_have_no_stars_and_fit_the_encoder() -> None:
    rng = random.Random(2)
    for scene in scenes(2000):
        text = caption(scene, rng)
        assert "*" not in text
        assert len(rows(text)) == 77
        assert all(look.kind in split(text) for look in scene.looks)
