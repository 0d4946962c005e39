"""The miniature with Stable Diffusion 1's own widths, for hosts that know a checkpoint by its shapes.

    python -m tests.widened MINIATURE_FOLDER FOLDER

reads what ``python -m miniature.export`` wrote, and writes ``wide.safetensors`` (670 MiB) with its YAML and the shipped
concepts, in ``embeddings``, ``deltas`` and ``catversion``. It takes a minute.

A network whose channels are repeated, with each weight divided by the copies of its input, computes the same function:
group and layer norms see the same means and variances. Heads are made wider with zeros, and their queries scaled for
the other root that attention divides by. Layers that are missing are added as ones that add nothing.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from miniature.concepts import CONCEPTS_FOLDER
from miniature.export import NAME as MINIATURE
from miniature.model import TEXT_LAYERS, TEXT_WIDTH

NAME = "wide"
WIDTH, LAYERS = 768, 12  # of the text encoder
ADDED_LAYERS = LAYERS - TEXT_LAYERS  # in front, so that CatVersion's stay the last three
CHANNELS = 5  # copies of a channel of the UNet: 64 -> 320
TEXT = WIDTH // TEXT_WIDTH
UNET_HEADS, UNET_HEAD = (4, 8), (32, 80)  # the miniature's, and Stable Diffusion 1's
TEXT_HEADS, TEXT_HEAD = (4, 12), (24, 64)
VAE = (4, 8, 8, 8)  # copies of a channel of each level
VAE_CHANNELS = (128, 256, 512, 512)
LATENT_SCALE = 0.18215

State = dict[str, torch.Tensor]


def widen(source: Path, folder: Path) -> None:
    """Write the checkpoint and the concepts."""
    state = {name: value.float() for name, value in load_file(source / f"{MINIATURE}.safetensors").items()}
    config = json.loads((source / f"{MINIATURE}.yaml").read_text())
    params = config["model"]["params"]
    parts: dict[str, Callable[[State], State]] = {
        "model.diffusion_model.": lambda part: {name: unet(name, value) for name, value in part.items()},
        "cond_stage_model.transformer.": text_encoder,
        "first_stage_model.": lambda part: autoencoder(part, params["scale_factor"]),
    }
    wide: State = {}
    for prefix, widened in parts.items():
        part = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        wide |= {prefix + name: value.half().contiguous() for name, value in widened(part).items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(wide, folder / f"{NAME}.safetensors")
    params["scale_factor"] = LATENT_SCALE
    params["unet_config"]["params"].update(model_channels=320, num_heads=8, context_dim=WIDTH)
    params["first_stage_config"]["params"]["ddconfig"].update(ch=128, ch_mult=[1, 2, 4, 4], num_res_blocks=2)
    params["cond_stage_config"] = {"target": "ldm.modules.encoders.modules.FrozenCLIPEmbedder"}
    (folder / f"{NAME}.yaml").write_text(json.dumps(config, indent=1))
    concepts(folder)


def outputs(value: torch.Tensor, copies: int) -> torch.Tensor:
    return value.repeat_interleave(copies, 0)


def inputs(value: torch.Tensor, copies: int) -> torch.Tensor:
    return value.repeat_interleave(copies, 1) / copies


def heads(value: torch.Tensor, count: tuple[int, int], width: tuple[int, int]) -> torch.Tensor:
    """Put the rows of heads into more and wider ones, with zeros."""
    wide = torch.zeros(count[1], width[1], *value.shape[1:])
    wide[: count[0], : width[0]] = value.reshape(count[0], width[0], *value.shape[1:])
    return wide.reshape(count[1] * width[1], *value.shape[1:])


def head_inputs(value: torch.Tensor, count: tuple[int, int], width: tuple[int, int]) -> torch.Tensor:
    return heads(value.T.contiguous(), count, width).T.contiguous()


def unet(name: str, value: torch.Tensor) -> torch.Tensor:  # noqa: PLR0911
    if name == "time_embed.0.weight":  # its inputs are sines and cosines of more frequencies: the others get nothing
        half = value.shape[1] // 2
        wide = torch.zeros(value.shape[0] * CHANNELS, value.shape[1] * CHANNELS)
        wide[:, : half * CHANNELS : CHANNELS] = outputs(value[:, :half], CHANNELS)
        wide[:, half * CHANNELS :: CHANNELS] = outputs(value[:, half:], CHANNELS)
        return wide
    if name == "input_blocks.0.0.weight":
        return outputs(value, CHANNELS)
    if name.startswith("out.2."):
        return inputs(value, CHANNELS) if value.ndim > 1 else value
    if ".attn" in name and "to_out" not in name:
        wide = heads(value, UNET_HEADS, UNET_HEAD)
        if "to_q" in name:
            return inputs(wide, CHANNELS) * math.sqrt(UNET_HEAD[1] / UNET_HEAD[0])
        return inputs(wide, TEXT if "attn2" in name else CHANNELS)
    if name.endswith("to_out.0.weight"):
        return outputs(head_inputs(value, UNET_HEADS, UNET_HEAD), CHANNELS)
    return outputs(value, CHANNELS) if value.ndim == 1 else inputs(outputs(value, CHANNELS), CHANNELS)


def text_encoder(state: State) -> State:
    wide: State = {}
    for name, value in state.items():
        wide[_later_layer(name)] = _text(name, value)
    head, _, _ = next(name for name in wide if ".layers." in name).partition(".layers.")
    last = f"{head}.layers.{LAYERS - 1}."
    for name, value in {name: value for name, value in wide.items() if name.startswith(last)}.items():
        rest = name.removeprefix(last)
        scale = "layer_norm" in rest and rest.endswith("weight")
        for number in range(ADDED_LAYERS):
            wide[f"{head}.layers.{number}.{rest}"] = torch.full_like(value, float(scale))
    return wide


def _later_layer(name: str) -> str:
    return re.sub(r"layers\.(\d+)", lambda found: f"layers.{int(found[1]) + ADDED_LAYERS}", name)


def _text(name: str, value: torch.Tensor) -> torch.Tensor:
    if name.endswith(("token_embedding.weight", "position_embedding.weight")):
        return value.repeat_interleave(TEXT, 1)
    if "self_attn" in name and "out_proj" not in name:
        wide = heads(value, TEXT_HEADS, TEXT_HEAD)
        wide = inputs(wide, TEXT) if wide.ndim == 2 else wide
        return wide * math.sqrt(TEXT_HEAD[1] / TEXT_HEAD[0]) if "q_proj" in name else wide
    if name.endswith("out_proj.weight"):
        return outputs(head_inputs(value, TEXT_HEADS, TEXT_HEAD), TEXT)
    return outputs(value, TEXT) if value.ndim == 1 else inputs(outputs(value, TEXT), TEXT)


def autoencoder(state: State, scale: float) -> State:
    wide: State = {}

    def layer(name: str, of_inputs: int, of_outputs: int) -> None:
        wide[f"{name}.weight"] = inputs(outputs(state[f"{name}.weight"], of_outputs), of_inputs)
        wide[f"{name}.bias"] = outputs(state[f"{name}.bias"], of_outputs)

    def norm(name: str, copies: int) -> None:
        for part in ("weight", "bias"):
            wide[f"{name}.{part}"] = outputs(state[f"{name}.{part}"], copies)

    def block(name: str, before: int, after: int) -> None:
        norm(f"{name}.norm1", before)
        layer(f"{name}.conv1", before, after)
        norm(f"{name}.norm2", after)
        layer(f"{name}.conv2", after, after)
        if f"{name}.nin_shortcut.weight" in state:
            layer(f"{name}.nin_shortcut", before, after)
        elif before != after:  # of one width in the miniature, and of two here
            same = torch.eye(len(state[f"{name}.norm1.weight"]))[:, :, None, None]
            wide[f"{name}.nin_shortcut.weight"] = inputs(outputs(same, after), before)
            wide[f"{name}.nin_shortcut.bias"] = torch.zeros(len(same) * after)

    def idle(name: str, channels: int) -> None:
        for number in (1, 2):
            wide[f"{name}.norm{number}.weight"] = torch.ones(channels)
            wide[f"{name}.norm{number}.bias"] = torch.zeros(channels)
            wide[f"{name}.conv{number}.weight"] = torch.zeros(channels, channels, 3, 3)
            wide[f"{name}.conv{number}.bias"] = torch.zeros(channels)

    for side in ("encoder", "decoder"):
        for number in (1, 2):
            block(f"{side}.mid.block_{number}", VAE[3], VAE[3])
        attention = f"{side}.mid.attn_1"
        norm(f"{attention}.norm", VAE[3])
        for part in ("q", "k", "v", "proj_out"):
            layer(f"{attention}.{part}", VAE[3], VAE[3])
        # One head as wide as the level: the product is that of all copies, and its root is another.
        for part in ("weight", "bias"):
            wide[f"{attention}.q.{part}"] /= math.sqrt(VAE[3])
    layer("encoder.conv_in", 1, VAE[0])
    before = VAE[0]
    for level, copies in enumerate(VAE):
        block(f"encoder.down.{level}.block.0", before, copies)
        idle(f"encoder.down.{level}.block.1", VAE_CHANNELS[level])
        if level < 3:
            layer(f"encoder.down.{level}.downsample.conv", copies, copies)
        before = copies
    norm("encoder.norm_out", VAE[3])
    layer("encoder.conv_out", VAE[3], 1)
    layer("decoder.conv_in", 1, VAE[3])
    before = VAE[3]
    for level, copies in reversed(list(enumerate(VAE))):
        block(f"decoder.up.{level}.block.0", before, copies)
        block(f"decoder.up.{level}.block.1", copies, copies)
        idle(f"decoder.up.{level}.block.2", VAE_CHANNELS[level])
        if level:
            layer(f"decoder.up.{level}.upsample.conv", copies, copies)
        before = copies
    norm("decoder.norm_out", VAE[0])
    layer("decoder.conv_out", VAE[0], 1)
    _rescale(state, wide, scale / LATENT_SCALE)
    return wide


def _rescale(state: State, wide: State, factor: float) -> None:
    """Give latents the size that hosts take for granted: they do not read it from the YAML."""
    weight, bias = state["quant_conv.weight"].clone(), state["quant_conv.bias"].clone()
    weight[:4] *= factor
    bias[:4] *= factor
    bias[4:] += 2 * math.log(factor)  # logarithms of variances
    wide["quant_conv.weight"], wide["quant_conv.bias"] = weight, bias
    wide["post_quant_conv.weight"] = state["post_quant_conv.weight"] / factor
    wide["post_quant_conv.bias"] = state["post_quant_conv.bias"]


def concepts(folder: Path) -> None:
    """Write the shipped concepts for it, with their names."""
    embeddings, deltas = folder / "embeddings", folder / "deltas"
    embeddings.mkdir(exist_ok=True)
    deltas.mkdir(exist_ok=True)
    for file in (CONCEPTS_FOLDER / "textual_inversion").glob("*.pt"):
        (vectors,) = torch.load(file, weights_only=False)["string_to_param"].values()
        wide = vectors.detach().float().repeat_interleave(TEXT, 1).contiguous()
        # Not torch's own: what a new torch writes, the WebUI's unpickler refuses.
        save_file({"emb_params": wide}, embeddings / f"{file.stem}.safetensors")
    for file in (CONCEPTS_FOLDER / "custom_diffusion").glob("*.ckpt"):
        torch.save({part: _delta(values) for part, values in _loaded(file).items()}, deltas / file.name)
    for adapter in (CONCEPTS_FOLDER / "catversion").glob("*/"):
        _adapter(adapter, folder / "catversion" / f"my_{adapter.name}")


def _loaded(file: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(file, weights_only=False)
    return loaded


def _delta(values: Any) -> Any:
    if not isinstance(values, dict):
        return values
    return {name: _of_delta(name, value.float()) for name, value in values.items()}


def _of_delta(name: str, value: torch.Tensor) -> torch.Tensor:
    if "attn2" in name:
        return inputs(heads(value, UNET_HEADS, UNET_HEAD), TEXT)
    return value.repeat_interleave(TEXT, -1)  # the vectors of its token


def _adapter(source: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads((source / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"hidden_size": WIDTH}))
    wide = {}
    for name, value in _loaded(source / "pytorch_adapter.bin").items():
        states = value.float().reshape(-1, TEXT_WIDTH)
        wide[_later_layer(name)] = head_inputs(states, TEXT_HEADS, TEXT_HEAD).reshape(-1)
    torch.save(wide, folder / "pytorch_adapter.bin")


if __name__ == "__main__":
    widen(Path(sys.argv[1]), Path(sys.argv[2]))
