"""The miniature's weights as they are shipped: one half-precision file, and the classifier beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPTextModel

from miniature.classifier import Classifier
from miniature.model import make_text_encoder, make_unet, make_vae
from miniature.sampling import GUIDANCE, SAMPLING_STEPS, sample
from miniature.words import rows
from miniature.world import ATTRIBUTES

FOLDER = Path(__file__).with_name("weights")
MODEL_FILE, CLASSIFIER_FILE = "miniature.safetensors", "classifier.safetensors"
FORMAT = "1"


class WeightsError(Exception):
    """A file of weights is missing or damaged, or can't be written; the message says which and what to do."""


@dataclass
class Miniature:
    """The three networks, and the factor between the latents of the VAE and those of the UNet."""

    vae: AutoencoderKL
    unet: UNet2DConditionModel
    text: CLIPTextModel
    scale: float

    @torch.no_grad()
    def encode(self, prompts: list[str]) -> torch.Tensor:
        """Return the text encodings [n, 77, width] of prompts made of `words.WORDS`."""
        ids = torch.tensor([rows(prompt) for prompt in prompts], device=self.text.device)
        encoded: torch.Tensor = self.text(ids)[0]
        return encoded

    def generate(
        self,
        prompts: list[str],
        seeds: list[int],
        guidance: float = GUIDANCE,
        steps: int = SAMPLING_STEPS,
        done: Callable[[int], None] | None = None,
    ) -> torch.Tensor:
        """Return a picture for each prompt and seed: [n, 3, SIZE, SIZE], bytes."""
        positive, negative = self.encode(prompts), self.encode([""])[0]
        return sample(
            self.unet, self.vae, self.scale, positive, negative, seeds, guidance=guidance, steps=steps, done=done
        )


def _parts(miniature: Miniature) -> dict[str, nn.Module]:
    return {"vae": miniature.vae, "unet": miniature.unet, "text": miniature.text}


def save_weights(miniature: Miniature, classifier: Classifier, folder: Path) -> None:
    """Write the two files.

    Raises:
        WeightsError: The folder can't be written.
    """
    state = {
        f"{part}.{name}": tensor.half() for part, module in _parts(miniature).items()
        for name, tensor in module.state_dict().items() if tensor.is_floating_point()
    }  # fmt: skip
    metadata = {"format": FORMAT, "scale_factor": repr(miniature.scale)}
    _write(folder / MODEL_FILE, state, metadata)
    half = {name: t.half() if t.is_floating_point() else t for name, t in classifier.state_dict().items()}
    _write(folder / CLASSIFIER_FILE, half, {"format": FORMAT})


def _write(path: Path, state: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    new = path.with_suffix(".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.cpu().contiguous() for name, tensor in state.items()}, new, metadata)
        new.replace(path)
    except (OSError, SafetensorError) as error:
        new.unlink(missing_ok=True) if path.parent.is_dir() else None
        raise WeightsError(f"Can't write {path}: {error}. Choose another folder.") from error


def load_miniature(folder: Path = FOLDER) -> Miniature:
    """Read the weights.

    Raises:
        WeightsError: They are missing or damaged.
    """
    path = folder / MODEL_FILE
    state, metadata = _read(path)
    miniature = Miniature(make_vae().eval(), make_unet().eval(), make_text_encoder().eval(), 1.0)
    miniature.unet.set_attn_processor(AttnProcessor())
    miniature.text.set_attn_implementation("eager")
    try:
        miniature.scale = float(metadata["scale_factor"])
    except (KeyError, ValueError) as error:
        raise _damaged(path, "its scale factor is missing") from error
    for part, module in _parts(miniature).items():
        _fill(path, module, {n[len(part) + 1 :]: t for n, t in state.items() if n.startswith(f"{part}.")})
    return miniature


def load_classifier(folder: Path = FOLDER, attributes: Mapping[str, tuple[str, ...]] = ATTRIBUTES) -> Classifier:
    """Read the classifier of these attributes.

    Raises:
        WeightsError: It is missing or damaged.
    """
    path = folder / CLASSIFIER_FILE
    classifier = Classifier(attributes).eval()
    _fill(path, classifier, _read(path)[0])
    return classifier


def _damaged(path: Path, why: str) -> WeightsError:
    return WeightsError(f"{path} is damaged ({why}). Get it again, or train it: python -m miniature.train.")


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    if not path.is_file():
        raise WeightsError(f"{path} is missing. Get it again, or train it: python -m miniature.train.")
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name).float() for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise _damaged(path, str(error)) from error


def _fill(path: Path, module: nn.Module, state: dict[str, torch.Tensor]) -> None:
    wanted = {name: tensor for name, tensor in module.state_dict().items() if tensor.is_floating_point()}
    for name, tensor in wanted.items():
        if name not in state:
            raise _damaged(path, f"{name} is missing")
        if state[name].shape != tensor.shape:
            raise _damaged(path, f"{name} has the shape {list(state[name].shape)}, not {list(tensor.shape)}")
        if not state[name].isfinite().all():
            raise _damaged(path, f"{name} has values that are no numbers")
    module.load_state_dict({name: state[name] for name in wanted}, strict=False)
