"""Custom Diffusion: customised key and value weights of the UNet's cross-attention, usually with a token.

=====================================  ==============================================================  ==============
written by                             what is in the file                                             weights
=====================================  ==============================================================  ==============
the authors, delta_epoch=*.ckpt        ``state_dict``: LDM names, and ``embed``: [n, d] or [n * d]     full
the authors, compressed_delta*         each weight as ``{"u": [out, r], "v": [r, in]}``                delta
the authors with diffusers, delta.bin  ``unet``: diffusers names; ``modifier_token``: ``{"<new1>":     full
                                       [d]}``, for SDXL ``[[d1], [d2]]``
diffusers,                             ``...attn2.processor.to_k_custom_diffusion.weight``; the token  full
pytorch_custom_diffusion_weights       in ``<new1>.bin`` beside it
custom-diffusion-webui,                LDM names; ``entries`` in the metadata; factors as ``.US``,     delta
NAME.delta.safetensors                 ``.Vh``; the token in the embedding NAME
=====================================  ==============================================================  ==============

The authors call all their files deltas; only the compressed ones are. Which it is is read from the structure, never
from the name. The tokens of LDM checkpoints are not named in them: their i-th is ``<new{i}>``, counted from 1, which is
what the authors' scripts use, unless names are given.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from alignit.concepts.concept import Concept, Dense, Factors, Family, KeyValueWeights, Matrix, TokenEmbedding
from alignit.concepts.formats.contents import Contents, TensorPath, open_contents
from alignit.concepts.formats.json_data import JsonError, parse_json
from alignit.concepts.formats.source import DOWNLOAD_AGAIN, SAVE_AGAIN, Source, StoredTensor, read_floats
from alignit.concepts.formats.textual_inversion import (
    FIRST,
    MAX_VECTORS,
    SECOND,
    check_token_name,
    is_textual_inversion,
    read_textual_inversion,
    read_tokens,
    rename,
)
from alignit.concepts.layer_names import layer_of, partner_of

_WHOLE = "weight"
_FACTORS = {"u": "left", "US": "left", "v": "right", "Vh": "right"}
_TOKEN_SUFFIXES = (".safetensors", ".bin", ".pt")
_TOKEN_FILE = re.compile(r"<.+>\.(safetensors|bin)")
_PROCESSOR = "_custom_diffusion."
_MAX_METADATA = 2**20
_MAX_WIDTH = 2**16  # of a matrix; factors of a few bytes could otherwise stand for one of any size
NO_TOKEN = "No token embedding was found for it: use the token of an embedding that was trained with it"

Parts = dict[str, StoredTensor]


def is_custom_diffusion(contents: Contents) -> bool:
    """Say whether there are cross-attention key or value weights in a file that is of no other family."""
    return _entries(contents) is not None or any(_locate(path) for path in contents.tensors)


def read_custom_diffusion(contents: Contents, names: Sequence[str], token_files: Sequence[Path]) -> Concept:
    """Read a file that `is_custom_diffusion`.

    Args:
        contents: The open file.
        names: Names for the tokens, in the order of the file, instead of the ones in it; empty for those.
        token_files: Files with the tokens' embeddings, for the forms that keep them apart; empty for those beside the
            file that are named as the training code names them.

    Raises:
        ConceptFileError: Weights are of the wrong form or incomplete, or a token's file cannot be used.
    """
    source = contents.source
    weights = _weights(contents)
    own = _own_tokens(contents, weights)
    tokens = own or _tokens_beside(contents, token_files)
    notes = _notes(contents)
    if not tokens:
        notes = (*notes, NO_TOKEN)
    return Concept(
        source.path,
        contents.stem,
        Family.CUSTOM_DIFFUSION,
        tokens=rename(source, tokens, names),
        weights=weights,
        notes=notes,
    )


def read_token_names(contents: Contents) -> tuple[str, ...]:
    """Return the names of the tokens of a file that `is_custom_diffusion`, without reading its weights.

    Raises:
        ConceptFileError: The tokens are of the wrong form, or a file beside it cannot be used.
    """
    named = tuple(dict.fromkeys(path[0] for path in contents.select("modifier_token") if path))
    for name in named:
        check_token_name(contents.source, name)
    if named:
        return named
    embed = _embed(contents)
    if embed is not None:
        return _numbered(_count(contents, embed, _text_width(contents)))
    beside = tuple(token.name for token in _tokens_beside(contents, ()))
    # Where custom-diffusion-webui's token is an embedding elsewhere, the name says which.
    return beside or ((contents.stem,) if _entries(contents) is not None else ())


def _text_width(contents: Contents) -> int:
    """Return the width of the text that the weights are for, 0 where there is no whole one."""
    for path, tensor in contents.tensors.items():
        located = _locate(path)
        if located and _FACTORS.get(located[1]) != "left" and tensor.shape:
            return tensor.shape[-1]
    return 0


def is_token_file(name: str) -> bool:
    """Say whether a file's name is one that diffusers gives to the token beside its weights: ``<new1>.bin``."""
    return _TOKEN_FILE.fullmatch(name) is not None


