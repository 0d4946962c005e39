"""Encoding of positive prompts: finding concepts in their token chunks, and encoding base and dummy prompts.

Every prompt line passes through the host's text encoders after styles, wildcards, ``AND``, prompt editing and extra
networks are resolved. `Encoding` has them encode the base prompt's token chunks in the place of the line's own, by the
host's own loop, and writes the rows of the dummy prompts into the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, cast

import torch

from alignit.algorithm.conditioning import EncodersDisagreeError, Injected, Placed, added, splice
from alignit.algorithm.controls import Controls
from alignit.algorithm.injection import row_strength
from alignit.algorithm.prompts import Chunk, Span, TargetChunk, base_chunk
from alignit.algorithm.reach import Context
from alignit.concepts.concept import EncoderChange
from alignit.concepts.layer_change import LayerChange
from alignit.concepts.weight_change import WeightChange
from alignit.prompt.syntax import Mark
from alignit.webui.host import host
from alignit.webui.host.ports import (
    Condition,
    Conditioning,
    HostChunk,
    Model,
    Rewritten,
    TextEncoder,
    UnsupportedEncoderError,
    cross_attention,
)

DummyRows = dict[tuple[int, Chunk[Any]], torch.Tensor]
"""Rows of dummy prompts [77, width], by the encoder's number and the chunk."""
_DISAGREE = "this model's text encoders do not agree on where the concepts stand"


@dataclass(frozen=True)
class ResolvedConcept:
    """A concept as a prompt names it, resolved.

    Attributes:
        name: The embedding's name.
        class_word: The class word's text.
        embedding: The host's embedding, or None where there is none. Without it and without ``words``, the class word
            alone shall be used.
        change: Its change of W_k and W_v, or None.
        encoder_change: Its change of the text encoder, or None.
        words: Text that is a part of the concept and follows its vectors: the class word in "<new1> cat" and, without
            vectors, in CatVersion; the concept itself where it is words, "cat" in "<cat=dog>".
        controls: How it is put in.
        filename: The file beside which its class word is remembered, or None.
        method: What customised it: ``textual inversion``, ``Custom Diffusion``, ``CatVersion``; ``words`` where it is
            words.
        others: Its change of the UNet's other layers, or None.
    """

    name: str
    class_word: str
    embedding: Any
    change: WeightChange | None = None
    encoder_change: EncoderChange | None = None
    words: str = ""
    controls: Controls = field(default=Controls())
    filename: str | None = None
    method: str = "words"
    others: LayerChange | None = None


class Lookup(Protocol):
    """How names in a prompt become concepts."""

    def split(self, text: str) -> Iterator[str | Mark]:
        """Yield the parts of a text in order: plain text, and marks in angle brackets or names that count as such."""

    def mark(self, mark: Mark) -> Any | None:
        """Return the `ResolvedConcept` of a mark in angle brackets; its plain embedding; or None: the mark is text."""

    def embedding(self, embedding: Any) -> ResolvedConcept | None:
        """Return the concept of an embedding that the host found in the text; None: it stays a plain embedding."""


def find_concepts(model: Model, lookup: Lookup, text: str) -> list[TargetChunk[Any]]:
    """Cut a prompt text into chunks with the concepts found, and encode nothing.

    Raises:
        UnsupportedEncoderError: The model's text encoders cannot be used.
    """
    return _Reader(model.encoders[0], lookup).read(text).target


@dataclass(frozen=True)
class _Placeholder:
    """What the host's `tokenize_line` takes for an embedding, and records with its place in the chunk."""

    concept: ResolvedConcept
    class_tokens: tuple[int, ...]
    words: tuple[int, ...]

    @property
    def vectors(self) -> int:
        span = self.span(0)
        return span.stop - span.start

    def span(self, start: int) -> Span[Any]:
        concept = self.concept
        vectors = int(concept.embedding.vectors) if concept.embedding is not None else 0
        change = concept.encoder_change
        return Span(concept.name, start, self.class_tokens, vectors, concept.embedding, self.words, change)


