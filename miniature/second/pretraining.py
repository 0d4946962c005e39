"""Pretraining of the text encoder as CLIP's: a caption and its picture are to find each other in a batch.

The text encoder is causal and is read at the first end token (Radford et al. 2021, 2103.00020). What follows that token
in Stable Diffusion, end tokens up to the length, it never sees in its own training, in CLIP as here.
"""

from __future__ import annotations

import math
import random
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional
from transformers import CLIPTextModel

from miniature.autoencoder import to_input
from miniature.model import TEXT_WIDTH, make_text_encoder
from miniature.muon import Muon
from miniature.second.captions import caption
from miniature.second.world import Scene, random_scene
from miniature.state import TrainingError, load_state, progress, save_state
from miniature.words import END, ROWS, rows
from miniature.world import (
    ACCESSORIES,
    BACKGROUNDS,
    CLASSES,
    COLOURS,
    COMPANIONS,
    HELD_OUT,
    SIZE,
    random_look,
)

FAMILY = 4  # scenes that differ in little, in one batch: what CLIP finds among its 32,768 pictures
FAMILIES = 32  # in a batch
RATE = 0.01
WARMUP = 50
# How much of a word stays in its own row; see the study of the encoder for how it was chosen.
OWN_WEIGHT = 0.03
SAVE_EVERY = 50
_STRAY = 0.05  # share of captions with stray stars, as texts of the web have: the token is not new to the encoder
_END = ROWS.index(END)


class ImageTower(nn.Module):
    """Pictures of half the size, [n, 3, SIZE / 2, SIZE / 2] in bytes, to features [n, TEXT_WIDTH]."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for into, out in pairwise((3, 32, 64, 96, 128)):
            layers += [nn.Conv2d(into, out, 3, 2, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
        self.trunk = nn.Sequential(*layers)
        side = SIZE // 32
        self.projection = nn.Linear(128 * side * side, TEXT_WIDTH, bias=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.projection(self.trunk(to_input(images)).flatten(1))
        return found


class Towers(nn.Module):
    """The two encoders, each with its projection into the common space."""

    def __init__(self) -> None:
        super().__init__()
        self.text: CLIPTextModel = make_text_encoder()
        self.text.set_attn_implementation("eager")
        self.text_projection = nn.Linear(TEXT_WIDTH, TEXT_WIDTH, bias=False)
        self.image = ImageTower()
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def encode_text(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the rows [n, length, TEXT_WIDTH] of tokens [n, length], and the features [n, TEXT_WIDTH]."""
        encoded = self.text(ids)[0]
        first_end = (ids == _END).int().argmax(dim=1)
        pooled = encoded[torch.arange(len(ids), device=ids.device), first_end]
        return encoded, self.text_projection(pooled)


def halved(images: torch.Tensor) -> torch.Tensor:
    """Return pictures [n, 3, height, width] in bytes at half the size: enough to tell what they show."""
    return functional.avg_pool2d(images.float(), 2).round().to(torch.uint8)


def contrastive_loss(text: torch.Tensor, image: torch.Tensor, log_scale: torch.Tensor) -> torch.Tensor:
    """Return CLIP's loss of features [n, width] of captions and of their pictures, in this order."""
    logits = functional.normalize(text.float(), dim=-1) @ functional.normalize(image.float(), dim=-1).T
    logits = logits * log_scale.clamp(max=math.log(100)).exp()
    labels = torch.arange(len(logits), device=logits.device)
    loss: torch.Tensor = functional.cross_entropy(logits, labels) + functional.cross_entropy(logits.T, labels)
    return loss / 2


def own_distance(text: CLIPTextModel, ids: torch.Tensor, encoded: torch.Tensor) -> torch.Tensor:
    """Return how far words' rows are from those of the same words alone at the same places, in the rows' variance.

    Args:
        text: The encoder.
        ids: Tokens [n, length].
        encoded: Their rows [n, length, TEXT_WIDTH].
    """
    is_word = ids != _END
    is_word[:, 0] = False
    places = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)[is_word]
    pairs, where = torch.unique(torch.stack([ids[is_word], places]), dim=1, return_inverse=True)
    zeros = torch.zeros_like(pairs[1])
    tokens = torch.stack([ids[0, 0].expand_as(zeros), pairs[0]], dim=1)
    alone = text(tokens, position_ids=torch.stack([zeros, pairs[1]], dim=1))[0][:, 1].float()
    words = encoded[is_word].float()
    distance: torch.Tensor = (words - alone[where]).square().mean() / words.detach().var(dim=0).mean()
    return distance


def family(rng: random.Random) -> list[Scene]:
    """Return FAMILY scenes that differ in little: what tells them apart has to be in their captions' features."""
    found = [random_scene(rng)]
    while len(found) < FAMILY:
        scene = relative(found[0], rng)
        if scene not in found:
            found.append(scene)
    return found


