"""The test tools themselves: small models that mean something, servers that agree, a reference that injects."""

from __future__ import annotations

import numpy as np
import pytest
import requests

from tests.host.webui import OPTIMIZATIONS, Picture, WebUI

PROMPT = "a photo of a cat on the beach"  # cat is token 5
DUMMY = "* * * * {} * * *"
CONCEPTS = {"miniature": "my-cat", "miniature-b": "my-dog", "tiny-sd2": "sd2-cat", "tiny-sdxl": "xl-cat"}
FAR = 2.0  # mean difference of pixels that no rounding makes
checkpoints = pytest.mark.parametrize("checkpoint", CONCEPTS)


def inject(concept: str, **more: object) -> dict[str, object]:
    return {"inject": [{"dummy": DUMMY.format(concept), "rows": [5], **more}]}


def one(pictures: list[Picture]) -> Picture:
    assert len(pictures) == 1
    return pictures[0]


@checkpoints
def test_pictures_depend_on_every_word_and_on_nothing_else(plain_host: WebUI, checkpoint: str) -> None:
    plain_host.load(checkpoint)
    picture = one(plain_host.txt2img(PROMPT))
    assert picture == one(plain_host.txt2img(PROMPT))
    assert picture.difference(one(plain_host.txt2img(PROMPT.replace("cat", "dog")))) > FAR
    assert picture.difference(one(plain_host.txt2img(PROMPT.replace("beach", "snow")))) > FAR
    assert picture.difference(one(plain_host.txt2img(PROMPT, seed=2))) > FAR
    assert np.isin(picture.pixels, [0, 255]).mean() < 0.1, "a picture cut off at black and white hides differences"
    assert PROMPT in picture.infotext
    assert checkpoint in picture.infotext


@checkpoints
def test_reference_injects(plain_host: WebUI, checkpoint: str) -> None:
    plain_host.load(checkpoint)
    concept = CONCEPTS[checkpoint]
    plain = one(plain_host.txt2img(PROMPT))
    injected = one(plain_host.txt2img(PROMPT, reference=inject(concept)))
    assert injected.difference(plain) > FAR
    assert injected.difference(one(plain_host.txt2img(PROMPT.replace("cat", concept)))) > FAR
    assert plain == one(plain_host.txt2img(PROMPT)), "the reference left something behind"


@checkpoints
def test_keys_and_values_equal_those_of_the_row_put_into_the_conditioning(plain_host: WebUI, checkpoint: str) -> None:
    plain_host.load(checkpoint)
    concept = CONCEPTS[checkpoint]
    by_keys = one(plain_host.txt2img(PROMPT, reference=inject(concept)))
    by_conditioning = one(plain_host.txt2img(PROMPT, reference=inject(concept, at="conditioning")))
    assert by_keys == by_conditioning


@checkpoints
def test_two_servers_agree(host: WebUI, plain_host: WebUI, checkpoint: str) -> None:
    pictures = []
    for server in (host, plain_host):
        server.load(checkpoint)
        pictures.append(
            [one(server.txt2img(PROMPT)), one(server.txt2img(PROMPT, reference=inject(CONCEPTS[checkpoint])))]
        )
    assert pictures[0] == pictures[1]


def test_reference_knows_steps_strength_and_parts(plain_host: WebUI) -> None:
    def draw(prompt: str = PROMPT, **more: object) -> Picture:
        return one(plain_host.txt2img(prompt, reference=inject("my-cat", **more)))

    plain, full = one(plain_host.txt2img(PROMPT)), draw()
    assert draw(strength=0) == plain
    assert draw(steps=[0, 3]) == full
    assert draw(steps=[4, 9]) == plain
    assert draw(steps=[2, 3]) not in (plain, full)
    assert draw(keys=False, values=False) == plain
    assert draw(keys=False) not in (plain, full)
    assert draw(layers=["middle_block"]) not in (plain, full)
    both = f"{PROMPT} AND {PROMPT}"
    pictures = [draw(both, parts=parts) for parts in ([0], [1], [0, 1])]
    assert pictures[0].difference(pictures[2]) > 1
    assert pictures[0].difference(one(plain_host.txt2img(both))) > 1


