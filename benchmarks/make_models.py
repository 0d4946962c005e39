"""Write what benchmarks/concepts.py needs and the tests do not have. Run by the WebUI's own Python.

    WEBUI/venv/bin/python make_models.py WEBUI_DIR TEST_CHECKPOINTS OUTPUT_DIR

A checkpoint with all of Stable Diffusion 1's sizes but the VAE's, and concepts of each method for it and for the tests'
tiny-sd1. All numbers are random.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.formats.writers import save_adapter
from tests.host.make_checkpoints import (
    L_TEXT,
    L_WIDTH,
    MINIATURE_CLIP,
    SD1_ENCODER,
    ldm_config,
    make_clip_folder,
    make_clip_l,
    make_unet,
    make_vae,
)

WIDTH = 768
TEXT = L_TEXT | {"hidden_size": WIDTH, "intermediate_size": 3072, "num_attention_heads": 12, "projection_dim": WIDTH}
CLIP = "full-sd1/clip"  # where the host looks, relative to the server's working directory
ATTENTION = ("attn2.to_k.weight", "attn2.to_v.weight")


def full_config() -> dict[str, Any]:
    """The configuration of Stable Diffusion 1, with the tests' VAE."""
    config = ldm_config(SD1_ENCODER | {"params": {"version": CLIP}}, WIDTH)
    unet = config["model"]["params"]["unet_config"]["params"]
    unet |= {"model_channels": 320, "channel_mult": [1, 2, 4, 4], "num_heads": 8}
    return config


@torch.no_grad()
def make_checkpoint(folder: Path) -> dict[str, torch.Tensor]:
    """Write full-sd1.safetensors in half, and return its parameters."""
    generator = torch.Generator().manual_seed(21)
    config = full_config()
    params = config["model"]["params"]
    parts = {
        "model.diffusion_model.": make_unet(params["unet_config"], generator),
        "first_stage_model.": make_vae(params["scale_factor"], generator),
        "cond_stage_model.transformer.": make_clip_l(generator, TEXT),
    }
    state = {prefix + key: value.half() for prefix, part in parts.items() for key, value in part.state_dict().items()}
    save_file(state, folder / "full-sd1.safetensors")
    (folder / "full-sd1.yaml").write_text(json.dumps(config, indent=1))
    return state


def make_concepts(name: str, state: dict[str, torch.Tensor], width: int, models: Path, embeddings: Path) -> None:
    """Write a delta as custom-diffusion-webui saves it, its token, and an adapter of CatVersion."""
    generator = torch.Generator().manual_seed(22)
    differences = {
        key: 0.2 * float(weight.float().std()) * torch.randn(weight.shape, generator=generator)
        for key, weight in state.items()
        if key.endswith(ATTENTION)
    }
    assert len(differences) == 32
    entries = dict.fromkeys(differences, "delta")
    metadata = {"json": json.dumps({"meta": {"version": "0.1"}, "entries": entries})}
    save_file(differences, models / "deltas" / f"{name}.delta.safetensors", metadata)
    vector = torch.randn(1, width, generator=generator)
    save_file({name: vector * (0.7 / vector.norm())}, embeddings / f"{name}.safetensors")
    numbers = 1.5 * torch.randn(6 * width, generator=generator)
    save_adapter(models / "catversion" / f"{name}-adapter", {"control_trans": numbers}, hidden_size=width)


def main(checkpoints: Path, output: Path) -> None:
    """Write everything."""
    torch.set_num_threads(2)
    models, embeddings = output / "models", output / "embeddings"
    for folder in (models / "Stable-diffusion", models / "deltas", models / "catversion", embeddings):
        folder.mkdir(parents=True)
    make_clip_folder(output / CLIP, TEXT, checkpoints.parent / MINIATURE_CLIP)
    tiny = load_file(checkpoints / "tiny-sd1.safetensors")
    make_concepts("tiny-thing", tiny, L_WIDTH, models, embeddings)
    make_concepts("full-thing", make_checkpoint(models / "Stable-diffusion"), WIDTH, models, embeddings)


if __name__ == "__main__":
    for repository in ("stable-diffusion-stability-ai", "generative-models"):
        sys.path.insert(0, str(Path(sys.argv[1]) / "repositories" / repository))
    main(Path(sys.argv[2]), Path(sys.argv[3]))
