"""Damaged and random files: a concept or a `ConceptFileError`, at a bounded cost, and nothing else."""

from __future__ import annotations

import io
import json
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from alignit.concepts.concept import Concept, ConceptFileError
from alignit.concepts.formats import load_concept, read_outline
from tests.formats.costs import affordable
from tests.formats.test_hostile import number, safetensors, tensor, text, torch_zip
from tests.formats.writers import (
    REAL_ADAPTERS,
    SD1,
    SDXL,
    SHARED,
    adapter,
    authors_diffusers,
    authors_diffusers_compressed,
    bottleneck,
    compressed,
    diffusers_weights,
    hide,
    ldm_delta,
    original_embedding,
    random,
    save_webui_delta,
    webui_embedding,
    with_pixels,
    with_text_chunk,
)

pytestmark = pytest.mark.slow


def torch_file(data: object, legacy: bool = False) -> Callable[[Path], None]:
    return lambda path: torch.save(data, path, _use_new_zipfile_serialization=not legacy)


def two_factors() -> dict[str, object]:
    data = ldm_delta(random(2, 16))["state_dict"]
    return {"state_dict": {name: compressed(value, 2) if "attn2" in name else value for name, value in data.items()}}


def safetensors_file(data: dict[str, torch.Tensor]) -> Callable[[Path], None]:
    return lambda path: save_file(data, path)


def delta_file(factored: bool) -> Callable[[Path], None]:
    deltas = {"middle_block.1.transformer_blocks.0.attn2.to_k": random(4, 8)}
    return lambda path: save_webui_delta(path, deltas, factored)


