"""The text encoders of a diffusers pipeline: prompts cut into token chunks, and chunks encoded.

Nothing is added to a tokenizer and no embedding table grows: a concept's vectors take the place of rows of the table's
output, through a forward hook that is there while a chunk is encoded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from alignit.algorithm.prompts import Chunk, Span, TargetChunk
from alignit.concepts.concept import EncoderChange, TokenEmbedding
from alignit.diffusers.concepts import Parts, TokenMention
from alignit.diffusers.errors import AlignITError
from alignit.prompt.resolve import Mention, PlainMention

Target: TypeAlias = TargetChunk[TokenEmbedding | None]
EncoderChanges: TypeAlias = tuple[EncoderChange, ...]
"""What a text encoder is changed by, in a chunk's ``encoder_change``."""

_FILLER = "*"
_KEYS = {"": "clip_l", "_2": "clip_g"}


@dataclass(frozen=True)
class Encoded:
    """What a text encoder makes of a batch of chunks.

    Attributes:
        rows: The conditioning, [B, T, width].
        pooled: The pooled vectors, [B, width], of SDXL's second encoder; else None.
    """

    rows: torch.Tensor
    pooled: torch.Tensor | None


class PipelineEncoder:
    """A CLIP text encoder with its tokenizer.

    Attributes:
        key: Its name in embeddings with vectors for several encoders: ``clip_l`` or ``clip_g``.
        model: The encoder.
        tokenizer: Its tokenizer, from transformers.
        capacity: How many tokens of text fit into a chunk: 75.
        filler: Token id of the dummy prompts' filler.
    """

    def __init__(self, pipe: Any, suffix: str) -> None:
        """Take an encoder of a pipeline.

        Args:
            pipe: The pipeline.
            suffix: What its attributes end with: nothing, or ``_2``.

        Raises:
            AlignITError: It is no CLIP text encoder.
        """
        self.key = _KEYS[suffix]
        self.model = getattr(pipe, f"text_encoder{suffix}")
        self._pipe = pipe
        self.tokenizer = getattr(pipe, f"tokenizer{suffix}")
        config = self.model.config
        if config.model_type != "clip_text_model":
            raise AlignITError(
                f"The pipeline's text encoder is a {type(self.model).__name__}, and AlignIT works with CLIP: use a "
                "pipeline of Stable Diffusion 1, 2 or XL"
            )
        self.capacity = min(self.tokenizer.model_max_length, config.max_position_embeddings) - 2
        filler = self.tokenize(_FILLER)
        if len(filler) != 1:
            raise AlignITError(f"The pipeline's tokenizer has no single token for '{_FILLER}': use CLIP's own")
        self.filler = filler[0]

    @property
    def table(self) -> torch.Tensor:
        """The token embeddings, [V, width]."""
        table: torch.Tensor = self.model.get_input_embeddings().weight
        return table

    def tokenize(self, text: str) -> list[int]:
        """Return the token ids of a text, without start and end."""
        # Embeddings of several vectors that were loaded into the pipeline are several tokens.
        convert = getattr(self._pipe, "maybe_convert_prompt", None)
        if convert is not None:
            text = convert(text, self.tokenizer)
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids)

    def target_chunks(self, parts: Parts, changes: EncoderChanges = ()) -> list[Target]:
        """Cut a prompt into chunks, at least one; a concept is never cut in two.

        Args:
            parts: The prompt.
            changes: Changes of the text encoder for all of it.

        Raises:
            AlignITError: A concept does not fit into a chunk.
        """
        chunks = [_Open()]
        for part in parts:
            if isinstance(part, Mention):
                self._add(chunks, part)
            elif isinstance(part, PlainMention) and part.item is not None and part.item.embedding is not None:
                self._add_plain(chunks, part.name, part.item.embedding)
            else:
                for token in self.tokenize(part if isinstance(part, str) else part.text):
                    self._with_room(chunks, 1).tokens.append(token)
        return [self._close(chunk, changes) for chunk in chunks]

    def empty_chunk(self) -> Target:
        """Return a chunk without text."""
        return self._close(_Open(), ())

    def encode(self, chunks: Sequence[Chunk[TokenEmbedding | None]], clip_skip: int | None = None) -> Encoded:
        """Encode a batch of chunks, as the pipeline encodes that many prompts.

        Args:
            chunks: B chunks.
            clip_skip: How many of the last layers to leave out, as in the pipeline.
        """
        changes = list(dict.fromkeys(chunk.encoder_change for chunk in chunks))
        if len(changes) > 1:
            parts = {
                change: self.encode([chunk for chunk in chunks if chunk.encoder_change == change], clip_skip)
                for change in changes
            }
            return _in_order(parts, [chunk.encoder_change for chunk in chunks])
        # Not the weights' own device, which is another where the pipeline offloads them.
        ids = torch.tensor([chunk.tokens for chunk in chunks], device=self._pipe._execution_device)
        is_xl = hasattr(self._pipe, "text_encoder_2")
        with torch.no_grad(), self._vectors_of(chunks), self._changed(changes[0]):
            output = self.model(ids, output_hidden_states=is_xl or clip_skip is not None)
            if is_xl:
                rows = output.hidden_states[-2 - (clip_skip or 0)]
            elif clip_skip is not None:
                rows = self._transformer.final_layer_norm(output.hidden_states[-1 - clip_skip])
            else:
                rows = output[0]
        pooled = output[0] if output[0].ndim == 2 else None
        return Encoded(rows, pooled)

    def text_of(self, chunk: Chunk[TokenEmbedding | None], stop: int) -> str:
        """Return a chunk's tokens up to a row as text, with a concept's name for each of its vectors."""
        words = [self.tokenizer.decode([token]).strip() for token in chunk.tokens[:stop]]
        for row, embedding in chunk.embeddings:
            if embedding is not None:
                words[row : row + embedding.length] = [embedding.name] * embedding.length
        return " ".join(words[1:])

    @property
    def _transformer(self) -> Any:
        return getattr(self.model, "text_model", self.model)

    @contextmanager
    def _vectors_of(self, chunks: Sequence[Chunk[TokenEmbedding | None]]) -> Iterator[None]:
        def hook(_module: torch.nn.Module, _args: Any, output: torch.Tensor) -> torch.Tensor:
            output = output.clone()
            for index, chunk in enumerate(chunks):
                for row, embedding in chunk.embeddings:
                    if embedding is not None:
                        output[index, row : row + embedding.length] = embedding.vectors[self.key].to(output)
            return output

        handle = self.model.get_input_embeddings().register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()

    @contextmanager
    def _changed(self, changes: Any) -> Iterator[None]:
        with ExitStack() as stack:
            for change in changes or ():
                stack.enter_context(change.applied(self._transformer.encoder.layers))
            yield

    def _add_plain(self, chunks: list[_Open], name: str, embedding: TokenEmbedding) -> None:
        chunk = self._with_room(chunks, embedding.length, name)
        chunk.embeddings.append((chunk.row, embedding))
        chunk.tokens += [self.filler] * embedding.length

    def _add(self, chunks: list[_Open], mention: TokenMention) -> None:
        name, token = mention.name, mention.item
        class_tokens = tuple(self.tokenize(mention.class_word))
        if not class_tokens:
            raise AlignITError(
                f"The class word '{mention.class_word}' of '{name}' has no letters that the text encoder "
                "knows: use another"
            )
        embedding = token.embedding if token is not None else None
        vectors = embedding.length if embedding is not None else 0
        words = tuple(self.tokenize(mention.words))
        changes = (token.encoder_change,) if token is not None and token.encoder_change is not None else ()

        def span(start: int) -> Span[TokenEmbedding | None]:
            return Span(name, start, class_tokens, vectors, embedding, words, changes)

        length = span(0).stop
        chunk = self._with_room(chunks, length, name)
        chunk.spans.append(span(chunk.row))
        chunk.tokens += [self.filler] * length

    def _with_room(self, chunks: list[_Open], length: int, name: str = "") -> _Open:
        if length > self.capacity:
            raise AlignITError(
                f"'{name}' takes {length} tokens, and {self.capacity} fit into a chunk of the prompt: "
                "use a shorter class word, or an embedding of fewer vectors"
            )
        if len(chunks[-1].tokens) + length > self.capacity:
            chunks.append(_Open())
        return chunks[-1]

    def _close(self, chunk: _Open, changes: EncoderChanges) -> Target:
        end, padding = self.tokenizer.eos_token_id, self.tokenizer.pad_token_id
        tokens = [self.tokenizer.bos_token_id, *chunk.tokens, end]
        tokens += [padding] * (self.capacity + 2 - len(tokens))
        closed = Chunk(tuple(tokens), (1.0,) * len(tokens), tuple(chunk.embeddings), changes)
        return TargetChunk(closed, tuple(chunk.spans), chunk.row)


class _Open:
    """A chunk that is being filled."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.spans: list[Span[TokenEmbedding | None]] = []
        self.embeddings: list[tuple[int, TokenEmbedding | None]] = []

    @property
    def row(self) -> int:
        """The row of the next token; the start token is row 0."""
        return 1 + len(self.tokens)


def _in_order(parts: Mapping[Any, Encoded], keys: Sequence[Any]) -> Encoded:
    """Join parts of a batch, by the key of each of its items. None has pooled vectors: SDXL's encoders never change."""
    items = {key: iter(part.rows) for key, part in parts.items()}
    return Encoded(torch.stack([next(items[key]) for key in keys]), None)


def text_encoders(pipe: Any) -> list[PipelineEncoder]:
    """Return a pipeline's text encoders, in the order in which it joins their rows.

    Raises:
        AlignITError: It has none that AlignIT works with.
    """
    found = [
        PipelineEncoder(pipe, suffix) for suffix in _KEYS if getattr(pipe, f"text_encoder{suffix}", None) is not None
    ]
    if not found:
        raise AlignITError("The pipeline has no text encoder: load it with one")
    return found