@pytest.mark.parametrize("pad", [False, True])
@pytest.mark.parametrize("together", [False, True])
def test_reference_finds_the_positive_rows(plain_host: WebUI, pad: bool, together: bool) -> None:
    """The same pictures however the host cuts and orders its batches; only the rounding differs."""
    long_negative = ", ".join(["blurry"] * 60)
    request = {"negative_prompt": long_negative, "batch_size": 2, "reference": inject("my-toy", rows=[5, 6, 7])}
    expected = plain_host.txt2img(
        PROMPT, **request | {"reference": inject("my-toy", rows=[5, 6, 7], at="conditioning")}
    )
    plain_host.options(pad_cond_uncond=pad, batch_cond_uncond=together)
    pictures = plain_host.txt2img(PROMPT, **request)
    assert len(pictures) == 2
    for picture, other in zip(pictures, expected, strict=True):
        if not pad:  # padding changes what the picture is
            assert picture.difference(other) < 0.1
        assert picture.difference(one(plain_host.txt2img(PROMPT, negative_prompt=long_negative))) > FAR


def test_refiner_hires_img2img_and_inpainting(plain_host: WebUI) -> None:
    refined = {"refiner_checkpoint": "miniature-b", "refiner_switch_at": 0.5}
    hires = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "denoising_strength": 0.7}
    start = one(plain_host.txt2img("a garden"))
    mask = np.zeros((64, 64), np.uint8)
    mask[16:48, 16:48] = 255
    draws = {
        "refiner": lambda **more: plain_host.txt2img(PROMPT, **refined, **more),
        "hires": lambda **more: plain_host.txt2img(PROMPT, **hires, **more),
        "hires with another checkpoint": lambda **more: plain_host.txt2img(
            PROMPT, **hires, hr_checkpoint_name="miniature-b", **more
        ),
        "img2img": lambda **more: plain_host.img2img(PROMPT, init=start, denoising_strength=0.9, **more),
        "inpainting": lambda **more: plain_host.img2img(PROMPT, init=start, mask=mask, denoising_strength=0.9, **more),
    }
    for name, draw in draws.items():
        plain, injected = one(draw()), one(draw(reference=inject("my-cat")))
        assert injected.difference(plain) > 1, name
        assert injected == one(draw(reference=inject("my-cat", at="conditioning"))), name
        assert plain == one(draw()), name
        assert plain.pixels.shape[0] == (128 if name.startswith("hires") else 64)


def test_inpainting_checkpoint_and_sdxl_refiner(plain_host: WebUI) -> None:
    plain_host.load("miniature-inpaint")
    plain = one(plain_host.txt2img(PROMPT))
    assert plain.difference(one(plain_host.txt2img(PROMPT, reference=inject("my-cat")))) > FAR
    plain_host.load("tiny-sdxl")
    refined = one(plain_host.txt2img(PROMPT, refiner_checkpoint="tiny-sdxl-refiner", refiner_switch_at=0.5))
    assert refined.difference(one(plain_host.txt2img(PROMPT))) > FAR


@pytest.mark.parametrize("optimization", OPTIMIZATIONS)
def test_reference_works_under_every_attention_optimization(plain_host: WebUI, optimization: str) -> None:
    plain_host.options(cross_attention_optimization=optimization)
    assert (plain_host.state()["optimization"] or "None") == optimization.split(" - ", maxsplit=1)[0]
    plain = one(plain_host.txt2img(PROMPT))
    injected = one(plain_host.txt2img(PROMPT, reference=inject("my-cat")))
    assert injected.difference(plain) > FAR
    assert injected == one(plain_host.txt2img(PROMPT, reference=inject("my-cat", at="conditioning")))


