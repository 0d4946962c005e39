"""Its text encoders, on which the host's `TextConditionalModel` stands (``modules/sd_hijack_clip.py``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch

from alignit.patches import replaced
from alignit.webui.host.ports import Embedding, HostChunk, PromptReader, Rewritten, UnsupportedEncoderError


class A1111TextEncoder:
    """A text encoder of the host; a `alignit.webui.host.ports.TextEncoder`."""

    def __init__(self, encoder: Any) -> None:
        """Take the host's own object."""
        self._encoder = encoder

    @property
    def vocabulary(self) -> type:
        """See `alignit.webui.host.ports.TextEncoder`; the host has a class for each kind of text encoder."""
        return type(self._encoder)

    @property
    def end_token(self) -> int:
        """See `alignit.webui.host.ports.TextEncoder`."""
        return int(self._encoder.id_end)

    @property
    def token_table(self) -> tuple[str, torch.Tensor]:
        """See `alignit.webui.host.ports.TextEncoder`."""
        for module in self._encoder.modules():
            key = getattr(module, "textual_inversion_key", None)
            if key is not None:
                return key, module.wrapped.weight
        raise UnsupportedEncoderError("this model's text encoder takes no embeddings")

    @property
    def clip_layers(self) -> Sequence[torch.nn.Module]:
        """See `alignit.webui.host.ports.TextEncoder`."""
        transformer = getattr(getattr(self._encoder, "wrapped", None), "transformer", None)
        text_model = getattr(transformer, "text_model", None)
        layers: Sequence[torch.nn.Module] = text_model.encoder.layers if text_model is not None else ()
        return layers

    @property
    def _tokenizer(self) -> Any:
        own = getattr(self._encoder, "tokenizer", None)
        if own is not None:
            return own
        try:
            from modules.sd_hijack_open_clip import tokenizer
        except ImportError:
            raise UnsupportedEncoderError("this WebUI lacks the vocabulary of the model's text encoder") from None
        return tokenizer

    def tokens(self, text: str) -> list[int]:
        """See `alignit.webui.host.ports.TextEncoder`."""
        ids: list[int] = self._encoder.tokenize([text])[0]
        return ids

    def text(self, tokens: Sequence[int]) -> str:
        """See `alignit.webui.host.ports.TextEncoder`."""
        return str(self._tokenizer.decode(list(tokens)))

    def ends_word(self, token: int) -> bool:
        """See `alignit.webui.host.ports.TextEncoder`; CLIP's vocabulary says it in the token's name."""
        return str(self._tokenizer.decoder.get(token, "</w>")).endswith("</w>")

    def chunks(self, line: str, reader: PromptReader) -> tuple[list[HostChunk], int]:
        """See `alignit.webui.host.ports.TextEncoder`."""
        chunks, token_count = type(self._encoder).tokenize_line(_Reading(self._encoder, reader), line)
        return chunks, token_count

    def encode(
        self, tokens: Sequence[int], multipliers: Sequence[float], embeddings: Sequence[tuple[int, Embedding]]
    ) -> torch.Tensor:
        """See `alignit.webui.host.ports.TextEncoder`."""
        hijack = self._encoder.hijack
        # The host counts rows without the start token.
        hijack.fixes = [[(row - 1, embedding) for row, embedding in embeddings]]
        try:
            rows: torch.Tensor = self._encoder.process_tokens([list(tokens)], [list(multipliers)])[0]
        finally:
            # A global of the host: left set, the next text would get these vectors.
            hijack.fixes = None
        return rows

    @contextmanager
    def rewriting(self, rewrite: Callable[[Sequence[str]], Rewritten | None]) -> Iterator[None]:
        """See `alignit.webui.host.ports.TextEncoder`."""
        encoder, original = self._encoder, self._encoder.forward

        def forward(texts: Any) -> Any:
            rewritten = rewrite(texts)
            if rewritten is None:
                return original(texts)
            process_texts = encoder.process_texts

            def rewritten_texts(asked: Any) -> Any:
                # An extension can have other texts processed from within this call.
                return (rewritten.chunks, rewritten.token_count) if asked is texts else process_texts(asked)

            with replaced(encoder, "process_texts", rewritten_texts):
                output = original(texts)
            # SDXL's second encoder returns its pooled vector as well.
            if isinstance(output, tuple):
                return (rewritten.edit(output[0]), *output[1:])
            return rewritten.edit(output)

        with replaced(encoder, "forward", forward):
            yield


class _Reading:
    """An encoder as its own `tokenize_line` sees it while it cuts a prompt; the encoder itself is not touched."""

    def __init__(self, encoder: Any, reader: PromptReader) -> None:
        self._encoder = encoder
        self._reader = reader
        self.hijack = SimpleNamespace(embedding_db=SimpleNamespace(find_embedding_at_position=reader.embedding))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        return [self._reader.tokens(text) for text in texts]
