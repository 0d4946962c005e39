"""Training of the UNet together with the text encoder, on latents."""

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

from miniature.captions import caption, class_caption, full_caption
from miniature.model import STEPS, make_text_encoder, make_unet
from miniature.muon import Muon
from miniature.sampling import make_scheduler
from miniature.state import load_state, progress, save_state
from miniature.words import rows
from miniature.world import Scene

BATCH = 32
RATE = 0.01
WARMUP = 100
ALONE = 0.5  # share of captions whose words are encoded without each other
DROPPED = 0.1  # share of empty captions, for classifier-free guidance
AVERAGE = 0.998  # of the weights that are kept
SAVE_EVERY = 100
COMPARE_EVERY = 400


class Denoiser(torch.nn.Module):
    """The UNet and the text encoder, as they are trained: together."""

    def __init__(self) -> None:
        super().__init__()
        self.unet: UNet2DConditionModel = make_unet()
        self.text: CLIPTextModel = make_text_encoder()
        # The fused attention of torch 2.13 is twice as slow as the plain one at these sizes, on CPUs.
        self.unet.set_attn_processor(AttnProcessor())
        self.text.set_attn_implementation("eager")

    def encode(self, ids: torch.Tensor, alone: torch.Tensor | None = None) -> torch.Tensor:
        """Return the text encodings [n, 77, width] of rows of tokens [n, 77].

        Args:
            ids: The tokens.
            alone: [n], true where no word is to know of the others: what it means has to stand in its own row then.
        """
        encoded: torch.Tensor = self.text(ids)[0]
        if alone is not None and alone.any():
            encoded = encoded.clone()
            encoded[alone, 1:] = self._encode_alone(ids[alone])[:, 1:].to(encoded.dtype)
        return encoded

    def _encode_alone(self, ids: torch.Tensor) -> torch.Tensor:
        count, length = ids.shape
        pairs = torch.stack([ids[:, :1].expand(-1, length), ids], dim=-1)  # the start token, and the word in its place
        places = torch.arange(length, device=ids.device)
        places = torch.stack([torch.zeros_like(places), places], dim=-1).expand(count, -1, -1)
        rows = self.text(pairs.reshape(-1, 2), position_ids=places.reshape(-1, 2))[0]
        encoded: torch.Tensor = rows[:, 1].reshape(count, length, -1)
        return encoded

    def forward(
        self, x: torch.Tensor, t: torch.Tensor, ids: torch.Tensor, alone: torch.Tensor | None = None
    ) -> torch.Tensor:
        predicted: torch.Tensor = self.unet(x, t, self.encode(ids, alone), return_dict=False)[0]
        return predicted


def noised(latents: torch.Tensor, t: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the noised latents, and the v that the model is to predict from them."""
    scheduler = make_scheduler()
    x = scheduler.add_noise(latents, noise, t)
    return x, scheduler.get_velocity(latents, noise, t)


@torch.no_grad()
def compare_captions(
    model: Denoiser, latents: torch.Tensor, scenes: list[Scene], device: torch.device
) -> dict[str, float]:
    """Return the loss with full captions, with the class alone and with no captions, on the same noise.

    If full captions do not get ahead early in training, the text is being ignored.
    """
    generator, rng = torch.Generator().manual_seed(7), random.Random(7)
    full = [full_caption(scene, rng) for scene in scenes]
    losses = {}
    t = torch.randint(0, STEPS, (len(scenes),), generator=generator)
    x, v = noised(latents, t, torch.randn(latents.shape, generator=generator))
    texts = {"full": full, "class": [class_caption(s) for s in scenes], "none": [""] * len(scenes)}
    for name, captions in texts.items():
        ids = torch.tensor([rows(text) for text in captions])
        total = 0.0
        for start in range(0, len(scenes), BATCH):
            part = slice(start, start + BATCH)
            with torch.autocast(device.type, torch.bfloat16):
                out = model(x[part].to(device), t[part].to(device), ids[part].to(device))
            total += (out.float().cpu() - v[part]).square().mean(dim=(1, 2, 3)).sum().item()
        losses[name] = total / len(scenes)
    return losses


def train_denoiser(
    latents: torch.Tensor,
    scenes: list[Scene],
    folder: Path,
    steps: int,
    device: torch.device,
    watch: Callable[[int, Denoiser], None] | None = None,
    kept_out: int = 128,
    start: tuple[UNet2DConditionModel, CLIPTextModel] | None = None,
) -> Denoiser:
    """Train the UNet and the text encoder; return them with averaged weights.

    Args:
        latents: Scaled latents of the pictures, [n, 4, LATENT, LATENT].
        scenes: What the pictures show.
        folder: Where the state is kept; training goes on from it.
        watch: Called with the step and the averaged model after each state that is saved at COMPARE_EVERY.
        kept_out: So many of the last pictures are not trained on; their loss is reported.
        start: Trained networks to begin with, where the folder has no state.
    """
    torch.manual_seed(2)
    model = Denoiser().to(device)
    if start:
        model.unet.load_state_dict(start[0].state_dict())
        model.text.load_state_dict(start[1].state_dict())
    average = copy.deepcopy(model).eval().requires_grad_(False)
    optimizer = Muon(model, ("embedding", "conv_in", "conv_out"), RATE)
    path, first = folder / "denoiser.pt", 0
    if state := load_state(path):
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    model.train()
    trained = len(scenes) - kept_out
    total = 0.0
    for step in progress("UNet and text encoder", first, steps):
        generator, rng = torch.Generator().manual_seed(50_000 + step), random.Random(step)
        chosen = torch.randint(trained, (BATCH,), generator=generator)
        texts = ["" if rng.random() < DROPPED else caption(scenes[i], rng) for i in chosen.tolist()]
        ids = torch.tensor([rows(text) for text in texts])
        # Evenly spread over the noise levels: less variance than independent ones.
        t = ((torch.rand(1, generator=generator) + torch.arange(BATCH) / BATCH) % 1 * STEPS).long()
        x, v = noised(latents[chosen], t, torch.randn((BATCH, *latents.shape[1:]), generator=generator))
        alone = (torch.arange(BATCH) + step) % round(1 / ALONE) == 0  # not at random: of each noise level alike
        with torch.autocast(device.type, torch.bfloat16):
            out = model(x.to(device), t.to(device), ids.to(device), alone.to(device))
        loss = (out.float() - v.to(device)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        # Full rate up to the last third: training that goes on longer than planned has lost nothing.
        optimizer.step(min(1, (step + 1) / WARMUP, 0.03 + 3 * (1 - step / steps)))
        keep = min(AVERAGE, (step + 1) / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - keep)
        total += loss.item()
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
            print(f"step {step + 1}: loss {total / (step % SAVE_EVERY + 1):.4f}", flush=True)
            total = 0.0
            parts: dict[str, Any] = {"model": model, "average": average, "optimizer": optimizer}
            save_state(path, {name: part.state_dict() for name, part in parts.items()} | {"step": step + 1})
        if (step + 1) % COMPARE_EVERY == 0:
            losses = compare_captions(average, latents[trained:], scenes[trained:], device)
            told = ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items())
            print(f"step {step + 1}: unseen pictures with captions {told}", flush=True)
            if watch:
                watch(step + 1, average)
    return average
