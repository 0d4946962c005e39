"""Textual inversion: token-embedding vectors, in all the forms in which they are passed around.

====================================  ==========================================================================
written by                            what is in the file
====================================  ==========================================================================
AUTOMATIC1111 WebUI, .pt and picture  ``string_to_param``: ``{"*": [n, d]}``, and a ``name`` that the WebUI ignores
textual_inversion, embeddings_gs-*    ``string_to_param``: a ParameterDict, one entry for each token
diffusers, learned_embeds             ``{"<token>": [d] or [n, d]}``; for SDXL a second file, learned_embeds_2
sd-scripts, SD1 and SD2               ``emb_params``: [n, d]
sd-scripts and diffusers, SDXL        ``clip_l``: [n, 768], ``clip_g``: [n, 1280]
diffusers' advanced training, SD1     ``clip_l``: [n, 768] alone
OneTrainer, inside a LoRA             ``bundle_emb.NAME.`` before one of the above
scripts                               a tensor on its own
====================================  ==========================================================================

A token's name comes from inside the file where there is one that means anything (``*`` does not); otherwise the file's
name is it, as users of the WebUI expect. The name in a picture comes before the picture's file name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from alignit.concepts.concept import Concept, Family, TokenEmbedding
from alignit.concepts.formats.contents import Contents, open_contents
from alignit.concepts.formats.source import SAVE_AGAIN, Source, StoredTensor, read_floats

MAX_VECTORS = 75
"""Tokens of text in one chunk of a prompt."""

FIRST, SECOND = "clip_l", "clip_g"

_MAX_NAME = 200
_BUNDLED = re.compile(r"bundle_emb\.(.+?)\.(string_to_param\..+|[^.]+)")
_PAIR = "learned_embeds"
_PARAMETER = re.compile(r".*\.(weight|bias|alpha)")


def is_bundle(contents: Contents) -> bool:
    """Say whether embeddings are bundled with something else in the file, such as a LoRA."""
    return any(path[0].startswith("bundle_emb.") for path in contents.tensors if path)


def is_textual_inversion(contents: Contents) -> bool:
    """Say whether a file that is of no other family looks like a textual inversion."""
    tensors = contents.tensors
    if contents.select("string_to_param") or () in tensors:
        return True
    names = {path[0] for path in tensors}
    if names & {FIRST, SECOND, "emb_params"}:
        return True
    vectors = all(len(path) == 1 and len(tensor.shape) in (1, 2) for path, tensor in tensors.items())
    widths = {tensor.shape[-1:] for tensor in tensors.values()}
    return vectors and len(widths) == 1 and not any(_PARAMETER.fullmatch(name) for name in names)


def read_textual_inversion(contents: Contents, names: Sequence[str]) -> Concept:
    """Read the embeddings of a file that `is_textual_inversion` or `is_bundle`.

    Args:
        contents: The open file.
        names: Names for the tokens, in the order of the file, instead of the ones in it; empty for those.

    Raises:
        ConceptFileError: An embedding is of the wrong form, or lacks the first of SDXL's halves.
    """
    source = contents.source
    notes: tuple[str, ...] = ()
    if is_bundle(contents):
        tokens = read_tokens(source, _bundled(contents))
        if any(not path[0].startswith("bundle_emb.") for path in contents.tensors):
            notes = ("Only the embeddings in this file are used, not the LoRA that they came with",)
    else:
        tokens = read_tokens(source, _plain(contents))
        if _PAIR in source.path.name:
            tokens = _with_partner(source, tokens)
    tokens = rename(source, tokens, names)
    return Concept(source.path, contents.stem, Family.TEXTUAL_INVERSION, tokens=tokens, notes=notes)


def rename(source: Source, tokens: tuple[TokenEmbedding, ...], names: Sequence[str]) -> tuple[TokenEmbedding, ...]:
    """Give other names to tokens, in their order; no names leave them as they are.

    Raises:
        ConceptFileError: There are not as many names as tokens, or one is there twice.
    """
    if not names:
        return tokens
    if len(names) != len(tokens) or len(set(names)) != len(names):
        raise source.error(f"has {len(tokens)} tokens, and {len(names)} names were given", "Give each token one name")
    return tuple(replace(token, name=name) for token, name in zip(tokens, names, strict=True))


def read_tokens(source: Source, tokens: Mapping[str, Mapping[str, StoredTensor]]) -> tuple[TokenEmbedding, ...]:
    """Read tensors as token embeddings.

    Args:
        source: The file, for errors.
        tokens: Tensors of shape [d] or [n, d] by text encoder, by name.

    Raises:
        ConceptFileError: One has a name or shape that no embedding has, integers, NaN or infinity.
    """
    if len(tokens) > MAX_VECTORS:
        raise source.error(f"has {len(tokens)} tokens, and at most {MAX_VECTORS} fit into a prompt", "Use fewer")
    return tuple(_read_token(source, name, vectors) for name, vectors in tokens.items())


def check_token_name(source: Source, name: str) -> None:
    """Refuse a token's name that is none.

    Raises:
        ConceptFileError: It cannot be typed.
    """
    if not name.strip() or len(name) > _MAX_NAME or not name.isprintable():
        raise source.error(f"names a token {ascii(name)[:40]}, which cannot be typed", "Save it under another name")


def _read_token(source: Source, name: str, vectors: Mapping[str, StoredTensor]) -> TokenEmbedding:
    check_token_name(source, name)
    read = {encoder: _read_vectors(source, name, tensor) for encoder, tensor in vectors.items()}
    return _check_halves(source, TokenEmbedding(name, read))


def _read_vectors(source: Source, name: str, tensor: StoredTensor) -> torch.Tensor:
    shape = tensor.shape if len(tensor.shape) != 1 else (1, *tensor.shape)
    if len(shape) != 2 or 0 in shape:
        raise source.error(f"has an embedding '{name}' of shape {tensor.shape}", "Choose a file of vectors [n, width]")
    if shape[0] > MAX_VECTORS:
        raise source.error(
            f"has {shape[0]} vectors for '{name}', and at most {MAX_VECTORS} fit into a prompt", "Train it with fewer"
        )
    value = read_floats(source, tensor, f"the embedding '{name}'")
    return value.reshape(shape).float()


def _plain(contents: Contents) -> dict[str, dict[str, StoredTensor]]:
    source, tensors = contents.source, contents.tensors
    own_name = contents.title or contents.stem
    params = contents.select("string_to_param")
    if params:
        if any(len(path) != 1 for path in params):
            raise source.error("has embeddings of no known form", "Choose a concept's file")
        return {own_name if name == "*" else name: {FIRST: tensor} for (name,), tensor in params.items()}
    if () in tensors:
        return {own_name: {FIRST: tensors[()]}}
    flat = {path[0]: tensor for path, tensor in tensors.items()}
    if FIRST in flat or SECOND in flat:
        return {own_name: _by_encoder(source, flat)}
    if "emb_params" in flat:
        return {own_name: {FIRST: flat["emb_params"]}}
    return {name: {FIRST: tensor} for name, tensor in flat.items()}


def _by_encoder(source: Source, parts: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Return the first text encoder's part, which may be the only one, and SDXL's second, which never is."""
    others = sorted(parts.keys() - {FIRST, SECOND})
    if others:
        raise source.error(
            f"has an embedding with a part {ascii(others[0])[:40]}, for a model that is not supported",
            "Use one for SD1, SD2 or SDXL",
        )
    # Some write the only encoder of SD1 under the name that it has in SDXL. Whether a first half is all that the model
    # needs is seen when the model is known.
    if FIRST not in parts:
        raise source.error(
            f"has an SDXL embedding for one of two text encoders only: {FIRST} is missing",
            "Train or convert it again, with both",
        )
    return {encoder: parts[encoder] for encoder in (FIRST, SECOND) if encoder in parts}


