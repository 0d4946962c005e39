"""The text encoders of the WebUI: finding concepts in its token chunks, and encoding base and dummy prompts.

Every prompt line passes through `TextConditionalModel.forward` (the host's ``modules/sd_hijack_clip.py``) after styles,
wildcards, ``AND``, prompt editing and extra networks are resolved. `Encoding` takes its place for the time in which
the conditioning of a positive prompt is computed. It builds the base prompt's token chunks, lets the host's own loop
encode them, and writes the rows of the dummy prompts into the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Protocol

import torch
from modules import sd_hijack_open_clip, shared

from alignit.algorithm.conditioning import Injected, splice
from alignit.algorithm.controls import Controls
from alignit.algorithm.projections import row_strength
from alignit.algorithm.prompts import Chunk, Span, TargetChunk, base_chunk
from alignit.concepts.concept import EncoderPrefixes
from alignit.concepts.prefixes import prefixed
from alignit.concepts.weight_change import Change
from alignit.patches import replaced
from alignit.prompt.syntax import Mark
from alignit.webui.host.ports import UnsupportedEncoderError

__all__ = [
    "Concept",
    "DummyRows",
    "Encoding",
    "HostVocabulary",
    "Lookup",
    "UnsupportedEncoderError",
    "clip_layers",
    "embedding_names",
    "find_concepts",
    "single_token",
    "text_encoders",
    "token_tables",
    "token_texts",
]

DummyRows = dict[tuple[int, Chunk[Any]], torch.Tensor]
"""Rows of dummy prompts [77, width], by the encoder's number and the chunk."""


@dataclass(frozen=True)
class Concept:
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
    """

    name: str
    class_word: str
    embedding: Any
    change: Change | None = None
    encoder_change: EncoderPrefixes | None = None
    words: str = ""
    controls: Controls = field(default=Controls())
    filename: str | None = None


class Lookup(Protocol):
    """How names in a prompt become concepts."""

    def split(self, text: str) -> Iterator[str | Mark]:
        """Yield the parts of a text in order: plain text, and marks in angle brackets or names that count as such."""

    def mark(self, mark: Mark) -> Any | None:
        """Return the `Concept` of a mark in angle brackets; its plain embedding; or None: the mark is text."""

    def embedding(self, embedding: Any) -> Concept | None:
        """Return the concept of an embedding that the host found in the text; None: it stays a plain embedding."""


def text_encoders(sd_model: Any) -> list[Any]:
    """Return the model's text encoders, hijacked by the host, in the order in which it joins their outputs.

    Raises:
        UnsupportedEncoderError: The model has none that works on token chunks.
    """
    if getattr(sd_model, "is_sd3", False):
        raise UnsupportedEncoderError("Stable Diffusion 3 has no cross-attention to inject keys and values into")
    conditioner = getattr(sd_model, "conditioner", None)
    candidates = conditioner.embedders if conditioner is not None else [sd_model.cond_stage_model]
    encoders = [encoder for encoder in candidates if hasattr(encoder, "process_tokens")]
    if not encoders:
        raise UnsupportedEncoderError("this model's text encoder does not work on token chunks")
    return encoders


def clip_layers(encoder: Any) -> Sequence[Any]:
    """Return the layers of a text encoder from transformers, SD1's; none of another kind's."""
    transformer = getattr(getattr(encoder, "wrapped", None), "transformer", None)
    text_model = getattr(transformer, "text_model", None)
    return text_model.encoder.layers if text_model is not None else ()


def find_concepts(sd_model: Any, lookup: Lookup, text: str) -> list[TargetChunk[Any]]:
    """Cut a prompt text into chunks with the concepts found, and encode nothing.

    Raises:
        UnsupportedEncoderError: The model's text encoders cannot be used.
    """
    return _TargetView(text_encoders(sd_model)[0], lookup).target_chunks(text)[1]


def token_tables(sd_model: Any) -> dict[str, torch.Tensor]:
    """Return the token embeddings [V, width] of each text encoder, by its key in SDXL embeddings: clip_l, clip_g.

    Raises:
        UnsupportedEncoderError: The model's text encoders cannot be used, or take no embeddings.
    """
    return dict(_token_table(encoder) for encoder in text_encoders(sd_model))


def _token_table(encoder: Any) -> tuple[str, torch.Tensor]:
    for module in encoder.modules():
        key = getattr(module, "textual_inversion_key", None)
        if key is not None:
            return key, module.wrapped.weight
    raise UnsupportedEncoderError("this model's text encoder takes no embeddings")


@dataclass(frozen=True)
class _Placeholder:
    """What the host's `tokenize_line` takes for an embedding, and records with its place in the chunk."""

    concept: Concept
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


