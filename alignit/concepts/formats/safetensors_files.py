"""Reads .safetensors files.

The header is read here rather than by the safetensors package so that these tensors lie in the file like those of
torch.save, with the same bounds, and so that no file stays mapped: a mapped file cannot be replaced on Windows, and
ends the process if something shortens it.
"""

from __future__ import annotations

import math

import torch

from alignit.concepts.formats.json_data import JsonError, parse_json
from alignit.concepts.formats.source import DOWNLOAD_AGAIN, FileTensor, Source, is_shape

_MAX_HEADER = 16 * 2**20  # training tools put their captions' statistics there

_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def looks_like_safetensors(start: bytes) -> bool:
    """Say whether a file that starts with these 9 or more bytes can be .safetensors."""
    return len(start) > 8 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 2**32


def read_safetensors(source: Source) -> tuple[dict[str, FileTensor], dict[str, str]]:
    """Read the header.

    Returns:
        The tensors and the metadata, by name.

    Raises:
        ConceptFileError: It is damaged or too long.
    """
    length = int.from_bytes(source.read(0, 8), "little")
    if length > _MAX_HEADER:
        raise source.error("has too long a header for a concept", "Choose a concept's file")
    begin = 8 + length
    try:
        header = parse_json(bytes(source.read(8, length)))
    except JsonError as error:
        raise source.error(f"is damaged: its header cannot be read ({error})", DOWNLOAD_AGAIN) from error
    if not isinstance(header, dict):
        raise source.error("is damaged: its header has no names", DOWNLOAD_AGAIN)
    metadata = header.pop("__metadata__", None)
    if not isinstance(metadata, dict):
        metadata = {}
    tensors = {name: _tensor(source, begin, entry) for name, entry in header.items()}
    return tensors, {name: text for name, text in metadata.items() if isinstance(text, str)}


def _tensor(source: Source, begin: int, entry: object) -> FileTensor:
    if isinstance(entry, dict):
        shape, offsets, name = entry.get("shape"), entry.get("data_offsets"), entry.get("dtype")
        if isinstance(shape, list) and isinstance(offsets, list) and isinstance(name, str):
            dtype = _TYPES.get(name)
            sizes, ends = tuple(shape), tuple(offsets)
            if is_shape(sizes) and is_shape(ends) and len(ends) == 2:
                fits = dtype is None or math.prod(sizes) * dtype.itemsize == ends[1] - ends[0]
                if fits and begin + ends[1] <= source.size:
                    return FileTensor(source, dtype, sizes, _contiguous(sizes), begin + ends[0])
    raise source.error("is cut short or damaged: a tensor does not fit into it", DOWNLOAD_AGAIN)


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[place + 1 :]) for place in range(len(shape)))