def _with_partner(source: Source, tokens: tuple[TokenEmbedding, ...]) -> tuple[TokenEmbedding, ...]:
    """Join the two files that diffusers writes for SDXL, learned_embeds and learned_embeds_2."""
    file_name = source.path.name
    is_second = f"{_PAIR}_2" in file_name
    other_name = file_name.replace(*((f"{_PAIR}_2", _PAIR) if is_second else (_PAIR, f"{_PAIR}_2")))
    other_path = source.path.with_name(other_name)
    if not os.path.lexists(other_path):
        if is_second:
            raise source.error("is the second half of an SDXL embedding", f"Put the first, {other_name}, beside it")
        return tokens
    with open_contents(other_path) as other:
        others = {token.name: token for token in read_tokens(other.source, _plain(other))}
    if others.keys() != {token.name for token in tokens}:
        raise source.error(f"and {other_name} beside it are for different tokens", "Keep each pair in its own folder")
    joined = []
    for token in tokens:
        first, second = (others[token.name], token) if is_second else (token, others[token.name])
        vectors = {FIRST: first.vectors[FIRST], SECOND: second.vectors[FIRST]}
        joined.append(_check_halves(source, TokenEmbedding(token.name, vectors)))
    return tuple(joined)


def _check_halves(source: Source, token: TokenEmbedding) -> TokenEmbedding:
    if len({tensor.shape[0] for tensor in token.vectors.values()}) > 1:
        raise source.error(
            f"has unequal numbers of vectors for '{token.name}' in its halves", "Train or convert it again"
        )
    return token


def _bundled(contents: Contents) -> dict[str, dict[str, StoredTensor]]:
    source = contents.source
    parts: dict[str, dict[str, StoredTensor]] = {}
    for path, tensor in contents.tensors.items():
        match = _BUNDLED.fullmatch(path[0])
        if match:
            parts.setdefault(match[1], {})[match[2]] = tensor
    found: dict[str, dict[str, StoredTensor]] = {}
    for name, part in parts.items():
        single = [key for key in part if key.startswith("string_to_param.") or key == "emb_params"]
        is_single = len(single) == len(part) == 1
        found[name] = {FIRST: next(iter(part.values()))} if is_single else _by_encoder(source, part)
    if not found:
        raise source.error("has bundled embeddings of no known form", SAVE_AGAIN)
    return found
