"""Scenes of one or two objects. A scene of one is painted exactly as in the first edition."""

from __future__ import annotations

import random
from dataclasses import dataclass

from PIL import Image

from miniature import world
from miniature.world import (
    ACCESSORIES,
    BACKGROUNDS,
    CELL,
    CLASSES,
    COLOURS,
    COMPANIONS,
    OBJECT,
    PATTERNS,
    SECOND_COLOURS,
    SIZE,
    Look,
    random_look,
)

PAIRS = 0.5  # share of scenes with two objects
LOOK = ("class", "colour", "pattern", "second")  # what an object has

# What a picture shows. The object on the left, or the only one, has the names of the first edition; the one on the
# right has "other" before them, and everything "none" where there is none.
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "class": CLASSES,
    "colour": COLOURS,
    "pattern": PATTERNS,
    "second": SECOND_COLOURS,
    "other class": ("none", *CLASSES),
    "other colour": ("none", *COLOURS),
    "other pattern": ("none", *PATTERNS),
    "other second": SECOND_COLOURS,
    "background": BACKGROUNDS,
    "companion": COMPANIONS,
    "accessory": ACCESSORIES,
}


@dataclass(frozen=True)
class Scene:
    """Everything that a picture shows.

    Attributes:
        looks: One object, or two of different classes, from left to right.
        background: One of `BACKGROUNDS`.
        companion: One of `COMPANIONS`: beside the only object, or in front between two.
        accessory: One of `ACCESSORIES`, on the first object.
    """

    looks: tuple[Look, ...]
    background: str
    companion: str
    accessory: str

    def __post_init__(self) -> None:
        if len(self.looks) not in {1, 2} or len({look.kind for look in self.looks}) != len(self.looks):
            raise ValueError("A scene has one object, or two of different classes.")

    def values(self) -> dict[str, str]:
        """Return the scene's attributes under the names of `ATTRIBUTES`."""
        right = self.looks[1].values() if len(self.looks) == 2 else dict.fromkeys(LOOK, "none")
        return {
            **self.looks[0].values(),
            **{f"other {name}": value for name, value in right.items()},
            "background": self.background,
            "companion": self.companion,
            "accessory": self.accessory,
        }

    def labels(self) -> list[int]:
        """Return the scene's attributes as numbers, in the order of `ATTRIBUTES`."""
        values = self.values()
        return [choices.index(values[name]) for name, choices in ATTRIBUTES.items()]


def random_scene(rng: random.Random, pairs: float = PAIRS) -> Scene:
    """Return a scene without held-out looks, with two objects in this share of cases."""
    looks = [random_look(rng)]
    if rng.random() < pairs:
        while len(looks) < 2:
            other = random_look(rng)
            if other.kind != looks[0].kind:
                looks.append(other)
    return Scene(
        tuple(looks),
        rng.choice(BACKGROUNDS),
        rng.choice((*COMPANIONS, *COMPANIONS[1:])),
        rng.choice((*ACCESSORIES, ACCESSORIES[0])),
    )


def paint(scene: Scene, rng: random.Random) -> Image.Image:
    """Paint a scene: RGB, SIZE by SIZE. What the scene leaves open comes from `rng`."""
    if len(scene.looks) == 1:
        alone = world.Scene(scene.looks[0], scene.background, scene.companion, scene.accessory)
        return world.paint(alone, rng)
    canvas = world.new_canvas()
    world.paint_background(canvas, scene.background, rng)
    # Two objects fill the picture from side to side. They stand a cell higher than one does, so that what is between
    # them is seen.
    bottom = 4 * CELL
    if scene.companion != "none":
        world.paint_companion(canvas, scene.companion, SIZE / 2 + rng.uniform(-3, 3), SIZE - rng.uniform(1, 4))
    for place, look in enumerate(scene.looks):
        accessory = scene.accessory if place == 0 else "none"
        world.paint_object(canvas, look, place * OBJECT, bottom, accessory)
    return world.finished(canvas)
