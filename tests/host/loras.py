"""LoRAs of every kind that the host knows, small and random, and what each makes of the weights, computed densely.

The formulas are those of the methods' papers and trainers, written down here once more; nothing is the host's code.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.host.webui import WebUI

UNET = "model.diffusion_model."
ENCODER = "cond_stage_model.transformer."
RANK = 4

Made = tuple[dict[str, torch.Tensor], torch.Tensor]
"""What stands in the file for a matrix, and what it adds to it at strength 1."""


def _random(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=generator) / math.sqrt(shape[-1])


def lora(generator: torch.Generator, weight: torch.Tensor) -> Made:
    out, into = weight.shape
    up, down = _random(generator, out, RANK), _random(generator, RANK, into)
    made = {"lora_up.weight": up, "lora_down.weight": down, "alpha": torch.tensor(3.0)}
    return made, 3 / RANK * up @ down


def dora(generator: torch.Generator, weight: torch.Tensor) -> Made:
    made, delta = lora(generator, weight)
    direction = weight + delta
    scale = weight.norm(dim=0, keepdim=True) * 1.2
    return {**made, "dora_scale": scale}, direction * (scale / direction.norm(dim=0, keepdim=True)) - weight


def loha(generator: torch.Generator, weight: torch.Tensor) -> Made:
    out, into = weight.shape
    factors = [_random(generator, out, RANK), torch.randn(RANK, into, generator=generator)]
    factors += [_random(generator, out, RANK), torch.randn(RANK, into, generator=generator)]
    names = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
    made = dict(zip(names, factors, strict=True)) | {"alpha": torch.tensor(2.0)}
    return made, 2 / RANK * (factors[0] @ factors[1]) * (factors[2] @ factors[3])


def lokr(generator: torch.Generator, weight: torch.Tensor) -> Made:
    out, into = weight.shape
    one, two = 0.5 * torch.randn(4, 4, generator=generator), _random(generator, out // 4, into // 4)
    return {"lokr_w1": one, "lokr_w2": two}, torch.kron(one, two)


def ia3(generator: torch.Generator, weight: torch.Tensor) -> Made:
    scale = 0.5 * torch.randn(weight.shape[0], generator=generator)
    return {"weight": scale, "on_input": torch.tensor(False)}, scale[:, None] * weight


def ia3_on_input(generator: torch.Generator, weight: torch.Tensor) -> Made:
    scale = 0.5 * torch.randn(weight.shape[1], generator=generator)
    return {"weight": scale, "on_input": torch.tensor(True)}, weight * scale


def oft(generator: torch.Generator, weight: torch.Tensor) -> Made:
    size = weight.shape[0] // 4
    blocks = 0.2 * torch.randn(4, size, size, generator=generator)
    rotated = []
    for block, rows in zip(blocks, weight.chunk(4), strict=True):
        skew = block - block.T
        one = torch.eye(size)
        rotated.append(((one + skew) @ torch.linalg.inv(one - skew)).T @ rows)
    return {"oft_blocks": blocks}, torch.cat(rotated) - weight


def glora(generator: torch.Generator, weight: torch.Tensor) -> Made:
    out, into = weight.shape
    a1, a2 = _random(generator, RANK, into), _random(generator, into, RANK)
    b1, b2 = _random(generator, RANK, into), _random(generator, out, RANK)
    made = {"a1.weight": a1, "a2.weight": a2, "b1.weight": b1, "b2.weight": b2, "alpha": torch.tensor(1.0)}
    return made, b2 @ b1 + weight @ a2 @ a1


def full(generator: torch.Generator, weight: torch.Tensor) -> Made:
    delta = 0.4 * weight.std() * torch.randn(weight.shape, generator=generator)
    return {"diff": delta}, delta


KINDS: dict[str, Callable[[torch.Generator, torch.Tensor], Made]] = {
    "LoRA": lora,
    "DoRA": dora,
    "LoHa": loha,
    "LoKr": lokr,
    "IA3": ia3,
    "IA3 on the input": ia3_on_input,
    "OFT": oft,
    "GLora": glora,
    "full": full,
}


def make_others(host: WebUI, name: str, kind: str, seed: int = 0, checkpoint: str = "miniature") -> Path:
    """Make a LoRA of this kind for the UNet's other layers alone: its convolutions too, where the kind has them.

    What it makes of the model is seen in the host, where nothing of it is bound.
    """
    generator = torch.Generator().manual_seed(seed)
    made: dict[str, torch.Tensor] = {}
    state = load_file(host.cache / "checkpoints" / f"{checkpoint}.safetensors")
    for weight_name, stored in sorted(state.items()):
        path, weight = weight_name.removesuffix(".weight"), stored.float()
        if not path.startswith(UNET) or path == weight_name or path.endswith(("attn2.to_k", "attn2.to_v")):
            continue
        key = "lora_unet_" + path.removeprefix(UNET).replace(".", "_")
        if weight.dim() == 4 and kind == "LoRA":
            out, into, *size = weight.shape
            up, down = _random(generator, out, RANK, 1, 1), _random(generator, RANK, into, *size)
            tensors = {"lora_up.weight": 0.3 * up, "lora_down.weight": down / size[0], "alpha": torch.tensor(2.0)}
        elif weight.dim() == 2 and not any(side % 4 for side in weight.shape) and kind in KINDS:
            tensors = KINDS[kind](generator, weight)[0]
        elif weight.dim() == 1 and kind == "norm":
            tensors = {name: 0.1 * torch.randn(weight.shape, generator=generator) for name in ("w_norm", "b_norm")}
        else:
            continue
        made |= {f"{key}.{suffix}": tensor.contiguous() for suffix, tensor in tensors.items()}
    path = host.loras / f"{name}.safetensors"
    save_file(made, path)
    host.post("/sdapi/v1/refresh-loras")
    return path


@dataclass(frozen=True)
class Files:
    """A LoRA's file, and what it makes of the model at a strength, as the reference reads it.

    Attributes:
        name: Its name in prompts.
        path: The file.
        weights: W'_k and W'_v.
        encoder: The changed weights of the text encoder.
    """

    name: str
    path: Path
    weights: str
    encoder: str

    @property
    def parts(self) -> dict[str, str]:
        """What an injection of the reference takes."""
        return {"weights": self.weights, "encoder": self.encoder}


def make(
    host: WebUI,
    folder: Path,
    name: str,
    kind: str,
    seed: int = 0,
    strength: float = 1.0,
    checkpoint: str = "miniature",
    wanted: Callable[[str], bool] = lambda _name: True,
    metadata: Mapping[str, object] | None = None,
) -> Files:
    """Make a LoRA of this kind for keys, values and the text encoder of a checkpoint of SD 1's form.

    Args:
        host: The WebUI that gets it.
        folder: Where what the reference reads goes.
        name: Its name.
        kind: One of `KINDS`, or "norm", of the text encoder's norms alone.
        seed: Two of one kind with other seeds differ.
        strength: At which the reference's weights are.
        checkpoint: The checkpoint's name.
        wanted: Says which of the checkpoint's matrices it changes.
        metadata: What its trainer wrote into the file.
    """
    generator = torch.Generator().manual_seed(seed)
    state = load_file(host.cache / "checkpoints" / f"{checkpoint}.safetensors")
    made: dict[str, torch.Tensor] = {}
    changed: dict[str, torch.Tensor] = {}
    for weight_name in filter(wanted, sorted(state)):
        key = _key(weight_name, kind == "norm")
        weight = state[weight_name].float()
        if key is None:
            continue
        if kind == "norm":
            bias_name = weight_name.removesuffix("weight") + "bias"
            deltas = [0.4 * torch.randn(weight.shape, generator=generator) for _ in range(2)]
            made |= {f"{key}.w_norm": deltas[0], f"{key}.b_norm": deltas[1]}
            changed[weight_name] = weight + strength * deltas[0]
            changed[bias_name] = state[bias_name].float() + strength * deltas[1]
        else:
            tensors, delta = KINDS[kind](generator, weight)
            made |= {f"{key}.{suffix}": tensor.contiguous() for suffix, tensor in tensors.items()}
            changed[weight_name] = weight + strength * delta
    path = host.loras / f"{name}.safetensors"
    save_file(made, path, {key: json.dumps(value) for key, value in (metadata or {}).items()} or None)
    weights, encoder = folder / f"{name}-weights.safetensors", folder / f"{name}-encoder.safetensors"
    projections = {n: t for n, t in state.items() if n.startswith(UNET) and ("attn2.to_k" in n or "attn2.to_v" in n)}
    save_file(projections | {n: t for n, t in changed.items() if n.startswith(UNET)}, weights)
    save_file({n: t for n, t in changed.items() if n.startswith(ENCODER)}, encoder)
    host.post("/sdapi/v1/refresh-loras")
    return Files(name, path, str(weights), str(encoder))


def _key(name: str, norms: bool) -> str | None:
    """Return the trainer's name of a module of the checkpoint, or None for one that is left alone."""
    path = name.removesuffix(".weight")
    if path == name:
        return None
    if norms:
        is_norm = path.startswith(f"{ENCODER}text_model.encoder.layers.") and "layer_norm" in path
        return "lora_te_" + path.removeprefix(ENCODER).replace(".", "_") if is_norm else None
    if path.startswith(UNET) and path.endswith(("attn2.to_k", "attn2.to_v")):
        return "lora_unet_" + path.removeprefix(UNET).replace(".", "_")
    if path.startswith(ENCODER) and ("self_attn" in path or "mlp" in path):
        return "lora_te_" + path.removeprefix(ENCODER).replace(".", "_")
    return None
