"""Custom Diffusion files in every form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from alignit.concepts import formats
from alignit.concepts.concept import Concept, ConceptFileError, Dense, Factors, Family
from alignit.concepts.formats import Outline, contents, read_outline
from alignit.concepts.formats.source import Source
from tests.formats.writers import (
    LAYER_COUNT,
    OUT,
    SD1,
    SDXL,
    WIDTH,
    authors_diffusers,
    authors_diffusers_compressed,
    compressed,
    diffusers_weights,
    ldm_delta,
    random,
    save_webui_delta,
    webui_embedding,
    weights,
)

LDM = weights()
EMBED = random(2, WIDTH, seed=100)
ONE = random(WIDTH, seed=101)


def load_concept(path: Path, **given: Any) -> Concept:
    """Load a file, which its outline has to agree with."""
    concept = formats.load_concept(path, **given)
    if not given:
        outline = read_outline(path)
        assert outline.family is concept.family
        names = tuple(token.name for token in concept.tokens)
        assert outline.tokens == (names or ((concept.name,) if ".delta." in path.name else ()))
    return concept


def expect_weights(concept: Concept, full: bool, wanted: dict[str, torch.Tensor], atol: float = 0.0) -> None:
    assert concept.family is Family.CUSTOM_DIFFUSION
    assert concept.weights is not None
    assert concept.weights.full is full
    assert concept.weights.matrices.keys() == wanted.keys()
    for layer, matrix in concept.weights.matrices.items():
        assert matrix.shape == wanted[layer].shape
        torch.testing.assert_close(matrix.dense(), wanted[layer], atol=atol, rtol=0)


def expect_tokens(concept: Concept, **tokens: torch.Tensor | list[torch.Tensor]) -> None:
    assert [token.name for token in concept.tokens] == list(tokens)
    for token, wanted in zip(concept.tokens, tokens.values(), strict=True):
        halves = wanted if isinstance(wanted, list) else [wanted]
        assert list(token.vectors) == ["clip_l", "clip_g"][: len(halves)]
        for vectors, half in zip(token.vectors.values(), halves, strict=True):
            assert torch.equal(vectors, half.reshape(1, -1))


@pytest.mark.parametrize("legacy", [False, True])
def test_authors_ldm(tmp_path: Path, legacy: bool) -> None:
    path = tmp_path / "delta_epoch=000004.ckpt"
    torch.save(ldm_delta(EMBED), path, _use_new_zipfile_serialization=not legacy)
    concept = load_concept(path)
    assert len(LDM) == LAYER_COUNT
    expect_weights(concept, True, LDM)
    assert all(isinstance(matrix, Dense) for matrix in concept.weights.matrices.values())
    expect_tokens(concept, **{"<new1>": EMBED[0], "<new2>": EMBED[1]})
    expect_tokens(load_concept(path, token_names=["<cat>", "<dog>"]), **{"<cat>": EMBED[0], "<dog>": EMBED[1]})
    with pytest.raises(ConceptFileError, match="2 tokens"):
        load_concept(path, token_names=["<cat>"])
    assert concept.notes == ()


@pytest.mark.parametrize("embed", [ONE, EMBED.flatten()], ids=["one", "several"])
@pytest.mark.parametrize("top", [False, True], ids=["inside", "top"])
def test_authors_ldm_with_a_flat_embedding(tmp_path: Path, embed: torch.Tensor, top: bool) -> None:
    data = ldm_delta(None if top else embed)
    if top:
        data["embed"] = embed
    torch.save(data, tmp_path / "delta.ckpt")
    tokens = load_concept(tmp_path / "delta.ckpt").tokens
    assert torch.equal(torch.cat([token.vectors["clip_l"] for token in tokens]), embed.reshape(-1, WIDTH))


def test_authors_ldm_without_a_token(tmp_path: Path) -> None:
    torch.save(ldm_delta(None), tmp_path / "delta.ckpt")
    torch.save({"<of another>": ONE}, tmp_path / "<of another>.bin")
    concept = load_concept(tmp_path / "delta.ckpt")
    assert concept.tokens == ()
    assert any("No token embedding" in note for note in concept.notes)


def test_authors_ldm_converted_to_safetensors(tmp_path: Path) -> None:
    save_file({**ldm_delta(None)["state_dict"], "embed": EMBED}, tmp_path / "delta.safetensors")
    concept = load_concept(tmp_path / "delta.safetensors")
    expect_weights(concept, True, LDM)
    expect_tokens(concept, **{"<new1>": EMBED[0], "<new2>": EMBED[1]})


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_authors_ldm_compressed(tmp_path: Path, rank: int) -> None:
    data: dict[str, Any] = ldm_delta(EMBED)
    factors = {name: compressed(value, rank) for name, value in LDM.items()}
    for name, value in factors.items():
        data["state_dict"][f"model.diffusion_model.{name}.weight"] = value
    torch.save(data, tmp_path / "compressed_delta_epoch=4.ckpt")
    concept = load_concept(tmp_path / "compressed_delta_epoch=4.ckpt")
    expect_weights(concept, False, {name: value["u"] @ value["v"] for name, value in factors.items()})
    for matrix in concept.weights.matrices.values():
        assert isinstance(matrix, Factors)
        assert matrix.left.shape == (OUT, rank)
    expect_tokens(concept, **{"<new1>": EMBED[0], "<new2>": EMBED[1]})


def test_authors_diffusers(tmp_path: Path) -> None:
    table = torch.nn.Parameter(random(50, WIDTH))
    torch.save(authors_diffusers(SD1, {"<new1>": table[48].detach(), "<new2>": table[49].detach()}), tmp_path / "d.bin")
    concept = load_concept(tmp_path / "d.bin")
    expect_weights(concept, True, LDM)
    expect_tokens(concept, **{"<new1>": table[48].detach(), "<new2>": table[49].detach()})


def test_authors_diffusers_compressed(tmp_path: Path) -> None:
    data = authors_diffusers_compressed({"<new1>": ONE}, 2)
    torch.save(data, tmp_path / "compressed_delta.bin")
    concept = load_concept(tmp_path / "compressed_delta.bin")
    wanted = [part["u"] @ part["v"] for part in data["unet"].values()]
    expect_weights(concept, False, dict(zip(LDM, wanted, strict=True)))
    expect_tokens(concept, **{"<new1>": ONE})


def test_authors_diffusers_with_queries_and_text_encoder(tmp_path: Path) -> None:
    data = authors_diffusers(SD1, {"<new1>": ONE})
    start = "mid_block.attentions.0.transformer_blocks.0.attn2"
    data["unet"] |= {f"{start}.to_q.weight": random(8, 8), f"{start}.to_out.0.bias": random(8)}
    data["text_encoder"] = torch.nn.Linear(3, 3).state_dict()  # has torch's version numbers as an attribute
    torch.save(data, tmp_path / "delta.bin")
    concept = load_concept(tmp_path / "delta.bin")
    expect_weights(concept, True, LDM)
    assert any("query and output" in note for note in concept.notes)
    assert any("text encoder is not used" in note for note in concept.notes)


def test_authors_sdxl(tmp_path: Path) -> None:
    halves = [random(16, seed=5), random(24, seed=6)]
    torch.save(authors_diffusers(SDXL, {"<new1>": halves}, 40), tmp_path / "delta.bin")
    concept = load_concept(tmp_path / "delta.bin")
    expect_weights(concept, True, weights(SDXL, width=40))
    expect_tokens(concept, **{"<new1>": halves})
    torch.save(authors_diffusers(SDXL, {"<new1>": [*halves, halves[0]]}, 40), tmp_path / "delta.bin")
    with pytest.raises(ConceptFileError, match="token of no known form"):
        load_concept(tmp_path / "delta.bin")


@pytest.mark.parametrize("token_suffix", ["bin", "safetensors"])
@pytest.mark.parametrize("suffix", ["bin", "safetensors"])
def test_diffusers(tmp_path: Path, suffix: str, token_suffix: str) -> None:
    path = tmp_path / f"pytorch_custom_diffusion_weights.{suffix}"
    data = diffusers_weights()
    if suffix == "bin":
        torch.save(data, path)
    else:
        save_file({name: value.data for name, value in data.items() if not isinstance(value, dict)}, path)
    expect_tokens(load_concept(path))
    assert any("No token embedding" in note for note in load_concept(path).notes)
    table = torch.nn.Parameter(random(50, WIDTH))
    for number in (1, 2):
        name = f"<new{number}>"
        token = tmp_path / f"{name}.{token_suffix}"
        if token_suffix == "bin":
            torch.save({name: table[number]}, token)
        else:
            save_file({name: table[number].detach()}, token, metadata={"format": "pt"})
    torch.save({"<other>": ONE}, tmp_path / "other.bin")
    torch.save({"<other>": ONE}, tmp_path / "<other>.bin.old")
    concept = load_concept(path)
    expect_weights(concept, True, LDM)
    expect_tokens(concept, **{"<new1>": table[1].detach(), "<new2>": table[2].detach()})
    assert concept.notes == ()
    expect_tokens(load_concept(path, token_files=[tmp_path / "other.bin"]), **{"<other>": ONE})


@pytest.mark.parametrize("suffix", ["bin", "safetensors"])
def test_diffusers_with_queries_and_outputs(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"pytorch_custom_diffusion_weights.{suffix}"
    data = diffusers_weights(queries=True)
    if suffix == "bin":
        torch.save(data, path)
    else:
        save_file({name: value.data for name, value in data.items() if not isinstance(value, dict)}, path)
    torch.save({"<new1>": ONE}, tmp_path / "<new1>.bin")
    concept = load_concept(path)
    expect_weights(concept, True, LDM)
    expect_tokens(concept, **{"<new1>": ONE})
    assert concept.notes == (
        "Its query and output weights are not used: they act on the whole picture, not on the concept",
    )


def test_the_writer_names_queries_and_outputs_as_diffusers_does() -> None:
    library = pytest.importorskip("diffusers.models.attention_processor")
    start = "mid_block.attentions.0.transformer_blocks.0.attn2.processor."
    for queries in (False, True):
        processor = library.CustomDiffusionAttnProcessor(True, queries, hidden_size=OUT, cross_attention_dim=WIDTH)
        ours = {name: value.shape for name, value in diffusers_weights(queries).items() if name.startswith(start)}
        assert ours == {start + name: value.shape for name, value in processor.state_dict().items()}


def test_token_files_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_custom_diffusion_weights.bin"
    torch.save(diffusers_weights(), path)
    (tmp_path / "<new1>.bin").write_bytes(b"")
    with pytest.raises(ConceptFileError, match=r"'<new1>\.bin' is empty"):
        load_concept(path)
    with pytest.raises(ConceptFileError, match="no token embedding"):
        load_concept(path, token_files=[path])
    with pytest.raises(ConceptFileError, match=r"'absent\.bin' cannot be opened"):
        load_concept(path, token_files=["absent.bin"])
    torch.save({"<new1>": ONE}, tmp_path / "<new1>.bin")
    torch.save({"<new1>": ONE}, tmp_path / "<new2>.bin")
    with pytest.raises(ConceptFileError, match="same token"):
        load_concept(path)


@pytest.mark.parametrize("factored", [False, True])
def test_webui_delta(tmp_path: Path, factored: bool) -> None:
    deltas = {name: value * 0.01 for name, value in LDM.items()}
    if factored:
        deltas = {name: random(OUT, 1, seed=7) @ value[:1] * 0.01 for name, value in LDM.items()}
    path = tmp_path / "cat.delta.safetensors"
    save_webui_delta(path, deltas, factored)
    torch.save(webui_embedding(EMBED), tmp_path / "cat.pt")
    concept = load_concept(path)
    assert concept.name == "cat"
    expect_weights(concept, False, deltas, atol=1e-4 if factored else 0)
    assert {type(matrix) for matrix in concept.weights.matrices.values()} == {Factors if factored else Dense}
    if factored:
        assert {tensor.dtype for matrix in concept.weights.matrices.values() for tensor in matrix.tensors} == {
            torch.float16
        }
    assert [(token.name, token.length) for token in concept.tokens] == [("cat", 2)]
    (tmp_path / "cat.pt").unlink()
    assert load_concept(path).tokens == ()


def test_webui_delta_may_be_sparse(tmp_path: Path) -> None:
    layer = SD1[0][0]
    save_webui_delta(tmp_path / "cat.delta.safetensors", {layer: LDM[layer]}, False)
    expect_weights(load_concept(tmp_path / "cat.delta.safetensors"), False, {layer: LDM[layer]})


@pytest.mark.parametrize(
    ("json", "message"),
    [
        ('{"entries": {"NAME": "lokr"}}', "kind 'lokr'"),
        ('{"entries": {"NAME": 3}}', "kind 3"),
        ('{"entries": {"NAME": "delta_factors"}}', "lacks the weights"),
        ('{"entries": {"model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_v": "delta"}}', "lacks"),
    ],
)
def test_webui_delta_whose_metadata_does_not_fit(tmp_path: Path, json: str, message: str) -> None:
    name = f"model.diffusion_model.{SD1[0][0]}.weight"
    save_file({name: random(8, 16)}, tmp_path / "a.safetensors", {"json": json.replace("NAME", name)})
    with pytest.raises(ConceptFileError, match=message):
        load_concept(tmp_path / "a.safetensors")


@pytest.mark.parametrize("json", ["", "{", "[" * 100_000, "3", '{"entries": 3}', '{"entries": {}, "entries": {}}'])
def test_metadata_of_others_is_not_taken_for_a_delta(tmp_path: Path, json: str) -> None:
    save_file(ldm_delta(None)["state_dict"], tmp_path / "a.safetensors", {"json": json})
    assert load_concept(tmp_path / "a.safetensors").weights.full


FIRST = f"model.diffusion_model.{SD1[0][0]}.weight"
LAYER = LDM[SD1[0][0]]
IN_DIFFUSERS = f"{SD1[0][1]}.weight"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({FIRST: None}, "has weights for .*to_v, but not for .*to_k"),
        ({IN_DIFFUSERS: LAYER}, "two weights for input_blocks.1.1"),
        ({FIRST: {"u": LAYER}}, "only a part"),
        ({FIRST: {"u": random(8, 3), "v": random(4, 16)}}, "do not fit"),
        ({FIRST: compressed(LAYER, 2)}, "mixed"),
        ({FIRST: LAYER[None]}, "of shape"),
        ({FIRST: LAYER[0]}, "of shape"),
        ({FIRST: LAYER[:0]}, "of shape"),
        ({FIRST: LAYER[:, :0]}, "of shape"),
        ({FIRST: LAYER[:, :5]}, "different widths"),
        ({FIRST: LAYER / 0}, "NaN"),
        ({FIRST: LAYER.long()}, "int64"),
        # A product of gigabytes from factors of kilobytes.
        ({FIRST: {"u": random(70_000, 1), "v": random(1, 70_000)}}, "of shape"),
        ({"embed": random(2, 15)}, "token embeddings of shape"),
        ({"embed": random(1, 2, WIDTH)}, "token embeddings of shape"),
        ({"embed": random(76, WIDTH)}, "more than 75"),
        ({"embed": random(0, WIDTH)}, "token embeddings of shape"),
    ],
)
def test_weights_that_cannot_be_used(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    state: dict[str, Any] = {**ldm_delta(None)["state_dict"], **changes}
    torch.save({"state_dict": {name: value for name, value in state.items() if value is not None}}, tmp_path / "d.ckpt")
    with pytest.raises(ConceptFileError, match=rf"'d\.ckpt' .*{message}"):
        load_concept(tmp_path / "d.ckpt")


def test_what_is_kept_owns_its_memory(tmp_path: Path) -> None:
    data = ldm_delta(EMBED)
    torch.save(data, tmp_path / "delta.ckpt")
    concept = load_concept(tmp_path / "delta.ckpt")
    kept = [matrix.dense() for matrix in concept.weights.matrices.values()]
    kept += [token.vectors["clip_l"] for token in concept.tokens]
    assert sum(tensor.untyped_storage().nbytes() for tensor in kept) == concept.nbytes
    assert concept.nbytes == (LAYER_COUNT * OUT * WIDTH + 2 * WIDTH) * 4
    (tmp_path / "delta.ckpt").write_bytes(b"")
    expect_weights(concept, True, LDM)


def test_an_outline_is_read_without_the_weights(tmp_path: Path) -> None:
    """Enough of a large file for its outline is a small part of it."""
    read = []

    class Counting(Source):
        def read(self, begin: int, length: int) -> bytearray:
            read.append(length)
            return super().read(begin, length)

    path = tmp_path / "delta.ckpt"
    state = {name: value.repeat(100, 10) for name, value in ldm_delta(None)["state_dict"].items()}
    torch.save({"state_dict": {**state, "embed": random(2, 10 * WIDTH)}}, path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contents, "Source", Counting)
        outline = read_outline(path)
    assert outline == Outline(Family.CUSTOM_DIFFUSION, ("<new1>", "<new2>"), {})
    assert 0 < sum(read) < path.stat().st_size / 100


@pytest.mark.parametrize("name", ["", " ", "a\nb", "a" * 201])
def test_an_outline_names_no_token_that_cannot_be_typed(tmp_path: Path, name: str) -> None:
    torch.save(authors_diffusers(SD1, {name: ONE}), tmp_path / "delta.bin")
    with pytest.raises(ConceptFileError, match="cannot be typed"):
        read_outline(tmp_path / "delta.bin")
