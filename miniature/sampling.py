"""Pictures from prompts: DDIM with classifier-free guidance, in batches."""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

from miniature.model import BETA_END, BETA_START, LATENT, STEPS

GUIDANCE = 2.5
SAMPLING_STEPS = 20


def make_scheduler() -> DDIMScheduler:
    """Return the noise schedule that the model is trained with. It predicts v."""
    return DDIMScheduler(
        num_train_timesteps=STEPS,
        beta_start=BETA_START,
        beta_end=BETA_END,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="trailing",
    )


@torch.no_grad()
def sample(
    unet: UNet2DConditionModel,
    vae: AutoencoderKL,
    scale: float,
    positive: torch.Tensor,
    negative: torch.Tensor,
    seeds: list[int],
    guidance: float = GUIDANCE,
    steps: int = SAMPLING_STEPS,
    batch: int = 32,
    scheduler: DDIMScheduler | None = None,
    done: Callable[[int], None] | None = None,
) -> torch.Tensor:
    """Return pictures [n, 3, SIZE, SIZE] as bytes.

    Args:
        scale: The model's scale factor: latents of the UNet are latents of the VAE times this.
        positive: Text encodings of the prompts, [n, 77, width].
        negative: The text encoding of the empty prompt, [77, width].
        seeds: One for each picture.
        scheduler: A scheduler that something else follows; by default one of its own.
        done: Is told how many pictures are made.
    """
    scheduler = scheduler or make_scheduler()
    scheduler.set_timesteps(steps)
    device = positive.device
    found = []
    for start in range(0, len(seeds), batch):
        part = seeds[start : start + batch]
        context = torch.cat([negative.expand(len(part), -1, -1), positive[start : start + batch]])
        x = torch.stack([torch.randn(4, LATENT, LATENT, generator=torch.Generator().manual_seed(s)) for s in part])
        x = x.to(device)
        for t in scheduler.timesteps:
            with torch.autocast(device.type, torch.bfloat16):
                out = unet(torch.cat([x, x]), t.to(device), context, return_dict=False)[0].float()
            without, with_text = out.chunk(2)
            x = scheduler.step(without + guidance * (with_text - without), t, x, return_dict=False)[0]
        with torch.autocast(device.type, torch.bfloat16):
            decoded = vae.decode(x / scale).sample
        found.append(((decoded.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu())
        if done:
            done(min(start + batch, len(seeds)))
    return torch.cat(found)
