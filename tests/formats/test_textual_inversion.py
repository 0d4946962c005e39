"""Textual inversion files in every form."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
import torch
from PIL import Image, features
from safetensors.torch import save_file

from alignit.concepts.concept import Concept, ConceptFileError, Family
from alignit.concepts.formats import load_concept
from tests.formats.writers import hide, original_embedding, random, webui_embedding, with_text_chunk

ONE, TWO = random(16, seed=1), random(3, 16, seed=2)
SMALL, LARGE = random(2, 16, seed=3), random(2, 24, seed=4)


def expect(concept: Concept, **tokens: torch.Tensor | tuple[torch.Tensor, torch.Tensor]) -> None:
    assert concept.family is Family.TEXTUAL_INVERSION
    assert concept.weights is None
    assert concept.encoder_change is None
    assert [token.name for token in concept.tokens] == list(tokens)
    for token, wanted in zip(concept.tokens, tokens.values(), strict=True):
        halves = wanted if isinstance(wanted, tuple) else (wanted,)
        assert list(token.vectors) == ["clip_l", "clip_g"][: len(halves)]
        assert token.length == halves[0].reshape(-1, halves[0].shape[-1]).shape[0]
        for vectors, half in zip(token.vectors.values(), halves, strict=True):
            assert vectors.dtype is torch.float32
            assert torch.equal(vectors, half.reshape(-1, half.shape[-1]).float())


@pytest.mark.parametrize("legacy", [False, True])
def test_webui(tmp_path: Path, legacy: bool) -> None:
    torch.save(webui_embedding(TWO), tmp_path / "my cat.pt", _use_new_zipfile_serialization=not legacy)
    # The WebUI ignores the name inside: people rename files.
    expect(load_concept(tmp_path / "my cat.pt"), **{"my cat": TWO})


def test_webui_vector_still_in_training(tmp_path: Path) -> None:
    torch.save(webui_embedding(TWO.clone().requires_grad_()), tmp_path / "cat.pt")
    (vectors,) = load_concept(str(tmp_path / "cat.pt")).tokens[0].vectors.values()
    assert torch.equal(vectors, TWO)
    assert not vectors.requires_grad


@pytest.mark.parametrize("legacy", [False, True])
def test_original_with_several_strings(tmp_path: Path, legacy: bool) -> None:
    data = original_embedding({"*": SMALL, "<cat>": TWO})
    torch.save(data, tmp_path / "embeddings_gs-999.pt", _use_new_zipfile_serialization=not legacy)
    expect(load_concept(tmp_path / "embeddings_gs-999.pt"), **{"embeddings_gs-999": SMALL, "<cat>": TWO})


@pytest.mark.parametrize("vectors", [ONE, TWO], ids=["1-D", "2-D"])
def test_diffusers(tmp_path: Path, vectors: torch.Tensor) -> None:
    torch.save({"<my-cat>": vectors}, tmp_path / "learned_embeds.bin")
    expect(load_concept(tmp_path / "learned_embeds.bin"), **{"<my-cat>": vectors})
    save_file({"<my-cat>": vectors}, tmp_path / "learned_embeds.safetensors", metadata={"format": "pt"})
    expect(load_concept(tmp_path / "learned_embeds.safetensors"), **{"<my-cat>": vectors})


def test_a_token_may_have_the_name_of_another_method(tmp_path: Path) -> None:
    torch.save({"lora_girl": ONE}, tmp_path / "girl.pt")
    expect(load_concept(tmp_path / "girl.pt"), lora_girl=ONE)


def test_a_name_too_long_for_a_partner(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 237 + "learned_embeds.bin")
    torch.save({"<cat>": ONE}, path)
    expect(load_concept(path), **{"<cat>": ONE})


def test_extension_does_not_matter(tmp_path: Path) -> None:
    save_file({"<my-cat>": ONE}, tmp_path / "cat.bin")
    expect(load_concept(tmp_path / "cat.bin"), **{"<my-cat>": ONE})


@pytest.mark.parametrize("opened", ["learned_embeds-steps-500", "learned_embeds_2-steps-500"])
def test_diffusers_sdxl_pair(tmp_path: Path, opened: str) -> None:
    save_file({"<my-cat>": SMALL}, tmp_path / "learned_embeds-steps-500.safetensors")
    save_file({"<my-cat>": LARGE}, tmp_path / "learned_embeds_2-steps-500.safetensors")
    expect(load_concept(tmp_path / f"{opened}.safetensors"), **{"<my-cat>": (SMALL, LARGE)})


def test_diffusers_sdxl_pairs_that_do_not_fit(tmp_path: Path) -> None:
    save_file({"<my-cat>": LARGE}, tmp_path / "learned_embeds_2.safetensors")
    with pytest.raises(ConceptFileError, match=r"learned_embeds_2.*Put the first, learned_embeds\.safetensors"):
        load_concept(tmp_path / "learned_embeds_2.safetensors")
    save_file({"<my-dog>": SMALL}, tmp_path / "learned_embeds.safetensors")
    with pytest.raises(ConceptFileError, match="different tokens"):
        load_concept(tmp_path / "learned_embeds_2.safetensors")
    save_file({"<my-cat>": SMALL[:1]}, tmp_path / "learned_embeds.safetensors")
    with pytest.raises(ConceptFileError, match="unequal numbers"):
        load_concept(tmp_path / "learned_embeds.safetensors")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_kohya(tmp_path: Path, dtype: torch.dtype) -> None:
    save_file({"emb_params": TWO.to(dtype)}, tmp_path / "easy.safetensors", metadata={"ss_steps": "10"})
    expect(load_concept(tmp_path / "easy.safetensors"), easy=TWO.to(dtype))


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_kohya_sdxl(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"easy.{suffix}"
    data = {"clip_g": LARGE, "clip_l": SMALL}
    if suffix == "pt":
        torch.save(data, path)
    else:
        save_file(data, path)
    expect(load_concept(path), easy=(SMALL, LARGE))


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_diffusers_advanced_training_of_sd1(tmp_path: Path, suffix: str) -> None:
    # train_dreambooth_lora_sd15_advanced.py names the only text encoder as that of SDXL, one row for each new token.
    path = tmp_path / f"my_cat_emb.{suffix}"
    if suffix == "pt":
        torch.save({"clip_l": SMALL}, path)
    else:
        save_file({"clip_l": SMALL}, path)
    expect(load_concept(path), my_cat_emb=SMALL)


def test_sdxl_needs_its_first_half_and_no_other_encoder(tmp_path: Path) -> None:
    path = tmp_path / "easy.safetensors"
    for name in ("clip_g", "bundle_emb.dog.clip_g"):
        save_file({name: LARGE}, path)
        with pytest.raises(ConceptFileError, match=r"clip_l is missing.*Train or convert it again, with both"):
            load_concept(path)
    save_file({"clip_l": SMALL, "t5xxl": TWO}, path)
    with pytest.raises(ConceptFileError, match="t5xxl"):
        load_concept(path)
    save_file({"clip_l": SMALL, "clip_g": LARGE, "t5xxl": TWO}, path)
    with pytest.raises(ConceptFileError, match="t5xxl"):
        load_concept(path)
    save_file({"clip_l": SMALL[:1], "clip_g": LARGE}, path)
    with pytest.raises(ConceptFileError, match="unequal numbers"):
        load_concept(path)


def test_bare_tensor_takes_the_names_that_are_given(tmp_path: Path) -> None:
    torch.save(TWO, tmp_path / "cat.pt")
    expect(load_concept(tmp_path / "cat.pt"), cat=TWO)
    expect(load_concept(tmp_path / "cat.pt", token_names=["<sks>"]), **{"<sks>": TWO})
    with pytest.raises(ConceptFileError, match="1 tokens, and 2 names"):
        load_concept(tmp_path / "cat.pt", token_names=["<a>", "<b>"])


def test_bundled_in_a_lora(tmp_path: Path) -> None:
    lora = {"lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": random(4, 8)}
    one = {"bundle_emb.<cat>.string_to_param.*": TWO}
    two = {"bundle_emb.dog.clip_l": SMALL, "bundle_emb.dog.clip_g": LARGE}
    save_file(lora | one | two, tmp_path / "lora.safetensors")
    concept = load_concept(tmp_path / "lora.safetensors")
    expect(concept, **{"<cat>": TWO, "dog": (SMALL, LARGE)})
    assert any("not the LoRA" in note for note in concept.notes)
    save_file({"bundle_emb.dog.clip_l": SMALL}, tmp_path / "sd1.safetensors")
    expect(load_concept(tmp_path / "sd1.safetensors"), dog=SMALL)
    save_file({"bundle_emb.dog.clip_l": SMALL, "bundle_emb.dog.t5": LARGE}, tmp_path / "flux.safetensors")
    with pytest.raises(ConceptFileError, match="t5"):
        load_concept(tmp_path / "flux.safetensors")


def test_picture_with_text_chunk(tmp_path: Path) -> None:
    with_text_chunk(tmp_path / "cat.png", webui_embedding(TWO, "inner"))
    expect(load_concept(tmp_path / "cat.png"), inner=TWO)
    with_text_chunk(tmp_path / "cat.png", {"string_to_param": {"*": TWO}})
    expect(load_concept(tmp_path / "cat.png"), cat=TWO)


def test_picture_with_as_many_vectors_as_fit_into_a_prompt(tmp_path: Path) -> None:
    vectors = random(75, 1280)
    with_text_chunk(tmp_path / "cat.png", webui_embedding(vectors, "inner"))
    expect(load_concept(tmp_path / "cat.png"), inner=vectors)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_picture_with_embedding_in_its_pixels(tmp_path: Path, kind: str) -> None:
    hide(webui_embedding(TWO, "inner")).save(tmp_path / "cat", kind, lossless=True)
    expect(load_concept(tmp_path / "cat"), inner=TWO)


# A picture of `hide` with [[1.5, -2.25]] in it, encoded by libavif without loss: colours as they are, at full quality.
# Pillow, and pillow_avif too, write no such AVIF: they turn colours into brightness and hue, and round.
LOSSLESS_AVIF = (
    "AAAAIGZ0eXBhdmlmAAAAAGF2aWZtaWYxbWlhZk1BMUEAAADrbWV0YQAAAAAAAAAhaGRscgAAAAAAAAAAcGljdAAAAAAAAAAAAAAAAAAAAAAO"
    "cGl0bQAAAAAAAQAAAB5pbG9jAAAAAEQAAAEAAQAAAAEAAAETAAAA5QAAAChpaW5mAAAAAAABAAAAGmluZmUCAAAAAAEAAGF2MDFDb2xvcgAA"
    "AABqaXBycAAAAEtpcGNvAAAAFGlzcGUAAAAAAAAAMgAAAAgAAAAQcGl4aQAAAAADCAgIAAAADGF2MUOBIAAAAAAAE2NvbHJuY2x4AAIAAgAA"
    "gAAAABdpcG1hAAAAAAAAAAEAAQQBAoMEAAAA7W1kYXQSAAoIOBSx/KBAQBIy1gEQAAD/tVxuwf4r8+B84tvl7Yrh663WQs7KZlJo5LLOobIW"
    "x4WnXpUeB54MQcJb4ggY7i2FkAX/jB4xhfoU5xjWKi7+MGv4AcUgfenk5Zaib48eNcfhdN6LxTPodr3Ajdn/kChiu9df9l0ifa85jK1Zlrua"
    "fBH+lhCt7UvLi7NVv6LMJd+jYnaMkicuNLmgQImRG+Ggb3womSH0xB8fw+Ni1CDsY+LvP1f6mglsv0NTDVmwGm+NswmxpcjdxBWnupiGedY0"
    "2wCKSx35YCTEBNfHl9nZTERA"
)


@pytest.fixture
def _reads_avif() -> None:
    if not features.check("avif"):
        # Pillow has it built in since 11.3; a WebUI has the plugin.
        pytest.importorskip("pillow_avif", reason="this Pillow reads no AVIF, and there is no pillow_avif")


@pytest.mark.usefixtures("_reads_avif")
def test_avif_without_loss(tmp_path: Path) -> None:
    (tmp_path / "cat.avif").write_bytes(base64.b64decode(LOSSLESS_AVIF))
    expect(load_concept(tmp_path / "cat.avif"), inner=torch.tensor([[1.5, -2.25]]))


@pytest.mark.usefixtures("_reads_avif")
def test_avif_as_pillow_writes_it_is_refused_in_words(tmp_path: Path) -> None:
    hide(webui_embedding(TWO)).save(tmp_path / "cat.avif", quality=100, subsampling="4:4:4")
    with pytest.raises(ConceptFileError, match=r"'cat\.avif' is a picture without .*changed.*preview"):
        load_concept(tmp_path / "cat.avif")


def test_picture_that_was_spoilt(tmp_path: Path) -> None:
    picture = hide(webui_embedding(TWO))
    picture.save(tmp_path / "lossy.webp", "WEBP", quality=50)
    picture.crop((5, 0, *picture.size)).save(tmp_path / "cut.png")
    Image.new("RGB", (32, 32), (9, 9, 9)).save(tmp_path / "preview.png")
    Image.new("RGB", (32, 32)).save(tmp_path / "black.png")
    picture.save(tmp_path / "photo.jpg")
    for name in ("lossy.webp", "cut.png", "preview.png", "black.png", "photo.jpg"):
        with pytest.raises(ConceptFileError, match=f"'{name}' is a .*picture.*preview"):
            load_concept(tmp_path / name)


def test_real_picture_says_the_same_twice(shared: Path, tmp_path: Path) -> None:
    path = shared / "textual_inversion" / "rick.png"
    from_chunk = load_concept(path)
    assert [token.name for token in from_chunk.tokens] == ["rick"]
    assert from_chunk.tokens[0].vectors["clip_l"].shape == (8, 768)
    with Image.open(path) as picture:
        picture.save(tmp_path / "copy.png")  # without the chunk
    from_pixels = load_concept(tmp_path / "copy.png")
    assert [token.name for token in from_pixels.tokens] == ["rick"]
    assert torch.equal(from_pixels.tokens[0].vectors["clip_l"], from_chunk.tokens[0].vectors["clip_l"])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.full((2, 16), float("nan")), "NaN"),
        (torch.full((16,), float("inf"), dtype=torch.float16), "NaN or infinite"),
        (torch.full((2, 16), 1e300, dtype=torch.float64), "NaN or infinite"),
        (torch.ones(2, 16, dtype=torch.int64), "int64"),
        (torch.ones(2, 16, dtype=torch.bool), "bool"),
        (torch.ones(76, 16), "76 vectors"),
        (torch.ones(0, 16), "shape"),
        (torch.ones(2, 0), "shape"),
    ],
)
def test_values_that_no_embedding_has(tmp_path: Path, value: torch.Tensor, message: str) -> None:
    torch.save({"string_to_param": {"*": value}}, tmp_path / "cat.pt")
    save_file({"emb_params": value}, tmp_path / "cat.safetensors")
    for name in ("cat.pt", "cat.safetensors"):
        with pytest.raises(ConceptFileError, match=f"'{name}' .*{message}"):
            load_concept(tmp_path / name)


def test_75_vectors_are_not_too_many(tmp_path: Path) -> None:
    torch.save({"string_to_param": {"*": torch.ones(75, 16)}}, tmp_path / "cat.pt")
    assert load_concept(tmp_path / "cat.pt").tokens[0].length == 75


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "x" * 201, "\x1b[2J"])
def test_token_names_that_cannot_be_typed(tmp_path: Path, name: str) -> None:
    torch.save({name: ONE}, tmp_path / "cat.pt")
    with pytest.raises(ConceptFileError, match="cannot be typed"):
        load_concept(tmp_path / "cat.pt")


def test_one_row_of_a_large_table_is_read_as_that_row(tmp_path: Path) -> None:
    table = torch.nn.Parameter(random(20_000, 16))
    torch.save({"<new1>": table[19_999]}, tmp_path / "<new1>.bin")
    assert (tmp_path / "<new1>.bin").stat().st_size > 10**6
    concept = load_concept(tmp_path / "<new1>.bin")
    expect(concept, **{"<new1>": table[19_999].detach()})
    assert concept.tokens[0].vectors["clip_l"].untyped_storage().nbytes() == concept.nbytes == 16 * 4
