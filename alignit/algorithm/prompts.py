"""Target, base and dummy prompt as chunks of tokens: lines 1 and 2 of Algorithm 1 (arXiv 2406.18893).

A chunk is what a text encoder reads at once: a start token, the text, an end token, padding; 77 tokens in CLIP.
All three prompts are built on the same target chunk and have its length, so that "the same index i" of the paper
holds by construction, in prompts of any length and with concepts of any number of vectors.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

E = TypeVar("E")


@dataclass(frozen=True)
class Span(Generic[E]):
    """The rows of a chunk in which a concept stands in the target prompt, and its class word in the base prompt.

    A span is as long as the longer of the two, and both end at its last row: where a concept has more vectors than
    its class word has tokens, the class word is repeated backwards ("retriever golden retriever" for three rows);
    where it has fewer, the class word's first tokens have no counterpart and keep the base model's keys and values.
    The head noun of a class word ("golden retriever") comes last, so the concept's last vector meets it.

    Attributes:
        concept: The concept's name. Spans with equal names are mentions of one concept and share a dummy prompt.
        start: First row of the span, counted from the chunk's start token, which is row 0.
        class_tokens: Token ids of the class word, at least one.
        vectors: Number of token vectors of the concept; 0 for one that has none.
        embedding: The concept's embedding, opaque to this module.
        trailing: Token ids that belong to the concept and follow its vectors: the class word in Custom Diffusion's
            "<new1> cat", and in CatVersion, which has no vectors. Where there are neither vectors nor these, only the
            class word is wanted.
        encoder_change: How the concept changes the text encoder that its dummy prompt is for, opaque to this module.
    """

    concept: str
    start: int
    class_tokens: tuple[int, ...]
    vectors: int
    embedding: E
    trailing: tuple[int, ...] = ()
    encoder_change: Hashable = None

    @property
    def stop(self) -> int:
        """The row after the span's last."""
        return self.start + max(len(self.class_tokens), self._concept_length)

    @property
    def concept_rows(self) -> range:
        """The rows at which the concept's keys and values are injected: index i of Algorithm 1."""
        return range(self.stop - self._concept_length, self.stop)

    @property
    def _concept_length(self) -> int:
        return self.vectors + len(self.trailing)


@dataclass(frozen=True)
class Chunk(Generic[E]):
    """Tokens that a text encoder reads at once.

    Attributes:
        tokens: Token ids, [T] with T = 77 in CLIP.
        multipliers: Emphasis per token, [T]; 1 is none.
        embeddings: Token vectors that replace those of ``tokens``, as (first row, embedding).
        encoder_change: A change of the text encoder for this chunk alone, or None.
    """

    tokens: tuple[int, ...]
    multipliers: tuple[float, ...]
    embeddings: tuple[tuple[int, E], ...] = ()
    encoder_change: Hashable = None


@dataclass(frozen=True)
class TargetChunk(Generic[E]):
    """A chunk of the target prompt, with its concepts found.

    Attributes:
        chunk: The chunk. The tokens inside a span are placeholders; its ``embeddings`` are those that are no concept
            (no class word is known for them) and stay as they are.
        spans: Where the concepts stand, in order.
        text_stop: The row after the last of the text: where the end token stands.
    """

    chunk: Chunk[E]
    spans: tuple[Span[E], ...]
    text_stop: int

    def concepts(self) -> tuple[str, ...]:
        """Return the names of the concepts to inject into this chunk, each once, in order."""
        return tuple(dict.fromkeys(span.concept for span in self.spans if span.concept_rows))

    def concept_rows(self, concept: str) -> list[int]:
        """Return the rows at which a concept is injected, over all of its mentions."""
        return [row for span in self.spans if span.concept == concept for row in span.concept_rows]


def base_chunk(target: TargetChunk[E]) -> Chunk[E]:
    """Build the chunk of the base prompt p: the target with each concept replaced by its class word (line 1)."""
    tokens = list(target.chunk.tokens)
    for span in target.spans:
        tokens[span.start : span.stop] = fill_backwards(span.class_tokens, span.stop - span.start)
    return replace(target.chunk, tokens=tuple(tokens))


def dummy_chunk(target: TargetChunk[E], concept: str, filler: int | None) -> Chunk[E]:
    """Build the chunk of a concept's dummy prompt p': the target with every other token replaced (line 2).

    Start token, end token and padding stay. Other concepts are "other tokens": each has a dummy prompt of its own,
    so that none bleeds into another. Emphasis stays at the concept and nowhere else.

    Args:
        target: A chunk of the target prompt.
        concept: Name of the concept to keep.
        filler: Token id of the filler, ``*`` in the paper. None: the base prompt's tokens stay, with their emphasis.
    """
    around = _around(target, concept, filler)
    tokens, embeddings = list(around.tokens), list(around.embeddings)
    encoder_change = around.encoder_change
    for span in target.spans:
        if span.concept == concept and span.concept_rows:
            rows = span.concept_rows
            encoder_change = span.encoder_change
            if span.vectors:
                embeddings.append((rows.start, span.embedding))
            # The embedding's vectors replace the first rows; their ids are the target's own placeholders.
            tokens[rows.start : rows.stop] = target.chunk.tokens[rows.start : rows.stop]
            tokens[rows.start + span.vectors : rows.stop] = span.trailing
    return replace(around, tokens=tuple(tokens), embeddings=tuple(embeddings), encoder_change=encoder_change)


def class_word_chunk(target: TargetChunk[E], concept: str, filler: int | None) -> Chunk[E]:
    """Build the chunk of a concept's dummy prompt with what the base prompt has in the concept's place: the class word.

    It is for the base model's text encoder. No line of the paper: see `alignit.algorithm.reach`.

    Args: as in `dummy_chunk`. Without a filler this is the base prompt.
    """
    around = _around(target, concept, filler)
    base, tokens = base_chunk(target).tokens, list(around.tokens)
    for row in target.concept_rows(concept):
        tokens[row] = base[row]
    return replace(around, tokens=tuple(tokens))


def _around(target: TargetChunk[E], concept: str, filler: int | None) -> Chunk[E]:
    """Build what a concept's dummy prompt is but for the concept's tokens."""
    base = base_chunk(target)
    if filler is None:
        return base
    tokens, multipliers = list(base.tokens), [1.0] * len(base.tokens)
    tokens[1 : target.text_stop] = [filler] * (target.text_stop - 1)
    for row in target.concept_rows(concept):
        multipliers[row] = base.multipliers[row]
    return Chunk(tuple(tokens), tuple(multipliers), (), base.encoder_change)


def fill_backwards(tokens: Sequence[int], length: int) -> list[int]:
    """Repeat tokens to a length, so that they end with their last: (a, b) to length 3 is [b, a, b]."""
    return [tokens[(index - length) % len(tokens)] for index in range(length)]
