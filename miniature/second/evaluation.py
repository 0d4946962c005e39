"""What the second edition gets right: its pictures of prompts that name everything, read by the classifier."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from miniature import evaluation
from miniature.classifier import Classifier, read_attributes
from miniature.second.captions import full_caption
from miniature.second.world import LOOK, Scene, random_scene
from miniature.weights import Miniature

AT_ITS_OWN = 0.85  # least share of pictures of two objects, for each attribute of a look
_AROUND = ("background", "companion", "accessory")


@dataclass(frozen=True)
class Gate:
    """Shares of pictures that show an attribute as their prompt says, where it names it.

    Attributes:
        one: Of pictures of one object.
        two: Of pictures of two; an attribute of a look counts where both objects have their own.
    """

    one: Mapping[str, float]
    two: Mapping[str, float]

    def passed(self) -> bool:
        """Say whether text is obeyed well enough to train concepts and to measure alignment."""
        return evaluation.passes(dict(self.one)) and all(self.two[name] >= AT_ITS_OWN for name in LOOK)

    def report(self) -> str:
        """Put the shares into a line."""
        told = (", ".join(f"{name} {share:.3f}" for name, share in part.items()) for part in (self.one, self.two))
        one, two = told
        return f"one object: {one}; two: {two}; the gate is {'passed' if self.passed() else 'not passed'}"


def gate(
    miniature: Miniature, classifier: Classifier, count: int, seed: int = 0, done: Callable[[int], None] | None = None
) -> Gate:
    """Return the shares of so many pictures of one object, and of as many of two, none of a held-out look."""
    rng = random.Random(1_000_000 + seed)
    scenes = [random_scene(rng, pairs) for pairs in (0.0, 1.0) for _ in range(count)]
    prompts = [full_caption(scene, rng) for scene in scenes]
    images = miniature.generate(prompts, [7_000_000 + 10_000 * seed + i for i in range(2 * count)], done=done)
    return score(read_attributes(classifier, images), scenes)


def score(shown: Sequence[Mapping[str, str]], scenes: Sequence[Scene]) -> Gate:
    """Return the shares for what pictures show and what they should."""
    one, two = ([(s, scene) for s, scene in zip(shown, scenes, strict=True) if len(scene.looks) == n] for n in (1, 2))
    return Gate(_shares(one, ("",)), _shares(two, ("", "other ")))


def _shares(pairs: list[tuple[Mapping[str, str], Scene]], objects: tuple[str, ...]) -> dict[str, float]:
    groups = {name: [f"{which}{name}" for which in objects] for name in LOOK} | {name: [name] for name in _AROUND}
    shares = {}
    for name, members in groups.items():
        right = []
        for shown, scene in pairs:
            named = [member for member in members if scene.values()[member] != "none"]
            if named:
                right.append(all(shown[member] == scene.values()[member] for member in named))
        shares[name] = sum(right) / max(1, len(right))
    return shares
