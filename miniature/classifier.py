"""Reads a scene's attributes back from a picture: one small convolutional network, one head for each attribute."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import torch
from torch import nn
from torch.nn import functional

from miniature.state import load_state, progress, save_state
from miniature.world import ATTRIBUTES

BATCH = 64
RATE = 2e-3
SAVE_EVERY = 200


class Labelled(Protocol):
    """A scene whose attributes are known by number."""

    def labels(self) -> list[int]:
        """Return the number of each attribute's choice, in the classifier's order."""


class Classifier(nn.Module):
    """Pictures [n, 3, SIZE, SIZE] in bytes to logits [n, choices] for each attribute.

    Args:
        attributes: What it reads, with the choices of each.
    """

    def __init__(self, attributes: Mapping[str, tuple[str, ...]] = ATTRIBUTES) -> None:
        super().__init__()
        self.attributes = attributes
        widths = (3, 24, 48, 64, 64, 96)
        layers: list[nn.Module] = []
        for into, out in pairwise(widths):
            layers += [nn.Conv2d(into, out, 3, 2, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
        self.trunk = nn.Sequential(*layers)
        self.hidden = nn.Linear(96 * 3 * 3, 128)
        self.heads = nn.ModuleDict({name: nn.Linear(128, len(choices)) for name, choices in attributes.items()})

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.trunk(images.to(self.hidden.weight.dtype) / 127.5 - 1)
        x = functional.relu(self.hidden(x.flatten(1)))
        return {name: head(x) for name, head in self.heads.items()}


@torch.no_grad()
def read_attributes(classifier: Classifier, images: torch.Tensor) -> list[dict[str, str]]:
    """Return what pictures [n, 3, SIZE, SIZE], in bytes, show: attribute to value."""
    device = classifier.hidden.weight.device
    found: list[dict[str, str]] = []
    for start in range(0, len(images), 256):
        logits = classifier(images[start : start + 256].to(device))
        best = {name: values.argmax(dim=1).tolist() for name, values in logits.items()}
        count = len(next(iter(best.values())))
        choices = classifier.attributes
        found += [{name: choices[name][best[name][i]] for name in choices} for i in range(count)]
    return found


def train_classifier(
    images: torch.Tensor,
    scenes: Sequence[Labelled],
    folder: Path,
    steps: int,
    device: torch.device,
    attributes: Mapping[str, tuple[str, ...]] = ATTRIBUTES,
) -> Classifier:
    """Train the classifier on pictures, painted ones and ones out of the VAE; go on from the state in the folder."""
    torch.manual_seed(3)
    model = Classifier(attributes).to(device)
    labels = torch.tensor([scene.labels() for scene in scenes])
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.01)
    path, first = folder / "classifier.pt", 0
    if state := load_state(path):
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    model.train()
    for step in progress("Classifier", first, steps):
        generator = torch.Generator().manual_seed(90_000 + step)
        chosen = torch.randint(len(images), (BATCH,), generator=generator)
        x = _disturb(images[chosen].float(), generator).to(device)
        for group in optimizer.param_groups:
            group["lr"] = RATE * (0.01 + 0.99 * (1 + math.cos(math.pi * step / steps)) / 2)
        with torch.autocast(device.type, torch.bfloat16):
            logits = model(x)
        wanted = labels[chosen].to(device)
        losses = [functional.cross_entropy(values.float(), wanted[:, i]) for i, values in enumerate(logits.values())]
        loss = torch.stack(losses).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
            print(f"classifier step {step + 1}: loss {loss.item():.4f}", flush=True)
            parts = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}
            save_state(path, parts)
    return model.eval()


def _disturb(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Change what a generated picture may have a little differently: its place, its colours, its grain."""
    moves = torch.randint(-4, 5, (2,), generator=generator).tolist()
    padded = functional.pad(images, (4, 4, 4, 4), mode="replicate")
    size = images.shape[-1]
    moved = padded[:, :, 4 + moves[0] : 4 + moves[0] + size, 4 + moves[1] : 4 + moves[1] + size]
    gain = 1 + 0.06 * torch.randn((len(images), 3, 1, 1), generator=generator)
    shift = 5 * torch.randn((len(images), 3, 1, 1), generator=generator)
    grain = (
        torch.randn(images.shape, generator=generator) * 12 * torch.rand((len(images), 1, 1, 1), generator=generator)
    )
    return (moved * gain + shift + grain).clamp(0, 255)
