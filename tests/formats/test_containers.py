"""Files of torch and safetensors: the same tensors as their own libraries read, and nothing else."""

from __future__ import annotations

import collections
import io
import os
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from alignit.concepts.concept import ConceptFileError
from alignit.concepts.formats import load_concept
from alignit.concepts.formats.contents import TensorPath, open_contents
from tests.formats.writers import (
    REAL_ADAPTERS,
    adapter,
    diffusers_weights,
    ldm_delta,
    original_embedding,
    random,
    webui_embedding,
)

TYPES = [
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
]


def read_all(path: Path) -> dict[TensorPath, torch.Tensor]:
    with open_contents(path) as contents:
        # A tensor under several names is read once: a file may not cost more to read than it is long.
        values = {tensor: tensor.read() for tensor in set(contents.tensors.values())}
        return {name: values[tensor] for name, tensor in contents.tensors.items()}


def flatten(tree: Any, path: TensorPath = ()) -> dict[TensorPath, torch.Tensor]:
    if isinstance(tree, torch.Tensor):
        return {path: tree}
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, (list, tuple)) else ()
    return {name: leaf for key, value in items for name, leaf in flatten(value, (*path, str(key))).items()}


def assert_same(ours: dict[TensorPath, torch.Tensor], theirs: dict[TensorPath, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.dtype is theirs[name].dtype
        assert tensor.shape == theirs[name].shape
        assert torch.equal(tensor, theirs[name])
        assert tensor.is_contiguous()
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    dtype = draw(st.sampled_from(TYPES))
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    value = random(*shape, seed=draw(st.integers(0, 99))).mul(50).to(dtype)
    if value.ndim > 1 and draw(st.booleans()):
        value = value.transpose(0, -1)
    if value.ndim and draw(st.booleans()):
        value = value[draw(st.integers(0, value.shape[0])) :]
    return value


trees = st.recursive(
    tensors() | st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda child: st.dictionaries(st.text(max_size=5), child, max_size=3) | st.lists(child, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("containers")


@settings(max_examples=150, deadline=None)
@given(tree=st.dictionaries(st.text(max_size=5), trees, max_size=4), legacy=st.booleans())
def test_torch_files_agree_with_torch(folder: Path, tree: dict[str, Any], legacy: bool) -> None:
    path = folder / "tree.pt"
    torch.save(tree, path, _use_new_zipfile_serialization=not legacy)
    wanted = {name: leaf for name, leaf in flatten(torch.load(path, weights_only=True)).items() if len(name) <= 4}
    assert_same(read_all(path), wanted)


@pytest.mark.parametrize(
    "data",
    [
        webui_embedding(random(3, 16)),
        ldm_delta(random(2, 16)),
        diffusers_weights(),
        adapter({"control_trans": random(96)}),
        {
            "size": torch.Size([2, 3]),
            "ordered": collections.OrderedDict(x=random(2)),
            "tuple": (random(1),),
        },
        torch.nn.Linear(2, 3).state_dict(),
    ],
    ids=["textual inversion", "LDM", "diffusers", "adapter", "others", "state dict"],
)
@pytest.mark.parametrize("legacy", [False, True])
def test_training_files_agree_with_torch(tmp_path: Path, data: dict[str, Any], legacy: bool) -> None:
    torch.save(data, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
    ours, theirs = read_all(tmp_path / "a.pt"), flatten(torch.load(tmp_path / "a.pt", weights_only=True))
    assert len(ours) > 0
    assert_same(ours, theirs)


def test_parameter_dict_which_weights_only_refuses(tmp_path: Path) -> None:
    params = {"<a>": random(2, 4), "<b>": random(1, 4)}
    torch.save(original_embedding(params), tmp_path / "a.pt")
    ours = read_all(tmp_path / "a.pt")
    assert {name[1]: value for name, value in ours.items() if name[0] == "string_to_param"}.keys() == params.keys()
    for name, value in params.items():
        assert torch.equal(ours["string_to_param", name], value)


@settings(max_examples=60, deadline=None)
@given(
    values=st.dictionaries(
        st.text(max_size=5).filter(lambda name: name != "__metadata__"), tensors(), min_size=1, max_size=4
    )
)
def test_safetensors_agree_with_safetensors(folder: Path, values: dict[str, torch.Tensor]) -> None:
    path = folder / "a.safetensors"
    save_file({name: value.clone().contiguous() for name, value in values.items()}, path, {"some": "text"})
    assert_same(read_all(path), {(name,): value for name, value in load_file(path).items()})
    with open_contents(path) as contents:
        assert contents.metadata == {"some": "text"}


def test_real_files_agree_with_torch() -> None:
    paths = sorted(REAL_ADAPTERS.glob("*/pytorch_adapter.bin"))
    assert len(paths) == 2
    for path in paths:
        assert_same(read_all(path), flatten(torch.load(path, map_location="cpu", weights_only=True)))


def test_a_file_may_be_deleted_after_it_was_read(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"<a>": random(4)}, path)
    concept = load_concept(path)
    path.unlink()
    assert torch.equal(concept.tokens[0].vectors["clip_l"], random(1, 4))


def test_places_that_are_no_files(tmp_path: Path) -> None:
    (tmp_path / "folder.pt").mkdir()
    cases = {"folder.pt": "is a folder", "absent.pt": "cannot be opened", "a\0b": "opened"}
    for name, message in cases.items():
        with pytest.raises(ConceptFileError, match=message):
            load_concept(tmp_path / name)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has neither pipes nor devices among its files")
def test_pipes_and_devices(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pt")
    for path in (tmp_path / "pipe.pt", Path("/dev/zero")):
        with pytest.raises(ConceptFileError, match="is not a file"):
            load_concept(path)


def test_error_names_file_problem_and_remedy(tmp_path: Path) -> None:
    path = tmp_path / "cat.pt"
    path.write_bytes(b"")
    with pytest.raises(ConceptFileError) as caught:
        load_concept(path)
    assert str(caught.value) == "'cat.pt' is empty. Download or copy it again."
    assert (caught.value.path, caught.value.problem) == (path, "is empty")
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("cut", [1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_files_that_are_cut_short(tmp_path: Path, kind: str, cut: float) -> None:
    path = tmp_path / "cat"
    if kind == "safetensors":
        save_file({"emb_params": random(8, 64)}, path)
    else:
        torch.save({"emb_params": random(8, 64)}, path, _use_new_zipfile_serialization=kind == "zip")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * cut)] if cut < 1 else data[:-1])
    with pytest.raises(ConceptFileError, match=r"cut short|damaged"):
        load_concept(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"<!DOCTYPE html><html><body>404</body></html>", "web page"),
        (b"\n  <html>" + b" " * 1000, "web page"),
        (b'{"error": "Repository not found"}', "web page or an error message"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "Git LFS pointer"),
        (b"\xff\xd8\xff\xe0" + b"\0" * 100, "JPEG picture"),
        (b"GIF89a" + b"\0" * 100, "GIF picture"),
        (b"GGUF" + b"\0" * 100, "GGUF"),
        (b"\x1f\x8b\x08" + b"\0" * 100, "gzip"),
        (b"\x80\x04\x95\0\0\0\0\0\0\0\0N.", "pickle"),
        (b"\0" * 257 + b"ustar" + b"\0" * 250, "pickle, but not a file of torch"),
        (b"\0", "is no .safetensors"),
        (b"hello", "is no .safetensors"),
        (b"\0" * 10_000, "is no .safetensors"),
        (b"\xff\x0a" + b"\0" * 100, "Pillow reads no JXL"),
        (b"\0\0\0\x1cftypavif" + b"\0" * 100, "Pillow reads no AVIF"),
        (b"RIFF\0\0\0\0WEBP" + b"\0" * 100, "Pillow reads no WEBP"),
        (b"RIFF\0\0\0\0WAVE" + b"\0" * 100, "is no .safetensors"),
    ],
)
def test_what_is_no_concept_file_is_called_what_it_is(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "cat.pt").write_bytes(data)
    with pytest.raises(ConceptFileError, match=f"'cat.pt' .*{message}"):
        load_concept(tmp_path / "cat.pt")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"params": {"new_concept_embedding": {"<cat>": random(16, 8)}}}, "ED-LoRA"),
        ({"state_dict": {"first_stage_model.encoder.conv_in.weight": random(2, 2)}}, "DreamBooth"),
        ({"state_dict": {**ldm_delta(None)["state_dict"], "first_stage_model.x": random(2)}}, "DreamBooth"),
        ({"conditioner.embedders.0.x": random(2)}, "DreamBooth"),
        ({"time_embedding.linear_1.weight": random(2, 2), "conv_in.weight": random(2)}, "whole UNet"),
        ({"embed_params": random(8), "key_value_params": [random(8)], "C_inv": random(8, 8)}, "Perfusion"),
        ({"mid_block.attentions.0.transformer_blocks.0.attn2.to_k.delta": random(8)}, "SVDiff"),
        ({"lora_unet_mid_block_attn2_to_k.lora_down.weight": random(4, 8)}, "LoRA"),
        ({"lora_unet_mid_block_attn2_to_k.hada_w1_a": random(4, 8)}, "LoRA"),
        ({"mid_block.attentions.0.transformer_blocks.0.attn2.processor.to_k_lora.down.weight": random(4, 8)}, "LoRA"),
        ({"unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight": random(4, 8)}, "LoRA"),
        ({f"<cat>-{layer}": random(8) for layer in range(16)}, "XTI"),
        ({f"{side}{layer:02}": random(8) for side in ("IN", "OUT") for layer in range(8)}, "XTI"),
        (random(1, 5, 8), "HiPer"),
        ({"conv.weight": random(3, 3, 3, 3)}, "no kind that is known"),
        ({"a.weight": random(4, 4), "b.weight": random(4, 4)}, "no kind that is known"),
        ({"epoch": 3}, "no tensors"),
        ([], "no tensors"),
    ],
)
def test_concepts_that_are_not_supported_are_called_by_name(tmp_path: Path, data: Any, message: str) -> None:
    torch.save(data, tmp_path / "cat.pt")
    with pytest.raises(ConceptFileError, match=f"'cat.pt' .*{message}"):
        load_concept(tmp_path / "cat.pt")


def test_other_archives_of_torch_and_others(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "download.zip", "w") as archive:
        archive.writestr("cat.safetensors", b"...")
    with pytest.raises(ConceptFileError, match=r"not of torch\. Unpack it"):
        load_concept(tmp_path / "download.zip")
    buffer = io.BytesIO()
    torch.save({"emb_params": random(2, 4)}, buffer)
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(tmp_path / "again.pt", "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info))
    with pytest.raises(ConceptFileError, match="packed again"):
        load_concept(tmp_path / "again.pt")