@pytest.mark.parametrize("network", ["<lora:tiny-lora:1>", "<hypernet:tiny-hyper:1>"])
def test_reference_uses_the_networks_of_the_prompt(plain_host: WebUI, network: str) -> None:
    prompt = PROMPT + network
    plain = one(plain_host.txt2img(prompt))
    assert plain.difference(one(plain_host.txt2img(PROMPT))) > FAR
    injected = one(plain_host.txt2img(prompt, reference=inject("my-cat")))
    assert injected.difference(plain) > FAR
    assert injected == one(plain_host.txt2img(prompt, reference=inject("my-cat", at="conditioning")))
    loras = {"tiny-lora": 6 * 4 + 5 * 4} if "lora" in network else {}  # every layer of it was found in the model
    hypernetworks = ["tiny-hyper"] if "hypernet" in network else []
    state = plain_host.state()
    assert (state["loras"], state["hypernetworks"]) == (loras, hypernetworks)
    plain_host.txt2img(PROMPT)
    state = plain_host.state()
    assert (state["loras"], state["hypernetworks"]) == ({}, [])


def test_page_is_served(page_host: WebUI) -> None:
    assert "gradio" in requests.get(page_host.url, timeout=30).text
    assert one(page_host.txt2img(PROMPT)).infotext.startswith(PROMPT)


def test_counts(plain_host: WebUI) -> None:
    plain_host.txt2img("something else")
    plain_host.txt2img(PROMPT, reference={"count": True})
    assert plain_host.counts() == {
        "encoder_passes": 1,
        "encoder_rows": 1,
        "unet_calls": 4,
        "unet_rows": 8,
        "foreign_products": 0,
    }
    plain_host.txt2img(PROMPT, reference={"count": True})
    assert plain_host.counts()["encoder_passes"] == 0, "the host keeps conditionings"


def test_state_sees_nothing_after_a_reference(plain_host: WebUI) -> None:
    plain_host.txt2img(PROMPT)
    before = plain_host.state()
    plain_host.txt2img(PROMPT, reference=inject("my-cat") | {"count": True})
    after = plain_host.state()
    assert after == before
    assert not before["hooks"] or all("state_dict" in hook for hook in before["hooks"])


@pytest.mark.host_errors
@pytest.mark.parametrize("where", ["process_batch", "sample", "unet", "encoder"])
def test_trouble_is_raised_and_leaves_nothing(plain_host: WebUI, where: str) -> None:
    plain_host.txt2img("a new prompt")
    before = plain_host.state()
    request = {"reference": inject("my-cat") | {"raise_in": where}}
    if where == "process_batch":
        plain_host.txt2img("a new prompt", **request)  # the host swallows exceptions of scripts
    else:
        with pytest.raises(OSError, match="ProbeError"):
            plain_host.txt2img(f"raise in {where}", **request)
    assert any(
        f"raised in {'the ' if where in ('unet', 'encoder') else ''}{where}" in str(e) for e in plain_host.exceptions()
    )
    plain_host.txt2img("another prompt")  # encoded anew: on a hit in the cache, the host keeps its fixes for later
    after = plain_host.state()
    assert {key: after[key] for key in after if key != "cond_caches"} == {
        key: before[key] for key in before if key != "cond_caches"
    }


def test_interrupt_and_skip(plain_host: WebUI) -> None:
    plain = one(plain_host.txt2img(PROMPT))
    for key in ("interrupt_at", "skip_at"):
        assert plain != one(plain_host.txt2img(PROMPT, reference={key: 1}))
    assert plain == one(plain_host.txt2img(PROMPT))


def test_meddling_changes_a_little(plain_host: WebUI) -> None:
    plain = one(plain_host.txt2img(PROMPT))
    assert 0 < plain.difference(one(plain_host.txt2img(PROMPT, reference={"rewrite_cond": True}))) < 1
