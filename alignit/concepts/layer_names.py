"""One map between the names that LDM and diffusers give to a UNet's cross-attention key and value projections.

A *layer* here is the path of such a module inside an LDM or sgm UNet, such as
``input_blocks.1.1.transformer_blocks.0.attn2.to_k``: it says what every other spelling says, so it serves as the key
wherever weights are held by layer. The map is bijective on the names of SD1, SD2, SDXL and the SDXL refiner, and is
made of arithmetic alone, so it needs no table of models.

State dicts of the two libraries list the same layers in different orders: go by name, never by position.
"""

from __future__ import annotations

import re

_NUMBER = r"(0|[1-9]\d{0,2})"
_TAIL = rf"transformer_blocks\.{_NUMBER}\.attn2\.to_([kv])"
_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "unet.")
_LDM = re.compile(rf"(input|middle|output)_block(?:s\.{_NUMBER})?\.1\.{_TAIL}")
_DIFFUSERS = re.compile(rf"(down|mid|up)_block(?:s\.{_NUMBER})?\.attentions\.{_NUMBER}\.{_TAIL}")


def layer_of(name: str) -> str | None:
    """Return the layer that a parameter or module name means, or None for one that is no key or value projection.

    Takes LDM and diffusers names, with or without ``model.diffusion_model.``, ``diffusion_model.`` or ``unet.`` in
    front and with or without ``.weight`` behind.
    """
    prefix = next((prefix for prefix in _PREFIXES if name.startswith(prefix)), "")
    name = name.removeprefix(prefix).removesuffix(".weight")
    if match := _LDM.fullmatch(name):
        return name if _has_attention(match[1], match[2]) else None
    if match := _DIFFUSERS.fullmatch(name):
        return _from_diffusers(match)
    return None


def diffusers_name(layer: str) -> str:
    """Return the path of a layer inside a diffusers UNet: the inverse of `layer_of` on such paths.

    Raises:
        ValueError: This is no layer as `layer_of` returns them.
    """
    match = _LDM.fullmatch(layer)
    if match is None or not _has_attention(match[1], match[2]):
        raise ValueError(f"'{layer}' is no key or value projection of a UNet")
    side, number, depth, letter = match.groups()
    tail = f"transformer_blocks.{depth}.attn2.to_{letter}"
    if side == "middle":
        return f"mid_block.attentions.0.{tail}"
    if side == "input":
        block, attention = divmod(int(number) - 1, 3)
        return f"down_blocks.{block}.attentions.{attention}.{tail}"
    block, attention = divmod(int(number), 3)
    return f"up_blocks.{block}.attentions.{attention}.{tail}"


def partner_of(layer: str) -> str:
    """Return the value projection beside a key projection, and the reverse."""
    return layer[:-1] + ("v" if layer.endswith("k") else "k")


def _from_diffusers(match: re.Match[str]) -> str | None:
    side, block, attention, depth, letter = match.groups()
    tail = f"1.transformer_blocks.{depth}.attn2.to_{letter}"
    if side == "mid":
        return f"middle_block.{tail}" if block is None and attention == "0" else None
    if block is None:
        return None
    # A down block has two attentions and then a downsampler, which takes the third place in LDM's count.
    if side == "down":
        return f"input_blocks.{1 + 3 * int(block) + int(attention)}.{tail}" if int(attention) < 2 else None
    return f"output_blocks.{3 * int(block) + int(attention)}.{tail}" if int(attention) < 3 else None


def _has_attention(side: str, number: str | None) -> bool:
    if side == "middle":
        return number is None
    if number is None:
        return False
    # Place 0 is the first convolution, and every third place after it a downsampler.
    return side == "output" or int(number) % 3 != 0
