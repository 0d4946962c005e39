"""AlignIT off is no AlignIT at all; and nothing of a generation stays behind, however it ends."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import requests

from tests.host.webui import Pictures, WebUI

PROMPT = "a my-cat playing with a ball"
WORDS = "my-cat=cat, my-toy=toy"
HIRES = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "denoising_strength": 0.7}

OFF = {
    "a concept, the checkbox off": {"prompt": PROMPT},
    "no concept": {"prompt": "a house in snow"},
    "hires fix": {"prompt": PROMPT, **HIRES},
    "batch, AND, editing, emphasis, negative prompt": {
        "prompt": "a (my-cat:1.2) AND a [house:my-toy:0.5] :0.6",
        "negative_prompt": "my-cat, ugly",
        "batch_size": 2,
    },
    "a network": {"prompt": PROMPT + " <lora:tiny-lora:1>"},
}


def comparable(state: dict[str, Any]) -> dict[str, Any]:
    """Everything that an extension could leave behind, but the host's own cache of conditionings."""
    return {key: value for key, value in state.items() if key not in ("cond_caches", "objects")}


def aligned(host: WebUI, prompt: str = PROMPT, **payload: Any) -> Pictures:
    return host.txt2img(prompt, alignit=[True, WORDS], **payload)


@pytest.mark.parametrize("name", OFF)
def test_off_is_bit_identical_to_a_host_without_the_extension(host: WebUI, plain_host: WebUI, name: str) -> None:
    plain = plain_host.txt2img(**OFF[name])
    assert host.txt2img(**OFF[name]) == plain
    assert host.txt2img(**OFF[name], alignit=[False, WORDS, 0.5, 0.2, 0.8]) == plain


def test_off_right_after_an_aligned_picture_of_the_same_prompt(host: WebUI, plain_host: WebUI) -> None:
    """The host caches conditionings under the prompt, for all jobs."""
    prompt = "a my-cat right after"
    for payload in ({}, HIRES):
        plain = plain_host.txt2img(prompt, **payload)
        first = aligned(host, prompt, **payload)
        assert first != plain
        assert host.txt2img(prompt, **payload) == plain
        assert aligned(host, prompt, **payload) == first, "the plain conditioning was taken from the cache"


def test_on_without_a_concept_is_bit_identical_and_says_so(host: WebUI, plain_host: WebUI) -> None:
    ours = aligned(host, "a house in snow", negative_prompt="ugly")
    assert ours == plain_host.txt2img("a house in snow", negative_prompt="ugly")
    assert "No concept in the prompt" in ours.info["extra_generation_params"]["AlignIT note"]


def test_the_mark_is_the_plain_embedding_where_alignit_is_off(host: WebUI, plain_host: WebUI) -> None:
    plain = plain_host.txt2img("a my-cat, in snow", negative_prompt="my-toy", **HIRES)
    ours = host.txt2img(
        "a <my-cat=cat>, in snow",
        negative_prompt="<my-toy=golden retriever>",
        **HIRES,
        hr_prompt="a <MY-CAT=cat>, in snow",
    )
    assert ours == plain
    assert ours.info["prompt"] == "a <my-cat=cat>, in snow"
    assert "AlignIT" not in ours[0].infotext


def test_the_negative_prompt_is_the_hosts(host: WebUI) -> None:
    plain = aligned(host, negative_prompt="my-toy, ugly")
    assert plain == aligned(host, negative_prompt="<my-toy=toy>, ugly")
    assert plain != aligned(host, negative_prompt="toy, ugly")
    assert plain != aligned(host, negative_prompt="ugly")


@pytest.mark.parametrize("checkpoint", ["miniature", "tiny-sd2", "tiny-sdxl"])
def test_nothing_is_left_after_success(host: WebUI, checkpoint: str) -> None:
    host.load(checkpoint)
    concept = {"miniature": "my-cat", "tiny-sd2": "sd2-cat", "tiny-sdxl": "xl-cat"}[checkpoint]
    before = comparable(host.state())
    for payload in ({}, {"batch_size": 2, "n_iter": 2}, HIRES):
        host.txt2img(f"a {concept} in snow", alignit=[True, "cat", 0.7, 0.2, 0.8], **payload)
        assert comparable(host.state()) == before


