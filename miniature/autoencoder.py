"""Training of the VAE, and the latents of the training pictures."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image

from miniature.model import make_vae
from miniature.muon import Muon
from miniature.state import load_state, progress, save_state
from miniature.world import Scene, paint

BATCH = 16
RATE = 0.02
KL_WEIGHT = 1e-4
SAVE_EVERY = 100


def pictures(scenes: list[Scene], seeds: list[int]) -> torch.Tensor:
    """Paint scenes: [n, 3, SIZE, SIZE], bytes."""
    return stacked(paint(scene, random.Random(seed)) for scene, seed in zip(scenes, seeds, strict=True))


def stacked(images: Iterable[Image.Image]) -> torch.Tensor:
    """Return images as [n, 3, SIZE, SIZE], bytes."""
    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2).contiguous()


def to_input(images: torch.Tensor) -> torch.Tensor:
    """Bytes to -1..1."""
    return images.float() / 127.5 - 1


def train_vae(images: torch.Tensor, folder: Path, steps: int, device: torch.device) -> AutoencoderKL:
    """Train the VAE on pictures [n, 3, SIZE, SIZE]; go on from the state in the folder if there is one."""
    torch.manual_seed(1)
    vae = make_vae().to(device)
    optimizer = Muon(vae, ("encoder.conv_in", "decoder.conv_out"), RATE)
    path, first = folder / "vae.pt", 0
    if state := load_state(path):
        vae.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    vae.train()
    total = torch.zeros(())
    for step in progress("VAE", first, steps):
        generator = torch.Generator().manual_seed(1000 + step)
        chosen = torch.randint(len(images), (BATCH,), generator=generator)
        x = to_input(images[chosen].to(device))
        with torch.autocast(device.type, torch.bfloat16):
            latent = vae.encode(x).latent_dist
            noise = torch.randn(latent.mean.shape, generator=generator).to(device)
            decoded = vae.decode(latent.mean + latent.std * noise).sample
        error = (decoded.float() - x).abs().mean()
        mean, logvar = latent.mean.float(), latent.logvar.float()
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        optimizer.zero_grad()
        (error + KL_WEIGHT * kl).backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step(min(1, (step + 1) / 50) * (0.01 + 0.99 * (1 + math.cos(math.pi * step / steps)) / 2))
        total += error.detach().cpu()
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
            print(f"VAE step {step + 1}: L1 {total / ((step % SAVE_EVERY) + 1):.4f}, KL {kl:.3f}", flush=True)
            total.zero_()
            save_state(path, {"model": vae.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1})
    return vae.eval()


@torch.no_grad()
def encode(vae: AutoencoderKL, images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return the mean latents [n, 4, LATENT, LATENT] of pictures, not yet scaled."""
    found = []
    for start in progress("Latents", 0, (len(images) + 63) // 64):
        with torch.autocast(device.type, torch.bfloat16):
            x = to_input(images[64 * start : 64 * (start + 1)].to(device))
            found.append(vae.encode(x).latent_dist.mean.float().cpu())
    return torch.cat(found)
