"""The map between LDM and diffusers layer names."""

from __future__ import annotations

import pytest

from alignit.concepts.layer_names import diffusers_name, layer_of, partner_of
from tests.formats.writers import REFINER, SD1, SDXL

MODELS = {"SD1": (SD1, 32), "SDXL": (SDXL, 140), "refiner": (REFINER, 88)}


@pytest.mark.parametrize("model", MODELS)
def test_every_layer_of_a_model_has_one_name_in_each_library_and_they_meet(model: str) -> None:
    layers, count = MODELS[model]
    assert len(set(layers)) == count
    for ldm, diffusers in layers:
        assert layer_of(ldm) == layer_of(diffusers) == ldm
        assert diffusers_name(ldm) == diffusers
    assert len({layer_of(diffusers) for _, diffusers in layers}) == count


@pytest.mark.parametrize("suffix", ["", ".weight"])
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "diffusion_model.", "unet."])
def test_prefix_and_suffix_do_not_matter(prefix: str, suffix: str) -> None:
    for ldm, diffusers in SD1:
        assert layer_of(prefix + ldm + suffix) == ldm
        assert layer_of(prefix + diffusers + suffix) == ldm


@pytest.mark.parametrize(
    "name",
    [
        "",
        "embed",
        "input_blocks.1.1.transformer_blocks.0.attn1.to_k",
        "input_blocks.1.1.transformer_blocks.0.attn2.to_q",
        "input_blocks.1.1.transformer_blocks.0.attn2.to_k.bias",
        "input_blocks.0.1.transformer_blocks.0.attn2.to_k",
        "input_blocks.3.1.transformer_blocks.0.attn2.to_k",
        "input_blocks.01.1.transformer_blocks.0.attn2.to_k",
        "input_block.1.transformer_blocks.0.attn2.to_k",
        "middle_blocks.1.1.transformer_blocks.0.attn2.to_k",
        "down_blocks.0.attentions.2.transformer_blocks.0.attn2.to_k",
        "up_blocks.0.attentions.3.transformer_blocks.0.attn2.to_k",
        "mid_block.attentions.1.transformer_blocks.0.attn2.to_k",
        "down_block.attentions.0.transformer_blocks.0.attn2.to_k",
        "text_encoder.unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k",
        "output_blocks." + "9" * 5000 + ".1.transformer_blocks.0.attn2.to_k",
    ],
)
def test_other_names_are_no_layers(name: str) -> None:
    assert layer_of(name) is None
    with pytest.raises(ValueError, match="no key or value projection"):
        diffusers_name(name)


def test_keys_and_values_are_partners() -> None:
    for ldm, _ in SD1:
        assert partner_of(ldm) != ldm
        assert partner_of(partner_of(ldm)) == ldm
        assert partner_of(ldm)[:-1] == ldm[:-1]
