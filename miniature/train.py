"""Train the miniature: the one command. Everything is resumable and has fixed seeds.

    python -m miniature.train [--state FOLDER] [--output FOLDER] [--start FOLDER]

It paints the scenes, trains the VAE, the classifier, and the UNet with the text encoder, writes the weights and
measures them. On two CPU cores it takes about two hours.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKL

from miniature.autoencoder import encode, pictures, to_input, train_vae
from miniature.classifier import train_classifier
from miniature.diffusion import Denoiser, train_denoiser
from miniature.evaluation import gate, report
from miniature.state import TrainingError, load_state, prepare_folder, progress, save_state
from miniature.weights import Miniature, WeightsError, load_classifier, load_miniature, save_weights
from miniature.world import Scene, random_scene

SCENES = 20_000
READ, DECODED = 10_000, 3_000  # painted pictures that the classifier sees, and ones out of the VAE
VAE_STEPS, CLASSIFIER_STEPS, DENOISER_STEPS = 1_240, 1_200, 9_400
STATE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "alignit-miniature"


def training_scenes(count: int = SCENES) -> list[Scene]:
    """Return the scenes of training; none has a held-out look."""
    rng = random.Random(0)
    return [random_scene(rng) for _ in range(count)]


@torch.no_grad()
def decoded_pictures(vae: AutoencoderKL, latents: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return pictures out of the VAE, in bytes, from latents that are not scaled."""
    found = []
    for start in progress("Decoding", 0, (len(latents) + 31) // 32):
        with torch.autocast(device.type, torch.bfloat16):
            x = vae.decode(latents[32 * start : 32 * (start + 1)].to(device)).sample
        found.append(((x.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu())
    return torch.cat(found)


def train(
    state: Path, output: Path, steps: tuple[int, int, int], device: torch.device, start: Path | None = None
) -> None:
    """Do all parts of training that are not done yet, and write the weights.

    Args:
        state: Folder of the states that training goes on from.
        output: Folder of the weights.
        steps: Of the VAE, the classifier, and the UNet with the text encoder.
        start: Folder of weights to begin with: the VAE and the classifier stay as they are there.

    Raises:
        TrainingError: A folder can't be written, or a state is damaged.
        WeightsError: The weights to begin with are missing or damaged, or the new ones can't be written.
    """
    prepare_folder(state)
    prepare_folder(output)
    scenes = training_scenes()
    images = pictures(scenes, list(range(len(scenes))))
    vae_steps, classifier_steps, denoiser_steps = steps
    begin = None
    if start:
        given, classifier = load_miniature(start), load_classifier(start)
        vae, begin = given.vae.to(device), (given.unet, given.text)
        latents = kept(state / "latents.pt", 0, SCENES, lambda: encode(vae, images, device))
        scale = given.scale
    else:
        vae = train_vae(images, state, vae_steps, device)
        latents = kept(state / "latents.pt", vae_steps, SCENES, lambda: encode(vae, images, device))
        scale = 1 / latents.std().item()
        error = (to_input(decoded_pictures(vae, latents[-256:], device)) - to_input(images[-256:])).abs().mean().item()
        print(f"VAE: L1 {error:.4f}, scale factor {scale:.5f}", flush=True)
        decoded = kept(
            state / "decoded.pt", vae_steps, DECODED, lambda: decoded_pictures(vae, latents[:DECODED], device)
        )
        seen, shown = torch.cat([images[:READ], decoded]), scenes[:READ] + scenes[:DECODED]
        classifier = train_classifier(seen, shown, state, classifier_steps, device)

    def watch(step: int, model: Denoiser) -> None:
        miniature = Miniature(vae, model.unet, model.text, scale)
        print(f"step {step}: {report(gate(miniature, classifier, 96))}", flush=True)

    model = train_denoiser(latents * scale, scenes, state, denoiser_steps, device, watch, start=begin)
    miniature = Miniature(vae, model.unet, model.text, scale)
    save_weights(miniature, classifier, output)
    print(f"The gate: {report(gate(miniature, classifier, 600))}", flush=True)


def kept(path: Path, made_at: int, count: int, make: Callable[[], torch.Tensor]) -> torch.Tensor:
    """Return what was made with the VAE at this step before, or make it."""
    state = load_state(path)
    if not state or state["step"] != made_at or len(state["made"]) != count:
        state = {"made": make(), "step": made_at}
        save_state(path, state)
    made: torch.Tensor = state["made"]
    return made


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--state", type=Path, default=STATE, help="folder of the states that training resumes from")
    parser.add_argument("--output", type=Path, default=Path("miniature/weights"), help="folder of the weights")
    parser.add_argument("--start", type=Path, help="folder of weights to begin with, together with an empty --state")
    parser.add_argument("--vae-steps", type=int, default=VAE_STEPS)
    parser.add_argument("--classifier-steps", type=int, default=CLASSIFIER_STEPS)
    parser.add_argument("--steps", type=int, default=DENOISER_STEPS, help="of the UNet and the text encoder")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        steps = (options.vae_steps, options.classifier_steps, options.steps)
        train(options.state, options.output, steps, device, options.start)
    except (TrainingError, WeightsError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped. The same command goes on from the last saved state.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