def _locate(path: TensorPath) -> tuple[str, str] | None:
    """Return the layer and the part of its matrix that a tensor is, or None."""
    name = ".".join(path).removeprefix("state_dict.")
    # diffusers: attn2.processor.to_k_custom_diffusion.weight
    name = name.replace(".processor.to_k_custom_diffusion.", ".to_k.").replace(
        ".processor.to_v_custom_diffusion.", ".to_v."
    )
    start, _, end = name.rpartition(".")
    part = end if end in _FACTORS else _WHOLE
    layer = layer_of(start if end in _FACTORS else name)
    return (layer, part) if layer else None


def _entries(contents: Contents) -> dict[str, object] | None:
    """Return what custom-diffusion-webui says of each tensor in the metadata, or None."""
    text = contents.metadata.get("json", "")
    if not text or len(text) > _MAX_METADATA:
        return None
    try:
        data = parse_json(text)
    except JsonError:
        return None
    entries = data.get("entries") if isinstance(data, dict) else None
    return entries if isinstance(entries, dict) else None


def _weights(contents: Contents) -> KeyValueWeights:
    source, entries = contents.source, _entries(contents)
    parts: dict[str, Parts] = {}
    for path, tensor in contents.tensors.items():
        if located := _locate(path):
            layer, part = located
            if part in parts.setdefault(layer, {}):
                raise source.error(f"has two weights for {layer}", SAVE_AGAIN)
            parts[layer][part] = tensor
    if entries is not None:
        _check_entries(source, entries, parts)
    matrices = {layer: _matrix(source, layer, found) for layer, found in parts.items()}
    if not matrices:
        raise source.error("has no key or value weights", "Choose another file")
    if len({matrix.shape[1] for matrix in matrices.values()}) > 1:
        raise source.error("has weights for text of different widths", DOWNLOAD_AGAIN)
    kinds = {isinstance(matrix, Factors) for matrix in matrices.values()}
    if entries is None and len(kinds) > 1:
        raise source.error("has whole weights and differences mixed, with nothing that says which is which", SAVE_AGAIN)
    full = entries is None and kinds == {False}
    alone = sorted(layer for layer in matrices if partner_of(layer) not in matrices)
    if full and alone:
        raise source.error(f"has weights for {alone[0]}, but not for {partner_of(alone[0])}", DOWNLOAD_AGAIN)
    return KeyValueWeights(full, matrices)


def _check_entries(source: Source, entries: Mapping[str, object], parts: Mapping[str, Parts]) -> None:
    forms = {"delta": {_WHOLE}, "delta_factors": {"US", "Vh"}}
    for name, kind in entries.items():
        if not isinstance(kind, str) or kind not in forms:
            raise source.error(f"has weights of a kind {ascii(kind)[:40]}, which is not known", "Update AlignIT")
        layer = layer_of(name)
        if layer is not None and parts.get(layer, {}).keys() != forms[kind]:
            raise source.error(f"lacks the weights of {layer} that it says it has", DOWNLOAD_AGAIN)


def _matrix(source: Source, layer: str, parts: Parts) -> Matrix:
    sides = {_FACTORS.get(part, part): tensor for part, tensor in parts.items()}
    whole = sides.keys() == {_WHOLE}
    if not whole and sides.keys() != {"left", "right"}:
        raise source.error(f"has only a part of the weights of {layer}", DOWNLOAD_AGAIN)
    for tensor in sides.values():
        if len(tensor.shape) != 2 or max(tensor.shape) > _MAX_WIDTH:
            raise source.error(f"has weights of shape {tensor.shape} for {layer}", "Choose a file for SD1, SD2 or SDXL")
    read = {side: read_floats(source, tensor, f"the weights of {layer}") for side, tensor in sides.items()}
    if whole:
        matrix: Matrix = Dense(read[_WHOLE])
    else:
        matrix = Factors(read["left"], read["right"])
        if matrix.left.shape[1] != matrix.right.shape[0]:
            raise source.error(f"has two factors that do not fit together for {layer}", DOWNLOAD_AGAIN)
    if 0 in matrix.shape:
        raise source.error(f"has weights of shape {matrix.shape} for {layer}", DOWNLOAD_AGAIN)
    return matrix


