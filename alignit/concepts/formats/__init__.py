"""Reads concepts from the files that people have.

`load_concept` finds out from a file's content what it is. Containers are read by `contents` and the modules it uses,
families by `textual_inversion`, `custom_diffusion` and `catversion`. Nothing in a file can run code, and what reading
one takes in memory and time is bounded by the file's length and a few fixed limits.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from alignit.concepts.concept import Concept, ConceptFileError, Family
from alignit.concepts.formats.catversion import is_catversion, read_catversion
from alignit.concepts.formats.contents import Contents, open_contents
from alignit.concepts.formats.custom_diffusion import is_custom_diffusion, read_custom_diffusion, read_token_names
from alignit.concepts.formats.textual_inversion import is_bundle, is_textual_inversion, read_textual_inversion
from alignit.concepts.formats.unsupported import unsupported

__all__ = ["ConceptFileError", "Outline", "load_concept", "read_outline"]


def load_concept(
    path: str | os.PathLike[str], *, token_names: Sequence[str] = (), token_files: Sequence[str | os.PathLike[str]] = ()
) -> Concept:
    """Read a concept from a file.

    The names of its tokens come from inside the file; where it has none, the file's name is the token's, and the tokens
    of a Custom Diffusion checkpoint are ``<new1>``, ``<new2>``, as in its authors' scripts.

    Args:
        path: A textual inversion, a Custom Diffusion file, or CatVersion's ``pytorch_adapter.bin``.
        token_names: Names for the tokens, in the order of the file, instead of those.
        token_files: For Custom Diffusion files without their token's embedding, the files that have it; by default
            ``<...>.bin`` or ``.safetensors`` beside the file, or the embedding NAME beside NAME.delta.safetensors.

    Returns:
        The concept. Its widths and layers are as in the file: see `Concept.check_against`.

    Raises:
        ConceptFileError: The file, or one that belongs to it, cannot be used.
    """
    with open_contents(Path(path)) as contents:
        return _reader(contents).read(contents, token_names, [Path(file) for file in token_files])


@dataclass(frozen=True)
class Outline:
    """What a file says without the numbers in it.

    Attributes:
        family: What it is.
        tokens: For Custom Diffusion, the names of its tokens. custom-diffusion-webui keeps a token apart, as the
            embedding of the file's name: that name, whether there is such an embedding or not.
        metadata: Text that .safetensors files carry.
    """

    family: Family
    tokens: tuple[str, ...]
    metadata: Mapping[str, str]


def read_outline(path: str | os.PathLike[str]) -> Outline:
    """Find out what a file is without reading its weights: a few KiB of one of any size.

    Raises:
        ConceptFileError: It cannot be opened, or is no concept. One that can be outlined may still be refused by
            `load_concept`.
    """
    with open_contents(Path(path)) as contents:
        reader = _reader(contents)
        return Outline(reader.family, reader.token_names(contents), dict(contents.metadata))


@dataclass(frozen=True)
class Reader:
    """What reads the files of a family.

    Attributes:
        family: The family.
        claims: Says whether a file is one of it, whatever else is in it: asked before files that are of no use.
        recognises: Says whether a file that no family claims is one of it.
        read: Reads it; takes names for its tokens, and files with these, as `load_concept` does.
        token_names: Gives the names of its tokens without its numbers, as far as they are known.
    """

    family: Family
    claims: Callable[[Contents], bool]
    recognises: Callable[[Contents], bool]
    read: Callable[[Contents, Sequence[str], Sequence[Path]], Concept]
    token_names: Callable[[Contents], tuple[str, ...]] = lambda _contents: ()


READERS = [
    Reader(Family.CATVERSION, is_catversion, is_catversion, lambda contents, _names, _files: read_catversion(contents)),
    Reader(
        Family.CUSTOM_DIFFUSION,
        lambda _contents: False,
        is_custom_diffusion,
        read_custom_diffusion,
        read_token_names,
    ),
    Reader(
        Family.TEXTUAL_INVERSION,
        is_bundle,
        is_textual_inversion,
        lambda contents, names, _files: read_textual_inversion(contents, names),
    ),
]
"""The families, in the order in which files are taken for theirs."""


def _reader(contents: Contents) -> Reader:
    if not contents.tensors:
        raise contents.source.error("has no tensors in it", "Choose a concept's file")
    found = next((reader for reader in READERS if reader.claims(contents)), None)
    if found is None and (error := unsupported(contents)):
        raise error
    found = found or next((reader for reader in READERS if reader.recognises(contents)), None)
    if found is None:
        raise contents.source.error(
            "is of no kind that is known",
            "Choose a textual inversion, a Custom Diffusion file, or a CatVersion adapter",
        )
    return found
