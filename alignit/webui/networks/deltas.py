"""Custom Diffusion in the prompt: ``<delta:NAME:strength>``, with the files in ``models/deltas``.

The syntax and the folder are those of the extension custom-diffusion-webui. Where it is off, AlignIT does what Custom
Diffusion itself does: the changed weights for every token, in the form of hooks; the model's weights are never written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch

from alignit.concepts.concept import Concept as ConceptFile
from alignit.concepts.concept import ConceptFileError, TokenEmbedding
from alignit.concepts.formats import Outline
from alignit.concepts.formats.custom_diffusion import NO_TOKEN, is_token_file
from alignit.concepts.weight_change import Change
from alignit.prompt.syntax import name_key
from alignit.webui.host import host
from alignit.webui.networks.embeddings import find_embedding, is_installed
from alignit.webui.networks.library import Library, load_fitting
from alignit.webui.settings import deltas_folder

NETWORK = "delta"
_DELTA = ".delta.safetensors"
_SUFFIXES = (_DELTA, ".safetensors", ".ckpt", ".pt", ".bin")


def _names(path: Path) -> tuple[str, ...]:
    file = path.name
    suffix = next((suffix for suffix in _SUFFIXES if file.lower().endswith(suffix)), None)
    if suffix is None or is_token_file(file):
        return ()
    if suffix not in (_DELTA, ".ckpt") and path.with_name(file[: -len(suffix)] + _DELTA).is_file():
        return ()  # the token of that one
    # custom-diffusion-webui's own names of NAME.delta.safetensors end in ".delta".
    return tuple(dict.fromkeys((file[: -len(suffix)], path.stem, file)))


DELTAS = Library(deltas_folder, _names)


@dataclass(frozen=True, eq=False)
class Embedding:
    """A token of a concept's file in the shape of the host's own embeddings.

    Attributes:
        name: The token, ``<new1>``.
        vec: Its vectors [n, width]; by text encoder in SDXL.
        vectors: How many, n.
        filename: The concept's file.
        shorthash: None: the host hashes embeddings' files, not these.
    """

    name: str
    vec: torch.Tensor | Mapping[str, torch.Tensor]
    vectors: int
    filename: str
    shorthash: str | None = None


@dataclass(frozen=True, eq=False)
class Delta:
    """A Custom Diffusion concept that is active in a prompt.

    Attributes:
        name: Its name in ``<delta:NAME>``.
        embeddings: Its tokens; the host's embedding of the same name where its file has none.
        change: Its weights, at the strength of the prompt.
        filename: Its file.
    """

    name: str
    embeddings: tuple[Any, ...]
    change: Change
    filename: str


def find_token(deltas: Sequence[Delta], name: str) -> tuple[Delta, Any] | None:
    """Return the delta that has a token of this name, and the token's embedding; the last one where several have it."""
    for delta in reversed(deltas):
        for embedding in delta.embeddings:
            if name_key(embedding.name) == name_key(name):
                return delta, embedding
    return None


def load_delta(name: str, arguments: Sequence[str], say: Callable[[str], None]) -> Delta:
    """Return the delta of ``<delta:NAME:strength>``.

    Args:
        name: Its name.
        arguments: What follows the name.
        say: Tells the user what is doubtful about it.

    Raises:
        ConceptFileError: It cannot be used, or not with the loaded model.
    """
    path = DELTAS.find(name)
    try:
        strength = float(arguments[0]) if arguments else 1.0
    except ValueError:
        raise ConceptFileError(path, f"has the strength '{arguments[0]}' in the prompt", "Write a number") from None
    concept = load_fitting(path, say)
    if concept.weights is None:
        raise ConceptFileError(path, "has no key and value weights", "Put an embedding into the embeddings folder")
    embeddings: tuple[Any, ...] = _embeddings(concept)
    if not embeddings:
        sibling = find_embedding(name) or find_embedding(concept.name)
        embeddings = (sibling,) if sibling is not None else ()
    for note in concept.notes:
        if note != NO_TOKEN or not embeddings:
            say(f"'{path.name}': {note}.")
    return Delta(name, embeddings, Change(concept.weights, strength), str(path))


def tokens_of(name: str, outline: Outline) -> tuple[str, ...]:
    """Return the names of a delta's tokens, as far as they are known without reading it."""
    return outline.tokens or ((name,) if is_installed(name) else ())


def _embeddings(concept: ConceptFile) -> tuple[Embedding, ...]:
    # The same objects each time: what was encoded with one is found again by it.
    if concept not in _made:
        _made[concept] = tuple(_as_embedding(token, concept.path) for token in concept.tokens)
    return _made[concept]


_made: WeakKeyDictionary[ConceptFile, tuple[Embedding, ...]] = WeakKeyDictionary()


def _as_embedding(token: TokenEmbedding, path: Path) -> Embedding:
    device = host().model().device
    vectors = {key: vector.to(device) for key, vector in token.vectors.items()}
    vec = vectors if len(vectors) > 1 else next(iter(vectors.values()))
    return Embedding(token.name, vec, token.length, str(path))
