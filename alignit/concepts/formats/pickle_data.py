"""Reads the data in a pickle without running what a pickle can run.

A pickle is a program for a stack machine, and Python's own machine imports and calls whatever the program names. This
one knows only the instructions that torch.save writes for dictionaries, lists, text, numbers and tensors.
`pickletools.genops` of the standard library takes the program apart, which evaluates nothing. Nothing is ever imported
or called: the few names below are compared as text, and stand for steps of this module. Objects from a file are plain
data, so no instruction can reach into a class or function. Time and memory are bounded by a limit on instructions, as
each makes at most one object; one that copies items counts as so many.

torch.load is not used in any mode: on the torch versions that people have, weights_only is no boundary
(CVE-2025-32434 below 2.6, CVE-2026-24747 below 2.10), and it refuses old files with a ParameterDict in them.
"""

from __future__ import annotations

import io
import math
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from alignit.concepts.concept import ConceptFileError
from alignit.concepts.formats.source import DOWNLOAD_AGAIN, SAVE_AGAIN, FileTensor, Source, is_shape, span

MAX_PICKLE_BYTES = 16 * 2**20
"""Of the structure, without the tensors' numbers; the largest real ones have about 1 MiB."""

_MAX_INSTRUCTIONS = 200_000  # torch.save writes about 45 for a tensor, and a whole checkpoint has 2,500 tensors
_SMALL = 2**31  # larger numbers as keys could be chosen to collide in a dictionary

_STORAGES: dict[str, torch.dtype] = {
    "torch FloatStorage": torch.float32,
    "torch HalfStorage": torch.float16,
    "torch BFloat16Storage": torch.bfloat16,
    "torch DoubleStorage": torch.float64,
    "torch LongStorage": torch.int64,
    "torch IntStorage": torch.int32,
    "torch ShortStorage": torch.int16,
    "torch CharStorage": torch.int8,
    "torch ByteStorage": torch.uint8,
    "torch BoolStorage": torch.bool,
}
_ORDERED_DICT = "collections OrderedDict"
_PARAMETER_DICT = "torch.nn.modules.container ParameterDict"
_TENSOR = "torch._utils _rebuild_tensor_v2"
_PARAMETER = "torch._utils _rebuild_parameter"
_SIZE = "torch Size"
_SETS = ("__builtin__ set", "builtins set")
_KNOWN = {*_STORAGES, _ORDERED_DICT, _PARAMETER_DICT, _TENSOR, _PARAMETER, _SIZE, *_SETS}

# Instructions, by their names in `pickletools`.
_VALUES = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_EMPTY: dict[str, Callable[[], object]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_MARK = object()
_CONSTANTS: dict[str, object] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "MARK": _MARK}
_MEMOS = {"BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"}
_BUILDS = {"SETITEM", "SETITEMS", "APPEND", "APPENDS", "BINPERSID", "REDUCE", "NEWOBJ", "BUILD"}
_INSTRUCTIONS = {*_VALUES, *_TUPLES, *_EMPTY, *_CONSTANTS, *_MEMOS, *_BUILDS, "PROTO", "TUPLE", "GLOBAL", "STOP"}
# What follows any other is not even read: the decimal digits after some of them would cost the square of their number.
_CODES = {opcode.code.encode("latin-1") for opcode in pickletools.opcodes if opcode.name in _INSTRUCTIONS}


@dataclass(frozen=True)
class Storage:
    """A run of numbers that tensors are views of.

    Attributes:
        dtype: Type of the numbers.
        begin: Where it lies in the file, in bytes.
        length: How many numbers it has.
    """

    dtype: torch.dtype
    begin: int
    length: int


@dataclass(frozen=True)
class StorageType:
    """A torch storage class that a file names.

    Attributes:
        dtype: Type of its numbers.
    """

    dtype: torch.dtype


@dataclass(frozen=True)
class _Name:
    text: str


class _Parameters(dict[str, object]):
    """A ParameterDict: its items arrive late, inside the state of the module that it is in torch."""


def read_pickle(source: Source, data: io.BytesIO, find_storage: Callable[[tuple[Any, ...]], Storage]) -> object:
    """Read the pickle at the stream's position and leave the position behind it.

    Args:
        source: The file, for errors and for the tensors.
        data: The pickle.
        find_storage: Gives the storage for a persistent id, which is a tuple with a `StorageType` in it.

    Returns:
        Dictionaries, lists, tuples, text, numbers, None, and `FileTensor` for tensors.

    Raises:
        ConceptFileError: It is damaged, too long, or needs code to run.
    """
    return _Machine(source, find_storage).run(data)


