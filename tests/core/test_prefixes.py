"""CatVersion's text encoder against an independent computation of its published attention."""

from __future__ import annotations

import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel

from alignit.concepts.formats import load_concept
from alignit.concepts.prefixes import Prefix, prefixed
from tests.core.reference import encode, encode_by_hand, padded, text_encoder
from tests.formats.writers import REAL_ADAPTERS

PROMPT = padded([20, 5, 9, 31, 7])


def make_prefixes(layers: list[int], length: int, width: int, seed: int = 0) -> dict[int, Prefix]:
    generator = torch.Generator().manual_seed(seed)
    return {
        layer: Prefix(torch.randn(length, width, generator=generator), torch.randn(length, width, generator=generator))
        for layer in layers
    }


def as_pairs(prefixes: dict[int, Prefix]) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
    return {layer: (prefix.key, prefix.value) for layer, prefix in prefixes.items()}


@pytest.mark.parametrize("length", [1, 3])
@pytest.mark.parametrize("layers", [[2], [0, 1, 2]])
def test_equals_the_published_attention(length: int, layers: list[int]) -> None:
    model, _ = text_encoder({})
    prefixes = make_prefixes(layers, length, model.config.hidden_size)
    wanted = encode_by_hand(model, PROMPT, as_pairs(prefixes))
    plain = encode(model, PROMPT)
    assert torch.allclose(plain.double(), encode_by_hand(model, PROMPT, {}), atol=1e-4)
    with prefixed(model.text_model.encoder.layers, prefixes):
        ours = encode(model, PROMPT)
    assert torch.allclose(ours.double(), wanted, atol=1e-4)
    assert not torch.allclose(ours, plain, atol=0.1), "the prefixes changed nothing: the case proves nothing"
    without_quirk = encode_by_hand(model, PROMPT, as_pairs(prefixes), prefix_mask=0.0)
    assert not torch.allclose(ours.double(), without_quirk, atol=1e-2)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ["teddybear", "colorful_teapot"])
def test_real_adapters_in_an_encoder_of_their_size(name: str, attention: str) -> None:
    concept = load_concept(REAL_ADAPTERS / name / "pytorch_adapter.bin")
    assert concept.encoder_change is not None
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=400, hidden_size=768, intermediate_size=64, num_hidden_layers=12, num_attention_heads=12
    )
    config._attn_implementation = attention
    model = CLIPTextModel(config).eval()
    wanted = encode_by_hand(model, PROMPT, as_pairs(dict(concept.encoder_change.layers)))
    with prefixed(model.text_model.encoder.layers, concept.encoder_change.layers):
        ours = encode(model, PROMPT)
    assert torch.allclose(ours.double(), wanted, atol=1e-4)
    assert not torch.allclose(ours, encode(model, PROMPT), atol=1e-2)


def test_of_a_batch_and_in_half_precision() -> None:
    model, _ = text_encoder({})
    prefixes = make_prefixes([1, 2], 2, model.config.hidden_size)
    layers, other = model.text_model.encoder.layers, padded([3, 4])
    with prefixed(layers, prefixes), torch.no_grad():
        both = model(input_ids=torch.tensor([PROMPT, other])).last_hidden_state
        alone = [encode(model, PROMPT), encode(model, other)]
        half = model.to(torch.bfloat16)(input_ids=torch.tensor([PROMPT])).last_hidden_state
    assert torch.allclose(both, torch.stack(alone), atol=1e-5)
    assert half.dtype == torch.bfloat16
    assert torch.nn.functional.cosine_similarity(half[0].float(), alone[0], dim=-1).min() > 0.99


def test_blocks_inside_each_other_add_up() -> None:
    model, _ = text_encoder({})
    width = model.config.hidden_size
    first, second = make_prefixes([1], 2, width, seed=1), make_prefixes([1], 1, width, seed=2)
    together = {
        1: Prefix(torch.cat([first[1].key, second[1].key]), torch.cat([first[1].value, second[1].value])),
    }
    layers = model.text_model.encoder.layers
    with prefixed(layers, first), prefixed(layers, second):
        nested = encode(model, PROMPT)
    with prefixed(layers, together):
        assert torch.allclose(nested, encode(model, PROMPT), atol=1e-5)


def test_a_change_of_a_projection_keeps_working() -> None:
    """As a LoRA's, which is in the forward of the projections."""
    model, _ = text_encoder({})
    prefixes = make_prefixes([2], 1, model.config.hidden_size)
    layers = model.text_model.encoder.layers
    with prefixed(layers, prefixes):
        before = encode(model, PROMPT)
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            hook = getattr(layers[2].self_attn, name).register_forward_hook(lambda _m, _a, out: out * 1.5)
            assert not torch.equal(encode(model, PROMPT), before)
            hook.remove()


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_left_behind(fails: bool) -> None:
    model, _ = text_encoder({})
    layers = model.text_model.encoder.layers
    plain = encode(model, PROMPT)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    prefixes = make_prefixes([0, 2], 1, model.config.hidden_size)
    if fails:
        with pytest.raises(KeyboardInterrupt), prefixed(layers, prefixes):
            raise KeyboardInterrupt
    else:
        with prefixed(layers, prefixes):
            encode(model, PROMPT)
    assert all("forward" not in vars(layer.self_attn) for layer in layers)
    assert torch.equal(encode(model, PROMPT), plain)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
