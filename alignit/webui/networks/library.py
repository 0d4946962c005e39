"""The concept files that the WebUI's user has: found by name, read once, kept in memory, checked against the model."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch

from alignit.concepts.concept import Concept, ConceptFileError, ModelShapes
from alignit.concepts.formats import Outline, load_concept, read_outline
from alignit.concepts.layer_names import layer_of
from alignit.prompt.syntax import compared
from alignit.webui.host import host
from alignit.webui.host.ports import Model
from alignit.webui.networks.embeddings import token_tables
from alignit.webui.settings import cache_bytes


@dataclass(frozen=True)
class Library:
    """The files of one method.

    Attributes:
        folder: Gives the folder with the files.
        names: Gives the names by which a file goes in prompts, the best first; none for a file of another kind.
    """

    folder: Callable[[], Path]
    names: Callable[[Path], tuple[str, ...]]

    def files(self) -> Iterator[Path]:
        """Yield the files, those of a folder before those of the folders in it, each in order of their names."""
        for folder, folders, files in os.walk(self.folder(), followlinks=True):
            folders.sort(key=_natural)
            yield from (Path(folder) / file for file in sorted(files, key=_natural) if self.names(Path(folder) / file))

    def find(self, name: str) -> Path:
        """Return the file of this name, compared as names in prompts are; the last of several: the furthest trained.

        Raises:
            ConceptFileError: There is none.
        """
        key = compared(name)
        found = [path for path in self.files() if key in map(compared, self.names(path))]
        if not found:
            raise ConceptFileError(
                Path(name), f"is not in the folder '{self.folder().name}'", "Put it there, or write the name of another"
            )
        # By the best name first: my-cat.delta.safetensors is also "my-cat.delta", the name of my-cat.delta.ckpt.
        return max(reversed(found), key=lambda path: compared(self.names(path)[0]) == key)

    def named(self) -> dict[str, Path]:
        """Return the files by their best names: each is what `find` gives for that name."""
        found = {compared(self.names(path)[0]): path for path in self.files()}
        return {self.names(path)[0]: path for path in found.values()}


def _natural(name: str) -> list[Any]:
    """Return a key that sorts step-500 before step-1000."""
    digits = "".join(character if character.isdigit() else " " for character in name).split()
    letters = "".join(character for character in name.lower() if not character.isdigit())
    return [letters, list(map(int, digits)), name]


def outline(path: Path) -> Outline:
    """Return what a file says without its weights, read once while the file and its folder are unchanged.

    A tab's cards need this of every file, whatever its size. It is a few milliseconds for a file, of which most are
    spent on its list of tensors. The folder counts because a token can lie in a file of its own.

    Raises:
        ConceptFileError: The file cannot be used.
    """
    try:
        status, folder = path.stat(), path.parent.stat()
    except OSError as error:
        raise _unreadable(path, error) from None
    key = status.st_mtime_ns, status.st_size, folder.st_mtime_ns
    known = _outlines.get(path)
    if known is None or known[0] != key:
        known = _outlines[path] = key, read_outline(path)
    return known[1]


_outlines: dict[Path, tuple[tuple[int, int, int], Outline]] = {}


def load_fitting(path: Path, say: Callable[[str], None]) -> Concept:
    """Return a file's concept, checked against the loaded model, and say what is doubtful about it.

    The file is read once, and the check made once for a model, while the file is unchanged.

    Raises:
        ConceptFileError: The file cannot be used, or not with the loaded model.
    """
    concept = _cached(path)
    model = host().model()
    checked = _checked.get(concept)
    if checked is None or checked[0] != model.identity:
        layers = _live_layers(model)
        concept.check_against(_model_shapes(model, {layer: shape for layer, (shape, _) in layers.items()}))
        live = {layer: weight for layer, (_, weight) in layers.items() if weight is not None}
        checked = _checked[concept] = model.identity, concept.weights.doubt(live) if concept.weights else None
    if checked[1]:
        say(f"'{path.name}': {checked[1]}")
    return concept


_checked: WeakKeyDictionary[Concept, tuple[Hashable, str | None]] = WeakKeyDictionary()


def _live_layers(model: Model) -> dict[str, tuple[tuple[int, int], torch.Tensor | None]]:
    modules = model.unet.named_modules()
    return {layer: model.linear(module) for name, module in modules if (layer := layer_of(name))}


def _model_shapes(model: Model, shapes: Mapping[str, tuple[int, int]]) -> ModelShapes:
    widths = {key: table.shape[-1] for key, table in token_tables(model).items()}
    return ModelShapes(widths, shapes, len(model.encoders[0].clip_layers), dtype=model.dtype)


_cache: OrderedDict[str, tuple[tuple[int, int], Concept]] = OrderedDict()


def _cached(path: Path) -> Concept:
    """Read a concept's file, or take it from memory while the file is unchanged; the least used go first."""
    try:
        status = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from None
    state = status.st_mtime_ns, status.st_size
    known = _cache.pop(str(path), None)
    concept = known[1] if known and known[0] == state else load_concept(path)
    _cache[str(path)] = state, concept
    while len(_cache) > 1 and sum(kept.nbytes for _, kept in _cache.values()) > cache_bytes():
        _cache.popitem(last=False)
    return concept


def _unreadable(path: Path, error: OSError) -> ConceptFileError:
    return ConceptFileError(path, f"cannot be read ({error.strerror})", "Check the file")
