"""AlignIT's picture against Algorithm 1 done by index in the same host, bit by bit.

The reference (`probe/scripts/probe.py`) shares no code with AlignIT. Each case gives it the base prompt as one would
type it, the dummy prompt as one would type it, and the rows to overwrite; it overwrites the keys and values of these
rows in every cross-attention layer, on every step. AlignIT gets the target prompt. The pictures must be equal to the
last bit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from tests.host.webui import HIRES, OPTIMIZATIONS, WebUI

WORDS = "my-cat=cat, my-toy=toy, my-dog=dog, xl-cat=cat, xl-toy=toy, sd2-cat=cat"


@dataclass
class Case:
    """A target prompt, and what the paper makes of it."""

    target: str
    base: str
    inject: list[dict[str, Any]]
    payload: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    hires: list[dict[str, Any]] | None = None
    words: str = WORDS
    base_payload: dict[str, Any] = field(default_factory=dict)


def simple(payload: dict[str, Any] | None = None, **options: Any) -> Case:
    return Case(
        "a my-cat playing with a ball",
        "a cat playing with a ball",
        [{"dummy": "* my-cat * * * *", "rows": [2]}],
        payload or {},
        options,
    )


HOUSES = "house " * 76
UGLY = {"negative_prompt": "ugly, " * 45}

PROMPTS = {
    "one vector": simple(),
    "three vectors": Case(
        "a my-toy on the moon", "a toy toy toy on the moon", [{"dummy": "* my-toy * * *", "rows": [2, 3, 4]}]
    ),
    "class word of two tokens": Case(
        "a my-cat in snow",
        "a golden retriever in snow",
        [{"dummy": "* * my-cat * *", "rows": [3]}],
        words="golden retriever",
    ),
    "class word of two tokens, three vectors": Case(
        "a my-toy in snow",
        "a retriever golden retriever in snow",
        [{"dummy": "* my-toy * *", "rows": [2, 3, 4]}],
        words="golden retriever",
    ),
    "class word in the prompt": Case(
        "a <my-cat=cat>, playing with a ball",
        "a cat, playing with a ball",
        [{"dummy": "* my-cat * * * * *", "rows": [2]}],
        words="",
    ),
    "angle brackets, and a comma that would merge": Case(
        "a <my-dog>, playing", "a dog, playing", [{"dummy": "* my-dog * *", "rows": [2]}]
    ),
    "capitals": Case("a My-CAT in snow", "a cat in snow", [{"dummy": "* my-cat * *", "rows": [2]}]),
    "two mentions": Case(
        "a my-cat and a second my-cat",
        "a cat and a second cat",
        [{"dummy": "* my-cat * * * my-cat", "rows": [2, 6]}],
    ),
    "two concepts": Case(
        "a my-cat beside my-toy",
        "a cat beside toy toy toy",
        [{"dummy": "* my-cat * * * *", "rows": [2]}, {"dummy": "* * * my-toy", "rows": [4, 5, 6]}],
    ),
    "two concepts with no word between": Case(
        "a <my-cat=cat><my-toy=toy> here",
        "a cat toy toy toy here",
        [{"dummy": "* my-cat * * * *", "rows": [2]}, {"dummy": "* * my-toy *", "rows": [3, 4, 5]}],
        words="",
    ),
    "second chunk": Case(
        f"{HOUSES} my-cat in snow", f"{HOUSES} cat in snow", [{"dummy": "* " * 76 + "my-cat * *", "rows": [79]}]
    ),
    "a mention in each of two chunks": Case(
        f"a my-cat, {HOUSES} my-cat",
        f"a cat, {HOUSES} cat",
        [{"dummy": "* my-cat " + "* " * 77 + "my-cat", "rows": [2, 77 + 5]}],
        options={"comma_padding_backtrack": 0},
    ),
    "BREAK": Case("sky BREAK a my-cat", "sky BREAK a cat", [{"dummy": "* BREAK * my-cat", "rows": [79]}]),
    "end of a chunk": Case(
        "house " * 74 + "my-cat, snow",
        "house " * 74 + "cat, snow",
        [{"dummy": "* " * 74 + "my-cat * *", "rows": [75]}],
        options={"comma_padding_backtrack": 0},
    ),
    "three vectors that do not fit into the first chunk": Case(
        "house " * 74 + "my-toy in snow",
        "house " * 74 + "BREAK toy toy toy in snow",
        [{"dummy": "* " * 74 + "BREAK my-toy * *", "rows": [78, 79, 80]}],
    ),
    "moved to the next chunk by the comma backtrack": Case(
        "house, " * 36 + "big my-cat red green blue in snow",
        "house, " * 36 + "big cat red green blue in snow",
        [{"dummy": "* " * 72 + "BREAK * my-cat * * * * *", "rows": [79]}],
    ),
    "AND": Case(
        "a my-cat in snow AND a big my-cat on the moon :0.7",
        "a cat in snow AND a big cat on the moon :0.7",
        [
            {"dummy": "* my-cat * *", "rows": [2], "parts": [0]},
            {"dummy": "* * my-cat * * *", "rows": [3], "parts": [1]},
        ],
    ),
    "prompt editing": Case(
        "a [house:my-cat:0.5] in snow",
        "a [house:cat:0.5] in snow",
        [{"dummy": "* my-cat * *", "rows": [2], "steps": [3, 9]}],  # the host changes one step after the half
    ),
    "prompt editing from one concept to another": Case(
        "a [my-cat:my-toy:0.5] in snow",
        "a [cat:toy toy toy:0.5] in snow",
        [
            {"dummy": "* my-cat * *", "rows": [2], "steps": [0, 2]},
            {"dummy": "* my-toy * *", "rows": [2, 3, 4], "steps": [3, 9]},
        ],
    ),
    "alternating words": Case(
        "a [my-cat|house] in snow",
        "a [cat|house] in snow",
        [
            {"dummy": "* my-cat * *", "rows": [2], "steps": [0, 1]},
            {"dummy": "* my-cat * *", "rows": [2], "steps": [3, 3]},
        ],
    ),
}

EMPHASIS = {
    mode: Case(
        "a (my-cat:1.3) and a (ball:1.4)",
        "a (cat:1.3) and a (ball:1.4)",
        [{"dummy": "* (my-cat:1.3) * * *", "rows": [2]}],
        options={"emphasis": mode},
    )
    for mode in ("Ignore", "Original", "No norm")
} | {
    "None": Case(
        "a (my-cat:1.3) and a (ball:1.4)",
        "a (cat:1.3) and a (ball:1.4)",
        [{"dummy": "* * my-cat", "rows": [3]}],  # the brackets are text, and what comes later does not matter
        options={"emphasis": "None"},
    )
}

SITUATIONS = {
    "long negative prompt": simple(UGLY),
    "concept in the negative prompt too": simple({"negative_prompt": "my-cat, ugly"}),
    "pad_cond_uncond": simple(UGLY, pad_cond_uncond=True),
    "pad_cond_uncond_v0": simple(UGLY, pad_cond_uncond_v0=True),
    "batch_cond_uncond off": simple(batch_cond_uncond=False),
    "batch_cond_uncond off, long negative, two images": simple(UGLY | {"batch_size": 2}, batch_cond_uncond=False),
    "two images at once": simple({"batch_size": 2}),
    "two images one by one": simple({"n_iter": 2}),
    "no negative guidance in late steps": simple({"s_min_uncond": 5.0, "steps": 6}),
    "no negative guidance in early steps": simple(skip_early_cond=0.5),
    "no guidance at all": simple({"cfg_scale": 1}),
    "clip skip": simple(CLIP_stop_at_last_layers=2),
    "token merging": simple(token_merging_ratio=0.5),
    "refiner": simple({"refiner_checkpoint": "miniature-b", "refiner_switch_at": 0.5}),
    "hires fix": simple(HIRES),
    "hires fix with its own prompt": Case(
        "a my-cat playing with a ball",
        "a cat playing with a ball",
        [{"dummy": "* my-cat * * * *", "rows": [2]}],
        HIRES | {"hr_prompt": "my-toy on the moon", "hr_negative_prompt": "my-cat, night"},
        hires=[{"dummy": "my-toy * * *", "rows": [1, 2, 3]}],
        base_payload={"hr_prompt": "toy toy toy on the moon"},
    ),
    "hires fix with its own checkpoint and sampler": simple(
        HIRES | {"hr_checkpoint_name": "miniature-b.safetensors", "hr_sampler_name": "DDIM"}
    ),
    "hires fix with the conditioning of the first pass": simple(HIRES, hires_fix_use_firstpass_conds=True),
    "tiling": simple({"tiling": True}),
    "persistent cache of conditionings off": simple(persistent_cond_cache=False),
    "styles": Case(
        "a my-cat",
        "a cat",
        [{"dummy": "* my-cat * * *", "rows": [2]}],
        {"styles": ["garden"]},
    ),
    "concept in a style": Case(
        "a ball and",
        "a ball and a cat in snow",
        [{"dummy": "* * * * my-cat * *", "rows": [5]}],
        {"styles": ["concept"]},
        base_payload={"styles": []},
    ),
}

SAMPLERS = ["Euler a", "DPM++ 2M", "DPM++ SDE", "Heun", "DPM2", "UniPC", "DDIM", "PLMS", "LCM", "Restart"]


def check(host: WebUI, case: Case, alignit: list[Any] | None = None, **changes: Any) -> None:
    payload = {"override_settings": case.options, **case.payload}
    reference: dict[str, Any] = {"inject": [{**injection, **changes} for injection in case.inject]}
    if case.hires is not None:
        reference["hires"] = case.hires
    ours = host.txt2img(case.target, alignit=alignit or [True, case.words], **payload)
    wanted = host.txt2img(case.base, reference=reference, **payload | case.base_payload)
    without = host.txt2img(case.base, **payload | case.base_payload)
    assert len(ours) == len(wanted)
    for picture, right, base in zip(ours, wanted, without, strict=True):
        assert right != base, "the reference changed nothing: the case proves nothing"
        assert picture == right, f"mean difference {picture.difference(right)}, of {right.difference(base)}"
    assert "AlignIT note" not in ours.info["extra_generation_params"]
    assert all(case.target in text or case.payload.get("styles") for text in ours.info["all_prompts"])


@pytest.mark.parametrize("name", PROMPTS)
def test_prompts(host: WebUI, name: str) -> None:
    check(host, PROMPTS[name])


def test_an_embedding_without_class_word_stays_a_plain_embedding(host: WebUI) -> None:
    ours = host.txt2img("a <my-cat=cat> beside my-toy", alignit=[True])
    wanted = host.txt2img("a cat beside my-toy", reference={"inject": [{"dummy": "* my-cat * * * *", "rows": [2]}]})
    assert ours == wanted
    assert "'my-toy' has no class word" in ours.info["extra_generation_params"]["AlignIT note"]


@pytest.mark.parametrize("mode", EMPHASIS)
def test_emphasis(host: WebUI, mode: str) -> None:
    check(host, EMPHASIS[mode])


@pytest.mark.parametrize("name", SITUATIONS)
def test_situations(host: WebUI, name: str) -> None:
    check(host, SITUATIONS[name])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers(host: WebUI, sampler: str) -> None:
    check(host, simple({"sampler_name": sampler}))


@pytest.mark.parametrize("optimization", OPTIMIZATIONS)
def test_attention_optimizations(host: WebUI, optimization: str) -> None:
    host.options(cross_attention_optimization=optimization)
    check(host, PROMPTS["three vectors"])


@pytest.mark.parametrize("strength", [0.5, 1.5])
def test_strength(host: WebUI, strength: float) -> None:
    """Not to the last bit: the reference blends keys and values, AlignIT the rows that they are linear in."""
    case = PROMPTS["three vectors"]
    ours = host.txt2img(case.target, alignit=[True, WORDS, strength])[0]
    inject = [{**injection, "strength": strength} for injection in case.inject]
    wanted = host.txt2img(case.base, reference={"inject": inject})[0]
    full = host.txt2img(case.target, alignit=[True, WORDS])[0]
    assert np.abs(ours.pixels.astype(int) - wanted.pixels.astype(int)).max() <= 1
    assert ours.difference(full) > 1


def test_strength_zero_is_the_class_word(host: WebUI) -> None:
    case = PROMPTS["three vectors"]
    assert host.txt2img(case.target, alignit=[True, WORDS, 0.0])[0] == host.txt2img(case.base)[0]


@pytest.mark.parametrize(
    ("start", "end", "steps"), [(0.0, 0.5, [0, 1]), (0.5, 1.0, [2, 9]), (0.25, 0.75, [1, 2]), (0.0, 0.6, [0, 2])]
)
@pytest.mark.parametrize("name", ["three vectors", "two concepts"])
def test_range_of_steps(host: WebUI, name: str, start: float, end: float, steps: list[int]) -> None:
    check(host, PROMPTS[name], [True, WORDS, 1.0, start, end], steps=steps)


def test_range_of_steps_in_both_passes_of_hires_fix(host: WebUI) -> None:
    case = SITUATIONS["hires fix"]
    hires = [{**case.inject[0], "steps": [0, 1]}]  # of three steps at strength 0.7
    check(host, Case(**{**vars(case), "hires": hires}), [True, WORDS, 1.0, 0.0, 0.5], steps=[0, 1])


def test_different_prompts_in_one_batch(host: WebUI) -> None:
    """Prompt matrix: "a my-cat", "a my-cat, in snow", ... in batches of two."""
    script = {"script_name": "prompt matrix", "script_args": [False, False, "positive", "comma", 0], "batch_size": 2}
    inject = [{"dummy": "* my-cat", "rows": [2]}]
    for arguments, changes in (([True, WORDS], {}), ([True, WORDS, 1.0, 0.0, 0.5], {"steps": [0, 1]})):
        ours = host.txt2img("a my-cat|in snow|at night", alignit=arguments, **script)
        reference = {"inject": [{**injection, **changes} for injection in inject]}
        wanted = host.txt2img("a cat|in snow|at night", reference=reference, **script)
        assert len(ours) == len(wanted) == 5
        assert ours[1:] == wanted[1:]  # the first is the grid, which shows the prompts
        assert len({picture.png for picture in ours[1:]}) == 4


def test_batch_of_prompts_that_share_the_concepts_row_and_not_the_base_rows(host: WebUI) -> None:
    script = {"script_name": "prompt matrix", "script_args": [True, False, "positive", "space", 0], "batch_size": 2}
    ours = host.txt2img("my-cat|red|big", alignit=[True, WORDS, 1.0, 0.0, 0.5], **script)
    inject = [
        {"dummy": dummy, "rows": [row], "parts": [part], "steps": [0, 1]}
        for part, (dummy, row) in enumerate([("my-cat", 1), ("* my-cat", 2)])
    ]
    wanted = host.txt2img("cat|red|big", reference={"inject": inject}, **script)
    assert ours[1:3] == wanted[1:3]  # "my-cat" and "red my-cat"; those of the second batch stand elsewhere


def test_img2img(host: WebUI) -> None:
    init = host.txt2img("a house")[0]
    for payload in ({"denoising_strength": 0.5}, {"denoising_strength": 0.8, "steps": 5, "sampler_name": "DDIM"}):
        ours = host.img2img("a my-cat in snow", init=init, alignit=[True, WORDS], **payload)
        reference = {"inject": [{"dummy": "* my-cat * *", "rows": [2]}]}
        assert ours == host.img2img("a cat in snow", init=init, reference=reference, **payload)
        assert ours != host.img2img("a cat in snow", init=init, **payload)


def test_range_of_steps_in_img2img_is_that_of_the_steps_really_taken(host: WebUI) -> None:
    init = host.txt2img("a house")[0]
    payload = {"denoising_strength": 0.5, "steps": 7}  # four steps are taken
    ours = host.img2img("a my-cat in snow", init=init, alignit=[True, WORDS, 1.0, 0.5, 1.0], **payload)
    reference = {"inject": [{"dummy": "* my-cat * *", "rows": [2], "steps": [2, 9]}]}
    assert ours == host.img2img("a cat in snow", init=init, reference=reference, **payload)


@pytest.mark.parametrize("checkpoint", ["miniature", "miniature-inpaint"])
def test_inpainting(host: WebUI, checkpoint: str) -> None:
    host.load(checkpoint)
    init = host.txt2img("a house")[0]
    mask = np.zeros((64, 64, 3), np.uint8)
    mask[16:48, 16:48] = 255
    payload = {"denoising_strength": 0.8, "inpainting_fill": 1, "mask_blur": 2}
    for whole in (False, True):
        payload["inpaint_full_res"] = whole
        ours = host.img2img("a my-cat in snow", init=init, mask=mask, alignit=[True, WORDS], **payload)
        reference = {"inject": [{"dummy": "* my-cat * *", "rows": [2]}]}
        wanted = host.img2img("a cat in snow", init=init, mask=mask, reference=reference, **payload)
        # An inpainting model's picture of the mask is drawn from a distribution, with no seed: the host's own pictures
        # differ in a last bit here and there.
        assert np.abs(ours[0].pixels.astype(int) - wanted[0].pixels).max() <= (checkpoint == "miniature-inpaint")
        assert wanted[0].difference(host.img2img("a cat in snow", init=init, mask=mask, **payload)[0]) > 1


XL = {
    "one vector": Case("a xl-cat in snow", "a cat in snow", [{"dummy": "* xl-cat * *", "rows": [2]}]),
    "two vectors, class word of two tokens": Case(
        "a xl-toy in snow", "a plush toy in snow", [{"dummy": "* xl-toy * *", "rows": [2, 3]}], words="plush toy"
    ),
    "emphasis and two chunks": Case(
        "a (xl-cat:1.2) in snow BREAK a <xl-toy=toy> and (sun:1.3)",
        "a (cat:1.2) in snow BREAK a toy toy and (sun:1.3)",
        [
            {"dummy": "* (xl-cat:1.2) * * BREAK * * * * *", "rows": [2]},
            {"dummy": "* * * * BREAK * xl-toy * *", "rows": [79, 80]},
        ],
    ),
    "hires fix": Case("a xl-cat in snow", "a cat in snow", [{"dummy": "* xl-cat * *", "rows": [2]}], HIRES),
    "long negative prompt, two images": Case(
        "a xl-cat in snow", "a cat in snow", [{"dummy": "* xl-cat * *", "rows": [2]}], UGLY | {"batch_size": 2}
    ),
}


@pytest.mark.parametrize("name", XL)
def test_sdxl(host: WebUI, name: str) -> None:
    host.load("tiny-sdxl")
    check(host, XL[name])


def test_sdxl_refiner(host: WebUI) -> None:
    """The refiner's own text encoder gets base and dummy prompt too."""
    host.load("tiny-sdxl")
    payload = {"refiner_checkpoint": "tiny-sdxl-refiner", "refiner_switch_at": 0.5}
    ours = host.txt2img("a xl-cat in snow", alignit=[True, WORDS], **payload)
    wanted = host.txt2img("a cat in snow", reference={"inject": [{"dummy": "* xl-cat * *", "rows": [2]}]}, **payload)
    assert ours == wanted
    assert ours != host.txt2img("a cat in snow", **payload)


