"""Captions of scenes with one or two objects: ordinary ones, without stars."""

from __future__ import annotations

import random

from miniature.captions import PLACES, article, describe
from miniature.second.world import Scene
from miniature.world import Look

# How often a caption names what there is.
NAMED = {"colour": 0.9, "pattern": 0.85, "second": 0.85, "background": 0.9, "companion": 0.9, "accessory": 0.9}
EVERYTHING = dict.fromkeys(NAMED, 1.0)
_LEADS = ("", "", "a photo of", "a picture of", "a drawing of", "an image of")


def caption(scene: Scene, rng: random.Random, named: dict[str, float] | None = None) -> str:
    """Return a caption: the objects from left to right, what the first one wears, the companion and the place.

    Args:
        scene: What is described.
        rng: Chooses the words.
        named: How often each part is named; by default as in training.
    """
    share = NAMED if named is None else named
    first, *rest = (article(_look(look, rng, share)) for look in scene.looks)
    around = []
    if scene.accessory != "none" and rng.random() < share["accessory"]:
        wearing = f"{rng.choice(('wearing', 'with'))} {article(scene.accessory)}"
        if rest:
            first = f"{first} {wearing}"  # at once, or it would be the other's
        else:
            around.append(wearing)
    if scene.companion != "none" and rng.random() < share["companion"]:
        around.append(f"{rng.choice(('with', 'and', 'near', 'beside'))} {article(scene.companion)}")
    if rng.random() < share["background"]:
        around.append(PLACES[scene.background])
    if rng.random() < 0.3:
        rng.shuffle(around)
    objects = f" {rng.choice(('and', 'and', 'beside', 'near'))} ".join([first, *rest])
    joint = rng.choice((" ", " ", ", "))
    text = " ".join(filter(None, [rng.choice(_LEADS), objects])) + "".join(joint + part for part in around)
    return text + rng.choice(("", "", "", "."))


def full_caption(scene: Scene, rng: random.Random) -> str:
    """Return a caption that names everything, with a random wording."""
    return caption(scene, rng, EVERYTHING)


def class_caption(scene: Scene) -> str:
    """Return the caption that names the classes alone, to see how much the rest of a caption helps."""
    return " and ".join(article(look.kind) for look in scene.looks)


def _look(look: Look, rng: random.Random, share: dict[str, float]) -> str:
    return describe(look, rng.random() < share["colour"], rng.random() < share["pattern"],
                    rng.random() < share["second"])  # fmt: skip