class _TargetView:
    """An encoder as its own `tokenize_line` sees it while the target prompt is cut into chunks.

    The encoder itself is not touched: the host's function runs with this object as `self`.
    """

    def __init__(self, encoder: Any, lookup: Lookup) -> None:
        self._encoder = encoder
        self._lookup = lookup
        self._marks: list[Any] = []
        self.found_any = False
        self.hijack = SimpleNamespace(embedding_db=self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokenize as the host does, with one negative id for each mark that is a concept or an embedding.

        A mark cut out before the tokenizer sees it cannot merge with its neighbours: in "a <sks>, dog" the
        tokenizer makes one token of ``>,``.
        """
        return [self._tokenize_text(text) for text in texts]

    def _tokenize_text(self, text: str) -> list[int]:
        ids: list[int] = []
        literal = ""
        for part in self._lookup.split(text):
            found = None if isinstance(part, str) else self._lookup.mark(part)
            if found is None:
                literal += part if isinstance(part, str) else part.text
                continue
            if literal:
                ids += self._encoder.tokenize([literal])[0]
                literal = ""
            self._marks.append(found)
            self.found_any = True
            ids.append(-len(self._marks))
        if literal or not ids:
            ids += self._encoder.tokenize([literal])[0]
        return ids

    def find_embedding_at_position(self, tokens: list[int], position: int) -> tuple[Any, int | None]:
        """Stand in for the host's embedding database, and give placeholders for concepts."""
        if tokens[position] < 0:
            found, length = self._marks[-tokens[position] - 1], 1
        else:
            database = self._encoder.hijack.embedding_db
            found, length = database.find_embedding_at_position(tokens, position)
            if found is None:
                return None, None
            found = self._lookup.embedding(found) or found
        if isinstance(found, Concept):
            self.found_any = True
            class_word, words = map(tuple, self._encoder.tokenize([found.class_word, found.words]))
            found = _Placeholder(found, class_word, words)
        return found, length

    def target_chunks(self, line: str) -> tuple[list[Any], list[TargetChunk[Any]], int]:
        """Cut a prompt line into chunks: the host's own, ours with the concepts found, and the token count."""
        chunks, token_count = type(self._encoder).tokenize_line(self, line)
        return chunks, _target_chunks(chunks, self._encoder.id_end), token_count


def _target_chunks(chunks: Sequence[Any], id_end: int) -> list[TargetChunk[Any]]:
    text_stops = [_text_stop(chunk.tokens, id_end) for chunk in chunks]
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


def _text_stop(tokens: Sequence[int], id_end: int) -> int:
    stop = len(tokens)
    while stop > 1 and tokens[stop - 1] == id_end:
        stop -= 1
    return stop


class Encoding:
    """Computes the conditioning of positive prompts with concepts injected.

    Attributes:
        injected: What was injected by the last `run`, one entry for each prompt text that holds a concept.
    """

    def __init__(
        self, sd_model: Any, lookup: Lookup, concept: Callable[[str], Concept], encoded: DummyRows | None = None
    ) -> None:
        """Prepare for a model.

        Args:
            sd_model: The host's model.
            lookup: Finds the concepts.
            concept: Gives a concept that was found, by its name.
            encoded: Rows of dummy prompts that were encoded with the text encoders as they are now; new ones are added.

        Raises:
            UnsupportedEncoderError: The model's text encoders cannot be used.
        """
        if getattr(shared.opts, "use_old_emphasis_implementation", False):
            raise UnsupportedEncoderError(
                "the setting 'Use old emphasis implementation' is on; turn it off for AlignIT"
            )
        self.injected: list[Injected] = []
        self._encoders = text_encoders(sd_model)
        self._lookup = lookup
        self._concept = concept
        self._encoded = {} if encoded is None else encoded
        self._outputs: list[tuple[torch.Tensor, list[dict[int, str]]]] = []

    def run(self, get_learned_conditioning: Callable[[Any], Any], texts: Any) -> Any:
        """Return what the host's `get_learned_conditioning` does for these texts, with the concepts injected.

        Texts in which no concept is found are encoded by the host alone.
        """
        self.injected = []
        self._outputs = []
        with ExitStack() as patches:
            for encoder in self._encoders:
                patches.enter_context(replaced(encoder, "forward", self._forward(encoder, encoder.forward)))
            conditioning = get_learned_conditioning(texts)
        if self._outputs:
            crossattn = conditioning["crossattn"] if isinstance(conditioning, dict) else conditioning
            self._record(list(texts), crossattn)
        return conditioning

    def _forward(self, encoder: Any, original: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def forward(texts: Any) -> Any:
            view = _TargetView(encoder, self._lookup)
            lines = {line: view.target_chunks(line) for line in dict.fromkeys(texts)}
            prompts = [lines[line][1] for line in texts]
            if not view.found_any:
                return original(texts)
            host_chunks = [_host_chunks(*lines[line][:2]) for line in texts]
            token_count = max(count for _, _, count in lines.values())
            with replaced(encoder, "process_texts", lambda _texts: (host_chunks, token_count)):
                output = original(texts)
            base = output[0] if isinstance(output, tuple) else output
            spliced, rows = splice(base, prompts, self._filler(encoder), self._encode(encoder), self._strength)
            self._outputs.append((base, rows))
            return (spliced, *output[1:]) if isinstance(output, tuple) else spliced

        return forward

    def _strength(self, name: str) -> float:
        concept = self._concept(name)
        return row_strength(concept.controls, concept.change is not None)

    def _filler(self, encoder: Any) -> Callable[[str], int]:
        def filler(name: str) -> int:
            text = self._concept(name).controls.filler
            token = single_token(encoder, text)
            if token is None:
                raise UnsupportedEncoderError(f"this model's text encoder has no single token for '{text}'")
            return token

        return filler

    def _encode(self, encoder: Any) -> Callable[[Chunk[Any]], torch.Tensor]:
        def encode(chunk: Chunk[Any]) -> torch.Tensor:
            key = self._encoders.index(encoder), chunk
            if key not in self._encoded:
                self._encoded[key] = _encode(encoder, chunk)
            return self._encoded[key]

        return encode

    def _record(self, texts: list[str], crossattn: torch.Tensor) -> None:
        # SDXL joins the rows of its two encoders, and so do we; both find the same concepts in the same rows.
        base = torch.cat([output for output, _ in self._outputs], dim=-1)
        all_rows = self._outputs[0][1]
        if base.shape != crossattn.shape or any(rows != all_rows for _, rows in self._outputs):
            raise UnsupportedEncoderError("this model's text encoders do not agree on where the concepts stand")
        for index, rows in enumerate(all_rows):
            if rows and texts[index] not in texts[:index]:
                self.injected.append(Injected(crossattn[index], base[index].to(crossattn), rows))


def token_texts(encoder: Any, tokens: Sequence[int]) -> list[str]:
    """Return the text of each token."""
    vocabulary = HostVocabulary(encoder)
    return [vocabulary.text([token]).strip() for token in tokens]


def embedding_names(chunk: Chunk[Any]) -> dict[int, str]:
    """Return the name of the embedding at each row of a chunk that is one's."""
    return {
        row: str(embedding.name)
        for start, embedding in chunk.embeddings
        for row in range(start, start + int(embedding.vectors))
    }


class HostVocabulary:
    """What an encoder's tokens mean: a `alignit.maps.words.Vocabulary`."""

    def __init__(self, encoder: Any) -> None:
        self._encoder = encoder
        self._tokenizer = getattr(encoder, "tokenizer", None) or sd_hijack_open_clip.tokenizer

    def tokens(self, text: str) -> Sequence[int]:
        """Return the tokens of a text."""
        ids: Sequence[int] = self._encoder.tokenize([text])[0]
        return ids

    def text(self, tokens: Sequence[int]) -> str:
        """Return the text of some tokens."""
        return str(self._tokenizer.decode(list(tokens)))

    def ends_word(self, token: int) -> bool:
        """Say whether a word ends with a token, as CLIP's vocabulary says in the token's name."""
        return str(self._tokenizer.decoder.get(token, "</w>")).endswith("</w>")


def single_token(encoder: Any, text: str) -> int | None:
    """Return the id of a text's only token, or None where it has more than one or none."""
    ids = encoder.tokenize([text])[0]
    return int(ids[0]) if len(ids) == 1 else None


def _host_chunks(chunks: Sequence[Any], targets: Sequence[TargetChunk[Any]]) -> list[Any]:
    """Write the base prompt into the host's chunks, which are this call's own."""
    for chunk, target in zip(chunks, targets, strict=True):
        chunk.tokens = list(base_chunk(target).tokens)
        chunk.fixes = [fix for fix in chunk.fixes if not isinstance(fix[1], _Placeholder)]
    return list(chunks)


def _encode(encoder: Any, chunk: Chunk[Any]) -> torch.Tensor:
    """Encode a dummy prompt's chunk, [77, width], as the host would encode that prompt on its own."""
    hijack = encoder.hijack
    change = chunk.encoder_change
    prefixes = change.layers if isinstance(change, EncoderPrefixes) else {}
    hijack.fixes = [[(row - 1, embedding) for row, embedding in chunk.embeddings]]
    try:
        with prefixed(clip_layers(encoder), prefixes):
            rows: torch.Tensor = encoder.process_tokens([list(chunk.tokens)], [list(chunk.multipliers)])[0]
    finally:
        # A global of the host: left set, the next text would get these vectors.
        hijack.fixes = None
    return rows
