"""The embeddings that are installed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alignit.webui.host.ports import Embedding


class A1111Embeddings:
    """The host's database; a `alignit.webui.host.ports.Embeddings`."""

    @property
    def _database(self) -> Any:
        from modules import sd_hijack

        return sd_hijack.model_hijack.embedding_db

    @property
    def fitting(self) -> Mapping[str, Embedding]:
        """See `alignit.webui.host.ports.Embeddings`."""
        embeddings: Mapping[str, Embedding] = self._database.word_embeddings
        return embeddings

    @property
    def passed_over(self) -> Mapping[str, Embedding]:
        """See `alignit.webui.host.ports.Embeddings`."""
        embeddings: Mapping[str, Embedding] = self._database.skipped_embeddings
        return embeddings

    def at(self, tokens: list[int], position: int) -> tuple[Embedding | None, int | None]:
        """See `alignit.webui.host.ports.Embeddings`."""
        embedding, length = self._database.find_embedding_at_position(tokens, position)
        return embedding, length
