"""Refuses by name the files that are concepts of a kind that is not read, and files that are no concepts."""

from __future__ import annotations

import re

from alignit.concepts.concept import ConceptFileError
from alignit.concepts.formats.contents import Contents

_LORA = re.compile(r"(^|[._])(lora|hada|lokr|oft|oft_blocks|boft|glora|dora_scale)([._]|$)")
_LAYER_KEY = re.compile(r"(IN|OUT)\d{1,2}|MID\d{0,2}|.+-(1[0-5]|\d)")
_CROSS_ATTENTION_LAYERS = 16  # of SD1's UNet, for which XTI and P+ are trained


def unsupported(contents: Contents) -> ConceptFileError | None:
    """Return an error for a file of a kind that is known but not read, or None."""
    paths = list(contents.tensors)
    names = [".".join(path) for path in paths]
    first = {path[0] for path in paths if path}
    last = {path[-1] for path in paths if path}

    def is_there(*parts: str) -> bool:
        return any(part in name for part in parts for name in names)

    kind = remedy = None
    if is_there("new_concept_embedding"):
        kind, remedy = "an ED-LoRA concept", "Train the concept with textual inversion or Custom Diffusion"
    elif is_there("first_stage_model.", "conditioner.embedders."):
        kind, remedy = "a whole checkpoint (DreamBooth)", "Choose it as the checkpoint, not as a concept"
    elif is_there("time_embed.0.weight", "time_embedding.linear_1.weight"):
        kind, remedy = "a whole UNet (DreamBooth)", "Choose a concept's file"
    elif "key_value_params" in first:
        kind, remedy = "a Perfusion concept", "Train the concept with textual inversion or Custom Diffusion"
    elif all(name.endswith(".delta") for name in names) and {len(t.shape) for t in contents.tensors.values()} == {1}:
        kind, remedy = "an SVDiff concept", "Train the concept with Custom Diffusion"
    elif any("." in name and _LORA.search(name) for name in names):
        kind, remedy = "a LoRA or LyCORIS", "Use it as one in the prompt, <lora:...>"
    elif len(last) >= _CROSS_ATTENTION_LAYERS and all(_LAYER_KEY.fullmatch(name) for name in last):
        kind, remedy = "an XTI or P+ concept", "Train the concept with textual inversion"
    elif () in contents.tensors and len(contents.tensors[()].shape) == 3:
        kind, remedy = "a HiPer concept", "Train the concept with textual inversion"
    return contents.source.error(f"is {kind}, which is not supported yet", remedy) if kind and remedy else None
