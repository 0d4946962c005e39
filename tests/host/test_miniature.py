"""The shipped miniature in a real WebUI: it loads, and its pictures show what the prompt says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from miniature.classifier import read_attributes
from miniature.concepts import CONCEPTS as TRAINED
from miniature.model import LATENT
from miniature.pipeline import make_pipeline
from miniature.weights import load_classifier, load_miniature
from tests.host.miniature import SIZE, add_concepts
from tests.host.webui import WebUI, exported_miniature

PROMPTS = {
    "a photo of a red car on the beach": {"class": "car", "colour": "red", "background": "beach"},
    "a blue house in the snow": {"class": "house", "colour": "blue", "background": "snow"},
    "a green cup with a ball in the garden": {"class": "cup", "background": "garden", "companion": "ball"},
    "a purple robot wearing a hat in the city": {"class": "robot", "background": "city", "accessory": "hat"},
}


SWAPS = {
    "a photo of a <red=green> house wearing a hat in the snow": ("colour", "green", "red"),
    "a photo of a cat with a <tree=ball> in the garden": ("companion", "ball", "tree"),
    "a photo of a red <cup=car> in the city": ("class", "car", "cup"),
}


@pytest.fixture(scope="module")
def miniature_host(webui_dir: Path) -> Iterator[WebUI]:
    """A WebUI with the miniature and its trained concepts."""
    webui = WebUI(webui_dir)
    add_concepts(webui)
    with webui:
        yield webui


def shown(host: WebUI, prompt: str, count: int = 4, **arguments: Any) -> list[dict[str, str]]:
    """Return what pictures of a prompt show."""
    pictures = host.txt2img(prompt, **SIZE, batch_size=count, seed=1, **arguments)
    images = torch.from_numpy(np.stack([picture.pixels for picture in pictures]))[..., :3].permute(0, 3, 1, 2)
    return read_attributes(load_classifier(), images.contiguous())


def test_the_miniature_obeys_prompts_in_the_webui(miniature_host: WebUI) -> None:
    right = wanted = 0
    for prompt, attributes in PROMPTS.items():
        for seen in shown(miniature_host, prompt):
            wanted += len(attributes)
            right += sum(seen[name] == value for name, value in attributes.items())
    print(f"{right} of {wanted}")
    assert right >= 0.95 * wanted


def test_the_exported_folder_is_the_same_model_in_diffusers(webui_dir: Path) -> None:
    exported = StableDiffusionPipeline.from_pretrained(exported_miniature(webui_dir) / "diffusers")
    ours = make_pipeline(load_miniature())
    pictures = []
    for pipe in (exported, ours):
        pipe.set_progress_bar_config(disable=True)
        latents = torch.randn(len(PROMPTS), 4, LATENT, LATENT, generator=torch.Generator().manual_seed(1))
        pictures.append(
            pipe(list(PROMPTS), latents=latents, guidance_scale=2.5, num_inference_steps=8, output_type="np")
        )
    assert np.abs(pictures[0].images - pictures[1].images).max() < 1 / 255
    images = torch.from_numpy((pictures[0].images * 255).round().astype(np.uint8)).permute(0, 3, 1, 2)
    for seen, wanted in zip(read_attributes(load_classifier(), images), PROMPTS.values(), strict=True):
        assert seen["class"] == wanted["class"]


@pytest.mark.parametrize("prompt", SWAPS)
def test_keys_and_values_of_a_word_change_what_it_stands_for(miniature_host: WebUI, prompt: str) -> None:
    attribute, before, after = SWAPS[prompt]
    base = shown(miniature_host, re.sub(r"<\w+=(\w+)>", r"\1", prompt), 8)
    swapped = shown(miniature_host, prompt, 8, alignit=[True])
    assert sum(seen[attribute] == before for seen in base) >= 6
    assert sum(seen[attribute] == after for seen in base) <= 1
    assert sum(seen[attribute] == after for seen in swapped) >= 5
    same = [seen["background"] == was["background"] for was, seen in zip(base, swapped, strict=True)]
    assert sum(same) >= 7


CONCEPTS = {
    "textual inversion": ("a photo of a <my-fish=fish> in the snow", "fish"),
    "Custom Diffusion": ("a photo of a <new1> robot in the snow <delta:my-robot:1>", "robot"),
    "CatVersion": ("a photo of a <my_robot=robot> in the snow <catversion:my_robot>", "robot"),
}


@pytest.mark.parametrize("method", CONCEPTS)
def test_trained_concepts_of_each_method_are_used_in_the_webui(miniature_host: WebUI, method: str) -> None:
    prompt, class_word = CONCEPTS[method]
    made = miniature_host.txt2img(prompt, **SIZE, seed=1, alignit=[True])
    assert "AlignIT note" not in made.info["extra_generation_params"]
    assert f"={class_word}" in made.info["extra_generation_params"]["AlignIT class words"]
    assert made != miniature_host.txt2img(f"a photo of a {class_word} in the snow", **SIZE, seed=1)


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("a photo of a <my-robot=robot> wearing a hat with a ball in the snow", "my-robot"),
        ("a photo of a <new1> robot wearing a hat with a ball in the snow <delta:my-robot:1>", "my-robot"),
    ],
)
def test_pictures_show_a_trained_concept_and_all_of_the_prompt(miniature_host: WebUI, prompt: str, name: str) -> None:
    look = next(spec.look for spec in TRAINED if spec.name == name)
    wanted = look.values() | {"background": "snow", "companion": "ball", "accessory": "hat"}
    assert right(miniature_host, prompt, wanted, align=True) >= 0.9 * 8 * len(wanted)


def test_alignit_keeps_a_concept_and_its_prompt_where_the_concept_alone_loses_both(miniature_host: WebUI) -> None:
    prompt = "a photo of a <new1> fish wearing a crown with a ball in the snow <delta:my-fish:3>"
    look = next(spec.look for spec in TRAINED if spec.name == "my-fish")
    wanted = look.values() | {"background": "snow", "companion": "ball", "accessory": "crown"}
    alone, aligned = (right(miniature_host, prompt, wanted, align) for align in (False, True))
    assert aligned >= 0.9 * 8 * len(wanted)
    assert alone <= 0.8 * 8 * len(wanted)


def test_alignit_brings_back_what_catversion_alone_loses_of_a_prompt(miniature_host: WebUI) -> None:
    prompt = "a photo of a car wearing a hat with a box at night <catversion:my_car>"
    wanted = {"background": "night", "companion": "box", "accessory": "hat"}
    alone, aligned = (right(miniature_host, prompt, wanted, align) for align in (False, True))
    assert aligned >= 0.9 * 8 * len(wanted)
    assert alone <= 0.7 * 8 * len(wanted)


def right(host: WebUI, prompt: str, wanted: dict[str, str], align: bool) -> int:
    """Return how many of the wanted attributes are right in eight pictures."""
    seen = shown(host, prompt, 8, alignit=[align])
    print(found := sum(one[name] == value for one in seen for name, value in wanted.items()))
    return found