class _Machine:
    def __init__(self, source: Source, find_storage: Callable[[tuple[Any, ...]], Storage]) -> None:
        self._source = source
        self._find_storage = find_storage
        self._stack: list[Any] = []
        self._memo: dict[int, object] = {}
        self._left = _MAX_INSTRUCTIONS

    def run(self, data: io.BytesIO) -> object:
        instructions = pickletools.genops(data)
        try:
            while self._left > 0:
                self._left -= 1
                self._check_next(data)
                opcode, argument, _ = next(instructions)
                if opcode.name == "STOP":
                    return self._pop()
                self._step(opcode.name, argument)
        except ConceptFileError:
            raise
        except (ValueError, IndexError) as error:
            raise self._damaged() from error
        raise self._source.error("has too many parts for a concept", "Choose a concept's file")

    def _check_next(self, data: io.BytesIO) -> None:
        """Look at the next instruction before `pickletools` reads what follows it."""
        code = data.read(1)
        if not code:
            raise self._damaged()
        if code not in _CODES:
            raise self._source.error(f"has a pickle instruction {code!r}, which torch.save does not write", SAVE_AGAIN)
        data.seek(-1, io.SEEK_CUR)

    def _step(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in ("BINPUT", "LONG_BINPUT"):
            self._memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            if argument not in self._memo:
                raise self._damaged()
            stack.append(self._memo[argument])
        elif name == "TUPLE":
            stack.append(tuple(self._pop_to_mark()))
        elif name in _TUPLES:
            values = [self._pop() for _ in range(_TUPLES[name])]
            stack.append(tuple(reversed(values)))
        elif name == "GLOBAL":
            stack.append(self._name(argument))
        elif name in _BUILDS:
            self._build(name)

    def _build(self, name: str) -> None:
        if name == "SETITEM":
            value, key = self._pop(), self._pop()
            self._set_items([key, value])
        elif name == "SETITEMS":
            self._set_items(self._pop_to_mark())
        elif name == "APPEND":
            value = self._pop()
            self._extend([value])
        elif name == "APPENDS":
            self._extend(self._pop_to_mark())
        elif name == "BINPERSID":
            self._stack.append(self._persistent(self._tuple(self._pop())))
        elif name in ("REDUCE", "NEWOBJ"):
            arguments, made = self._tuple(self._pop()), self._pop()
            self._stack.append(self._make(made, arguments))
        else:
            state = self._pop()
            self._set_state(self._stack[-1], state)

    def _name(self, text: str) -> _Name | StorageType:
        # `pickletools` undoes escapes, which pickle does not; the name is text to compare all the same.
        if text not in _KNOWN:
            shown = ascii(text.replace(" ", "."))[1:81]
            raise self._source.error(
                f"is not only data: it names the Python object {shown}, which could run code when the file is opened",
                "If it is a whole training checkpoint or a NeTI mapper, it is not supported. If you do not trust where "
                f"it came from, delete it. Otherwise: {SAVE_AGAIN[0].lower()}{SAVE_AGAIN[1:]}",
            )
        return StorageType(_STORAGES[text]) if text in _STORAGES else _Name(text)

    def _persistent(self, key: tuple[Any, ...]) -> object:
        # Files before torch 1.6 say ('module', class, file, source text) for the class of a module.
        if len(key) == 4 and key[0] == "module" and isinstance(key[1], _Name):
            return key[1]
        return self._find_storage(key)

    def _make(self, made: object, arguments: tuple[Any, ...]) -> object:
        name = made.text if isinstance(made, _Name) else None
        if name == _ORDERED_DICT and not arguments:
            return {}
        if name == _PARAMETER_DICT and not arguments:
            return _Parameters()
        if name == _TENSOR:
            return self._tensor(arguments)
        if name == _PARAMETER and arguments and isinstance(arguments[0], FileTensor):
            return arguments[0]
        if name == _SIZE and len(arguments) == 1 and is_shape(arguments[0]):
            return arguments[0]
        if name in _SETS and len(arguments) == 1 and isinstance(arguments[0], list):
            return arguments[0]
        raise self._damaged()

    def _tensor(self, arguments: tuple[Any, ...]) -> FileTensor:
        if len(arguments) < 4:
            raise self._damaged()
        storage, offset, shape, stride = arguments[:4]
        if not (
            isinstance(storage, Storage)
            and type(offset) is int
            and is_shape(shape)
            and is_shape(stride)
            and len(shape) == len(stride)
            and offset >= 0
            # An empty view may begin anywhere.
            and (0 in shape or offset + span(shape, stride) <= storage.length)
        ):
            raise self._damaged()
        if math.prod(shape) > span(shape, stride):
            raise self._source.error(
                "has a tensor that repeats its numbers: it is damaged or made to fill the memory", DOWNLOAD_AGAIN
            )
        return FileTensor(self._source, storage.dtype, shape, stride, storage.begin + offset * storage.dtype.itemsize)

    def _set_items(self, items: list[Any]) -> None:
        target = self._stack[-1]
        # Of a ParameterDict only the state says what is in it; _MARK among the items means a broken stack.
        if type(target) is not dict or len(items) % 2:
            raise self._damaged()
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not (isinstance(key, str) or (type(key) is int and -_SMALL < key < _SMALL)):
                raise self._damaged()
            target[key] = value

    def _extend(self, items: list[Any]) -> None:
        if type(self._stack[-1]) is not list:
            raise self._damaged()
        self._stack[-1].extend(items)

    def _set_state(self, target: object, state: object) -> None:
        if isinstance(target, _Parameters) and isinstance(state, dict) and isinstance(state.get("_parameters"), dict):
            self._left -= len(state["_parameters"])
            if self._left > 0:
                target.update(state["_parameters"])
        elif type(target) is not dict:
            # An ordered dictionary's state is a module's version number, and says nothing of use.
            raise self._damaged()

    def _pop(self) -> Any:
        value = self._stack.pop()
        if value is _MARK:
            raise self._damaged()
        return value

    def _pop_to_mark(self) -> list[Any]:
        items: list[Any] = []
        while (value := self._stack.pop()) is not _MARK:
            items.append(value)
        items.reverse()
        return items

    def _tuple(self, value: object) -> tuple[Any, ...]:
        if not isinstance(value, tuple):
            raise self._damaged()
        return value

    def _damaged(self) -> ConceptFileError:
        return self._source.error("is damaged, or is not a file of torch", DOWNLOAD_AGAIN)