def test_the_hosts_cache_gets_nothing_of_ours(host: WebUI) -> None:
    host.txt2img("a house that is cached", negative_prompt="ugly")
    before = host.state()["cond_caches"]
    aligned(host, negative_prompt="ugly")
    aligned(host, negative_prompt="ugly", **HIRES)
    after = host.state()["cond_caches"]
    assert {key: value for key, value in after.items() if key.endswith("_c")} == {
        key: value for key, value in before.items() if key.endswith("_c")
    }


def test_nothing_of_ours_is_alive_after_a_generation(host: WebUI) -> None:
    aligned(host, **HIRES)
    before = host.state(objects=True)["objects"]
    for seed in range(3):
        aligned(host, f"a my-cat number {seed}", seed=seed, **HIRES)
    after = host.state(objects=True)["objects"]
    assert after["alignit"] == before["alignit"]
    assert not any(
        name.split(".")[-1] in ("Generation", "Job", "Injected", "EncodedBatch", "Injection", "Encoding")
        for name in after["alignit"]
    )
    assert after["tensors"] == before["tensors"]
    assert after["tensor_bytes"] == before["tensor_bytes"]


@pytest.mark.host_errors
@pytest.mark.parametrize("trouble", ["process_batch", "sample", "unet", "encoder"])
@pytest.mark.parametrize("arguments", [[True, WORDS], [True, WORDS, 1.0, 0.2, 0.8]])
def test_nothing_is_left_after_an_error(host: WebUI, plain_host: WebUI, trouble: str, arguments: list[Any]) -> None:
    host.txt2img("a house")
    before = comparable(host.state())
    prompt = f"a my-cat, error in {trouble}"
    with contextlib.suppress(requests.HTTPError):  # in some places the host or AlignIT goes on
        host.txt2img(prompt, alignit=arguments, reference={"raise_in": trouble})
    assert host.raised("as asked")
    host.txt2img("a house again")  # the host itself leaves its embeddings noted until the next text is encoded
    assert comparable(host.state()) == before
    plain = host.txt2img(prompt)
    assert plain == plain_host.txt2img(prompt)
    assert host.txt2img(prompt, alignit=arguments) != plain


@pytest.mark.host_errors
def test_an_error_in_the_encoder_gives_the_plain_picture_and_a_note(host: WebUI, plain_host: WebUI) -> None:
    """The probe raises once; the host's own encoding, tried after that, works."""
    ours = host.txt2img("a <my-cat=cat>, encoder", alignit=[True], reference={"raise_in": "encoder", "raise_at": 2})
    assert "An error while encoding the prompt" in ours.info["extra_generation_params"]["AlignIT note"]
    assert ours == plain_host.txt2img("a my-cat, encoder")


@pytest.mark.parametrize("press", ["interrupt_at", "skip_at"])
def test_nothing_is_left_after_interrupt_and_skip(host: WebUI, plain_host: WebUI, press: str) -> None:
    before = comparable(host.state())
    ours = aligned(host, f"a my-cat, {press}", reference={press: 2})
    assert comparable(host.state()) == before
    assert "AlignIT note" not in ours.info["extra_generation_params"]
    assert host.txt2img(f"a my-cat, {press}") == plain_host.txt2img(f"a my-cat, {press}")


