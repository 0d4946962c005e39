"""Captions of scenes: what training says about a picture, and the prompts that generated pictures are scored on."""

from __future__ import annotations

import random

from miniature.words import split
from miniature.world import Look, Scene

# How often a caption names what there is. Colour and pattern must be named often to be learned at all.
_NAMED = {"colour": 0.85, "pattern": 0.75, "second": 0.75, "background": 0.9, "companion": 0.9, "accessory": 0.9}
_LEADS = ("", "", "a photo of", "a picture of", "a drawing of")
_STARS = 0.2  # share of captions with words replaced by *, so that a dummy prompt is nothing unknown
_CLASS_KEPT = 0.7  # share of those that keep the class; the others leave it open, as a dummy prompt of a colour does
NOUNS = {"striped": "stripes", "spotted": "spots", "checked": "checks"}
PLACES = {
    "beach": "on the beach",
    "garden": "in the garden",
    "snow": "in the snow",
    "night": "at night",
    "city": "in the city",
}


def describe(look: Look, colour: bool = True, pattern: bool = True, second: bool = True) -> str:
    """Name a look: "red striped cat", or "red cat with white stripes" if the second colour is named too."""
    before = [look.colour] if colour else []
    after = ""
    if pattern and second and look.second != "none":
        after = f" with {look.second} {NOUNS[look.pattern]}"
    elif pattern:
        before.append(look.pattern)
    return " ".join([*before, look.kind]) + after


def article(words: str) -> str:
    """Put "a" or "an" before words."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def place(scene_or_look: str, scene: Scene, rng: random.Random, named: dict[str, float] | None = None) -> str:
    """Put an object, already named, into a scene: its accessory, its companion and the place in random order."""
    share = _NAMED if named is None else named
    parts = []
    if scene.accessory != "none" and rng.random() < share["accessory"]:
        parts.append(f"{rng.choice(('wearing', 'with'))} {article(scene.accessory)}")
    if scene.companion != "none" and rng.random() < share["companion"]:
        parts.append(f"{rng.choice(('with', 'and', 'near', 'beside'))} {article(scene.companion)}")
    if rng.random() < share["background"]:
        parts.append(PLACES[scene.background])
    if rng.random() < 0.3:
        rng.shuffle(parts)
    joint = rng.choice((" ", " ", ", "))
    return " ".join(filter(None, [rng.choice(_LEADS), scene_or_look])) + "".join(joint + part for part in parts)


def caption(scene: Scene, rng: random.Random) -> str:
    """Return a training caption: it names most of the scene, and some have stars for words."""
    pattern = rng.random() < _NAMED["pattern"]
    look = describe(scene.look, rng.random() < _NAMED["colour"], pattern, rng.random() < _NAMED["second"])
    text = place(article(look), scene, rng)
    if rng.random() < _STARS:
        share = rng.uniform(0.3, 1.0)
        kept = scene.look.kind if rng.random() < _CLASS_KEPT else None
        words = [w if w == kept or rng.random() > share else "*" for w in split(text)]
        text = " ".join(words)
    return text


def class_caption(scene: Scene) -> str:
    """Return the caption that names the class alone, to see how much the rest of a caption helps."""
    return article(scene.look.kind)


def full_caption(scene: Scene, rng: random.Random) -> str:
    """Return a caption that names everything, with a random wording."""
    return place(article(describe(scene.look)), scene, rng, dict.fromkeys(_NAMED, 1.0))
