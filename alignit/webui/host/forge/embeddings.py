"""The embeddings that are installed: each text encoder has a database of its own, made when a model is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alignit.webui.host.forge.model import loaded_engine, text_engines
from alignit.webui.host.ports import Embedding


class ForgeEmbeddings:
    """The database of the model's first text encoder; a `alignit.webui.host.ports.Embeddings`.

    SDXL's two encoders read the same files. One database for both gives one object for an embedding.
    """

    @property
    def _database(self) -> Any | None:
        engines = text_engines(loaded_engine())
        return engines[0][1].embeddings if engines else None

    @property
    def fitting(self) -> Mapping[str, Embedding]:
        """See `alignit.webui.host.ports.Embeddings`; none before a model is loaded."""
        return getattr(self._database, "word_embeddings", {})

    @property
    def passed_over(self) -> Mapping[str, Embedding]:
        """See `alignit.webui.host.ports.Embeddings`; none before a model is loaded."""
        return getattr(self._database, "skipped_embeddings", {})

    def at(self, tokens: list[int], position: int) -> tuple[Embedding | None, int | None]:
        """See `alignit.webui.host.ports.Embeddings`."""
        database = self._database
        if database is None:
            return None, None
        embedding, length = database.find_embedding_at_position(tokens, position)
        return embedding, length