def relative(scene: Scene, rng: random.Random) -> Scene:
    """Return a scene that differs from this one in one thing, or in which of two objects has what."""
    looks = list(scene.looks)
    change = rng.randrange(6)
    if change == 0:
        return replace(scene, background=rng.choice(BACKGROUNDS))
    if change == 1:
        return replace(scene, companion=rng.choice(COMPANIONS))
    if change == 2:
        return replace(scene, accessory=rng.choice(ACCESSORIES))
    if change == 3 and len(looks) == 2:  # the objects change places, or their cloth
        kinds = [look.kind for look in looks]
        looks = [replace(look, kind=kind) for look, kind in zip(looks, reversed(kinds), strict=True)]
        if rng.random() < 0.5:
            looks.reverse()
    else:
        at = rng.randrange(len(looks))
        look, other = looks[at], random_look(rng)
        if change == 4:
            free = [kind for kind in CLASSES if kind not in {old.kind for old in looks}]
            looks[at] = replace(look, kind=rng.choice(free))
        elif rng.random() < 0.5:
            looks[at] = replace(look, colour=rng.choice([colour for colour in COLOURS if colour != look.second]))
        else:
            looks[at] = replace(other, kind=look.kind)
    return scene if any(look in HELD_OUT for look in looks) else replace(scene, looks=tuple(looks))


def tokens(texts: list[str]) -> torch.Tensor:
    """Return the tokens [n, length] of texts, up to the end token of the longest."""
    ids = torch.tensor([rows(text) for text in texts])
    return ids[:, : int((ids != _END).sum(dim=1).max()) + 1]


def pretraining_caption(scene: Scene, rng: random.Random) -> str:
    """Return a caption; a few have stray stars between the words."""
    text = caption(scene, rng)
    if rng.random() < _STRAY:
        words = text.split()
        for _ in range(rng.randint(1, 4)):
            words.insert(rng.randint(0, len(words)), "*")
        text = " ".join(words)
    return text


def pretrain(
    images: torch.Tensor, scenes: list[Scene], folder: Path, steps: int, device: torch.device, own: float = OWN_WEIGHT
) -> Towers:
    """Pretrain the text encoder together with an image encoder; go on from the state in the folder.

    Args:
        images: Pictures [n, 3, SIZE, SIZE] in bytes, by families.
        scenes: What they show.
        folder: Where the state is kept.
        steps: Of FAMILIES * FAMILY captions and pictures.
        device: Where it is done.
        own: The weight of "words keep themselves" (`own_distance`).
    """
    images = torch.cat([halved(part) for part in images.split(1000)])
    torch.manual_seed(4)
    model = Towers().to(device)
    optimizer = Muon(model, ("embedding",), RATE)
    path, first = folder / "towers.pt", 0
    if state := load_state(path):
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    model.train()
    for step in progress("Text encoder", first, steps):
        generator, rng = torch.Generator().manual_seed(20_000 + step), random.Random(step)
        families = torch.randperm(len(scenes) // FAMILY, generator=generator)[:FAMILIES]
        chosen = (families[:, None] * FAMILY + torch.arange(FAMILY)).flatten()
        ids = tokens([pretraining_caption(scenes[i], rng) for i in chosen.tolist()]).to(device)
        with torch.autocast(device.type, torch.bfloat16):
            encoded, text = model.encode_text(ids)
            image = model.image(images[chosen].to(device))
            distance = own_distance(model.text, ids, encoded)
        contrast = contrastive_loss(text, image, model.log_scale)
        optimizer.zero_grad()
        (contrast + own * distance).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step(min((step + 1) / WARMUP, 0.01 + 0.99 * min(1, 2 * (1 - step / steps))))
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
            print(f"text encoder step {step + 1}: contrastive loss {contrast.item():.4f}, "
                  f"distance of words' rows from their own {distance.item():.3f}", flush=True)  # fmt: skip
            parts = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}
            save_state(path, parts)
    return model.eval()


def save_towers(towers: Towers, path: Path) -> None:
    """Write the two encoders into one file, in half precision.

    Raises:
        TrainingError: It can't be written.
    """
    state = {name: t.half() if t.is_floating_point() else t for name, t in towers.state_dict().items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(state, path)
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"Can't write {path}: {error}. Choose another folder.") from error


def load_towers(path: Path) -> Towers:
    """Read the two encoders, from a file of `save_towers` or a state of pretraining.

    Raises:
        TrainingError: It is missing or damaged.
    """
    if not path.exists():
        raise TrainingError(f"{path} is missing. Pretrain: python -m miniature.second.train.")
    towers = Towers()
    try:
        if path.suffix == ".safetensors":
            state = {name: t.float() if t.is_floating_point() else t for name, t in load_file(path).items()}
        else:
            state = (load_state(path) or {})["model"]
        towers.load_state_dict(state)
    except (OSError, SafetensorError, KeyError, RuntimeError) as error:
        raise TrainingError(f"{path} is damaged ({error}). Get it again, or pretrain.") from error
    return towers.eval()
