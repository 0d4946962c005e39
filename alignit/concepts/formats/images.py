"""Reads textual inversions out of pictures, in the two ways in which the WebUI hides them.

A PNG text chunk has base64 of JSON. Any lossless picture has two blocks of pixels, left and right of the visible one,
each set off by a black column: zlib-packed JSON, low halves of the bytes on the left and high halves on the right, in
the low four bits of the colours, crossed with pseudo-random numbers. AVIF can be lossless, but Pillow writes none that
is: at full quality it still rounds colours.
"""

from __future__ import annotations

import base64
import binascii
import io
import warnings
import zlib
from dataclasses import dataclass
from typing import IO, cast

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from alignit.concepts.concept import ConceptFileError
from alignit.concepts.formats.json_data import JsonError, parse_json
from alignit.concepts.formats.source import DOWNLOAD_AGAIN, Source, StoredTensor

_TEXT_KEY = "sd-ti-embedding"
_MAX_FILE = 32 * 2**20  # as large as the pixels are when they are not packed
_MAX_PIXELS = 8 * 2**20
_MAX_JSON = 4 * 2**20  # 75 vectors of 1280 numbers are about 2 MiB
_LOW_BITS = np.uint8(0x0F)

_FORMATS = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"RIFF": "WEBP",
    b"\xff\x0a": "JXL",
    b"\x00\x00\x00\x0cJXL ": "JXL",
}


@dataclass(frozen=True, eq=False)
class LoadedTensor(StoredTensor):
    """A tensor that was written as text.

    Attributes:
        dtype: See `StoredTensor`.
        shape: See `StoredTensor`.
        value: Its numbers.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    value: torch.Tensor

    def read(self) -> torch.Tensor:
        """See `StoredTensor`."""
        return self.value


def image_format(start: bytes) -> str | None:
    """Return Pillow's name for the kind of picture that starts with these bytes, or None if that holds no concept."""
    if start[4:12] == b"ftypavif":
        return "AVIF"
    kind = next((kind for magic, kind in _FORMATS.items() if start.startswith(magic)), None)
    return None if kind == "WEBP" and start[8:12] != b"WEBP" else kind


def read_image(source: Source, kind: str) -> object:
    """Read the textual inversion in a picture.

    Args:
        source: The file.
        kind: As `image_format` returns it.

    Returns:
        What the WebUI would have saved with torch.save: a dictionary with ``string_to_param`` and ``name`` in it.

    Raises:
        ConceptFileError: It has none, or is damaged or too large.
    """
    text, pixels = _open(source, kind)
    if text is not None:
        try:
            packed = base64.b64decode(text)
        except (binascii.Error, ValueError) as error:
            raise source.error("has an embedding in it that is damaged", DOWNLOAD_AGAIN) from error
        if len(packed) > _MAX_JSON:
            raise source.error("has too much text in it for a concept", "Choose a concept's file")
        return _parse(source, packed)
    hidden = _unhide(pixels) if pixels is not None else b""
    unpacker = zlib.decompressobj()
    try:
        unpacked = unpacker.decompress(hidden, _MAX_JSON)
    except zlib.error:
        unpacked = b""
    if unpacker.unconsumed_tail and unpacked:
        raise source.error("has too much hidden in it for a concept", "Choose a concept's file")
    if not unpacker.eof:
        raise source.error(
            "is a picture without an embedding in it, or was changed since it was made",
            "Choose the original, not cut, scaled or saved again by a lossy program; this may be the concept's preview",
        )
    return _parse(source, unpacked)


def _open(source: Source, kind: str) -> tuple[str | None, npt.NDArray[np.uint8] | None]:
    """Return the text chunk, or else the pixels [height, width, 3]."""
    if source.size > _MAX_FILE:
        raise source.error("is too large for a picture with a concept in it", "Choose a concept's file")
    stream = io.BytesIO(source.read(0, source.size))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(cast(IO[bytes], stream), formats=(kind,)) as image:
                if image.width * image.height > _MAX_PIXELS:
                    raise source.error("is too large for a picture with a concept in it", "Choose a concept's file")
                # A text chunk may stand behind the pixels, so these have to be read first.
                image.load()
                text = getattr(image, "text", {}).get(_TEXT_KEY)
                if isinstance(text, str):
                    return str(text), None
                return None, np.asarray(image.convert("RGB"))
    except ConceptFileError:
        raise
    except Exception as error:  # Decoders fail in as many ways as there are decoders.
        raise source.error(
            f"cannot be decoded: it is damaged, or this Pillow reads no {kind}",
            f"{DOWNLOAD_AGAIN}, or convert it to PNG",
        ) from error


def _unhide(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Return the bytes hidden in pixels [height, width, 3]; none where there are no two blocks."""
    lit = pixels.min(axis=2) > 0
    rows, columns = lit.any(axis=1).nonzero()[0], lit.any(axis=0).nonzero()[0]
    if not rows.size:
        return b""
    low = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] & _LOW_BITS
    black = (low.max(axis=(0, 2)) == 0).nonzero()[0]
    if black.size < 2:
        return b""
    left, right = low[:, : black[0]], low[:, black[-1] + 1 :]
    if left.shape != right.shape:
        return b""
    packed: npt.NDArray[np.uint8] = (_uncross(right) << np.uint8(4)) | _uncross(left)
    return packed.tobytes()


def _uncross(block: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Take the WebUI's pseudo-random numbers out of a block of low bits."""
    noise = (_random_numbers(block.size) % 255).astype(np.uint8) & _LOW_BITS
    crossed: npt.NDArray[np.uint8] = block ^ noise.reshape(block.shape)
    return crossed


def _random_numbers(count: int) -> npt.NDArray[np.uint32]:
    """Return x[1], x[2]... of x[i+1] = 1664525 x[i] + 1013904223 modulo 2**32 from x[0] = 0."""
    numbers = np.empty(count, np.uint32)
    factor, addend, known = 1664525, 1013904223, min(1, count)
    numbers[:known] = addend
    # Many steps at once are of the same form as one, so what is known can be doubled.
    while known < count:
        more = min(known, count - known)
        numbers[known : known + more] = numbers[:more] * np.uint32(factor) + np.uint32(addend)
        factor, addend, known = factor * factor % 2**32, (factor + 1) * addend % 2**32, known + more
    return numbers


def _parse(source: Source, text: bytes) -> object:
    try:
        return parse_json(text, _convert)
    except (JsonError, OverflowError, TypeError, ValueError) as error:
        raise source.error("has an embedding in it that is damaged", DOWNLOAD_AGAIN) from error


def _convert(entry: dict[str, object]) -> object:
    if "TORCHTENSOR" not in entry:
        return entry
    # In float64, as the decoder that made it would: a number too large for float32 is then seen to be one.
    value = torch.from_numpy(np.array(entry["TORCHTENSOR"], dtype=np.float64))
    return LoadedTensor(value.dtype, tuple(value.shape), value)
