"""Conditioning of base and dummy prompt, joined: line 3 of Algorithm 1 (arXiv 2406.18893).

A cross-attention layer's key at index i is W_k C[i], its value W_v C[i], with C the conditioning. For a concept that
changes no W (textual inversion, CatVersion), writing row i of the dummy prompt's conditioning, C'[i], into the base
prompt's therefore injects W_k C'[i] and W_v C'[i] into every layer at every step: line 4, with no work in the UNet.
A strength s blends keys and values, K = K_p + s (K' - K_p) and the same for V; both are linear in C, so it blends rows.

For a concept that changes W_k and W_v (Custom Diffusion) the row is written as it is;
`alignit.algorithm.projections` finds it in each layer and computes W'_k C'[i] and W'_v C'[i] there. Which of the two is
to be done is decided in `alignit.algorithm.injection`, line 4.

Rows beyond a concept's own (`alignit.algorithm.reach`) are written in the same way, each C_p[r] with the sum of all
concepts' s d (C'[r] - C_o[r]). They too carry their own address.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

import torch

from alignit.algorithm.controls import Controls
from alignit.algorithm.prompts import Chunk, E, TargetChunk, class_word_chunk, dummy_chunk
from alignit.algorithm.reach import Kind


class EncodersDisagreeError(ValueError):
    """A model's text encoders do not agree on where the concepts stand."""


@dataclass(frozen=True, eq=False)
class Addition:
    """What a concept adds to a row beyond its own: see `alignit.algorithm.reach`. Two are equal if their rows are.

    Attributes:
        concept: The concept.
        beside: A row of its own in the same chunk.
        factor: d.
        row: C'[r], [width].
        instead: C_o[r], [width].
        strength: With which it is written into the conditioning, as its concept's own rows are.
    """

    concept: str
    beside: int
    factor: float
    row: torch.Tensor
    instead: torch.Tensor
    strength: float = 1.0

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Addition):
            return NotImplemented
        return self._place == other._place and same(self.row, other.row) and same(self.instead, other.instead)

    __hash__ = None  # type: ignore[assignment]

    @property
    def _place(self) -> tuple[str, int, float, float]:
        return self.concept, self.beside, self.factor, self.strength

    def joined(self, others: Sequence[Addition]) -> Addition:
        """Return it with the rows of other text encoders behind its own.

        Raises:
            EncodersDisagreeError: They are not of the same place.
        """
        every = [self, *others]
        if any(other._place != self._place for other in others):
            raise EncodersDisagreeError("the text encoders do not agree on what a concept reaches")
        rows, instead = (torch.cat([getattr(one, name) for one in every], dim=-1) for name in ("row", "instead"))
        return replace(self, row=rows, instead=instead)


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Say whether two tensors are equal, also in type and device."""
    return (one.dtype, one.device) == (other.dtype, other.device) and torch.equal(one, other)


@dataclass(frozen=True)
class Placed:
    """Where concepts were written into a prompt's conditioning.

    Attributes:
        rows: The concept injected at each row: index i of Algorithm 1.
        reached: What concepts add to each row beyond their own; no row of ``rows`` is among these.
        among_words: The concepts whose dummy prompt has the base prompt's own words in the place of a filler.
    """

    rows: Mapping[int, str] = field(default_factory=dict)
    reached: Mapping[int, tuple[Addition, ...]] = field(default_factory=dict)
    among_words: Set[str] = frozenset()

    @classmethod
    def joined(cls, several: Sequence[Placed]) -> Placed:
        """Join what was written into the conditionings of a model's text encoders, whose rows stand side by side.

        Raises:
            EncodersDisagreeError: They do not agree on where the concepts stand.
        """
        first, *others = several
        if any(other.rows != first.rows or other.reached.keys() != first.reached.keys() for other in others):
            raise EncodersDisagreeError("the text encoders do not agree on where the concepts stand")
        try:
            reached = {
                row: tuple(
                    one.joined(those)
                    for one, *those in zip(additions, *(other.reached[row] for other in others), strict=True)
                )
                for row, additions in first.reached.items()
            }
        except ValueError as error:
            raise EncodersDisagreeError(f"{error}") from None
        return cls(first.rows, reached, first.among_words)


@dataclass(frozen=True, eq=False)
class Injected:
    """The conditioning of one prompt with concepts injected into it. Two are equal if all of their rows are.

    Attributes:
        conditioning: Rows as the UNet shall see them, [tokens, width].
        base: The base prompt's rows C_p, [tokens, width]. The two differ at ``rows`` and ``reached`` alone.
        rows: The concept injected at each row.
        reached: What concepts add to each row beyond their own; no row of ``rows`` is among these.
        among_words: The concepts whose dummy prompt has the base prompt's own words in the place of a filler.
    """

    conditioning: torch.Tensor
    base: torch.Tensor
    rows: Mapping[int, str]
    reached: Mapping[int, tuple[Addition, ...]] = field(default_factory=dict)
    among_words: Set[str] = frozenset()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Injected):
            return NotImplemented
        return (
            self.rows == other.rows
            and self.reached == other.reached
            and self.among_words == other.among_words
            and same(self.conditioning, other.conditioning)
            and same(self.base, other.base)
        )

    __hash__ = None  # type: ignore[assignment]

    def concepts_at(self, row: int) -> tuple[str, ...]:
        """Return the concepts of which something is at a row."""
        return (self.rows[row],) if row in self.rows else tuple(one.concept for one in self.reached[row])

    def without(self, concepts: Collection[str]) -> Injected:
        """Return the prompt with none of these concepts: the base prompt's rows stand at theirs."""
        mine = {*self.rows.values(), *(one.concept for additions in self.reached.values() for one in additions)}
        if not mine & set(concepts):
            return self
        rows = {row: concept for row, concept in self.rows.items() if concept not in concepts}
        reached = {}
        conditioning = self.conditioning.clone()
        for row in self.rows.keys() - rows.keys():
            conditioning[row] = self.base[row]
        for row, additions in self.reached.items():
            kept = tuple(one for one in additions if one.concept not in concepts)
            if len(kept) != len(additions):
                conditioning[row] = added(self.base[row], kept)
            if kept:
                reached[row] = kept
        return Injected(conditioning, self.base, rows, reached, self.among_words)


