"""What the tests of the second edition share."""

from __future__ import annotations

import itertools
import random

import pytest
import torch

from miniature.second.world import Scene, random_scene
from miniature.world import Look

CAT, CAR = Look("cat", "red", "striped", "white"), Look("car", "blue", "plain", "none")
PAIR = Scene((CAT, CAR), "beach", "ball", "hat")


def scenes(count: int, pairs: float = 0.5) -> list[Scene]:
    """Return the same random scenes each time."""
    rng = random.Random(0)
    return [random_scene(rng, pairs) for _ in range(count)]


def stop_at(monkeypatch: pytest.MonkeyPatch, module: object, name: str, call: int) -> None:
    """Let a function of a module be interrupted at this call."""
    before, count = getattr(module, name), itertools.count(1)

    def counted(*arguments: object) -> object:
        if next(count) == call:
            raise KeyboardInterrupt
        return before(*arguments)

    monkeypatch.setattr(module, name, counted)


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    """Say whether two networks have the same weights, bit for bit."""
    return all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())
