"""CatVersion: a learned prefix of keys and values in some layers of SD1's text encoder.

The file is an adapter of adapter-transformers (prefix tuning), ``pytorch_adapter.bin``, with ``adapter_config.json``
beside it. The numbers of all layers are one flat tensor, which is in the file once for each layer under the same
content, because every layer has a reference to the pool that they share; the layers' numbers are in these names and
nowhere else. As ``view(P, 2 * layers, hidden)`` it holds, for the j-th of the layers, its keys at ``[:, 2j]`` and its
values at ``[:, 2j + 1]``. The form that is not flat is the small network that makes this tensor.

The file names no token: the concept is the class word itself, where it stands in the prompt.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch

from alignit.concepts.concept import Concept, Family
from alignit.concepts.formats.contents import Contents
from alignit.concepts.formats.json_data import JsonError, parse_json
from alignit.concepts.formats.source import DOWNLOAD_AGAIN, Source, StoredTensor, read_floats
from alignit.concepts.prefixes import EncoderPrefixes, Prefix

_FILE = "pytorch_adapter"
_CONFIG_FILE = "adapter_config.json"
_MAX_CONFIG = 2**16
_MAX_PREFIX = 512
_MAX_WIDTH = 2**18
_MODEL_TYPE = "clip_text_model"
_LAYER = re.compile(r"(?:.*\.)?encoder\.layers\.(\d{1,3})\.self_attn\..*")
_PART = re.compile(r".*\.(wte\.weight|control_trans(?:\.[02]\.(?:weight|bias))?)")
_PLACES = re.compile(r"adapter_gs-\d+|checkpoints?|adapters?", re.IGNORECASE)
_REMEDY = "Train it again as the CatVersion authors' code does"


def is_catversion(contents: Contents) -> bool:
    """Say whether a file is a prefix-tuning adapter."""
    return any("control_trans" in part for path in contents.tensors for part in path)


def read_catversion(contents: Contents) -> Concept:
    """Read a file that `is_catversion`.

    Raises:
        ConceptFileError: It is for another kind of model, uses gates, or is not complete.
    """
    source = contents.source
    config = _config(source)
    named = {".".join(path): tensor for path, tensor in contents.tensors.items()}
    if any("prefix_gates" in name for name in named):
        raise source.error("has gates, which CatVersion does not use", _REMEDY)
    layers = sorted({int(match[1]) for name in named if (match := _LAYER.fullmatch(name))})
    if not layers:
        raise source.error("does not say which layers of the text encoder it is for", _REMEDY)
    hidden, numbers = _numbers(source, named, config)
    flat = numbers.numel()
    if hidden is None:
        # Without the config the prefix is taken to be one token long, as the authors' always is.
        hidden = flat // (2 * len(layers))
    length, rest = divmod(flat, 2 * len(layers) * hidden) if hidden else (0, 1)
    wanted = config.get("prefix_length", length)
    if rest or not 0 < length <= _MAX_PREFIX or wanted != length:
        raise source.error(
            f"has {flat} numbers, which are no prefix for {len(layers)} layers of width {hidden}", DOWNLOAD_AGAIN
        )
    states = numbers.reshape(length, 2 * len(layers), hidden)
    prefixes = {
        layer: Prefix(states[:, 2 * place].clone(), states[:, 2 * place + 1].clone())
        for place, layer in enumerate(layers)
    }
    name = adapter_name(source.path)
    return Concept(
        source.path,
        name,
        Family.CATVERSION,
        encoder_change=EncoderPrefixes(prefixes),
        class_word=suggested_class_word(name),
    )


def _config(source: Source) -> dict[str, object]:
    """Return the adapter's settings from the file beside it, empty where there is none, after checking them."""
    path = source.path.with_name(_CONFIG_FILE)
    if not os.path.lexists(path):
        return {}
    with Source(path) as file:
        try:
            data = parse_json(bytes(file.read(0, min(file.size, _MAX_CONFIG))))
        except JsonError as error:
            raise file.error("is damaged", "Get it again, together with the adapter") from error
        settings = data.get("config") if isinstance(data, dict) else None
        if not isinstance(data, dict) or not isinstance(settings, dict):
            raise file.error("is not the settings of an adapter", "Get it again, together with the adapter")
        if data.get("model_type") != _MODEL_TYPE or settings.get("architecture", "prefix_tuning") != "prefix_tuning":
            raise file.error("is for another kind of model than SD1's text encoder", "Choose a CatVersion adapter")
        if settings.get("use_gating"):
            raise file.error("asks for gates, which CatVersion does not use", _REMEDY)
        return {"hidden_size": data.get("hidden_size"), **settings}


def _numbers(
    source: Source, named: Mapping[str, StoredTensor], config: Mapping[str, object]
) -> tuple[int | None, torch.Tensor]:
    """Return the text encoder's width, or None if that is not known, and the flat tensor in float32."""
    parts = {part: _only(source, named, part) for part in _part_names(named)}
    if parts.keys() == {"control_trans"}:
        hidden = config.get("hidden_size")
        return (hidden if type(hidden) is int and hidden > 0 else None), parts["control_trans"].flatten()
    if parts.keys() != {"wte.weight", *(f"control_trans.{n}.{kind}" for n in (0, 2) for kind in ("weight", "bias"))}:
        raise source.error("has only a part of a prefix", DOWNLOAD_AGAIN)
    if config.get("non_linearity", "tanh") != "tanh":
        raise source.error("uses a network with another activation than CatVersion's tanh", _REMEDY)
    tokens = parts["wte.weight"]
    # Two thin matrices could otherwise make a product of any size.
    widest = max(size for part in parts.values() for size in part.shape or (0,))
    if tokens.ndim != 2 or tokens.shape[0] > _MAX_PREFIX or widest > _MAX_WIDTH:
        raise source.error("has weights of a shape that no prefix has", DOWNLOAD_AGAIN)
    try:
        inner = torch.tanh(tokens @ parts["control_trans.0.weight"].T + parts["control_trans.0.bias"])
        states = inner @ parts["control_trans.2.weight"].T + parts["control_trans.2.bias"]
    except RuntimeError as error:
        raise source.error("has weights that do not fit together", DOWNLOAD_AGAIN) from error
    return tokens.shape[-1], states.flatten()


def _part_names(named: Mapping[str, StoredTensor]) -> set[str]:
    return {match[1] for name in named if (match := _PART.fullmatch(name))}


def _only(source: Source, named: Mapping[str, StoredTensor], part: str) -> torch.Tensor:
    """Return what all layers share under this name."""
    copies = {tensor for name, tensor in named.items() if name.endswith(f".{part}")}
    first, *others = [read_floats(source, tensor, "the prefix").float() for tensor in copies]
    if not all(torch.equal(first, other) for other in others):
        raise source.error("has a different prefix for each layer where one is shared", _REMEDY)
    return first


def adapter_name(path: Path) -> str:
    """Return the name of an adapter: its file's, or the nearest folder's that says something.

    The authors' files are NAME/checkpoints/adapter_gs-999/pytorch_adapter.bin.
    """
    if path.stem != _FILE:
        return path.stem
    for folder in path.absolute().parents:
        if folder.name and not _PLACES.fullmatch(folder.name):
            return folder.name
    return path.stem


def suggested_class_word(name: str) -> str | None:
    """Return what the name of an adapter says in ordinary words: its authors name the folders for the concepts."""
    return re.sub(r"[_\W]+", " ", name).strip() or None
