"""Conditioning of base and dummy prompt, joined: line 3 of Algorithm 1 (arXiv 2406.18893).

A cross-attention layer's key at index i is W_k C[i], its value W_v C[i], with C the conditioning. For a concept that
changes no W (textual inversion, CatVersion), writing row i of the dummy prompt's conditioning, C'[i], into the base
prompt's therefore injects W_k C'[i] and W_v C'[i] into every layer at every step: line 4, with no work in the UNet.
A strength s blends keys and values, K = K_p + s (K' - K_p) and the same for V; both are linear in C, so it blends rows.

For a concept that changes W_k and W_v (Custom Diffusion) the row is written as it is;
`alignit.algorithm.projections` finds it in each layer and computes W'_k C'[i] and W'_v C'[i] there. Which of the two is
to be done is decided in `alignit.algorithm.injection`, line 4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from alignit.algorithm.prompts import Chunk, E, TargetChunk, dummy_chunk


@dataclass(frozen=True, eq=False)
class Injected:
    """The conditioning of one prompt with concepts injected into it. Two are equal if all of their rows are.

    Attributes:
        conditioning: Rows as the UNet shall see them, [tokens, width].
        base: The base prompt's rows C_p, [tokens, width]. The two differ at ``rows`` alone.
        rows: The concept injected at each row.
    """

    conditioning: torch.Tensor
    base: torch.Tensor
    rows: Mapping[int, str]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Injected):
            return NotImplemented
        pairs = (self.conditioning, other.conditioning), (self.base, other.base)
        return self.rows == other.rows and all(
            (one.dtype, one.device) == (two.dtype, two.device) and torch.equal(one, two) for one, two in pairs
        )

    __hash__ = None  # type: ignore[assignment]


def splice(
    base: torch.Tensor,
    prompts: Sequence[Sequence[TargetChunk[E]]],
    filler: Callable[[str], int],
    encode: Callable[[Chunk[E]], torch.Tensor],
    strength: Callable[[str], float] = lambda _concept: 1.0,
) -> tuple[torch.Tensor, list[dict[int, str]]]:
    """Write the concepts' rows of the dummy prompts' conditioning into the base prompts'.

    Args:
        base: Conditioning of the base prompts, [B, chunks * T, width]. It is not changed.
        prompts: The target prompts: B lists of chunks, of T tokens each; a list may be shorter than the longest.
        filler: Gives the token id of the filler of a concept's dummy prompt.
        encode: Encodes one chunk, on its own, to [T, width]. Equal dummy chunks are encoded once.
        strength: Gives s above for a concept, 1 for the paper.

    Returns:
        The conditioning with the concepts injected, [B, chunks * T, width], and for each of the B prompts the
        concept injected at each row.
    """
    result = base.clone()
    rows: list[dict[int, str]] = [{} for _ in prompts]
    encoded: dict[Chunk[E], torch.Tensor] = {}
    for prompt, chunks in enumerate(prompts):
        first_row = 0
        for target in chunks:
            for concept in target.concepts():
                dummy = dummy_chunk(target, concept, filler(concept))
                if dummy not in encoded:
                    encoded[dummy] = encode(dummy).to(base)
                blend = strength(concept)
                for row in target.concept_rows(concept):
                    at, injected = first_row + row, encoded[dummy][row]
                    result[prompt, at] = injected if blend == 1 else torch.lerp(base[prompt, at], injected, blend)
                    rows[prompt][at] = concept
            first_row += len(target.chunk.tokens)
    return result, rows
