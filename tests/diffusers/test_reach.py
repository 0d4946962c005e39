"""What concepts do beyond their own rows on a diffusers pipeline, against the brute-force reference."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from alignit.diffusers import AlignIT
from tests.diffusers.conftest import Model
from tests.diffusers.reference import Injection, encode_words, pictures, reference
from tests.diffusers.test_exact import differs


def assert_same(ours: np.ndarray, wanted: np.ndarray) -> None:
    """Up to rounding, of which sums at seventy rows have more than one row that is overwritten."""
    np.testing.assert_allclose(ours, wanted, atol=1e-4)


# By method: the target prompt, the base prompt, the dummy prompt, its class word in place, and the concept's rows.
METHODS = {
    "my-cat": ("a <my-cat=cat> in snow", "a cat in snow", "* <my-cat> * *", "* cat * *", "a <my-cat> in snow", [2]),
    "run": (
        "a <new1> cat in snow", "a cat cat in snow", "* <new1> cat * *", "* cat cat * *", "a <new1> cat in snow", [2, 3]
    ),
    "teddy": ("a <teddy=dog> in snow", "a dog in snow", "* dog * *", "* dog * *", "a dog in snow", [2]),
}  # fmt: skip


def injections(model: Model, method: str, options: str) -> tuple[str, str, list[Injection]]:
    """The target and the base prompt, and what is injected: the concept's own rows, and those that it reaches."""
    target, base, dummy, class_word, around, rows = METHODS[method]
    more: dict[str, Any] = {"weights": model.weights} if method == "run" else {}
    if method == "teddy":
        more = {"prefixes": model.prefixes}
    prompt = "context prompt" in options
    own = Injection(around if prompt else dummy, rows, **more)
    ends = list(range(1 + len(base.split()), 77))
    beyond = replace(own, rows=ends, minus=base)
    if "difference" in options:
        beyond.minus = base if prompt else class_word
    elif "target" in options:
        beyond.dummy = around
    elif "whole" in options:
        beyond.rows = [0, *ends]
    beyond.factor = 0.5 if "0.5" in options else 1.0
    return target, base, [own, beyond] if "reach" in options else [own]


OPTIONS = [
    "context prompt",
    "reach difference",
    "context prompt; reach difference 0.5",
    "reach target padding",
    "reach padding 0.5",
    "reach whole",
]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("options", OPTIONS)
def test_each_method(sd1: Model, method: str, options: str) -> None:
    target, base, injected = injections(sd1, method, options)
    aligned = AlignIT(sd1.pipe, sd1.load(method))
    for strength, steps in ((1.0, (0, 99)), (0.6, (0, 2))):
        wanted = reference(sd1.pipe, base, injected, sd1.vectors, concept_strength=strength, steps=steps)
        given = {"concept_strength": strength, "concept_end": 1.0 if steps[1] == 99 else 0.5}
        assert_same(pictures(aligned, target, concept_controls=options, **given), wanted)
        # The same with hooks in each layer.
        hooked = pictures(aligned, target, concept_controls=f"{options}; layers down mid up", **given)
        assert_same(hooked, wanted)
        paper = pictures(aligned, target, **given)
        assert differs(wanted, paper), "the option changes nothing: the case proves nothing"


def test_differences_of_several_concepts_add_up_and_each_prompt_has_its_own(sd1: Model) -> None:
    aligned = AlignIT(sd1.pipe, sd1.load("my-cat", "my-toy", "run"), {"my-toy": "toy"})
    prompts = ["a <my-cat=cat; reach difference> and my-toy and a <new1=cat; reach difference 0.5>", "a my-toy in snow"]
    base = ["a cat and toy toy toy and a cat", "a toy toy toy in snow"]
    ends = list(range(10, 77))
    wanted = reference(
        sd1.pipe,
        base,
        [
            Injection("* <my-cat>" + " *" * 7, [2]),
            Injection("* * * my-toy * * *", [4, 5, 6]),
            Injection("* " * 8 + "<new1>", [9], weights=sd1.weights),
            Injection("* <my-cat>" + " *" * 7, ends, minus="* cat" + " *" * 7),
            Injection("* " * 8 + "<new1>", ends, weights=sd1.weights, minus="* " * 8 + "cat", factor=0.5),
            Injection("* my-toy * *", [2, 3, 4], prompt=1),
        ],
        sd1.vectors,
        num_images_per_prompt=2,
    )
    assert_same(pictures(aligned, prompts, num_images_per_prompt=2), wanted)


def test_a_prompt_longer_than_a_chunk(sd1: Model) -> None:
    aligned = AlignIT(sd1.pipe, sd1.load("my-cat"))
    houses = "house " * 75
    rows = torch.cat([encode_words(sd1.pipe, text, {})[0] for text in (houses, "house cat in snow")])
    dummy, class_word = (encode_words(sd1.pipe, f"* {word} * *", sd1.vectors)[0] for word in ("<my-cat>", "cat"))
    rows[77 + 2] = dummy[2]
    rows[77 + 5 :] += 0.5 * (dummy - class_word)[5:]
    negative = torch.cat([encode_words(sd1.pipe, "", {})[0]] * 2)
    wanted = pictures(sd1.pipe, prompt_embeds=rows[None], negative_prompt_embeds=negative[None])
    assert_same(pictures(aligned, f"{houses}house <my-cat=cat; reach difference 0.5> in snow"), wanted)


@pytest.mark.parametrize("name", ["xl-toy", "run"])
@pytest.mark.parametrize("arguments", [{}, {"negative_prompt": "big", "num_images_per_prompt": 2}, {"clip_skip": 1}])
def test_sdxl(sdxl: Model, name: str, arguments: dict[str, Any]) -> None:
    """Two text encoders, whose padding differs; the pooled vector is the base prompt's."""
    target, base, dummy, class_word, rows = {
        "xl-toy": ("a <xl-toy=toy> in snow", "a toy toy in snow", "* xl-toy * *", "* toy toy * *", [2, 3]),
        "run": ("a <new1> cat in snow", "a cat cat in snow", "* <new1> cat * *", "* cat cat * *", [2, 3]),
    }[name]
    own = Injection(dummy, rows, weights=sdxl.weights if name == "run" else None)
    injected = [own, replace(own, rows=list(range(6, 77)), minus=class_word)]
    wanted = reference(sdxl.pipe, base, injected, sdxl.vectors, **arguments)
    aligned = AlignIT(sdxl.pipe, sdxl.load(name))
    assert_same(pictures(aligned, target, concept_controls="reach difference", **arguments), wanted)
    assert differs(wanted, reference(sdxl.pipe, base, injected[:1], sdxl.vectors, **arguments))


def test_what_is_none_of_it_is_the_papers_to_the_bit(sd1: Model) -> None:
    aligned = AlignIT(sd1.pipe, sd1.load("my-cat", "run"))
    for prompt in ("a <my-cat=cat> in snow", "a <new1> cat in snow"):
        paper = pictures(aligned, prompt)
        for options in ("reach paper", "reach difference 0", "context stars"):
            assert (pictures(aligned, prompt, concept_controls=options) == paper).all()


def test_it_is_told_what_stands_around_a_concept(sd1: Model) -> None:
    aligned = AlignIT(sd1.pipe, sd1.load("my-cat"))
    assert aligned.explain("a <my-cat=cat; context prompt> in snow") == "\n".join(
        ["base: a cat in snow", "<my-cat> at 2: a <my-cat> in snow"]
    )