@dataclass(frozen=True)
class _Line:
    """A prompt line in chunks: the host's own, ours with the concepts found, and the number of tokens."""

    chunks: list[HostChunk]
    target: list[TargetChunk[Any]]
    token_count: int


class _Reader:
    """Reads prompt lines for an encoder; its `alignit.webui.host.ports.PromptReader`."""

    def __init__(self, encoder: TextEncoder, lookup: Lookup) -> None:
        self._encoder = encoder
        self._lookup = lookup
        self._marks: list[Any] = []
        self.found_any = False

    def read(self, line: str) -> _Line:
        chunks, token_count = self._encoder.chunks(line, self)
        return _Line(chunks, _target_chunks(chunks, self._encoder.end_token), token_count)

    def tokens(self, text: str) -> list[int]:
        """Tokenize as the host does, with one negative id for each mark that is a concept or an embedding.

        A mark cut out before the tokenizer sees it cannot merge with its neighbours: in "a <sks>, dog" the
        tokenizer makes one token of ``>,``.
        """
        ids: list[int] = []
        literal = ""
        for part in self._lookup.split(text):
            found = None if isinstance(part, str) else self._lookup.mark(part)
            if found is None:
                literal += part if isinstance(part, str) else part.text
                continue
            if literal:
                ids += self._encoder.tokens(literal)
                literal = ""
            self._marks.append(found)
            self.found_any = True
            ids.append(-len(self._marks))
        if literal or not ids:
            ids += self._encoder.tokens(literal)
        return ids

    def embedding(self, tokens: list[int], position: int) -> tuple[Any, int | None]:
        """Stand in for the host's embedding database, and give placeholders for concepts."""
        length: int | None
        if tokens[position] < 0:
            found, length = self._marks[-tokens[position] - 1], 1
        else:
            found, length = host().embeddings.at(tokens, position)
            if found is None:
                return None, None
            found = self._lookup.embedding(found) or found
        if isinstance(found, ResolvedConcept):
            self.found_any = True
            class_word, words = (tuple(self._encoder.tokens(text)) for text in (found.class_word, found.words))
            found = _Placeholder(found, class_word, words)
        return found, length


def _target_chunks(chunks: Sequence[HostChunk], end_token: int) -> list[TargetChunk[Any]]:
    text_stops = [_text_stop(chunk.tokens, end_token) for chunk in chunks]
    spans: list[list[Span[Any]]] = [[] for _ in chunks]
    embeddings: list[list[tuple[int, Any]]] = [[] for _ in chunks]
    for index, chunk in enumerate(chunks):
        for offset, embedding in chunk.fixes:
            at, row = index, offset + 1
            if not isinstance(embedding, _Placeholder):
                embeddings[at].append((row, embedding))
                continue
            if row >= text_stops[at] and at + 1 < len(chunks):
                # The host's comma backtrack moved the tokens to the next chunk, and left its note here.
                row = row - text_stops[at] + 1
                at += 1
            spans[at].append(embedding.span(row))
    return [
        TargetChunk(
            Chunk(tuple(chunk.tokens), tuple(chunk.multipliers), tuple(embeddings[index])),
            tuple(sorted(spans[index], key=lambda span: span.start)),
            text_stops[index],
        )
        for index, chunk in enumerate(chunks)
    ]


def _text_stop(tokens: Sequence[int], end_token: int) -> int:
    stop = len(tokens)
    while stop > 1 and tokens[stop - 1] == end_token:
        stop -= 1
    return stop


