"""Files made to run code, fill the memory or never end."""

from __future__ import annotations

import base64
import collections
import io
import json
import math
import os
import pickle
import pickletools
import re
import struct
import sys
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image, PngImagePlugin

from alignit.concepts.concept import ConceptFileError
from alignit.concepts.formats import load_concept, pickle_data
from alignit.concepts.formats.torch_files import LEGACY_MAGIC
from tests.formats import memory
from tests.formats.costs import TooCostlyError, affordable, counted
from tests.formats.writers import random, with_pixels


def torch_zip(data: bytes, storages: dict[str, bytes] | None = None, **records: bytes) -> bytes:
    """Return an archive as torch.save writes it, around any pickle."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w") as archive:
        warnings.simplefilter("ignore")
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/version", b"3\n")
        for name, storage in (storages or {}).items():
            archive.writestr(f"archive/data/{name}", storage)
        for name, record in records.items():
            archive.writestr(f"archive/{name.replace('__', '/').replace('_DOT_', '.')}", record)
    return buffer.getvalue()


def legacy(data: bytes) -> bytes:
    """Return a file as torch.save wrote it before 1.6, around any pickle."""
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    return LEGACY_MAGIC + pickle.dumps(1001, 2) + pickle.dumps(system, 2) + data + pickle.dumps([], 2)


def refuse(tmp_path: Path, data: bytes, message: str = "") -> ConceptFileError:
    path = tmp_path / "evil.pt"
    path.write_bytes(data)
    with pytest.raises(ConceptFileError, match=f"'evil.pt' .*{message}") as caught:
        affordable(load_concept, path)
    return caught.value


class _Runs:
    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call


def shell(marker: Path) -> list[object]:
    command = f"touch {marker}"
    code = f"open({str(marker)!r}, 'w')"
    return [
        _Runs(os.system, command),
        _Runs(eval, code),
        _Runs(exec, code),
        _Runs(open, str(marker), "w"),
        _Runs(getattr, _Runs(__import__, "os"), "system"),
        _Runs(torch.load, str(marker)),
        _Runs(collections.defaultdict, _Runs(os.system, command)),
        _Runs(torch.nn.Linear, 2, 2),
    ]


@pytest.mark.parametrize("protocol", range(6))
def test_calls_in_a_pickle_are_not_made(tmp_path: Path, protocol: int) -> None:
    marker = tmp_path / "ran"
    for call in shell(marker):
        for place in (call, {"<cat>": call}, {"<cat>": random(8).numpy().tolist(), "x": [call]}):
            data = pickle.dumps(place, protocol)
            for file in (torch_zip(data), legacy(data), data):
                refuse(tmp_path, file)
                assert not marker.exists()


def test_error_says_which_object_and_to_mistrust_it(tmp_path: Path) -> None:
    message = str(refuse(tmp_path, torch_zip(b"\x80\x02cos\nsystem\nX\x02\0\0\0ls\x85R."), "could run code"))
    assert "os.system" in message
    assert "delete it" in message


TRICKS = {
    "protocol 0 call": b"cos\nsystem\n(S'touch ran'\ntR.",
    "instance": b"(S'touch ran'\nios\nsystem\n.",
    "object": b"(cos\nsystem\nS'touch ran'\no.",
    "global by stack": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02ls\x85R.",
    "extension registry": b"\x82\x01.",
    "call of text": b"\x80\x02X\x02\0\0\0os)R.",
    "call of a dictionary": b"\x80\x02})R.",
    "call of a tensor type": b"\x80\x02ctorch\nFloatStorage\n)R.",
    "ordered dictionary with arguments": b"\x80\x02ccollections\nOrderedDict\n]\x85R.",
    "new object of a function": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)\x81.",
    "state for a class": b"\x80\x02ccollections\nOrderedDict\n}X\x01\0\0\0xK\x01sb.",
    "state for a function": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x0c\0\0\0__defaults__Nsb.",
    "state with slots": b"\x80\x02ctorch.nn.modules.container\nParameterDict\n)\x81N}X\x01\0\0\0xK\x01s\x86b.",
    "items for a ParameterDict": b"\x80\x02ctorch.nn.modules.container\nParameterDict\n)\x81X\x01\0\0\0xK\x01s.",
    "dotted name": b"\x80\x02ctorch\n_utils.os.system\n.",
    "submodule of torch": b"\x80\x02ctorch.serialization\nos.system\n.",
    "name with a space": b"\x80\x02ctorch Size\n\n.",
    "persistent text": b"Pos.system\n.",
    "persistent number": b"\x80\x02K\x01Q.",
    "persistent module": b"\x80\x02(X\x06\0\0\0modulecos\nsystem\nX\0\0\0\0X\0\0\0\0tQ.",
    "unknown memo": b"\x80\x02h\x05.",
    "empty stack": b"\x80\x02.",
    "pop of nothing": b"\x80\x02R.",
    "mark as value": b"\x80\x02}X\x01\0\0\0a(s.",
    "odd items": b"\x80\x02}(X\x01\0\0\0au.",
    "items for text": b"\x80\x02X\x01\0\0\0a(X\x01\0\0\0aNu.",
    "item for a number": b"\x80\x02K\x01Na.",
    "no end": b"\x80\x02}",
    "nothing": b"",
    "cut text": b"\x80\x02X\xff\xff\xff\x7fabc",
    "negative long": b"\x80\x02\x8b\xff\xff\xff\xff.",
    "tuple as key": b"\x80\x02})K\x01s.",
    # However few: enough of them that collide would take the square of their number.
    "large number as key": b"\x80\x02}\x8a\x05\0\0\0\x80\0Ns.",
    "float as key": b"\x80\x02}G\0\0\0\0\0\0\0\0K\x01s.",
}


@pytest.mark.parametrize("trick", TRICKS)
def test_tricks_with_pickles(tmp_path: Path, trick: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    defaults = torch._utils._rebuild_tensor_v2.__defaults__
    refuse(tmp_path, torch_zip(TRICKS[trick]))
    refuse(tmp_path, legacy(TRICKS[trick]))
    assert not (tmp_path / "ran").exists()
    assert torch._utils._rebuild_tensor_v2.__defaults__ == defaults
    assert not hasattr(collections.OrderedDict, "x")


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value: int) -> bytes:
    packed = value.to_bytes(max(1, (value.bit_length() + 8) // 8), "little", signed=True)
    return b"\x8a" + bytes([len(packed)]) + packed


def tensor(
    offset: int, shape: list[int], stride: list[int], *, length: int = 4, key: str = "0", kind: str = "FloatStorage"
) -> bytes:
    """Return instructions that make a tensor."""
    storage = b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu") + number(length) + b"tQ"
    sizes = b"".join(b"(" + b"".join(map(number, part)) + b"t" for part in (shape, stride))
    ordered = b"ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(offset) + sizes + b"\x89" + ordered + b"tR"


def one(made: bytes) -> bytes:
    return b"\x80\x02}" + text("<cat>") + made + b"s."


def test_the_hand_made_tensor_is_read(tmp_path: Path) -> None:
    path = tmp_path / "good.pt"
    path.write_bytes(torch_zip(one(tensor(1, [2], [2])), {"0": struct.pack("<4f", 1, 2, 3, 4)}))
    assert load_concept(path).tokens[0].vectors["clip_l"].tolist() == [[2, 4]]


@pytest.mark.parametrize(
    "made",
    [
        tensor(0, [2**20, 2**20], [0, 0]),
        tensor(0, [75, 2**30], [0, 0]),
        tensor(0, [3, 3], [1, 0]),
        tensor(0, [3, 2], [1, 1]),
        tensor(0, [5], [1]),
        tensor(1, [4], [1]),
        tensor(-1, [1], [1]),
        tensor(2**70, [1], [1]),
        tensor(0, [-1], [1]),
        tensor(0, [2**70], [2**70]),
        tensor(0, [1] * 70, [1] * 70),
        tensor(0, [2], [-1]),
        tensor(0, [2], [2**63]),
        tensor(0, [2], []),
        tensor(0, [1], [1], length=5),
        tensor(0, [1], [1], length=-1),
        tensor(0, [1], [1], length=2**62),
        tensor(0, [1], [1], key="1"),
        tensor(0, [1], [1], key="../version"),
        tensor(0, [1], [1], kind="DoubleStorage", length=3),
        tensor(0, [1], [1], kind="ComplexFloatStorage"),
        tensor(0, [1], [1], kind="UntypedStorage"),
    ],
)
def test_tensors_that_are_not_in_their_storage(tmp_path: Path, made: bytes) -> None:
    refuse(tmp_path, torch_zip(one(made), {"0": bytes(16)}))


def saved(data: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(data, buffer)
    return buffer.getvalue()


def shared_bytes(shape: list[int]) -> bytes:
    """Return safetensors with 70 names for the same numbers."""
    size = 4 * math.prod(shape)
    entries = {f"<cat{n}>": {"dtype": "F32", "shape": shape, "data_offsets": [0, size]} for n in range(70)}
    return safetensors(json.dumps(entries).encode(), bytes(size))


TABLE, COLUMNS = random(75, 1000), random(2_000_000)
EXPANDED: dict[str, tuple[Callable[[], bytes], str]] = {
    "view that torch saves itself": (
        lambda: saved({"<cat>": torch.zeros(1).expand(75, 2**30)}),
        "repeats its numbers",
    ),
    "many names for the same numbers": (
        lambda: saved({f"<cat{number}>": TABLE.view(75, 1000) for number in range(75)}),
        "more numbers than it holds",
    ),
    # Each is two numbers, far apart: what is between them has to be read.
    "one name after another for a column": (
        lambda: saved({f"<cat{number}>": COLUMNS[number::1_500_000] for number in range(70)}),
        "more numbers than it holds",
    ),
    "safetensors that share bytes": (lambda: shared_bytes([75, 1000]), "more numbers than it holds"),
}


@pytest.mark.parametrize("name", EXPANDED)
def test_tensors_that_expand(tmp_path: Path, name: str) -> None:
    make, message = EXPANDED[name]
    refuse(tmp_path, make(), message)


BOMBS = {
    "nested lists": b"\x80\x02" + b"]" * 90_000 + b"a" * 89_999 + b".",
    "nested tuples": b"\x80\x02)" + b"\x85" * 190_000 + b".",
    "nested dictionaries": b"\x80\x02" + (b"}" + text("a")) * 60_000 + b"N" + b"s" * 60_000 + b".",
    "doubling": b"\x80\x02]q\0" + b"".join(b"](h%ch%ceq%c" % (n, n, n + 1) for n in range(200)) + b".",
    "dictionaries that share": (
        b"\x80\x02}("
        + b"".join(text(str(n)) + b"N" for n in range(5000))
        + b"uq\0"
        + b"".join(
            b"}(" + b"".join(text(str(n)) + b"h%c" % level for n in range(5000)) + b"uq%c" % (level + 1)
            for level in range(3)
        )
        + b"."
    ),
    "many instructions": b"\x80\x02]" + b"]a" * 2_000_000 + b".",
    "many memos": b"\x80\x02]" + b"".join(b"r" + struct.pack("<I", n) for n in range(600_000)) + b".",
    "marks": b"\x80\x02" + b"(" * 1_000_000 + b".",
    "colliding numbers": b"\x80\x02}(" + b"".join(number(n * (2**61 - 1)) + b"N" for n in range(60_000)) + b"u.",
    "long numbers": b"\x80\x02" + b"\x8b" + struct.pack("<i", 2_000_000) + b"\x7f" * 2_000_000 + b".",
    "decimal numbers": b"\x80\x02L" + b"9" * 2_000_000 + b"L\n.",
    "large pickle": b"\x80\x02" + text("a" * 17_000_000) + b".",
    "ParameterDicts of the same": (
        b"\x80\x02ctorch.nn.modules.container\nParameterDict\nq\0}"
        + text("_parameters")
        + b"}("
        + b"".join(number(n) + b"N" for n in range(50_000))
        + b"usq\1"
        + b"h\0)Rh\1b" * 10_000
        + b"."
    ),
    "text longer than the file": b"\x80\x02X\xff\xff\xff\xffabc",
    "appended to itself": b"\x80\x02]q\0h\0a.",
    "in itself": b"\x80\x02}q\0" + text("a") + b"h\0s.",
}


@pytest.mark.slow
@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs_in_pickles(tmp_path: Path, bomb: str) -> None:
    refuse(tmp_path, torch_zip(BOMBS[bomb]))
    if bomb != "large pickle":
        refuse(tmp_path, legacy(BOMBS[bomb]))


def test_the_costs_of_a_bomb_would_be_seen(tmp_path: Path) -> None:
    path = tmp_path / "evil.pt"
    path.write_bytes(torch_zip(BOMBS["many instructions"]))
    with pytest.raises(ConceptFileError), counted() as costs:
        load_concept(path)
    assert costs.calls > pickle_data._MAX_INSTRUCTIONS
    assert len(BOMBS["many instructions"]) < costs.read < 2 * path.stat().st_size
    with pytest.raises(TooCostlyError), counted(costs.calls // 2):
        load_concept(path)


FOREIGN = [opcode for opcode in pickletools.opcodes if opcode.name not in pickle_data._INSTRUCTIONS]


def test_every_other_instruction_is_refused_before_its_argument_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unread:
        def reader(self, _data: io.BytesIO) -> None:
            raise AssertionError

    assert len(FOREIGN) > 30
    for opcode in FOREIGN:
        monkeypatch.setattr(opcode, "arg", Unread())
    for opcode in FOREIGN:
        code = opcode.code.encode("latin-1")
        refuse(tmp_path, torch_zip(b"\x80\x02" + code + b"1\n."), re.escape(f"instruction {code!r}"))


GOOD = one(tensor(0, [4], [1]))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (torch_zip(GOOD, {"0": bytes(16)}, constants_DOT_pkl=b""), "TorchScript"),
        (torch_zip(GOOD, {"0": bytes(16)}, code____torch___DOT_py=b""), "TorchScript"),
        (torch_zip(GOOD, {"0": bytes(16)}, byteorder=b"big"), "big-endian"),
        (torch_zip(GOOD, {"0": bytes(16)}, data__0=bytes(16)), "two records"),
        (torch_zip(GOOD, {"0": bytes(16)}, byteorder=bytes(50)), "too many parts"),
        (torch_zip(GOOD, {}), "numbers are missing"),
        (torch_zip(GOOD, {"0": bytes(15)}), "numbers are missing"),
    ],
)
def test_archives_that_are_not_what_torch_saves(tmp_path: Path, data: bytes, message: str) -> None:
    refuse(tmp_path, data, message)


def test_torchscript_of_torch_itself(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), tmp_path / "program.pt")
    refuse(tmp_path, (tmp_path / "program.pt").read_bytes(), "TorchScript|run code")


def test_archive_with_an_endless_directory(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for index in range(80):
            info = zipfile.ZipInfo(f"archive/{index}")
            info.comment = b"x" * 65_000
            archive.writestr(info, b"")
    refuse(tmp_path, buffer.getvalue(), "too many files")


def test_encrypted_record(tmp_path: Path) -> None:
    data = bytearray(torch_zip(GOOD, {"0": bytes(16)}))
    place = data.index(b"PK\x01\x02")
    data[place + 8] |= 1
    refuse(tmp_path, bytes(data), "packed again")


def safetensors(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def entry(**changes: object) -> bytes:
    return json.dumps({"emb_params": {"dtype": "F32", "shape": [1, 4], "data_offsets": [0, 16], **changes}}).encode()


def test_the_hand_made_safetensors_are_read(tmp_path: Path) -> None:
    (tmp_path / "good").write_bytes(safetensors(entry(), bytes(16)))
    assert load_concept(tmp_path / "good").tokens[0].length == 1


def test_what_stands_in_text_is_no_part_of_a_header(tmp_path: Path) -> None:
    # Training tools keep the words of all captions there.
    words = json.dumps({f'a "tag", [{number}]': number for number in range(100_000)})
    header = json.dumps({**json.loads(entry()), "__metadata__": {"ss_tag_frequency": words}}).encode()
    (tmp_path / "good").write_bytes(safetensors(header, bytes(16)))
    assert load_concept(tmp_path / "good").tokens[0].length == 1


@pytest.mark.parametrize(
    "data",
    [
        safetensors(entry(), bytes(15)),
        safetensors(entry(data_offsets=[0, 17]), bytes(17)),
        safetensors(entry(data_offsets=[16, 0]), bytes(16)),
        safetensors(entry(data_offsets=[-16, 0]), bytes(16)),
        safetensors(entry(data_offsets=[0, 2**63]), bytes(16)),
        safetensors(entry(data_offsets=[0]), bytes(16)),
        safetensors(entry(data_offsets=None), bytes(16)),
        safetensors(entry(shape=[2**20, 2**20]), bytes(16)),
        safetensors(entry(shape=[2**32, 2**32, 0]), bytes(16)),
        safetensors(entry(shape=[-1, -4]), bytes(16)),
        safetensors(entry(shape=[1.0, 4.0]), bytes(16)),
        safetensors(entry(shape=[True, 4]), bytes(16)),
        safetensors(entry(shape="14"), bytes(16)),
        safetensors(entry(shape=[1] * 1000), bytes(16)),
        safetensors(entry(dtype="F8_E4M3"), bytes(16)),
        safetensors(entry(dtype=3), bytes(16)),
        safetensors(b'{"a": 3}'),
        safetensors(b'{"a": {}}'),
        safetensors(b"{"),
        safetensors(b"{}"),
        safetensors(b'{"__metadata__": {"json": 3}}'),
        safetensors(b'{"__metadata__": []}'),
        safetensors(entry()[:-1] + b", " + entry()[1:], bytes(16)),
        safetensors(b"{" + b"[" * 100_000),
        safetensors(b'{"a": ' * 100_000),
        safetensors(b'{"a": ' + b"9" * 1_000_000 + b"}"),
        safetensors(b"{\xff\xfe}"),
        safetensors(entry().decode().encode("utf-16-le"), bytes(16)),
        safetensors(b"{}", length=2**31),
        safetensors(b"{}", length=2**63),
        safetensors(b"{" + b" " * (17 * 2**20) + b"}"),
    ],
)
def test_safetensors_that_do_not_fit(tmp_path: Path, data: bytes) -> None:
    refuse(tmp_path, data)


def test_safetensors_say_what_is_wrong(tmp_path: Path) -> None:
    refuse(tmp_path, safetensors(b"{" + b" " * (17 * 2**20) + b"}"), "too long a header")
    # A part that is not even used shows that the file is not whole.
    unused = b', "note": {"dtype": "F32", "shape": [9], "data_offsets": [16, 52]}}'
    refuse(tmp_path, safetensors(entry()[:-1] + unused, bytes(40)), "cut short")


def png(picture: Image.Image, text: str | None = None, packed: bool = False) -> bytes:
    """Return a PNG, with text where an embedding would be."""
    info, buffer = PngImagePlugin.PngInfo(), io.BytesIO()
    if text is not None:
        info.add_text("sd-ti-embedding", text, zip=packed)
    picture.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def hidden(data: bytes) -> bytes:
    return png(with_pixels(zlib.compress(data, 9)))


SMALL = Image.new("L", (4, 4))
PICTURES: dict[str, tuple[Callable[[], bytes], str]] = {
    "too much hidden": (lambda: hidden(b"[" * 20_000_000), "too much hidden"),
    "deep": (lambda: hidden(b"[" * 1_000_000), "damaged"),
    "uneven": (lambda: hidden(b'{"TORCHTENSOR": [[1], [1, 2]]}'), "damaged"),
    "text for a tensor": (lambda: hidden(b'{"TORCHTENSOR": "x"}'), "damaged"),
    "dimensions": (lambda: hidden(b'{"TORCHTENSOR": ' + b"[" * 90 + b"]" * 90 + b"}"), "damaged"),
    "number": (lambda: hidden(b"3"), "no tensors"),
    "large": (lambda: png(Image.new("L", (4000, 4000))), "too large"),
    "very large": (lambda: png(Image.new("1", (20_000, 20_000))), "cannot be decoded"),
    "much text": (lambda: png(SMALL, "A" * 8_000_000), "too much text"),
    "much text, packed": (lambda: png(SMALL, "A" * 20_000_000, packed=True), "cannot be decoded"),
    "no base64": (lambda: png(SMALL, "not base64!"), "damaged"),
}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_that_unfold(tmp_path: Path, name: str) -> None:
    make, message = PICTURES[name]
    refuse(tmp_path, make(), message)


def two_blocks(at: int) -> Image.Image:
    """Return a picture as large as is looked into, with black columns at a place that part two blocks."""
    picture = Image.new("RGB", (2048, 4096), (0x55, 0x55, 0x55))
    picture.paste((0, 0, 0), (at, 0, at + 2, 4096))
    return picture


# Of the sizes that are still read, those that take the most memory.
LARGE: dict[str, tuple[Callable[[], bytes], str]] = {
    "two blocks": (lambda: png(two_blocks(1023)), "without an embedding"),
    "two unequal blocks": (lambda: png(two_blocks(2044)), "without an embedding"),
    "many lists in a picture": (lambda: hidden(b"[" + b"[]," * (2**22 // 3 - 2) + b"[]]"), "damaged"),
    "many objects in a picture": (lambda: png(SMALL, base64_of(b"[" + b'{"":0},' * 500_000 + b"3]")), "damaged"),
    "header of lists": (lambda: safetensors(header_of(b"[],", b"[]")), "header cannot be read"),
    "header of objects": (lambda: safetensors(header_of(b'{"":0},', b"{}")), "header cannot be read"),
    "header of numbers": (lambda: safetensors(header_of(b"0.1,", b"3")), "header cannot be read"),
    "header of text": (lambda: safetensors(header_of(b'"ab",', b"3")), "header cannot be read"),
    "header of quotes": (lambda: safetensors(b'{"a": "' + b'\\"' * (2**23 - 5)), "header cannot be read"),
}


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def header_of(part: bytes, last: bytes) -> bytes:
    """Return a header as long as may be, of one list."""
    return b'{"a": [' + part * ((2**24 - 20) // len(part)) + last + b"]}"


ROOM = 300  # MiB; of the files below, none has more than 25


on_linux = pytest.mark.skipif(sys.platform != "linux", reason="that no file exhausts memory is shown on Linux alone")


@pytest.mark.slow
@on_linux
def test_no_file_exhausts_memory(tmp_path: Path) -> None:
    files = {f"{name}, zip": (torch_zip(bomb), "") for name, bomb in BOMBS.items()}
    files |= {f"{name}, legacy": (legacy(bomb), "") for name, bomb in BOMBS.items()}
    files |= {name: (make(), message) for name, (make, message) in {**EXPANDED, **PICTURES, **LARGE}.items()}
    paths = [tmp_path / str(number) for number in range(len(files))]
    for path, (data, _) in zip(paths, files.values(), strict=True):
        path.write_bytes(data)
    found = dict(zip(files, memory.load_within(ROOM, paths), strict=True))
    assert [name for name, (_, ran_out) in found.items() if ran_out] == []
    assert {name: error for name, (error, _) in found.items() if not re.search(files[name][1], error or "")} == {}


@pytest.mark.slow
@on_linux
def test_what_does_take_much_memory_would_be_seen(tmp_path: Path) -> None:
    shape = [2**16, 3000]
    size = 4 * math.prod(shape)
    name = "middle_block.1.transformer_blocks.0.attn2.to_{}.weight"
    spans = {"k": [0, size], "v": [size, 2 * size]}
    entries = {
        name.format(part): {"dtype": "F32", "shape": shape, "data_offsets": ends} for part, ends in spans.items()
    }
    header = json.dumps(entries).encode()
    with (tmp_path / "large").open("wb") as file:
        file.write(safetensors(header))
        file.truncate(8 + len(header) + 2 * size)  # zeros, which take no room on the disk
    assert memory.load_within(ROOM, [tmp_path / "large"]) == [(None, True)]


def test_torch_load_is_never_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError

    for way in (True, False):
        torch.save({"<cat>": random(4)}, tmp_path / "cat.pt", _use_new_zipfile_serialization=way)
        with monkeypatch.context() as patch:
            for module, name in ((torch, "load"), (pickle, "load"), (pickle, "loads"), (pickle, "Unpickler")):
                patch.setattr(module, name, forbidden)
            assert load_concept(tmp_path / "cat.pt").tokens[0].name == "<cat>"
