"""The concepts that are installed, of all methods."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from alignit.webui.networks.catversion import ADAPTERS
from alignit.webui.networks.deltas import DELTAS
from alignit.webui.networks.embeddings import all_embeddings

METHODS = "textual inversion", "Custom Diffusion", "CatVersion"


@dataclass(frozen=True)
class Installed:
    """A concept that is installed.

    Attributes:
        name: How it is named in prompts.
        method: One of `METHODS`.
        prompt: What to write into a prompt.
        file: Its file, if it has one.
        fits: Whether it fits the loaded model; None where that is known once it is used.
    """

    name: str
    method: str
    prompt: str
    file: str | Path | None
    fits: bool | None


def installed() -> Iterator[Installed]:
    """Yield the embeddings, Custom Diffusion files and CatVersion adapters that are installed."""
    embeddings, deltas, adapters = METHODS
    for embedding, fits in all_embeddings():
        yield Installed(embedding.name, embeddings, embedding.name, embedding.filename, fits)
    for library, method, prompt in ((DELTAS, deltas, "<delta:{}:1>"), (ADAPTERS, adapters, "<catversion:{}>")):
        for name, path in library.named().items():
            yield Installed(name, method, prompt.format(name), path, None)
