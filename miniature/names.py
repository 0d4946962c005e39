"""Names of the networks' parameters: from diffusers' to the ones of an LDM checkpoint."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from miniature.model import UNET_BLOCKS, VAE_CHANNELS

_PER_DOWN = UNET_BLOCKS + 1  # LDM counts a down block's downsampler as one more block
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def ldm_unet_name(name: str) -> str:
    """Return the LDM name, without prefix, of a parameter of the UNet.

    Raises:
        ValueError: The UNet has no such parameter.
    """
    module, _, kind = name.rpartition(".")
    if module in _UNET:
        return f"{_UNET[module]}.{kind}"
    if match := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)\.(.*)", name):
        place = 1 if match[1] == "attentions" else 2 * int(match[2])
        return f"middle_block.{place}.{_inner(match[1], match[3])}"
    if match := re.fullmatch(r"(down|up)_blocks\.(\d)\.(resnets|attentions)\.(\d)\.(.*)", name):
        side, block, sort, number, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
        place = block * _PER_DOWN + number + (side == "down")
        return (
            f"{'input' if side == 'down' else 'output'}_blocks.{place}.{int(sort == 'attentions')}.{_inner(sort, rest)}"
        )
    if match := re.fullmatch(r"down_blocks\.(\d)\.downsamplers\.0\.conv\.(.*)", name):
        return f"input_blocks.{(int(match[1]) + 1) * _PER_DOWN}.0.op.{match[2]}"
    if match := re.fullmatch(r"up_blocks\.(\d)\.upsamplers\.0\.conv\.(.*)", name):
        return f"output_blocks.{int(match[1]) * _PER_DOWN + UNET_BLOCKS}.2.conv.{match[2]}"
    raise ValueError(f"No LDM name is known for {name!r}")


def _inner(sort: str, rest: str) -> str:
    if sort == "attentions":
        return rest
    module, _, kind = rest.rpartition(".")
    return f"{_RESNET[module]}.{kind}"


def ldm_vae_name(name: str) -> str:
    """Return the LDM name, without prefix, of a parameter of the VAE."""
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    if match := re.fullmatch(r"(.*)\.mid_block\.attentions\.0\.(.*)\.(weight|bias)", name):
        return f"{match[1]}.mid.attn_1.{_VAE_ATTENTION[match[2]]}.{match[3]}"
    name = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    last = len(VAE_CHANNELS) - 1  # LDM counts the decoder's blocks from the finest
    name = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{last - int(m[1])}.block", name)
    name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{last - int(m[1])}.upsample", name)
    return name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")


def ldm_state(
    unet: Mapping[str, torch.Tensor], vae: Mapping[str, torch.Tensor], text: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Return the state dict of an LDM checkpoint; attention in LDM's VAE is made of 1x1 convolutions."""
    state = {f"model.diffusion_model.{ldm_unet_name(name)}": tensor for name, tensor in unet.items()}
    for name, tensor in vae.items():
        new = ldm_vae_name(name)
        matrix = ".attn_1." in new and tensor.ndim == 2
        state[f"first_stage_model.{new}"] = tensor[:, :, None, None] if matrix else tensor
    state |= {f"cond_stage_model.transformer.{name}": tensor for name, tensor in text.items()}
    return state
