"""The concepts that are installed, of all methods."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from alignit.concepts.concept import Family
from alignit.webui.networks.embeddings import all_embeddings, written_name
from alignit.webui.networks.table import NETWORKS


@dataclass(frozen=True)
class Installed:
    """A concept that is installed.

    Attributes:
        name: How it is named in prompts.
        method: Its method, as users know it.
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
    """Yield the embeddings that are installed, and the networks' files."""
    for embedding, fits in all_embeddings():
        written = written_name(embedding.name)
        yield Installed(embedding.name, Family.TEXTUAL_INVERSION.value, written, embedding.filename, fits)
    for network in NETWORKS:
        for name, path in network.library.named().items():
            yield Installed(name, network.method, network.mark(name), path, None)
