"""Custom Diffusion in the prompt: ``<delta:NAME:strength>``, with the files in ``models/deltas``.

The syntax and the folder are those of the extension custom-diffusion-webui. Where it is off, AlignIT does what Custom
Diffusion itself does: the changed weights for every token, in the form of hooks; the model's weights are never written.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from modules import devices, extra_networks, paths, shared

from alignit.concept import Concept as ConceptFile
from alignit.concept import ConceptFileError, ModelShapes, TokenEmbedding
from alignit.formats import load_concept
from alignit.layer_names import layer_of
from alignit.projections import Change
from alignit.syntax import name_key
from alignit.webui.embeddings import find_embedding
from alignit.webui.encoders import token_tables
from alignit.webui.settings import cache_bytes

NETWORK = "delta"
_SUFFIXES = (".delta.safetensors", ".safetensors", ".ckpt", ".pt", ".bin")


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
    """

    name: str
    embeddings: tuple[Any, ...]
    change: Change


class DeltaNetwork(extra_networks.ExtraNetwork):  # type: ignore[misc]
    """Makes the host take ``<delta:...>`` out of prompts; what is to be done is done by the generation's `Job`."""

    def __init__(self) -> None:
        super().__init__(NETWORK)

    def activate(self, p: Any, params_list: list[Any]) -> None:
        """Do nothing: see `active_deltas`."""

    def deactivate(self, p: Any) -> None:
        """Do nothing: a job ends with its processing object."""


def active_deltas(extra_network_data: Mapping[str, Any] | None, say: Callable[[str], None]) -> list[Delta]:
    """Return the deltas of a prompt that fit the loaded model, in order; say what is wrong with the others."""
    deltas = []
    for params in (extra_network_data or {}).get(NETWORK, []):
        name = params.positional[0] if params.positional else ""
        try:
            deltas.append(_load(name, params.positional[1:], say))
        except ConceptFileError as error:
            say(f"{error} The picture is made without <delta:{name}>.")
    return deltas


def find_token(deltas: Sequence[Delta], name: str) -> tuple[Delta, Any] | None:
    """Return the delta that has a token of this name, and the token's embedding; the last one where several have it."""
    for delta in reversed(deltas):
        for embedding in delta.embeddings:
            if name_key(embedding.name) == name_key(name):
                return delta, embedding
    return None


def deltas_folder() -> Path:
    """Return the folder with Custom Diffusion files."""
    # custom-diffusion-webui defines the flag, where it is installed.
    return Path(getattr(shared.cmd_opts, "deltas_dir", None) or Path(paths.models_path) / "deltas")


def find_delta(name: str) -> Path | None:
    """Return the file of a delta, by its name without extension and without regard to case, or None."""
    wanted = name.lower()
    for folder, _, files in os.walk(deltas_folder(), followlinks=True):
        for file in sorted(files):
            suffix = next((suffix for suffix in _SUFFIXES if file.lower().endswith(suffix)), None)
            # custom-diffusion-webui's own names of NAME.delta.safetensors end in ".delta".
            if suffix and wanted in (file.lower(), file.lower().removesuffix(suffix), Path(file).stem.lower()):
                return Path(folder) / file
    return None


def _load(name: str, positional: list[str], say: Callable[[str], None]) -> Delta:
    path = find_delta(name)
    if path is None:
        raise ConceptFileError(Path(name), "is not in the folder of deltas", f"Put it into {deltas_folder().name}")
    try:
        strength = float(positional[0]) if positional else 1.0
    except ValueError:
        raise ConceptFileError(path, f"has the strength '{positional[0]}' in the prompt", "Write a number") from None
    concept = _cached(path)
    if concept.weights is None:
        raise ConceptFileError(path, "has no key and value weights", "Put an embedding into the embeddings folder")
    layers = _live_layers()
    concept.check_against(_model_shapes(layers))
    doubt = concept.weights.doubt(layers)
    if doubt:
        say(f"'{path.name}': {doubt}. Look for the file's other form, or convert it again.")
    embeddings: tuple[Any, ...] = tuple(_as_embedding(token, concept.path) for token in concept.tokens)
    if not embeddings:
        sibling = find_embedding(name) or find_embedding(concept.name)
        embeddings = (sibling,) if sibling is not None else ()
    return Delta(name, embeddings, Change(concept.weights, strength))


def _as_embedding(token: TokenEmbedding, path: Path) -> Embedding:
    vectors = {key: vector.to(devices.device) for key, vector in token.vectors.items()}
    vec = vectors if len(vectors) > 1 else next(iter(vectors.values()))
    return Embedding(token.name, vec, token.length, str(path))


def _live_layers() -> dict[str, torch.Tensor]:
    unet = shared.sd_model.model.diffusion_model
    return {layer: module.weight for name, module in unet.named_modules() if (layer := layer_of(name))}


def _model_shapes(layers: Mapping[str, torch.Tensor]) -> ModelShapes:
    widths = {key: table.shape[-1] for key, table in token_tables(shared.sd_model).items()}
    shapes = {layer: (weight.shape[0], weight.shape[1]) for layer, weight in layers.items()}
    # Prefixes in the text encoder are CatVersion's; a delta has none.
    return ModelShapes(widths, shapes, encoder_layers=0, dtype=devices.dtype_unet)


_cache: OrderedDict[tuple[str, int, int], ConceptFile] = OrderedDict()


def _cached(path: Path) -> ConceptFile:
    """Read a concept's file, or take it from memory while the file is unchanged; the least used go first."""
    try:
        status = path.stat()
    except OSError as error:
        raise ConceptFileError(path, f"cannot be read ({error.strerror})", "Check the file") from None
    key = str(path), status.st_mtime_ns, status.st_size
    concept = _cache.pop(key, None) or load_concept(path)
    _cache[key] = concept
    while len(_cache) > 1 and sum(kept.nbytes for kept in _cache.values()) > cache_bytes():
        _cache.popitem(last=False)
    return concept
