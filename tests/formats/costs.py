"""What reading a file costs, counted where a clock would depend on the machine: calls of functions and bytes read."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

from alignit.concepts.formats.source import Source

MAX_CALLS = 10_000_000
"""Of Python's and C's functions, for one file: 50 for each instruction that a pickle may have. The most costly file of
the tests takes 5.6 million."""

MAX_READINGS = 3
"""How often all of a file may be read; the tests' files are read twice at most."""

_BESIDE = 2**12  # bytes that may be read of small files that belong to it


class TooCostlyError(Exception):
    """Reading a file called more functions than it may."""


@dataclass
class Costs:
    """What was counted.

    Attributes:
        calls: Calls of Python's and C's functions.
        read: Bytes read of files.
    """

    calls: int = 0
    read: int = 0


@contextmanager
def counted(max_calls: int = MAX_CALLS) -> Iterator[Costs]:
    """Count what the block costs.

    Raises:
        TooCostlyError: It calls more functions than `max_calls`; the block ends there, and does not run on for hours.
    """
    costs = Costs()
    read = Source.read

    def count(_frame: Any, event: str, _argument: Any) -> None:
        if event in ("call", "c_call"):
            costs.calls += 1
            if costs.calls > max_calls:
                raise TooCostlyError(f"more than {max_calls} calls")

    def counting_read(source: Source, begin: int, length: int) -> bytearray:
        data = read(source, begin, length)
        costs.read += len(data)
        return data

    before = sys.getprofile()
    with mock.patch.object(Source, "read", counting_read):
        sys.setprofile(count)
        try:
            yield costs
        finally:
            sys.setprofile(before)


R = TypeVar("R")


def affordable(read: Callable[[Path], R], path: Path) -> R:
    """Return what a reader makes of a file, and assert that this costs no more than a file may, error or not."""
    with counted() as costs:
        try:
            return read(path)
        finally:
            assert costs.calls <= MAX_CALLS  # an error of the count can be swallowed where it is raised
            assert costs.read <= MAX_READINGS * path.stat().st_size + _BESIDE