def splice(
    base: torch.Tensor,
    prompts: Sequence[Sequence[TargetChunk[E]]],
    filler: Callable[[str], int | None],
    encode: Callable[[Chunk[E]], torch.Tensor],
    strength: Callable[[str], float] = lambda _concept: 1.0,
    controls: Callable[[str], Controls] = lambda _concept: Controls(),
) -> tuple[torch.Tensor, list[Placed]]:
    """Write the concepts' rows of the dummy prompts' conditioning into the base prompts'.

    Args:
        base: Conditioning of the base prompts, [B, chunks * T, width]. It is not changed.
        prompts: The target prompts: B lists of chunks, of T tokens each; a list may be shorter than the longest.
        filler: Gives the token id of the filler of a concept's dummy prompt, or None: the base prompt's tokens stay.
        encode: Encodes one chunk, on its own, to [T, width]. Equal chunks are encoded once.
        strength: Gives s above for a concept, 1 for the paper.
        controls: Gives how a concept is put in. Of these only the reach counts here; at strength 0 there is none.

    Returns:
        The conditioning with the concepts injected, [B, chunks * T, width], and for each of the B prompts where.
    """
    result = base.clone()
    placed: list[Placed] = []
    encoded: dict[Chunk[E], torch.Tensor] = {}

    def rows_of(chunk: Chunk[E]) -> torch.Tensor:
        if chunk not in encoded:
            encoded[chunk] = encode(chunk).to(base)
        return encoded[chunk]

    for prompt, chunks in enumerate(prompts):
        rows: dict[int, str] = {}
        reached: dict[int, tuple[Addition, ...]] = {}
        first_row = 0
        for target in chunks:
            length = len(target.chunk.tokens)
            of_chunk = base[prompt, first_row : first_row + length]
            for concept in target.concepts():
                dummy = rows_of(dummy_chunk(target, concept, filler(concept)))
                blend = strength(concept)
                for row in target.concept_rows(concept):
                    at, injected = first_row + row, dummy[row]
                    result[prompt, at] = injected if blend == 1 else torch.lerp(base[prompt, at], injected, blend)
                    rows[at] = concept
                beside = first_row + target.concept_rows(concept)[-1]
                for row, customised, instead in _reached(
                    target, concept, filler(concept), controls(concept), of_chunk, rows_of
                ):
                    addition = Addition(concept, beside, controls(concept).reach.factor, customised, instead, blend)
                    reached[first_row + row] = (*reached.get(first_row + row, ()), addition)
            first_row += length
        for row, additions in reached.items():
            result[prompt, row] = added(base[prompt, row], additions)
        placed.append(Placed(rows, reached, frozenset(name for name in rows.values() if filler(name) is None)))
    return result, placed


def _reached(
    target: TargetChunk[E],
    concept: str,
    filler: int | None,
    controls: Controls,
    base: torch.Tensor,
    rows_of: Callable[[Chunk[E]], torch.Tensor],
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """Yield the rows of a chunk that a concept reaches, with C'[r] and C_o[r]; the base prompt's C_p is [T, width]."""
    rows = controls.reach.rows(target.text_stop, len(target.chunk.tokens))
    if not rows or controls.strength == 0:
        return
    kind = controls.reach.kind
    customised = rows_of(dummy_chunk(target, concept, None if kind is Kind.TARGET_PADDING else filler))
    # With the prompt's own words around it, the dummy prompt with the class word in it is the base prompt.
    from_base = kind is not Kind.DIFFERENCE or filler is None
    instead = base if from_base else rows_of(class_word_chunk(target, concept, filler))
    for row in rows:
        yield row, customised[row], instead[row]


def added(base: torch.Tensor, additions: Sequence[Addition]) -> torch.Tensor:
    """Return a row [width] with what concepts add to it."""
    # In float32, so that a sum of differences is rounded to the model's type once.
    total = base.float()
    for one in additions:
        total = total + one.strength * one.factor * (one.row.float() - one.instead.float())
    return total.to(base)