def _own_tokens(contents: Contents, weights: KeyValueWeights) -> tuple[TokenEmbedding, ...]:
    source = contents.source
    named: dict[str, Parts] = {}
    for path, tensor in contents.select("modifier_token").items():
        # For SDXL a token is a list of two.
        encoder = {"0": FIRST, "1": SECOND}.get(path[1]) if len(path) == 2 else FIRST
        if len(path) > 2 or encoder is None:
            raise source.error("has a token of no known form", SAVE_AGAIN)
        named.setdefault(path[0], {})[encoder] = tensor
    if named:
        if any(SECOND in vectors and FIRST not in vectors for vectors in named.values()):
            raise source.error("has the second half of an SDXL token only", SAVE_AGAIN)
        return read_tokens(source, named)
    embed = _embed(contents)
    if embed is None:
        return ()
    width = next(iter(weights.matrices.values())).shape[1]
    names = _numbered(_count(contents, embed, width))
    rows = read_floats(source, embed, "the token embeddings").float().reshape(-1, width)
    return tuple(
        TokenEmbedding(name, {FIRST: row.reshape(1, width).clone()}) for name, row in zip(names, rows, strict=True)
    )


def _embed(contents: Contents) -> StoredTensor | None:
    return contents.tensors.get(("state_dict", "embed")) or contents.tensors.get(("embed",))


def _count(contents: Contents, embed: StoredTensor, width: int) -> int:
    """Return how many tokens of this width are in a tensor of one or two dimensions."""
    # In SD1 and SD2, which alone are trained so, text is as wide as token embeddings are.
    source = contents.source
    if len(embed.shape) not in (1, 2) or width == 0 or embed.shape[-1] % width or 0 in embed.shape:
        raise source.error(f"has token embeddings of shape {embed.shape}, for text of width {width}", DOWNLOAD_AGAIN)
    count = math.prod(embed.shape) // width
    if count > MAX_VECTORS:
        raise source.error(f"has more than {MAX_VECTORS} tokens, which do not fit into a prompt", "Use fewer")
    return count


def _numbered(count: int) -> tuple[str, ...]:
    return tuple(f"<new{number}>" for number in range(1, count + 1))


def _tokens_beside(contents: Contents, token_files: Sequence[Path]) -> tuple[TokenEmbedding, ...]:
    tokens: list[TokenEmbedding] = []
    for path in token_files or _usual_token_files(contents):
        with open_contents(path) as other:
            if not other.tensors or not is_textual_inversion(other):
                raise other.source.error("has no token embedding in it", "Choose another file for the token")
            tokens.extend(read_textual_inversion(other, ()).tokens)
    if len({token.name for token in tokens}) != len(tokens):
        raise contents.source.error("has two files beside it for the same token", "Keep one of them")
    return tuple(tokens)


def _usual_token_files(contents: Contents) -> list[Path]:
    """Return the files beside this one in which the code that wrote it put the tokens."""
    own = contents.source.path
    if _entries(contents) is not None:
        beside = [own.with_name(contents.stem + suffix) for suffix in _TOKEN_SUFFIXES]
        return [path for path in beside if path != own and os.path.isfile(path)][:1]
    if not any(_PROCESSOR in name for path in contents.tensors for name in path):
        return []
    try:
        names = sorted(os.listdir(own.parent))
    except OSError:
        return []
    # Where a token is there as .bin and as .safetensors, the two hold the same.
    found = {Path(name).stem: own.with_name(name) for name in names if is_token_file(name)}
    return list(found.values())


def _notes(contents: Contents) -> tuple[str, ...]:
    notes = []
    names = [".".join(path) for path in contents.tensors]
    if any("attn2." in name and (".to_q" in name or ".to_out" in name) for name in names):
        notes.append("Its query and output weights are not used: they act on the whole picture, not on the concept")
    if any(path[0] in ("text_encoder", "text_encoder_2") for path in contents.tensors if len(path) > 1):
        notes.append("Its text encoder is not used: only the token and the key and value weights are")
    return tuple(notes)