class Encoding:
    """Computes the conditioning of positive prompts with concepts injected.

    Attributes:
        injected: What was injected by the last `run`, one entry for each prompt text that holds a concept.
    """

    def __init__(
        self, model: Model, lookup: Lookup, concept: Callable[[str], ResolvedConcept], encoded: DummyRows | None = None
    ) -> None:
        """Prepare for a model.

        Args:
            model: The host's model.
            lookup: Finds the concepts.
            concept: Gives a concept that was found, by its name.
            encoded: Rows of dummy prompts that were encoded with the text encoders as they are now; new ones are added.

        Raises:
            UnsupportedEncoderError: The model's text encoders cannot be used.
        """
        if host().options.old_emphasis:
            raise UnsupportedEncoderError(
                "the setting 'Use old emphasis implementation' is on; turn it off for AlignIT"
            )
        self.injected: list[Injected] = []
        self._encoders = model.encoders
        self._lookup = lookup
        self._concept = concept
        self._encoded = {} if encoded is None else encoded
        self._calls: list[_Calls] = []

    def run(self, original: Condition, texts: list[str]) -> Conditioning:
        """Return what the host's own function does for these texts, with the concepts injected.

        Texts in which no concept is found are encoded by the host alone. The base prompts are, too, with whatever other
        extensions do to their rows: an extension can call the encoders again from inside, for texts of its own, and
        these are read as ours are. A concept's row is its dummy prompt's.
        """
        self.injected = []
        self._calls = [_Calls() for _ in self._encoders]
        with ExitStack() as block:
            for number, encoder in enumerate(self._encoders):
                block.enter_context(encoder.rewriting(self._rewrite(number, encoder)))
            conditioning = original(texts)
        if any(calls.rows for calls in self._calls):
            return self._inject(list(texts), conditioning)
        return conditioning

    def _rewrite(self, number: int, encoder: TextEncoder) -> Callable[[Sequence[str]], Rewritten | None]:
        def rewrite(texts: Sequence[str]) -> Rewritten | None:
            reader = _Reader(encoder, self._lookup)
            known = {line: reader.read(line) for line in dict.fromkeys(texts)}
            if not reader.found_any:
                return None
            lines = [known[text] for text in texts]

            def edit(base: torch.Tensor) -> torch.Tensor:
                prompts = [line.target for line in lines]
                filler, encode = self._filler(encoder), self._encode(number)
                self._calls[number].note(texts, *splice(base, prompts, filler, encode, controls=self._controls))
                return base

            return Rewritten([_base_chunks(line) for line in lines], max(line.token_count for line in lines), edit)

        return rewrite

    def _strength(self, name: str) -> float:
        concept = self._concept(name)
        return row_strength(concept.controls, concept.change is not None)

    def _controls(self, name: str) -> Controls:
        return self._concept(name).controls

    def _filler(self, encoder: TextEncoder) -> Callable[[str], int | None]:
        return lambda name: filler_token(encoder, self._controls(name))

    def _encode(self, number: int) -> Callable[[Chunk[Any]], torch.Tensor]:
        def encode(chunk: Chunk[Any]) -> torch.Tensor:
            key = number, chunk
            if key not in self._encoded:
                self._encoded[key] = _encode(self._encoders[number], chunk)
            return self._encoded[key]

        return encode

    def _inject(self, texts: list[str], conditioning: Conditioning) -> Conditioning:
        base = cross_attention(conditioning)
        result = base.clone()
        for index, text in enumerate(texts):
            placed, dummies = self._placed_in(text, index, len(texts))
            for row in (*placed.rows, *placed.reached):
                if row >= base.shape[1] or dummies[row].shape[-1] != base.shape[-1]:
                    raise UnsupportedEncoderError(_DISAGREE)
            for row, name in placed.rows.items():
                strength, injected = self._strength(name), dummies[row].to(base)
                result[index, row] = injected if strength == 1 else torch.lerp(base[index, row], injected, strength)
            reached = {
                row: tuple(replace(one, strength=self._strength(one.concept)) for one in additions)
                for row, additions in placed.reached.items()
            }
            for row, additions in reached.items():
                result[index, row] = added(base[index, row], additions)
            if placed.rows and text not in texts[:index]:
                item = Injected(result[index], base[index], placed.rows, reached, placed.among_words)
                self.injected.append(item)
        return {**conditioning, "crossattn": result} if isinstance(conditioning, dict) else result

    def _placed_in(self, text: str, index: int, count: int) -> tuple[Placed, dict[int, torch.Tensor]]:
        """Return where concepts stand in a text and what they reach, and the rows [width] there at strength 1."""
        # SDXL joins the rows of its two encoders, and so do we; both find the same concepts in the same rows.
        of_encoders = [calls.of(text, index, count) for calls in self._calls]
        try:
            placed = Placed.joined([one for one, _ in of_encoders])
        except EncodersDisagreeError:
            raise UnsupportedEncoderError(_DISAGREE) from None
        return placed, {
            row: torch.cat([rows[row] for _, rows in of_encoders], dim=-1) for row in (*placed.rows, *placed.reached)
        }


