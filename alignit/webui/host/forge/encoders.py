"""Its text encoders, the host's `ClassicTextProcessingEngine` (``backend/text_processing/classic_engine.py``)."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch

from alignit.patches import replaced
from alignit.webui.host.ports import Embedding, HostChunk, PromptReader, Rewritten, UnsupportedEncoderError


class ForgeTextEncoder:
    """A text encoder of the host; a `alignit.webui.host.ports.TextEncoder`."""

    def __init__(self, sd_model: Any, name: str) -> None:
        """Take the host's model, and the name of the engine in it."""
        self._sd_model = sd_model
        self._name = name
        self._engine = getattr(sd_model, name)

    @property
    def vocabulary(self) -> Hashable:
        """See `alignit.webui.host.ports.TextEncoder`; the key says whose text encoder it is."""
        return str(self._engine.embedding_key)

    @property
    def end_token(self) -> int:
        """See `alignit.webui.host.ports.TextEncoder`."""
        return int(self._engine.id_end)

    @property
    def token_table(self) -> tuple[str, torch.Tensor]:
        """See `alignit.webui.host.ports.TextEncoder`."""
        for module in self._engine.text_encoder.modules():
            key = getattr(module, "textual_inversion_key", None)
            if key is not None:
                return key, module.wrapped.weight
        raise UnsupportedEncoderError("this model's text encoder takes no embeddings")

    @property
    def clip_layers(self) -> Sequence[torch.nn.Module]:
        """See `alignit.webui.host.ports.TextEncoder`; the larger ones, of SD 2 and SDXL, are CLIP's as well here."""
        if self._engine.embedding_key != "clip_l":
            return ()
        layers: Sequence[torch.nn.Module] = self._engine.text_encoder.transformer.text_model.encoder.layers
        return layers

    def tokens(self, text: str) -> list[int]:
        """See `alignit.webui.host.ports.TextEncoder`."""
        ids: list[int] = self._engine.tokenize([text])[0]
        return ids

    def text(self, tokens: Sequence[int]) -> str:
        """See `alignit.webui.host.ports.TextEncoder`."""
        return str(self._engine.tokenizer.decode(list(tokens)))

    def ends_word(self, token: int) -> bool:
        """See `alignit.webui.host.ports.TextEncoder`; CLIP's vocabulary says it in the token's name."""
        return str(self._engine.tokenizer.convert_ids_to_tokens(token)).endswith("</w>")

    def chunks(self, line: str, reader: PromptReader) -> tuple[list[HostChunk], int]:
        """See `alignit.webui.host.ports.TextEncoder`."""
        chunks, token_count = type(self._engine).tokenize_line(_Reading(self._engine, reader), line)
        return chunks, token_count

    def encode(
        self, tokens: Sequence[int], multipliers: Sequence[float], embeddings: Sequence[tuple[int, Embedding]]
    ) -> torch.Tensor:
        """See `alignit.webui.host.ports.TextEncoder`."""
        database = self._engine.embeddings
        # The host counts rows without the start token.
        database.fixes = [[(row - 1, embedding) for row, embedding in embeddings]]
        try:
            rows: torch.Tensor = self._engine.process_tokens([list(tokens)], [list(multipliers)])[0]
        finally:
            # Left set, the next text would get these vectors.
            database.fixes = None
        return rows

    @contextmanager
    def rewriting(self, rewrite: Callable[[Sequence[str]], Rewritten | None]) -> Iterator[None]:
        """See `alignit.webui.host.ports.TextEncoder`."""
        engine = self._engine

        def call(texts: Any) -> Any:
            rewritten = rewrite(texts)
            if rewritten is None:
                return engine(texts)
            with replaced(engine, "process_texts", lambda _texts: (rewritten.chunks, rewritten.token_count)):
                output = engine(texts)
            # SDXL's second encoder returns its pooled vector as well.
            if isinstance(output, tuple):
                return (rewritten.edit(output[0]), *output[1:])
            return rewritten.edit(output)

        # A call of an object is looked up in its class, so that another object has to stand in its place.
        with replaced(self._sd_model, self._name, _Standing(engine, call)):
            yield


class _Standing:
    """Stands in the place of an engine: it is called otherwise, and is the engine in everything else."""

    def __init__(self, engine: Any, call: Callable[[Any], Any]) -> None:
        self.__dict__.update(_engine=engine, _call=call)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._engine, name, value)

    def __call__(self, texts: Any) -> Any:
        return self._call(texts)


class _Reading:
    """An engine as its own `tokenize_line` sees it while it cuts a prompt; the engine itself is not touched."""

    def __init__(self, engine: Any, reader: PromptReader) -> None:
        self._engine = engine
        self._reader = reader
        self.embeddings = SimpleNamespace(find_embedding_at_position=reader.embedding)

    @property
    def emphasis(self) -> Any:
        from backend.text_processing import emphasis
        from modules import shared

        # As the setting is now: the engine's own is that of its last call.
        return emphasis.get_current_option(shared.opts.emphasis)()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        return [self._reader.tokens(text) for text in texts]
