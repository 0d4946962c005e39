"""Pipelines, and concepts' files that fit them, as the training code of each family writes them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from alignit.diffusers import Concept, load_concept
from tests.diffusers.pipelines import SECOND_WIDTH, WIDTH, make_sd1, make_sdxl
from tests.formats.writers import save_adapter, webui_embedding

PREFIX_LAYERS = (1, 2, 3)


@dataclass
class Model:
    """A pipeline with concepts for it, as files and as the plain tensors for the reference.

    Attributes:
        pipe: The pipeline.
        files: The concepts' files.
        vectors: Tokens' vectors, by word and encoder.
        weights: Custom Diffusion's weights W', by the module's path in the UNet.
        prefixes: CatVersion's, by layer.
    """

    pipe: Any
    files: dict[str, Path] = field(default_factory=dict)
    vectors: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)
    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    prefixes: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)

    def load(self, *names: str) -> list[Concept]:
        """Read concepts' files."""
        return [load_concept(self.files[name]) for name in names]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Models of this size are slower on several threads, and much slower where these have to wait for a core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def customised(unet: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Weights somewhat away from the base model's."""
    generator = torch.Generator().manual_seed(7)
    return {
        name.removesuffix(".weight"): weight.detach()
        + 0.4 * weight.detach().std() * torch.randn(weight.shape, generator=generator)
        for name, weight in unet.named_parameters()
        if "attn2.to_k" in name or "attn2.to_v" in name
    }


@pytest.fixture(scope="session")
def sd1(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("sd1")
    model = Model(make_sd1(folder))
    for seed, (word, length) in enumerate({"<my-cat>": 1, "my-toy": 3, "<new1>": 1, "<new2>": 1}.items()):
        model.vectors[word] = {"clip_l": random(length, WIDTH, seed=seed)}
    model.weights = customised(model.pipe.unet)
    model.prefixes = {
        layer: (2 * random(1, WIDTH, seed=20 + layer), 2 * random(1, WIDTH, seed=30 + layer)) for layer in PREFIX_LAYERS
    }
    flat = torch.cat([tensor.flatten() for pair in model.prefixes.values() for tensor in pair])
    model.files = {
        "my-cat": folder / "learned_embeds.safetensors",
        "my-toy": folder / "my-toy.pt",
        "run": folder / "delta.bin",
        "other-run": folder / "other.bin",
        "teddy": save_adapter(folder / "teddy", {"control_trans": flat}, PREFIX_LAYERS, hidden_size=WIDTH),
    }
    save_file({"<my-cat>": model.vectors["<my-cat>"]["clip_l"]}, model.files["my-cat"])
    torch.save(webui_embedding(model.vectors["my-toy"]["clip_l"]), model.files["my-toy"])
    # As diffusers_training.py of custom-diffusion saves it.
    unet = {f"{name}.weight": weight for name, weight in model.weights.items()}
    for file, token in (("run", "<new1>"), ("other-run", "<new2>")):
        torch.save(
            {"unet": unet, "modifier_token": {token: model.vectors[token]["clip_l"][0]}},
            model.files[file],
        )
    return model


@pytest.fixture(scope="session")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("sdxl")
    model = Model(make_sdxl(folder))
    for seed, (word, length) in enumerate({"xl-toy": 2, "<new1>": 1}.items()):
        model.vectors[word] = {
            "clip_l": random(length, WIDTH, seed=40 + seed),
            "clip_g": random(length, SECOND_WIDTH, seed=50 + seed),
        }
    model.weights = customised(model.pipe.unet)
    model.files = {"xl-toy": folder / "xl-toy.safetensors", "run": folder / "delta.bin"}
    save_file(model.vectors["xl-toy"], model.files["xl-toy"])
    unet = {f"{name}.weight": weight for name, weight in model.weights.items()}
    token = [model.vectors["<new1>"][encoder][0] for encoder in ("clip_l", "clip_g")]
    torch.save({"unet": unet, "modifier_token": {"<new1>": token}}, model.files["run"])
    return model
