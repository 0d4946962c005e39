"""Training of the UNet on the rows of a frozen text encoder."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from transformers import CLIPTextModel

from miniature.diffusion import noised
from miniature.model import STEPS, make_unet
from miniature.muon import Muon
from miniature.second.captions import caption, class_caption, full_caption
from miniature.second.world import Scene, random_scene
from miniature.state import load_state, progress, save_state
from miniature.words import rows

BATCH = 32
RATE = 0.01
WARMUP = 100
DROPPED = 0.1  # share of empty captions, for classifier-free guidance
AVERAGE = 0.998  # of the weights that are kept
SAVE_EVERY = 100
COMPARE_EVERY = 500
_CROSS = (".attn2.to_k.weight", ".attn2.to_v.weight")


@torch.no_grad()
def encode(text: CLIPTextModel, captions: list[str]) -> torch.Tensor:
    """Return the text encodings [n, 77, width] of captions."""
    encoded: torch.Tensor = text(torch.tensor([rows(c) for c in captions], device=text.device))[0]
    return encoded


@torch.no_grad()
def translate(unet: UNet2DConditionModel, from_text: CLIPTextModel, to_text: CLIPTextModel, count: int = 512) -> None:
    """Let a UNet that was trained on one encoder's rows read those of another, as far as a linear map goes.

    The least squares of the old rows on the new ones, over captions, goes into the projections of keys and values.

    Args:
        unet: Is changed.
        from_text: The encoder it was trained with.
        to_text: The encoder it is to read.
        count: Captions that the map is fitted on.
    """
    rng = random.Random(11)
    texts = [caption(random_scene(rng), rng) for _ in range(count)]
    old, new = (encode(text, texts).flatten(0, 1).double() for text in (from_text, to_text))
    matrix = torch.linalg.lstsq(new, old).solution.float()  # old = new @ matrix
    for name, parameter in unet.named_parameters():
        if name.endswith(_CROSS):
            parameter.copy_(parameter @ matrix.T.to(parameter))


@torch.no_grad()
def compare_captions(
    unet: UNet2DConditionModel, text: CLIPTextModel, latents: torch.Tensor, scenes: list[Scene]
) -> dict[str, float]:
    """Return the loss with full captions, with the classes alone and with no captions, on the same noise."""
    generator, rng = torch.Generator().manual_seed(7), random.Random(7)
    t = torch.randint(0, STEPS, (len(scenes),), generator=generator)
    x, v = noised(latents, t, torch.randn(latents.shape, generator=generator))
    texts = {
        "full": [full_caption(scene, rng) for scene in scenes],
        "class": [class_caption(scene) for scene in scenes],
        "none": [""] * len(scenes),
    }
    device, losses = text.device, {}
    for name, captions in texts.items():
        total = 0.0
        for start in range(0, len(scenes), BATCH):
            part = slice(start, start + BATCH)
            with torch.autocast(device.type, torch.bfloat16):
                context = encode(text, captions[part])
                out = unet(x[part].to(device), t[part].to(device), context, return_dict=False)[0]
            total += (out.float().cpu() - v[part]).square().mean(dim=(1, 2, 3)).sum().item()
        losses[name] = total / len(scenes)
    return losses


def train_unet(
    latents: torch.Tensor,
    scenes: list[Scene],
    text: CLIPTextModel,
    folder: Path,
    steps: int,
    device: torch.device,
    watch: Callable[[int, UNet2DConditionModel], None] | None = None,
    kept_out: int = 0,
    start: UNet2DConditionModel | None = None,
) -> UNet2DConditionModel:
    """Train the UNet; return it with averaged weights.

    Args:
        latents: Scaled latents of the pictures, [n, 4, LATENT, LATENT].
        scenes: What the pictures show.
        text: The encoder, which stays as it is.
        folder: Where the state is kept; training goes on from it.
        steps: Of BATCH pictures, with the ones that are done already.
        device: Where it is done.
        watch: Called with the step and the averaged UNet at each COMPARE_EVERY.
        kept_out: So many of the last pictures are not trained on; their loss is reported.
        start: A UNet to begin with, where the folder has no state; by default one with random weights.
    """
    torch.manual_seed(2)
    unet = make_unet().to(device)
    # The fused attention of torch 2.13 is twice as slow as the plain one at these sizes, on CPUs.
    unet.set_attn_processor(AttnProcessor())
    if start:
        unet.load_state_dict(start.state_dict())
    average = copy.deepcopy(unet).eval().requires_grad_(False)
    optimizer = Muon(unet, ("embedding", "conv_in", "conv_out"), RATE)
    path, first = folder / "unet.pt", 0
    if state := load_state(path):
        unet.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    unet.train()
    text.eval()
    trained = len(scenes) - kept_out
    total = 0.0
    for step in progress("UNet", first, steps):
        generator, rng = torch.Generator().manual_seed(50_000 + step), random.Random(step)
        chosen = torch.randint(trained, (BATCH,), generator=generator)
        texts = ["" if rng.random() < DROPPED else caption(scenes[i], rng) for i in chosen.tolist()]
        # Evenly spread over the noise levels: less variance than independent ones.
        t = ((torch.rand(1, generator=generator) + torch.arange(BATCH) / BATCH) % 1 * STEPS).long()
        x, v = noised(latents[chosen], t, torch.randn((BATCH, *latents.shape[1:]), generator=generator))
        with torch.autocast(device.type, torch.bfloat16):
            out = unet(x.to(device), t.to(device), encode(text, texts), return_dict=False)[0]
        loss = (out.float() - v.to(device)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        # Full rate up to the last third: training that goes on longer than planned has lost nothing.
        optimizer.step(min(1, (step + 1) / WARMUP, 0.03 + 3 * (1 - step / steps)))
        keep = min(AVERAGE, (step + 1) / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(unet.parameters()), 1 - keep)
        total += loss.item()
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
            print(f"step {step + 1}: loss {total / ((step - first) % SAVE_EVERY + 1):.4f}", flush=True)
            total = 0.0
            parts: dict[str, Any] = {"model": unet, "average": average, "optimizer": optimizer}
            save_state(path, {name: part.state_dict() for name, part in parts.items()} | {"step": step + 1})
        if (step + 1) % COMPARE_EVERY == 0 and kept_out:
            losses = compare_captions(average, text, latents[trained:], scenes[trained:])
            told = ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items())
            print(f"step {step + 1}: unseen pictures with captions {told}", flush=True)
        if (step + 1) % COMPARE_EVERY == 0 and watch:
            watch(step + 1, average)
    return average
