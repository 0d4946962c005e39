"""Reads the files that torch.save writes: zip archives since torch 1.6, and the older form before."""

from __future__ import annotations

import io
import struct
import zipfile
from typing import Any

from alignit.concepts.concept import ConceptFileError
from alignit.concepts.formats.pickle_data import MAX_PICKLE_BYTES, Storage, StorageType, read_pickle
from alignit.concepts.formats.source import DOWNLOAD_AGAIN, SAVE_AGAIN, Source

ZIP_MAGIC = b"PK\x03\x04"
LEGACY_MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
"""A pickle of torch's magic number, with which files before torch 1.6 begin."""

_LEGACY_PROTOCOL = 1001
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_MAX_DIRECTORY = 4 * 2**20  # of a zip; 20,000 records and more


def read_zip(source: Source) -> object:
    """Read a file of torch 1.6 or later.

    Returns:
        What was saved, as `alignit.concepts.formats.pickle_data.read_pickle` gives it.

    Raises:
        ConceptFileError: It is damaged, holds code, or is another kind of zip archive.
    """
    records = _records(source)
    pickles = [name for name in records if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise source.error("is a zip archive, but not of torch", "Unpack it, and choose the file inside")
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}constants.pkl" in records or any(name.startswith(f"{root}code/") for name in records):
        raise source.error("is a TorchScript program, which runs code when opened", SAVE_AGAIN)
    if f"{root}byteorder" in records and _read(source, records[f"{root}byteorder"], 16) != b"little":
        raise source.error("was written on a big-endian machine", SAVE_AGAIN)

    def find_storage(key: tuple[Any, ...]) -> Storage:
        dtype, name, length = _storage_key(source, key, 5)
        info = records.get(f"{root}data/{name}")
        if info is None or info.file_size < length * dtype.dtype.itemsize:
            raise source.error("is damaged: a tensor's numbers are missing", DOWNLOAD_AGAIN)
        return Storage(dtype.dtype, _begin(source, info), length)

    return read_pickle(source, io.BytesIO(_read(source, records[pickles[0]], MAX_PICKLE_BYTES)), find_storage)


def read_legacy(source: Source) -> object:
    """Read a file from before torch 1.6: four pickles, the storages' names in a fifth, then the storages in that order.

    Returns:
        See `read_zip`.

    Raises:
        ConceptFileError: See `read_zip`.
    """
    data = io.BytesIO(source.read(0, min(source.size, MAX_PICKLE_BYTES)))
    data.seek(len(LEGACY_MAGIC))
    system = [read_pickle(source, data, lambda _: _no_storage(source)) for _ in range(2)]
    if system[0] != _LEGACY_PROTOCOL or not isinstance(system[1], dict) or system[1].get("little_endian") is not True:
        raise source.error("was written by a torch that is not known, or on a big-endian machine", SAVE_AGAIN)
    # The storages' places are known only after the tensors that need them: the first pass finds the storages' types.
    start = data.tell()
    types: dict[str, tuple[StorageType, int]] = {}

    def note_storage(key: tuple[Any, ...]) -> Storage:
        dtype, name, length = _storage_key(source, key, 6)
        if types.setdefault(name, (dtype, length)) != (dtype, length):
            raise source.error("is damaged: it gives two sizes for one storage", DOWNLOAD_AGAIN)
        return Storage(dtype.dtype, 0, length)

    read_pickle(source, data, note_storage)
    names = read_pickle(source, data, lambda _: _no_storage(source))
    places: dict[str, int] = {}
    place = data.tell()
    for name in names if isinstance(names, list) else ():
        if not isinstance(name, str) or name not in types or name in places:
            raise source.error("is damaged: its list of storages does not fit its tensors", DOWNLOAD_AGAIN)
        dtype, length = types[name]
        if struct.unpack("<q", source.read(place, 8))[0] != length:
            raise source.error("is damaged: a storage does not have the size that is said", DOWNLOAD_AGAIN)
        places[name] = place + 8
        place += 8 + length * dtype.dtype.itemsize

    def find_storage(key: tuple[Any, ...]) -> Storage:
        dtype, name, length = _storage_key(source, key, 6)
        if name not in places:
            raise source.error("is damaged: a tensor's numbers are missing", DOWNLOAD_AGAIN)
        return Storage(dtype.dtype, places[name], length)

    data.seek(start)
    return read_pickle(source, data, find_storage)


def _storage_key(source: Source, key: tuple[Any, ...], size: int) -> tuple[StorageType, str, int]:
    """Take apart ('storage', type, name, where it lived: 'cpu' or 'cuda:1', length), in old files with a view."""
    if (
        len(key) != size
        or key[0] != "storage"
        or not isinstance(key[1], StorageType)
        or not isinstance(key[2], str)
        or type(key[4]) is not int
        or not 0 <= key[4] <= source.size
    ):
        raise source.error("is damaged: it has a storage of no known form", DOWNLOAD_AGAIN)
    if size == 6 and key[5] is not None:
        raise source.error("was written by a torch before 0.4", SAVE_AGAIN)
    return key[1], key[2], key[4]


def _no_storage(source: Source) -> Storage:
    raise source.error("is damaged: it has a tensor where none belongs", DOWNLOAD_AGAIN)


class _Bounded(io.RawIOBase):
    """A file as `zipfile` sees it, which reads as much as an archive's own directory asks it to."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._place = 0

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._source.size}[whence]
        if start + offset < 0:
            raise OSError("before the beginning")
        self._place = start + offset
        return self._place

    def tell(self) -> int:
        return self._place

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._source.size - self._place)
        length = left if size < 0 else min(size, left)
        if length > _MAX_DIRECTORY:
            raise self._source.error("is a zip archive with too many files in it", "Choose a concept's file")
        data = bytes(self._source.read(self._place, length)) if length else b""
        self._place += length
        return data


def _records(source: Source) -> dict[str, zipfile.ZipInfo]:
    try:
        # zipfile raises struct.error and its kin on some damage, and NotImplementedError on newer zip versions.
        entries = zipfile.ZipFile(_Bounded(source)).infolist()
    except ConceptFileError:
        raise
    except (zipfile.BadZipFile, OSError, ValueError, struct.error, NotImplementedError, EOFError, IndexError) as error:
        raise source.error("is cut short or damaged", DOWNLOAD_AGAIN) from error
    records: dict[str, zipfile.ZipInfo] = {}
    for entry in entries:
        if entry.filename in records:
            raise source.error(f"has two records named {ascii(entry.filename)[:80]}", DOWNLOAD_AGAIN)
        records[entry.filename] = entry
    return records


def _read(source: Source, info: zipfile.ZipInfo, limit: int) -> bytearray:
    if info.file_size > limit:
        raise source.error("has too many parts for a concept", "Choose a concept's file")
    return source.read(_begin(source, info), info.file_size)


def _begin(source: Source, info: zipfile.ZipInfo) -> int:
    """Return where a record's bytes begin."""
    # torch never compresses or encrypts, so the numbers can be read in place, and a record is no larger than the file.
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size or info.flag_bits & 1:
        raise source.error("was packed again by another program", "Get the original file")
    magic, name, extra = _LOCAL_HEADER.unpack(source.read(info.header_offset, _LOCAL_HEADER.size))
    begin: int = info.header_offset + _LOCAL_HEADER.size + name + extra
    if magic != ZIP_MAGIC or begin + info.file_size > source.size:
        raise source.error("is cut short or damaged", DOWNLOAD_AGAIN)
    return begin