def test_sd2(host: WebUI) -> None:
    host.load("tiny-sd2")
    check(host, Case("a sd2-cat in snow", "a cat in snow", [{"dummy": "* sd2-cat * *", "rows": [2]}]))
    case = Case(
        "a (sd2-cat:1.2) in snow BREAK a (house:1.2)",
        "a (cat:1.2) in snow BREAK a (house:1.2)",
        [{"dummy": "* (sd2-cat:1.2) * *", "rows": [2]}],
    )
    check(host, case)


def test_models_switched_from_one_generation_to_the_next(host: WebUI) -> None:
    pictures = {}
    for checkpoint, concept in [
        ("miniature", "my-cat"),
        ("tiny-sdxl", "xl-cat"),
        ("miniature-b", "my-cat"),
        ("miniature", "my-cat"),
    ]:
        host.load(checkpoint)
        case = Case(f"a {concept} in snow", "a cat in snow", [{"dummy": f"* {concept} * *", "rows": [2]}])
        check(host, case)
        pictures.setdefault(checkpoint, host.txt2img(case.target, alignit=[True, WORDS])[0])
    assert pictures["miniature"] != pictures["miniature-b"]


def test_model_overridden_for_one_generation(host: WebUI) -> None:
    check(host, simple(sd_model_checkpoint="miniature-b.safetensors"))


