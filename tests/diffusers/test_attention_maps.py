"""Attention maps of the diffusers host against the attention of the brute-force reference."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from alignit.diffusers import AlignIT, AlignITError, AlignITWarning
from alignit.maps.result import AttentionMaps
from tests.bilinear import enlarged
from tests.diffusers.conftest import Model
from tests.diffusers.reference import Injection, pictures, reference
from tests.diffusers.test_exact import assert_same

VECTOR = Injection("* <my-cat> * * *", [2])
SIDE = 8  # of the latent picture


def wanted(
    attention: dict[str, list[torch.Tensor]], row: int, tokens: list[int], layers: tuple[str, ...] = ("",)
) -> Any:
    """The mean over tokens, steps and layers, in the size of the latent picture."""
    maps = [
        enlarged(step[row, :, token].double().numpy().reshape(int(step.shape[1] ** 0.5), -1), (SIDE, SIDE))
        for layer, steps in attention.items()
        if any(part in layer for part in layers)
        for step in steps
        for token in tokens
    ]
    return np.mean(maps, axis=0)


def maps_of(aligned: AlignIT, prompt: Any, words: str = "", **arguments: Any) -> list[AttentionMaps]:
    with aligned.attention_maps(words) as maps:
        pictures(aligned, prompt, **arguments)
    return maps


def close(maps: AttentionMaps, word: str, values: np.ndarray) -> bool:
    return bool(np.abs(maps.heat_map(word).values - values).max() < 1e-5)


@pytest.mark.parametrize("guidance", [1.0, 5.0])
@pytest.mark.parametrize("count", [1, 2])
def test_textual_inversion(sd1: Model, guidance: float, count: int) -> None:
    aligned = AlignIT(sd1.pipe, sd1.load("my-cat"))
    arguments = {"guidance_scale": guidance, "num_images_per_prompt": count}
    maps = maps_of(aligned, "a <my-cat=cat> with a ball", **arguments)
    attention: dict[str, list[torch.Tensor]] = {}
    reference(sd1.pipe, "a cat with a ball", [VECTOR], sd1.vectors, attention=attention, **arguments)
    first = count if guidance > 1 else 0
    assert len(maps) == count
    for picture, of_picture in enumerate(maps):
        assert of_picture.words == ("a", "<my-cat>", "with", "ball")
        assert close(of_picture, "my-cat", wanted(attention, first + picture, [2]))
        assert close(of_picture, "ball", wanted(attention, first + picture, [5]))
        assert not close(of_picture, "ball", wanted(attention, first + picture, [2]))


def test_several_prompts_layers_and_steps(sd1: Model) -> None:
    aligned = AlignIT(sd1.pipe, sd1.load("my-cat"))
    prompts = ["a <my-cat=cat> with a ball", "a ball in snow"]
    maps = maps_of(aligned, prompts, "ball; down; steps 0.5-1")
    attention: dict[str, list[torch.Tensor]] = {}
    reference(sd1.pipe, ["a cat with a ball", "a ball in snow"], [VECTOR], sd1.vectors, attention=attention)
    late = {layer: steps[2:] for layer, steps in attention.items()}
    assert close(maps[0], "ball", wanted(late, 2, [5], ("down_blocks",)))
    assert close(maps[1], "ball", wanted(late, 3, [2], ("down_blocks",)))
    assert maps[0].heat_map("ball").overlay(Image.new("RGB", (16, 16))).size == (16, 16)


def test_custom_diffusion_and_controls_whose_keys_are_put_in_by_hooks(sd1: Model) -> None:
    aligned = AlignIT(sd1.pipe, sd1.load("run"))
    maps = maps_of(aligned, "a <new1> cat in snow")
    attention: dict[str, list[torch.Tensor]] = {}
    injection = Injection("* <new1> cat * *", [2, 3], weights=sd1.weights)
    reference(sd1.pipe, "a cat cat in snow", [injection], sd1.vectors, attention=attention)
    assert close(maps[0], "<new1>", wanted(attention, 1, [2, 3]))
    assert close(maps[0], "snow", wanted(attention, 1, [5]))


def test_sdxl(sdxl: Model) -> None:
    aligned = AlignIT(sdxl.pipe, sdxl.load("xl-toy"), {"xl-toy": "toy"})
    maps = maps_of(aligned, "a xl-toy in snow")
    attention: dict[str, list[torch.Tensor]] = {}
    injection = Injection("* xl-toy * *", [2, 3])
    reference(sdxl.pipe, "a toy toy in snow", [injection], sdxl.vectors, attention=attention)
    assert close(maps[0], "xl-toy", wanted(attention, 1, [2, 3]))


def test_class_word_alone_and_plain(sd1: Model) -> None:
    aligned = AlignIT(sd1.pipe, sd1.load("my-cat"))
    (alone,) = maps_of(aligned, "a <my-cat=cat> in snow", concept_strength=0)
    (base,) = maps_of(AlignIT(sd1.pipe, []), "a <cat=cat> in snow", concept_strength=0)
    assert alone.words == base.words == ("a", "cat", "in", "snow")
    assert close(alone, "snow", base.heat_map("snow").values)
    (plain,) = maps_of(aligned, "a <my-cat=cat> in snow", align=False)
    assert plain.words == ("a", "<my-cat>", "in", "snow")
    assert not close(plain, "snow", base.heat_map("snow").values)


def test_the_picture_is_the_same_and_nothing_stays_behind(sd1: Model) -> None:
    aligned = AlignIT(sd1.pipe, sd1.load("my-cat"))
    off = pictures(aligned, "a <my-cat=cat> in snow")

    def hooks() -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in sd1.pipe.unet.modules())

    with aligned.attention_maps() as maps:
        assert_same(pictures(aligned, "a <my-cat=cat> in snow"), off)
        assert len(maps) == 1
        assert hooks() == 0
        with pytest.raises(ZeroDivisionError), aligned.prepared("a <my-cat=cat> in snow"):
            1 / 0  # noqa: B018
        assert hooks() == 0
        assert maps == []


def test_what_cannot_be_done_is_said(sd1: Model) -> None:
    aligned = AlignIT(sd1.pipe, sd1.load("my-cat"))
    with pytest.warns(AlignITWarning, match="no attention map of 'zebra', which is not in the prompt"):
        maps_of(aligned, "a <my-cat=cat>", "zebra, cat")
    with pytest.warns(AlignITWarning, match="no step or layer is among those asked for"):
        maps_of(aligned, "a <my-cat=cat>", "cat; steps 0.9-0.95")
    with pytest.raises(AlignITError, match="there are no layers 'left'"), aligned.attention_maps("cat; left"):
        pass
    with (
        aligned.attention_maps(),
        pytest.raises(AlignITError, match="recorded already"),
        aligned.attention_maps(),
    ):
        pass
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        maps_of(aligned, "a <my-cat=cat>", "my-cat")
