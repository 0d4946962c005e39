from __future__ import annotations

from types import SimpleNamespace
from typing import Any


class EmbeddingDatabase:
    """The embeddings that are installed."""

    def __init__(self) -> None:
        self.word_embeddings: dict[str, Any] = {}
        self.skipped_embeddings: dict[str, Any] = {}
        self._ids: list[tuple[list[int], Any]] = []

    def register(self, embedding: Any, ids: list[int]) -> None:
        self.word_embeddings[embedding.name] = embedding
        self._ids = sorted([*self._ids, (ids, embedding)], key=lambda entry: len(entry[0]), reverse=True)

    def find_embedding_at_position(self, tokens: list[int], offset: int) -> tuple[Any, int | None]:
        for ids, embedding in self._ids:
            if tokens[offset : offset + len(ids)] == ids:
                return embedding, len(ids)
        return None, None


model_hijack = SimpleNamespace(embedding_db=EmbeddingDatabase(), extra_generation_params={}, fixes=None)