@pytest.mark.parametrize("network", ["<lora:tiny-lora:1>", "<hypernet:tiny-hyper:1>"])
def test_network_in_the_same_prompt(host: WebUI, network: str) -> None:
    """It changes the text encoder, or keys and values, as part of the base model."""
    case = Case(f"a my-cat in snow {network}", f"a cat in snow {network}", [{"dummy": "* my-cat * *", "rows": [2]}])
    check(host, case)
    assert host.txt2img(case.target, alignit=[True, WORDS]) != host.txt2img("a my-cat in snow", alignit=[True, WORDS])


def test_networks_of_the_hires_pass(host: WebUI) -> None:
    payload = HIRES | {"hr_prompt": "a my-cat in snow <lora:tiny-lora:0.7>"}
    case = Case("a my-cat in snow", "a cat in snow", [{"dummy": "* my-cat * *", "rows": [2]}], payload)
    case.base_payload = {"hr_prompt": "a cat in snow <lora:tiny-lora:0.7>"}
    check(host, case)


@pytest.mark.parametrize("negative", ["my-cat", "my-cat, ugly"])
def test_range_of_steps_leaves_a_negative_prompt_that_begins_like_the_prompt(host: WebUI, negative: str) -> None:
    """The text encoder is causal: the concept as the first word has one and the same row in both."""
    case = Case("my-cat in snow", "cat in snow", [{"dummy": "my-cat * *", "rows": [1]}], {"negative_prompt": negative})
    check(host, case, [True, WORDS, 1.0, 0.0, 0.5], steps=[0, 1])


def test_hires_checkpoint_of_another_width(host: WebUI) -> None:
    payload = HIRES | {"hr_checkpoint_name": "tiny-sd2.safetensors"}
    for arguments in ([True, WORDS], [True, WORDS, 1.0, 0.0, 1.0], [True, WORDS, 1.0, 0.0, 0.5]):
        ours = host.txt2img("a my-cat in snow", alignit=arguments, **payload)
        assert "was made for another kind of model" in ours.info["extra_generation_params"]["AlignIT note"]