def test_one_pass_of_the_text_encoder_for_each_concept_and_no_more_unet_calls(host: WebUI) -> None:
    def count(prompt: str, alignit: list[Any] | None, **payload: Any) -> dict[str, int]:
        host.txt2img(prompt, alignit=alignit, reference={"count": True}, **payload)
        return host.counts()

    plain = count("one cat in snow", None)
    one = count("two my-cat in snow", [True, WORDS])
    two = count("three my-cat beside my-toy", [True, WORDS])
    mentions = count("four my-cat beside my-cat", [True, WORDS])
    assert [c["encoder_passes"] - plain["encoder_passes"] for c in (one, two, mentions)] == [1, 2, 1]
    assert {c["unet_calls"] for c in (plain, one, two, mentions)} == {plain["unet_calls"]}
    assert {c["unet_rows"] for c in (plain, one, two, mentions)} == {plain["unet_rows"]}
    hires = [count("eight cat in snow", None, **HIRES), count("nine my-cat in snow", [True, WORDS], **HIRES)]
    assert hires[1]["encoder_passes"] - hires[0]["encoder_passes"] == 1
    batches = [
        count(prompt, alignit, batch_size=2, n_iter=3)
        for prompt, alignit in (
            ("five cat in snow", None),
            ("six cat in snow", None),
            ("six my-cat in snow", [True, WORDS]),
        )
    ]
    assert batches[2]["encoder_passes"] - batches[1]["encoder_passes"] == 1


def test_xyz_plot_switches_between_class_words_and_off(host: WebUI) -> None:
    """Its cells share one dict of generation parameters: a note of one cell must not appear in the next."""
    info = {script["name"]: script for script in host.get("/sdapi/v1/script-info") if not script["is_img2img"]}
    labels = [argument["label"] for argument in info["x/y/z plot"]["args"]]
    defaults = [argument.get("value") for argument in info["x/y/z plot"]["args"]]
    arguments = list(defaults)
    kinds = info["x/y/z plot"]["args"][labels.index("X type")]["choices"]
    arguments[labels.index("X type")] = kinds.index("Prompt S/R")
    arguments[labels.index("X values")] = "my-cat, house, <my-cat=dog>"
    for label in ("Y type", "Z type"):
        arguments[labels.index(label)] = 0
    arguments[labels.index("Include Sub Images")] = True
    plot = {"script_name": "x/y/z plot", "script_args": arguments}
    pictures = host.txt2img("a my-cat in snow", alignit=[True, WORDS], **plot)
    cells = pictures[-3:]
    assert cells[0] == aligned(host, "a my-cat in snow")[0]
    assert cells[1] == host.txt2img("a house in snow")[0]
    assert cells[2] == aligned(host, "a <my-cat=dog> in snow")[0]
    assert "AlignIT class words: my-cat=cat" in cells[0].infotext
    assert "AlignIT class words" not in cells[1].infotext
    assert "AlignIT class words: my-cat=dog" in cells[2].infotext


def test_a_generation_inside_another_and_scripts_that_end_in_its_middle(host: WebUI) -> None:
    """As ADetailer does: the inner generation and the rest of the outer one have to be right."""
    before = comparable(host.state())
    nested = {"alwayson_scripts": {"Nested": {"args": ["a big my-cat"]}}}
    on = host.txt2img("a my-cat in snow", alignit=[True, WORDS], n_iter=2, **nested)[-2:]  # a grid comes first
    off = host.txt2img("a my-cat in snow", n_iter=2, **nested)[-2:]
    for index, (picture, plain) in enumerate(zip(on, off, strict=True)):
        # Not to the last bit: the host draws an inner picture's latents with no seed, from a narrow distribution.
        assert picture.difference(aligned(host, "a my-cat in snow", seed=1 + index, **nested)[0]) < 0.1
        assert plain.difference(host.txt2img("a my-cat in snow", seed=1 + index, **nested)[0]) < 0.1
        assert "AlignIT class words: my-cat=cat" in picture.infotext
        assert "AlignIT" not in plain.infotext
        assert picture.difference(plain) > 0.3
    assert comparable(host.state()) == before


def test_loopback_uses_one_object_for_several_generations(host: WebUI) -> None:
    init = host.txt2img("a house")[0]
    script = {"script_name": "loopback", "script_args": [2, 0.5, "Linear", "None"], "denoising_strength": 0.5}
    before = comparable(host.state())
    ours = host.img2img("a my-cat in snow", init=init, alignit=[True, WORDS], **script)
    reference = {"inject": [{"dummy": "* my-cat * *", "rows": [2]}]}
    assert ours[0] != host.img2img("a my-cat in snow", init=init, **script)[0]
    assert len(ours) == len(host.img2img("a cat in snow", init=init, reference=reference, **script))
    assert comparable(host.state()) == before