LORA = {"lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": random(4, 8)}
SEEDS: dict[str, Callable[[Path], None]] = {
    "webui": torch_file(webui_embedding(random(3, 16))),
    "webui legacy": torch_file(webui_embedding(random(3, 16)), legacy=True),
    "original": torch_file(original_embedding({"<a>": random(2, 16), "<b>": random(1, 16)})),
    "original legacy": torch_file(original_embedding({"<a>": random(2, 16)}), legacy=True),
    "learned embeds": torch_file({"<a>": torch.nn.Parameter(random(40, 16))[7]}),
    "learned embeds safetensors": safetensors_file({"<a>": random(2, 16)}),
    "kohya": safetensors_file({"emb_params": random(2, 16)}),
    "kohya sdxl": safetensors_file({"clip_l": random(2, 16), "clip_g": random(2, 24)}),
    "diffusers advanced": safetensors_file({"clip_l": random(2, 16)}),
    "bundle": safetensors_file({**LORA, "bundle_emb.<a>.string_to_param.*": random(2, 16)}),
    "bundle sdxl": safetensors_file(
        {**LORA, "bundle_emb.a.clip_l": random(2, 16), "bundle_emb.a.clip_g": random(2, 8)}
    ),
    "text chunk": lambda path: with_text_chunk(path, webui_embedding(random(2, 8))),
    "pixels": lambda path: hide(webui_embedding(random(2, 8))).save(path, "PNG"),
    "webp": lambda path: hide(webui_embedding(random(2, 8))).save(path, "WEBP", lossless=True),
    "ldm": torch_file(ldm_delta(random(2, 16))),
    "ldm compressed": torch_file(two_factors()),
    "authors diffusers": torch_file(authors_diffusers(SD1[:8], {"<a>": random(16)})),
    "authors diffusers compressed": torch_file(authors_diffusers_compressed({"<a>": random(16)}, 2)),
    "authors sdxl": torch_file(authors_diffusers(SDXL[:8], {"<a>": [random(16), random(24)]}, 40)),
    "diffusers": torch_file(diffusers_weights()),
    "diffusers with queries": torch_file(diffusers_weights(queries=True)),
    "webui delta": delta_file(False),
    "webui delta factored": delta_file(True),
    "adapter": torch_file(adapter({"control_trans": random(96)})),
    "adapter not flat": torch_file(adapter(bottleneck(1))),
}
REAL = [
    REAL_ADAPTERS / "teddybear" / "pytorch_adapter.bin",
    REAL_ADAPTERS / "colorful_teapot" / "pytorch_adapter.bin",
    SHARED / "textual_inversion" / "rick.png",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def seeds(folder: Path) -> dict[str, bytes]:
    found = {}
    for name, write in SEEDS.items():
        write(folder / "seed")
        found[name] = (folder / "seed").read_bytes()
        assert isinstance(load_concept(folder / "seed"), Concept), name
    return found


def load(path: Path) -> Concept | ConceptFileError:
    """Load a file, at no more cost than a file may have."""
    try:
        outline = affordable(read_outline, path)
    except ConceptFileError:
        outline = None  # what cannot be outlined must not load either
    try:
        concept = affordable(load_concept, path)
    except ConceptFileError as error:
        return error
    assert outline is not None
    assert outline.family is concept.family
    return concept


def survive(folder: Path, data: bytes) -> bool:
    """Load a file; say whether it gave a concept, all of whose numbers are finite."""
    path = folder / "file"
    path.write_bytes(data)
    result = load(path)
    if isinstance(result, ConceptFileError):
        assert "'file'" in str(result)
        return False
    assert result.tokens or result.weights or result.encoder_change
    assert result.nbytes <= max(len(data), 2**22) * 2
    for token in result.tokens:
        for vectors in token.vectors.values():
            assert vectors.isfinite().all()
            assert 0 < vectors.shape[0] <= 75
    return True


@st.composite
def changes(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """Return a function that damages bytes as transfers, disks and malice do."""
    place = draw(st.floats(0, 1))
    junk = draw(st.binary(min_size=1, max_size=12) | st.sampled_from([b"\xff" * 4, b"\0" * 8, b"\xff" * 8, b"\x7f"]))
    size = draw(st.integers(1, 64))
    kinds: dict[str, Callable[[bytes, int], bytes]] = {
        "flip": lambda data, at: data[:at] + bytes([data[at] ^ (1 << size % 8)]) + data[at + 1 :],
        "overwrite": lambda data, at: data[:at] + junk + data[at + len(junk) :],
        "cut": lambda data, at: data[:at],
        "insert": lambda data, at: data[:at] + junk + data[at:],
        "remove": lambda data, at: data[:at] + data[at + size :],
        "repeat": lambda data, at: data[: at + size] + data[at:],
        "swap": lambda data, at: data[at:] + data[:at],
    }
    change = kinds[draw(st.sampled_from(sorted(kinds)))]
    return lambda data: change(data, int(place * (len(data) - 1))) if data else data


@settings(max_examples=900, deadline=None)
@given(name=st.sampled_from(sorted(SEEDS)), damage=st.lists(changes(), min_size=1, max_size=4))
def test_damaged_files(
    folder: Path, seeds: dict[str, bytes], name: str, damage: list[Callable[[bytes], bytes]]
) -> None:
    data = seeds[name]
    for change in damage:
        data = change(data)
    survive(folder, data)


@pytest.mark.parametrize("name", SEEDS)
def test_each_byte_of_the_structure_damaged(folder: Path, seeds: dict[str, bytes], name: str) -> None:
    data = seeds[name]
    places = range(0, len(data), max(1, len(data) // 75))
    outcomes = {survive(folder, data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]) for at in places}
    assert False in outcomes


@pytest.mark.parametrize("real", REAL, ids=lambda real: real.name)
def test_real_files_damaged(folder: Path, request: pytest.FixtureRequest, real: Path) -> None:
    if real.is_relative_to(SHARED):
        request.getfixturevalue("shared")
    data = real.read_bytes()
    settings_beside = real.with_name("adapter_config.json")
    if settings_beside.exists():
        shutil.copy(settings_beside, folder)
    generator = torch.Generator().manual_seed(0)
    count = 300 if len(data) < 10**5 else 13
    outcomes = set()
    for at in torch.randint(len(data), (count,), generator=generator).tolist():
        outcomes.add(survive(folder, data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]))
        outcomes.add(survive(folder, data[:at]))
    (folder / "adapter_config.json").unlink(missing_ok=True)
    assert False in outcomes


@settings(max_examples=150, deadline=None)
@given(
    data=st.binary(max_size=200),
    start=st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP", b"\xff\x0a"]),
)
def test_random_bytes(folder: Path, data: bytes, start: bytes) -> None:
    survive(folder, start + data)


instructions = st.sampled_from(
    [
        *(bytes([code]) for code in b"})]( tus.R\x81baeNq\x88\x89Q\x85\x86\x87"),
        b"q\0",
        b"h\0",
        b"h\1",
        text("string_to_param"),
        text("*"),
        text("<cat>"),
        text("_parameters"),
        text("state_dict"),
        text("embed"),
        text("storage"),
        number(0),
        number(4),
        number(2**64),
        tensor(0, [2, 2], [2, 1]),
        tensor(0, [4], [1]),
        tensor(0, [75, 2**30], [0, 0]),
        b"ctorch\nFloatStorage\n",
        b"ctorch\nSize\n",
        b"ccollections\nOrderedDict\n",
        b"ctorch._utils\n_rebuild_tensor_v2\n",
        b"ctorch._utils\n_rebuild_parameter\n",
        b"ctorch.nn.modules.container\nParameterDict\n",
        b"c__builtin__\nset\n",
        b"cos\nsystem\n",
        b"}" + text("<cat>") + tensor(0, [4], [1]) + b"s",
    ]
)


@settings(max_examples=400, deadline=None)
@given(program=st.lists(instructions, max_size=14).map(b"".join))
def test_random_pickles(folder: Path, program: bytes) -> None:
    survive(folder, torch_zip(b"\x80\x02" + program + b".", {"0": bytes(16)}))


names = st.sampled_from(
    [
        "emb_params",
        "clip_l",
        "<cat>",
        "embed",
        "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight",
        "middle_block.1.transformer_blocks.0.attn2.to_v.weight",
        "bundle_emb.x.clip_l",
        "bundle_emb.",
        "a.control_trans",
        "encoder.layers.3.self_attn.x.control_trans",
        "a.wte.weight",
        "string_to_param.*",
        "modifier_token",
        "__metadata__",
    ]
)
headers = st.dictionaries(
    names,
    st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["F32", "F16", "I64", "F8_E5M2", "x"]),
            "shape": st.lists(st.sampled_from([0, 1, 2, 4, 75, 76, 2**40]), max_size=3),
            "data_offsets": st.sampled_from([[0, 16], [0, 8], [8, 16], [0, 0], [0, 2**40], [16, 0]]),
        }
    ),
    max_size=4,
)


