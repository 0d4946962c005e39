"""What cross-attention gives to tokens, computed once more from queries and keys, and the grids in which it does."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

_CHUNK = 1 << 22  # probabilities that are computed at once: 16 MiB of them


def token_probabilities(
    queries: torch.Tensor, keys: torch.Tensor, heads: int, rows: torch.Tensor, chunk: int = _CHUNK
) -> torch.Tensor:
    """Return the mean over heads of softmax(Q K^T / sqrt(d)) for some tokens, [rows, places], float32.

    Args:
        queries: What `to_q` returned for one picture, [places, heads * d].
        keys: What `to_k` returned for it, [tokens, heads * d]. The softmax goes over all of them.
        heads: The number of heads.
        rows: The tokens, [rows].
        chunk: How many probabilities, over heads, places and all tokens, are computed at once.
    """
    width = queries.shape[-1] // heads
    by_head = keys.float().unflatten(-1, (heads, width)).permute(1, 2, 0)  # [heads, d, tokens]
    length = max(1, chunk // (heads * keys.shape[0]))
    maps = []
    for part in queries.split(length):
        logits = (part.float() / math.sqrt(width)).unflatten(-1, (heads, width)).transpose(0, 1) @ by_head
        maps.append(logits.softmax(-1).mean(0)[:, rows].T)
    return torch.cat(maps, dim=1)


def halved_to(size: tuple[int, int], places: int) -> tuple[int, int] | None:
    """Return height and width of the picture with so many places that a UNet makes of the latent one, or None.

    A UNet halves the picture and rounds up.
    """
    height, width = size
    while height * width > max(places, 1):
        height, width = (height + 1) // 2, (width + 1) // 2
    return (height, width) if height * width == places else None


def full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """For a block, compute in the types of the numbers themselves."""
    try:
        return torch.autocast(device.type, enabled=False)
    except Exception:  # by the version of torch, another one where a kind of device has no autocast
        return nullcontext()
