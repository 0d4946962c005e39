"""Train the miniature's second edition: the one command. Everything is resumable and has fixed seeds.

    python -m miniature.second.train [--state FOLDER] [--output FOLDER] [--start FOLDER] [--unet] [--towers FILE]

It paints the scenes, trains the VAE, the classifier, the text encoder as CLIP's is, and then the UNet on the text
encoder's rows, writes the weights and measures them.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from miniature import second
from miniature.autoencoder import encode, stacked, to_input, train_vae
from miniature.classifier import Classifier, train_classifier
from miniature.second.diffusion import train_unet, translate
from miniature.second.evaluation import gate
from miniature.second.pretraining import FAMILY, OWN_WEIGHT, family, load_towers, pretrain
from miniature.second.world import ATTRIBUTES, Scene, paint
from miniature.state import TrainingError, prepare_folder, progress
from miniature.train import decoded_pictures, kept
from miniature.weights import Miniature, WeightsError, load_miniature, save_weights

SCENES = 8_000
READ, DECODED = 8_000, 2_000  # painted pictures that the classifier sees, and ones out of the VAE
KEPT_OUT = 128  # the last pictures, which the UNet is not trained on
GATE, WATCHED = 300, 48  # pictures of one object, and as many of two, at the end and in between
STATE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "alignit-miniature-second"


@dataclass(frozen=True)
class Steps:
    """How long each part is trained, in steps."""

    vae: int = 1_240
    classifier: int = 1_500
    text: int = 300
    unet: int = 9_400


def training_scenes(count: int) -> list[Scene]:
    """Return the scenes of training, by families; none has a held-out look."""
    rng = random.Random(0)
    return [scene for _ in range(count // FAMILY) for scene in family(rng)]


def painted(scenes: list[Scene]) -> torch.Tensor:
    """Paint the scenes of training: [n, 3, SIZE, SIZE], bytes."""
    return stacked(paint(scenes[i], random.Random(i)) for i in progress("Painting", 0, len(scenes)))


@dataclass
class Training:
    """The parts of training, each of which goes on from its state.

    Attributes:
        state: Folder of the states.
        steps: How long each part is trained.
        device: Where it is done.
        start: The first edition, where training begins with its VAE, and with its UNet if `warm`.
        warm: Whether the UNet begins as the first edition's, made to read the new encoder's rows.
        towers: File of encoders that are pretrained already.
        own: The weight of "words keep themselves" in the text encoder's pretraining.
        count: Scenes to train on.
    """

    state: Path
    steps: Steps
    device: torch.device
    start: Miniature | None = None
    warm: bool = False
    towers: Path | None = None
    own: float = OWN_WEIGHT
    count: int = SCENES

    def run(self, output: Path) -> None:
        """Do all that is not done yet, and write the weights.

        Raises:
            TrainingError: A folder can't be written, or a state is damaged.
            WeightsError: The new weights can't be written.
        """
        prepare_folder(self.state)
        prepare_folder(output)
        scenes = training_scenes(self.count)
        images = kept(self.state / "pictures.pt", 0, len(scenes), lambda: painted(scenes))
        vae, latents, scale = self._autoencoder(images)
        if self.towers:
            text = load_towers(self.towers).to(self.device).text
        else:
            text = pretrain(images, scenes, self.state, self.steps.text, self.device, self.own).text
        classifier = self._classifier(vae, latents, images, scenes)
        del images

        def watch(step: int, unet: UNet2DConditionModel) -> None:
            found = gate(Miniature(vae, unet, text, scale), classifier, WATCHED)
            print(f"step {step}: {found.report()}", flush=True)

        begin = None
        if self.start and self.warm:
            begin = self.start.unet
            translate(begin, self.start.text, text)
        unet = train_unet(
            latents * scale, scenes, text, self.state, self.steps.unet, self.device, watch, KEPT_OUT, begin
        )
        miniature = Miniature(vae, unet, text, scale)
        save_weights(miniature, classifier, output)
        print(f"The gate: {gate(miniature, classifier, GATE).report()}", flush=True)

    def _autoencoder(self, images: torch.Tensor) -> tuple[AutoencoderKL, torch.Tensor, float]:
        """Return the VAE, the pictures' latents, not yet scaled, and the factor that the UNet's have."""
        path = self.state / "latents.pt"
        if self.start:
            vae = self.start.vae.to(self.device)
            latents = kept(path, 0, len(images), lambda: encode(vae, images, self.device))
            return vae, latents, self.start.scale
        vae = train_vae(images, self.state, self.steps.vae, self.device)
        latents = kept(path, self.steps.vae, len(images), lambda: encode(vae, images, self.device))
        shown = to_input(decoded_pictures(vae, latents[-KEPT_OUT:], self.device))
        error = (shown - to_input(images[-KEPT_OUT:])).abs().mean().item()
        print(f"VAE: L1 {error:.4f}", flush=True)
        return vae, latents, 1 / latents.std().item()

    def _classifier(
        self, vae: AutoencoderKL, latents: torch.Tensor, images: torch.Tensor, scenes: list[Scene]
    ) -> Classifier:
        decoded = kept(
            self.state / "decoded.pt",
            0 if self.start else self.steps.vae,
            DECODED,
            lambda: decoded_pictures(vae, latents[-DECODED:], self.device),
        )
        seen, shown = torch.cat([images[:READ], decoded]), scenes[:READ] + scenes[-DECODED:]
        return train_classifier(seen, shown, self.state, self.steps.classifier, self.device, ATTRIBUTES)


def main(arguments: list[str] | None = None) -> int:
    steps = Steps()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--state", type=Path, default=STATE, help="folder of the states that training resumes from")
    parser.add_argument("--output", type=Path, default=second.FOLDER, help="folder of the weights")
    parser.add_argument("--start", type=Path, help="folder of the first edition's weights, to begin with its VAE")
    parser.add_argument("--unet", action="store_true", help="begin with the UNet of --start too, not from nothing")
    parser.add_argument("--towers", type=Path, help="file of encoders that are pretrained already")
    parser.add_argument("--own", type=float, default=OWN_WEIGHT, help="how much words keep themselves in pretraining")
    parser.add_argument(
        "--scenes", type=int, default=SCENES, help="fewer are prepared faster, and learned by heart sooner"
    )
    parser.add_argument("--vae-steps", type=int, default=steps.vae)
    parser.add_argument("--classifier-steps", type=int, default=steps.classifier)
    parser.add_argument("--text-steps", type=int, default=steps.text)
    parser.add_argument("--steps", type=int, default=steps.unet, help="of the UNet")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    options = parser.parse_args(arguments)
    if options.unet and not options.start:
        parser.error("--unet needs --start")
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    steps = Steps(options.vae_steps, options.classifier_steps, options.text_steps, options.steps)
    try:
        start = load_miniature(options.start) if options.start else None
        training = Training(
            options.state, steps, device, start, options.unet, options.towers, options.own, options.scenes
        )
        training.run(options.output)
    except (TrainingError, WeightsError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped. The same command goes on from the last saved state.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
