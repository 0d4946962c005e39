"""Writes concept files the way their training code writes them, with small widths and SD1's or SDXL's layers."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, PngImagePlugin
from safetensors.torch import save_file

REAL_ADAPTERS = Path(__file__).parents[1] / "data" / "catversion"
SHARED = Path(__file__).parents[3] / "shared" / "data"
"""Real files whose licences don't let us ship them."""
"""Real files, beside the checkout; where it is absent the tests that need it are skipped."""

WIDTH = 16
OUT = 8
LAYER_COUNT = 32


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return normal random numbers, the same for the same arguments."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def walk(down: list[tuple[int, int]], mid: int, up: list[tuple[int, int]], levels: int) -> list[tuple[str, str]]:
    """List (LDM, diffusers) layers by walking through the two UNets as their code builds them.

    Args:
        down: (block, transformer depth) of the down blocks with attention.
        mid: Transformer depth in the middle.
        up: As `down`.
        levels: How many blocks there are on each side.
    """
    pairs = []
    index = 1
    for block in range(levels):
        for attention in range(2):
            pairs += [
                (f"input_blocks.{index}.1", f"down_blocks.{block}.attentions.{attention}", depth)
                for number, depth in down
                if number == block
            ]
            index += 1
        index += 1
    pairs.append(("middle_block.1", "mid_block.attentions.0", mid))
    index = 0
    for block in range(levels):
        for attention in range(3):
            pairs += [
                (f"output_blocks.{index}.1", f"up_blocks.{block}.attentions.{attention}", depth)
                for number, depth in up
                if number == block
            ]
            index += 1
    return [
        (f"{ldm}.{tail}", f"{diffusers}.{tail}")
        for ldm, diffusers, depths in pairs
        for depth in range(depths)
        for letter in "kv"
        for tail in [f"transformer_blocks.{depth}.attn2.to_{letter}"]
    ]


SD1 = walk([(0, 1), (1, 1), (2, 1)], 1, [(1, 1), (2, 1), (3, 1)], 4)
SDXL = walk([(1, 2), (2, 10)], 10, [(0, 10), (1, 2)], 3)
REFINER = walk([(1, 4), (2, 4)], 4, [(1, 4), (2, 4)], 4)


def weights(layers: list[tuple[str, str]] = SD1, style: int = 0, width: int = WIDTH) -> dict[str, torch.Tensor]:
    """Return a weight for each layer, under its LDM (`style` 0) or diffusers (1) name without prefix or suffix."""
    return {pair[style]: random(OUT, width, seed=number) for number, pair in enumerate(layers)}


def webui_embedding(vectors: torch.Tensor, name: str = "trained-name") -> dict[str, object]:
    """Return what modules/textual_inversion/textual_inversion.py saves."""
    return {
        "string_to_token": {"*": 265},
        "string_to_param": {"*": vectors},
        "name": name,
        "step": 1500,
        "sd_checkpoint": "7460a6fa",
        "sd_checkpoint_name": "sd-v1-4",
    }


def original_embedding(params: dict[str, torch.Tensor]) -> dict[str, object]:
    """Return what textual_inversion's EmbeddingManager saves: token ids are views of a tokenizer's output."""
    tokens = torch.arange(77)
    return {
        "string_to_token": {name: tokens[index + 1] for index, name in enumerate(params)},
        "string_to_param": torch.nn.ParameterDict({name: torch.nn.Parameter(value) for name, value in params.items()}),
    }


def as_json(data: dict[str, object]) -> bytes:
    """Return an embedding as the WebUI writes it into pictures."""
    return json.dumps(data, default=lambda tensor: {"TORCHTENSOR": tensor.tolist()}).encode()


def with_text_chunk(path: Path, data: dict[str, object]) -> None:
    """Write a PNG with an embedding in a text chunk."""
    info = PngImagePlugin.PngInfo()
    info.add_text("sd-ti-embedding", base64.b64encode(as_json(data)))
    Image.new("RGB", (64, 64), (200, 100, 50)).save(path, "PNG", pnginfo=info)


def with_pixels(packed: bytes, height: int = 64) -> Image.Image:
    """Hide bytes in a picture's pixels, byte by byte, as the WebUI's insert_image_data_embed lays them out."""
    per_column = height * 3
    padded = packed + packed[: -len(packed) % per_column]
    while len(padded) % per_column:
        padded += packed[: per_column - len(padded) % per_column]

    def block(halves: list[int]) -> np.ndarray:
        seed, crossed = 0, []
        for half in halves:
            seed = (1664525 * seed + 1013904223) % 2**32
            crossed.append(half ^ (seed % 255) & 0x0F)
        pixels = np.array(crossed, np.uint8).reshape(height, -1, 3)
        return pixels | 0x50  # the high bits carry a decoration

    black = np.zeros((height, 1, 3), np.uint8)
    picture = np.full((height, 40, 3), 0x7F, np.uint8)
    low, high = block([byte & 15 for byte in padded]), block([byte >> 4 for byte in padded])
    return Image.fromarray(np.concatenate([low, black, picture, black, high], axis=1))


def hide(data: dict[str, object]) -> Image.Image:
    """Hide an embedding in a picture's pixels."""
    return with_pixels(zlib.compress(as_json(data), 9))


def ldm_delta(embed: torch.Tensor | None) -> dict[str, object]:
    """Return what the Custom Diffusion authors' get_deltas.py saves."""
    state = {f"model.diffusion_model.{name}.weight": value for name, value in weights().items()}
    if embed is not None:
        state["embed"] = embed
    return {"state_dict": state}


