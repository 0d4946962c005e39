"""Custom Diffusion in the prompt: ``<delta:NAME:strength>``, with the files in ``models/deltas``.

The syntax and the folder are those of the extension custom-diffusion-webui. Where AlignIT is off it does what Custom
Diffusion itself does: the changed weights for every token, in the form of hooks; the model's weights are never written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch

from alignit.concepts.concept import Concept, ConceptFileError, Family, TokenEmbedding
from alignit.concepts.formats import Outline
from alignit.concepts.formats.custom_diffusion import NO_TOKEN, is_token_file
from alignit.concepts.weight_change import Change
from alignit.prompt.syntax import Mark, in_prompt, split
from alignit.webui.host import host
from alignit.webui.networks.embeddings import find_embedding, is_installed
from alignit.webui.networks.library import load_fitting
from alignit.webui.networks.network import CardField, Folder, Network, NetworkConcept, Reference, Say

_DELTA = ".delta.safetensors"
_SUFFIXES = (_DELTA, ".safetensors", ".ckpt", ".pt", ".bin")


@dataclass(frozen=True, eq=False)
class FileEmbedding:
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


def _file_names(path: Path) -> tuple[str, ...]:
    file = path.name
    suffix = next((suffix for suffix in _SUFFIXES if file.lower().endswith(suffix)), None)
    if suffix is None or is_token_file(file):
        return ()
    if suffix not in (_DELTA, ".ckpt") and path.with_name(file[: -len(suffix)] + _DELTA).is_file():
        return ()  # the token of that one
    # custom-diffusion-webui's own names of NAME.delta.safetensors end in ".delta".
    return tuple(dict.fromkeys((file[: -len(suffix)], path.stem, file)))


def _load(reference: Reference, say: Say) -> NetworkConcept:
    path, strength = reference.path, DELTA.strength(reference)
    concept = load_fitting(path, say)
    if concept.weights is None:
        raise ConceptFileError(path, "has no key and value weights", "Put an embedding into the embeddings folder")
    tokens: tuple[Any, ...] = _embeddings(concept)
    if not tokens:
        sibling = find_embedding(reference.name) or find_embedding(concept.name)
        tokens = (sibling,) if sibling is not None else ()
    for note in concept.notes:
        if note != NO_TOKEN or not tokens:
            say(f"'{path.name}': {note}.")
    return NetworkConcept(DELTA, reference.name, str(path), tokens, Change(concept.weights, strength))


def _embeddings(concept: Concept) -> tuple[FileEmbedding, ...]:
    # The same objects each time: what was encoded with one is found again by it.
    if concept not in _made:
        _made[concept] = tuple(_as_embedding(token, concept.path) for token in concept.tokens)
    return _made[concept]


_made: WeakKeyDictionary[Concept, tuple[FileEmbedding, ...]] = WeakKeyDictionary()


def _as_embedding(token: TokenEmbedding, path: Path) -> FileEmbedding:
    device = host().model().device
    vectors = {key: vector.to(device) for key, vector in token.vectors.items()}
    vec = vectors if len(vectors) > 1 else next(iter(vectors.values()))
    return FileEmbedding(token.name, vec, token.length, str(path))


def _tokens_of(name: str, outline: Outline) -> tuple[str, ...]:
    return outline.tokens or ((name,) if is_installed(name) else ())


def _unused(concept: NetworkConcept, _class_word: str | None) -> str:
    token = concept.tokens[0].name if concept.tokens else "the name of its embedding"
    return (
        f"<delta:{concept.name}> is in the prompt, but no token of it with a class word is: write {token} and a class "
        "word. Nothing of it is used."
    )


def _card_words(_name: str, token: str | None, class_word: str | None) -> list[str]:
    """Return the token in angle brackets, after which a class word may follow; none for one that no prompt can hold."""
    mark = f"<{in_prompt(token.strip('<>'))}>" if token else ""
    written = list(split(mark)) == [Mark(mark[1:-1].strip(), None, mark)]
    return [*([mark] if written else []), *([class_word] if class_word else [])]


DELTA = Network(
    keyword="delta",
    family=Family.CUSTOM_DIFFUSION,
    # custom-diffusion-webui defines the flag, where it is installed.
    folder=Folder("alignit_deltas_folder", "Folder with Custom Diffusion files", "deltas", flag="deltas_dir"),
    file_names=_file_names,
    load=_load,
    has_tokens=True,
    has_strength=True,
    unused=_unused,
    card_words=_card_words,
    tokens_of=_tokens_of,
    card_fields=(CardField.TOKEN, CardField.STRENGTH),
)