@settings(max_examples=300, deadline=None)
@given(header=headers)
def test_random_safetensors(folder: Path, header: dict[str, object]) -> None:
    survive(folder, safetensors(json.dumps(header).encode(), bytes(16)))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda child: (
        st.lists(child, max_size=4)
        | st.dictionaries(
            st.sampled_from(["TORCHTENSOR", "string_to_param", "*", "name", "emb_params"]), child, max_size=3
        )
    ),
    max_leaves=12,
)


@settings(max_examples=250, deadline=None)
@given(value=values)
def test_random_pictures(folder: Path, value: object) -> None:
    buffer = io.BytesIO()
    with_pixels(zlib.compress(json.dumps({"string_to_param": {"*": value}}).encode()), 16).save(buffer, "PNG")
    survive(folder, buffer.getvalue())


def test_settings_with_random_types(folder: Path) -> None:
    torch_file(adapter({"control_trans": random(96)}))(folder / "seed")
    for value in (None, True, -1, 0, 10**30, 1.5, "x", [], {}, [[]]):
        for key in ("hidden_size", "prefix_length", "use_gating", "non_linearity", "architecture"):
            config = {"model_type": "clip_text_model", "hidden_size": 16, "config": {key: value}, key: value}
            (folder / "adapter_config.json").write_text(json.dumps(config))
            result = load(folder / "seed")
            assert isinstance(result, (Concept, ConceptFileError))
    (folder / "adapter_config.json").unlink()
    assert isinstance(load(folder / "seed"), Concept)
