"""What a miniature gets right: its pictures of prompts that name everything, read by the classifier."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch

from miniature.captions import full_caption
from miniature.classifier import Classifier, read_attributes
from miniature.weights import Miniature
from miniature.world import ATTRIBUTES, Scene, random_scene

GATE = {"background": 0.95, "companion": 0.95, "accessory": 0.95, "colour": 0.9, "pattern": 0.9}


def gate(
    miniature: Miniature, classifier: Classifier, count: int, seed: int = 0, done: Callable[[int], None] | None = None
) -> dict[str, float]:
    """Return the share of pictures that show each attribute as the prompt says.

    The prompts name everything that there is in random scenes, none of a held-out look. An attribute counts where the
    prompt names it: pictures whose prompt has no companion do not count for the companion.
    """
    rng = random.Random(1_000_000 + seed)
    scenes = [random_scene(rng) for _ in range(count)]
    prompts = [full_caption(scene, rng) for scene in scenes]
    images = miniature.generate(prompts, [7_000_000 + 10_000 * seed + i for i in range(count)], done=done)
    return score(classifier, images, scenes)


def score(classifier: Classifier, images: torch.Tensor, scenes: list[Scene]) -> dict[str, float]:
    """Return the share of pictures that show each attribute of their scenes, where the scene has it."""
    shown = read_attributes(classifier, images)
    shares = {}
    for name in ATTRIBUTES:
        pairs = [(seen[name], scene.values()[name]) for seen, scene in zip(shown, scenes, strict=True)]
        named = [seen == wanted for seen, wanted in pairs if wanted != "none"]
        shares[name] = sum(named) / max(1, len(named))
    return shares


def passes(shares: dict[str, float]) -> bool:
    """Say whether the gate is passed: text is obeyed well enough to train concepts and to measure alignment."""
    return all(shares[name] >= least for name, least in GATE.items())


def report(shares: dict[str, float]) -> str:
    """Put shares into a line."""
    told = ", ".join(f"{name} {share:.3f}" for name, share in shares.items())
    return f"{told}; the gate is {'passed' if passes(shares) else 'not passed'}"