class _Calls:
    """What an encoder was called for while a prompt was encoded: the prompt's texts, and those of other extensions.

    Attributes:
        rows: By text, where concepts were put, and the rows [T, width] with those of the dummy prompts.
    """

    def __init__(self) -> None:
        self.rows: dict[str, tuple[Placed, torch.Tensor]] = {}
        self._batches: list[tuple[str, ...]] = []

    def note(self, texts: Sequence[str], spliced: torch.Tensor, placed: Sequence[Placed]) -> None:
        """Note a call: its texts, and for each its rows with those of the dummy prompts, and where these are."""
        self._batches.append(tuple(texts))
        for text, where, rows in zip(texts, placed, spliced, strict=True):
            # The prompt's own call comes first; the emphasis of other texts of a batch can count in its rows.
            self.rows.setdefault(text, (where, rows))

    def of(self, text: str, index: int, count: int) -> tuple[Placed, torch.Tensor]:
        """Return this of a text of the prompt, or of what another extension made of it before it was encoded."""
        if text in self.rows:
            return self.rows[text]
        batch = next((batch for batch in self._batches if len(batch) == count), None)
        return self.rows[batch[index]] if batch is not None else (Placed(), torch.zeros(0))


def token_texts(encoder: TextEncoder, tokens: Sequence[int]) -> list[str]:
    """Return the text of each token."""
    return [encoder.text([token]).strip() for token in tokens]


def embedding_names(chunk: Chunk[Any]) -> dict[int, str]:
    """Return the name of the embedding at each row of a chunk that is one's."""
    return {
        row: str(embedding.name)
        for start, embedding in chunk.embeddings
        for row in range(start, start + int(embedding.vectors))
    }


def single_token(encoder: TextEncoder, text: str) -> int | None:
    """Return the id of a text's only token, or None where it has more than one or none."""
    ids = encoder.tokens(text)
    return int(ids[0]) if len(ids) == 1 else None


def filler_token(encoder: TextEncoder, controls: Controls) -> int | None:
    """Return the token id of the filler of a concept's dummy prompt, or None where the prompt's own words stand there.

    Raises:
        UnsupportedEncoderError: The text encoder has no such token.
    """
    if controls.context is Context.PROMPT:
        return None
    token = single_token(encoder, controls.filler)
    if token is None:
        raise UnsupportedEncoderError(f"this model's text encoder has no single token for '{controls.filler}'")
    return token


def _base_chunks(line: _Line) -> list[HostChunk]:
    """Write the base prompt into the host's chunks, which were made for this call."""
    for chunk, target in zip(line.chunks, line.target, strict=True):
        chunk.tokens = list(base_chunk(target).tokens)
        chunk.fixes = [fix for fix in chunk.fixes if not isinstance(fix[1], _Placeholder)]
    return line.chunks


def _encode(encoder: TextEncoder, chunk: Chunk[Any]) -> torch.Tensor:
    """Encode a dummy prompt's chunk, [77, width], as the host would encode that prompt on its own."""
    change = cast("EncoderChange | None", chunk.encoder_change)
    with change.applied(encoder.clip_layers) if change is not None else nullcontext():
        return encoder.encode(chunk.tokens, chunk.multipliers, chunk.embeddings)
