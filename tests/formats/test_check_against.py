"""What a concept says of a live model: whether it fits, and whether weights are what they are taken for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from alignit.concepts.concept import Concept, ConceptFileError, ModelShapes
from alignit.concepts.formats import load_concept
from tests.formats.writers import OUT, SD1, WIDTH, ldm_delta, random, save_adapter, save_webui_delta, weights

MODEL = ModelShapes({"clip_l": WIDTH}, {ldm: (OUT, WIDTH) for ldm, _ in SD1}, 12)
MODEL_XL = replace(MODEL, token_widths={"clip_l": WIDTH, "clip_g": 24})


def custom_diffusion(folder: Path, **changes: Any) -> Concept:
    data: dict[str, Any] = ldm_delta(changes.get("embed", random(1, WIDTH)))
    torch.save(data, folder / "delta.ckpt")
    return load_concept(folder / "delta.ckpt")


def delta(folder: Path, values: dict[str, torch.Tensor], factored: bool = False) -> Concept:
    save_webui_delta(folder / "cat.delta.safetensors", values, factored)
    return load_concept(folder / "cat.delta.safetensors")


def embedding(folder: Path, **values: torch.Tensor) -> Concept:
    save_file(values, folder / "cat.safetensors")
    return load_concept(folder / "cat.safetensors")


def prefixes(folder: Path, layers: tuple[int, ...] = (9, 10, 11)) -> Concept:
    return load_concept(save_adapter(folder / "cat", {"control_trans": random(2 * len(layers) * WIDTH)}, layers))


def test_concepts_that_fit(tmp_path: Path) -> None:
    custom_diffusion(tmp_path).check_against(MODEL)
    delta(tmp_path, {SD1[3][0]: random(OUT, WIDTH)}).check_against(MODEL)
    delta(tmp_path, {SD1[3][0]: random(OUT, WIDTH)}, factored=True).check_against(MODEL)
    embedding(tmp_path, emb_params=random(2, WIDTH)).check_against(MODEL)
    embedding(tmp_path, clip_l=random(2, WIDTH)).check_against(MODEL)
    embedding(tmp_path, clip_l=random(2, WIDTH), clip_g=random(2, 24)).check_against(MODEL_XL)
    prefixes(tmp_path).check_against(MODEL)


@pytest.mark.parametrize(
    ("make", "model", "message"),
    [
        (lambda path: embedding(path, emb_params=random(2, 24)), MODEL, "width 24 for 'cat'.*16"),
        (lambda path: embedding(path, emb_params=random(2, WIDTH)), MODEL_XL, "one text encoder"),
        (lambda path: embedding(path, clip_l=random(2, WIDTH)), MODEL_XL, "one text encoder, .*has two"),
        (lambda path: embedding(path, clip_l=random(2, WIDTH), clip_g=random(2, 24)), MODEL, "two text encoders"),
        (lambda path: embedding(path, clip_l=random(2, WIDTH), clip_g=random(2, 23)), MODEL_XL, "width 23"),
        (custom_diffusion, MODEL_XL, "one text encoder"),
        (custom_diffusion, replace(MODEL, layers={"x": (1, 1)}), "none of the loaded model's layers"),
        (custom_diffusion, replace(MODEL, layers=dict(list(MODEL.layers.items())[1:])), "does not have"),
        (custom_diffusion, replace(MODEL, layers=MODEL.layers | {"x": (1, 1)}), "lacks 1 of .* 33 layers.* x"),
        (custom_diffusion, replace(MODEL, layers=MODEL.layers | {SD1[5][0]: (OUT, 20)}), r"\(8, 16\).*\(8, 20\)"),
        (lambda path: delta(path, {SD1[3][0]: random(OUT, 20)}), MODEL, r"\(8, 20\)"),
        (prefixes, replace(MODEL, token_widths={"clip_l": 24}), "width 16.*24"),
        (prefixes, replace(MODEL, encoder_layers=11), "layer 11"),
        (prefixes, MODEL_XL, "the text encoder of SD1"),
    ],
)
def test_concepts_for_another_model(tmp_path: Path, make: Any, model: ModelShapes, message: str) -> None:
    concept = make(tmp_path)
    with pytest.raises(ConceptFileError, match=f"'{concept.path.name}' .*{message}.* Load the kind of model"):
        concept.check_against(model)


def test_half_of_an_sdxl_embedding_on_sdxl_says_how_to_mend_it(tmp_path: Path) -> None:
    concept = embedding(tmp_path, clip_l=random(2, WIDTH))
    with pytest.raises(ConceptFileError, match="saved without its second half has to be trained or converted again"):
        concept.check_against(MODEL_XL)


def test_numbers_too_large_for_half_precision(tmp_path: Path) -> None:
    for concept in (
        embedding(tmp_path, emb_params=random(2, WIDTH) * 1e6),
        delta(tmp_path, {SD1[3][0]: random(OUT, WIDTH) * 1e6}),
    ):
        concept.check_against(MODEL)
        concept.check_against(replace(MODEL, dtype=torch.bfloat16))
        with pytest.raises(ConceptFileError, match="too large for float16"):
            concept.check_against(replace(MODEL, dtype=torch.float16))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_full_weights_and_deltas_are_told_apart(tmp_path: Path, dtype: torch.dtype) -> None:
    live = {name: value.to(dtype) for name, value in weights().items()}
    full = custom_diffusion(tmp_path).weights
    assert full.likeness(live).cosine == pytest.approx(1, abs=1e-3)
    assert full.likeness(live).norm_ratio == pytest.approx(1, abs=1e-3)
    assert full.doubt(live) is None
    tuned = {name: value + random(OUT, WIDTH, seed=number + 900) for number, (name, value) in enumerate(live.items())}
    assert "trained on another checkpoint" in full.doubt(tuned)
    small = {name: random(OUT, WIDTH, seed=number + 500) * 0.05 for number, name in enumerate(live)}
    true_delta = delta(tmp_path, small).weights
    assert true_delta.likeness(live).norm_ratio == pytest.approx(0.05, rel=0.2)
    assert true_delta.doubt(live) is None
    assert "look like whole weights" in delta(tmp_path, weights()).weights.doubt(live)
    torch.save({"state_dict": {f"model.diffusion_model.{n}.weight": v for n, v in small.items()}}, tmp_path / "d.ckpt")
    assert "look like differences" in load_concept(tmp_path / "d.ckpt").weights.doubt(live)


def test_likeness_needs_a_common_layer_of_one_shape(tmp_path: Path) -> None:
    full = custom_diffusion(tmp_path).weights
    assert full.likeness({}) is None
    assert full.doubt({}) is None
    assert full.likeness({SD1[0][0]: random(OUT, WIDTH + 1)}) is None
    assert full.likeness({SD1[0][0]: torch.zeros(OUT, WIDTH)}).cosine == 0
