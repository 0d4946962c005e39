"""The embeddings that the WebUI has loaded, by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from modules import sd_hijack

from alignit.suggestions import suggest_class_words
from alignit.webui.encoders import text_encoders, token_table


def find_embedding(name: str) -> Any | None:
    """Return the embedding of this name for the loaded model, or None.

    Names are compared without regard to case, as the host compares them in a prompt; ``my-cat`` also finds an
    embedding whose own name is in angle brackets, as the paper and diffusers write it.
    """
    return _by_name(sd_hijack.model_hijack.embedding_db.word_embeddings, name)


def find_embedding_name(name: str) -> str | None:
    """Return the name under which an embedding is installed for the loaded model, or None."""
    embedding = find_embedding(name)
    return None if embedding is None else str(embedding.name)


def is_for_another_model(name: str) -> bool:
    """Say whether an embedding of this name is installed, but does not fit the loaded model."""
    return _by_name(sd_hijack.model_hijack.embedding_db.skipped_embeddings, name) is not None


def unfit_embeddings_in(text: str) -> list[str]:
    """Return the names in a prompt of embeddings that are installed, but do not fit the loaded model."""
    skipped = sd_hijack.model_hijack.embedding_db.skipped_embeddings
    return [name for name in skipped if re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text, re.IGNORECASE)]


def embedding_in_tokens(tokens: list[int]) -> Any | None:
    """Return the first embedding that the host would find in these tokens, or None."""
    database = sd_hijack.model_hijack.embedding_db
    found = (database.find_embedding_at_position(tokens, position)[0] for position in range(len(tokens)))
    return next((embedding for embedding in found if embedding is not None), None)


def nearest_class_words(sd_model: Any, embedding: Any) -> list[str]:
    """Suggest class words for an embedding, nearest first."""
    encoders = text_encoders(sd_model)
    tables: dict[str, torch.Tensor] = dict(token_table(encoder) for encoder in encoders)
    vec = embedding.vec
    vectors = vec if isinstance(vec, Mapping) else dict.fromkeys(tables, vec)
    return suggest_class_words(vectors, tables, encoders[0].tokenize)


def _by_name(embeddings: Mapping[str, Any], name: str) -> Any | None:
    wanted = {name.lower(), f"<{name.lower()}>"}
    return next((embedding for key, embedding in embeddings.items() if key.lower() in wanted), None)