def compressed(value: torch.Tensor, rank: int) -> dict[str, torch.Tensor]:
    """Return two factors as the authors' compress.py makes them: `v` is a clone of rows of a column-major matrix."""
    u, s, v = torch.linalg.svd(value)
    return {"u": (u[:, :rank] @ torch.diag(s)[:rank, :rank]).clone(), "v": v[:rank].clone()}


def authors_diffusers(layers: list[tuple[str, str]], tokens: dict[str, object], width: int = WIDTH) -> dict[str, Any]:
    """Return what the Custom Diffusion authors' diffusers pipeline saves as delta.bin."""
    # Clones of parameters, as the pipeline's save_pretrained makes them, remember that they need gradients.
    unet = {f"{name}.weight": torch.nn.Parameter(value).clone() for name, value in weights(layers, 1, width).items()}
    return {"unet": unet, "modifier_token": tokens}


def authors_diffusers_compressed(tokens: dict[str, object], rank: int) -> dict[str, Any]:
    """Return what the authors' compress.py makes of `authors_diffusers` for SD1."""
    data = authors_diffusers(SD1, tokens)
    return {**data, "unet": {name: compressed(value.detach(), rank) for name, value in data["unet"].items()}}


def save_webui_delta(path: Path, deltas: dict[str, torch.Tensor], factored: bool) -> None:
    """Write what custom-diffusion-webui saves as NAME.delta.safetensors."""
    deltas = {f"model.diffusion_model.{name}.weight": value for name, value in deltas.items()}
    kind = "delta_factors" if factored else "delta"
    metadata = {"meta": {"version": "0.2.0"}, "entries": dict.fromkeys(deltas, kind)}
    tensors = deltas
    if factored:
        tensors = {}
        for name, value in deltas.items():
            u, s, v = torch.linalg.svd(value, full_matrices=False)
            tensors[name + ".US"] = (u[:, :3] @ torch.diag(s)[:3, :3]).half().contiguous()
            tensors[name + ".Vh"] = v[:3].half().contiguous()
    save_file(tensors, path, {"json": json.dumps(metadata)})


def diffusers_weights(queries: bool = False) -> dict[str, object]:
    """Return diffusers' state dict of Custom Diffusion attention processors, with an empty one for self-attention.

    Args:
        queries: Whether it was trained with ``--freeze_model=crossattn``, which trains queries and outputs too.
    """
    state: dict[str, object] = {}
    others = {"to_q_custom_diffusion.weight": (OUT, OUT)}
    others |= {"to_out_custom_diffusion.0.weight": (OUT, OUT), "to_out_custom_diffusion.0.bias": (OUT,)}
    for name, value in weights(style=1).items():
        start, _, letter = name.rpartition(".to_")
        state[f"{start}.processor.to_{letter}_custom_diffusion.weight"] = torch.nn.Parameter(value)
        state[f"{start.replace('attn2', 'attn1')}.processor"] = {}
        if queries:
            for seed, (other, shape) in enumerate(others.items(), 700):
                state[f"{start}.processor.{other}"] = torch.nn.Parameter(random(*shape, seed=seed))
    return state


ADAPTER_SETTINGS: dict[str, object] = {
    "architecture": "prefix_tuning",
    "bottleneck_size": 6,
    "flat": True,
    "non_linearity": "tanh",
    "prefix_length": 1,
    "use_gating": False,
}
ADAPTER_CONFIG: dict[str, object] = {
    "hidden_size": WIDTH,
    "model_type": "clip_text_model",
    "name": "prefix_tuning1",
}
POOL = "prefix_tuning.prefix_tunings.prefix_tuning1.clip_text_model_self_prefix"


def adapter(parts: dict[str, torch.Tensor], layers: tuple[int, ...] = (9, 10, 11)) -> dict[str, torch.Tensor]:
    """Return an adapter's state dict: the shared pool under the name of each layer and under its own."""
    shim = "text_model.encoder.layers.{}.self_attn.prefix_tuning.pool.prefix_tunings.prefix_tuning1"
    places = [f"{shim.format(layer)}.clip_text_model_self_prefix" for layer in layers] + [POOL]
    return {f"{place}.{name}": value for place in places for name, value in parts.items()}


def bottleneck(length: int, layers: int = 3) -> dict[str, torch.Tensor]:
    """Return an adapter's tensors where its prefix is not stored flat, but as the network that makes it."""
    return {
        "wte.weight": random(length, WIDTH, seed=1),
        "control_trans.0.weight": random(6, WIDTH, seed=2),
        "control_trans.0.bias": random(6, seed=3),
        "control_trans.2.weight": random(layers * 2 * WIDTH, 6, seed=4),
        "control_trans.2.bias": random(layers * 2 * WIDTH, seed=5),
    }


def save_adapter(
    folder: Path,
    parts: dict[str, torch.Tensor],
    layers: tuple[int, ...] = (9, 10, 11),
    settings: dict[str, object] | None = None,
    **top: object,
) -> Path:
    """Write an adapter and its config into a folder; `settings` and `top` change the config."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {**ADAPTER_CONFIG, **top, "config": {**ADAPTER_SETTINGS, **(settings or {})}}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    path = folder / "pytorch_adapter.bin"
    torch.save(adapter(parts, layers), path)
    return path
