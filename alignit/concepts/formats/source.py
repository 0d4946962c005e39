"""An open concept file, and the tensors that lie in it.

Files come from strangers. Reading is therefore bounded here, in one place: every read lies inside the file, and all
tensors of a file together cannot cost more than the file is long, however often it refers to the same bytes.
"""

from __future__ import annotations

import math
import os
import stat
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import torch

from alignit.concepts.concept import ConceptFileError, all_finite

DOWNLOAD_AGAIN = "Download or copy it again"
SAVE_AGAIN = "Open it where it was trained and save its tensors as .safetensors"

MAX_TENSOR_BYTES = 3 * 2**30
"""For all tensors of one file together; SDXL's keys and values in float32 are 1.3 GiB."""

_MAX_DIMENSION = 2**40
_MAX_DIMENSIONS = 8
_FLOAT_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class Source:
    """A file opened once, for reading at given places. Use as a context manager."""

    def __init__(self, path: Path) -> None:
        """Open a file.

        Raises:
            ConceptFileError: There is none, it cannot be opened, or it is not a plain file.
        """
        self.path = path
        self._spent = 0
        try:
            # Asked before opening: to open a pipe would wait for its other end.
            kind = path.stat().st_mode
            opened = path.open("rb") if stat.S_ISREG(kind) else None
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "its name is not valid"
            raise self.error(f"cannot be opened ({reason})", "Check its name, folder and permissions") from error
        if opened is None:
            raise self.error("is a folder" if stat.S_ISDIR(kind) else "is not a file", "Choose a concept's file")
        self._file = opened
        self.size = os.fstat(self._file.fileno()).st_size

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def error(self, problem: str, remedy: str) -> ConceptFileError:
        """Return an error that names this file."""
        return ConceptFileError(self.path, problem, remedy)

    def read(self, begin: int, length: int) -> bytearray:
        """Return exactly these bytes.

        Raises:
            ConceptFileError: They are not all inside the file.
        """
        if begin < 0 or length < 0 or begin + length > self.size:
            raise self.error("is cut short or damaged: it refers to bytes beyond its end", DOWNLOAD_AGAIN)
        data = bytearray(length)
        try:
            self._file.seek(begin)
            if self._file.readinto(data) != length:
                raise self.error("became shorter while it was read", "Wait until it is written, then try again")
        except OSError as error:
            raise self.error(f"cannot be read ({error.strerror})", "Check the disk") from error
        return data

    def spend(self, length: int) -> None:
        """Take bytes of tensors from what this file may cost.

        Raises:
            ConceptFileError: More than the file is long, or than any concept needs.
        """
        self._spent += length
        if self._spent > MAX_TENSOR_BYTES:
            raise self.error(f"holds more than {MAX_TENSOR_BYTES // 2**30} GiB of weights", "Choose a concept's file")
        if self._spent > self.size:
            raise self.error(
                "claims more numbers than it holds: it is damaged or made to fill the memory", DOWNLOAD_AGAIN
            )


class StoredTensor(ABC):
    """A tensor in a file, not yet read.

    Attributes:
        shape: Its shape, checked to be small numbers, not below 0.
        dtype: Its type, or None for one that concepts do not use.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype | None

    @abstractmethod
    def read(self) -> torch.Tensor:
        """Return the tensor, contiguous, on the CPU, in memory of its own."""


@dataclass(frozen=True)
class FileTensor(StoredTensor):
    """A tensor in an open file's bytes. Equal ones are the same tensor under several names.

    Attributes:
        source: The file.
        dtype: See `StoredTensor`.
        shape: See `StoredTensor`.
        stride: Step of each dimension in elements; as long as `shape`.
        begin: Where the tensor's first element lies in the file, in bytes.
    """

    source: Source
    dtype: torch.dtype | None
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    begin: int

    def read(self) -> torch.Tensor:
        """See `StoredTensor`.

        Raises:
            ConceptFileError: See `Source.read` and `Source.spend`; a type that is not known.
        """
        if self.dtype is None:
            raise self.source.error("holds numbers of a type that is not supported", SAVE_AGAIN)
        if math.prod(self.shape) == 0:
            return torch.empty(self.shape, dtype=self.dtype)
        length = span(self.shape, self.stride) * self.dtype.itemsize
        self.source.spend(length)
        # A view of a large table is read as the view: the table stays on the disk.
        flat = torch.frombuffer(self.source.read(self.begin, length), dtype=self.dtype)
        return flat.as_strided(self.shape, self.stride).contiguous()


def is_shape(value: object) -> bool:
    """Say whether a value from a file can be a tensor's shape or stride."""
    return (
        isinstance(value, tuple)
        and len(value) <= _MAX_DIMENSIONS
        and all(type(size) is int and 0 <= size <= _MAX_DIMENSION for size in value)
    )


def span(shape: tuple[int, ...], stride: tuple[int, ...]) -> int:
    """Return how many elements lie from a tensor's first to its last, both counted."""
    if math.prod(shape) == 0:
        return 0
    return 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))


def read_floats(source: Source, tensor: StoredTensor, what: str) -> torch.Tensor:
    """Read a tensor that has to be finite numbers.

    Args:
        source: The file, for errors.
        tensor: The tensor.
        what: What it is, for errors: "the embedding '<new1>'".

    Returns:
        The tensor in its own type, float64 as float32.

    Raises:
        ConceptFileError: It is of another type, or has NaN or infinity in it.
    """
    if tensor.dtype not in _FLOAT_TYPES:
        kind = str(tensor.dtype).removeprefix("torch.") if tensor.dtype else "a type that is not supported"
        raise source.error(f"holds {what} as {kind}", "Save it as float16, bfloat16 or float32")
    value = tensor.read()
    if value.dtype is torch.float64:
        value = value.float()
    if not all_finite(value):
        raise source.error(f"has NaN or infinite numbers in {what}: its training failed", "Use an earlier save of it")
    return value
