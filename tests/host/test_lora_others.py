"""The other layers of a LoRA that is bound to a word: off, on, and where its concept is attended to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.host.loras import KINDS, make_others
from tests.host.test_clean import comparable
from tests.host.test_deltas import CHANGED, note
from tests.host.webui import HIRES, Pictures, WebUI

ROUNDING = 0.1  # mean difference: the host adds to the weights, AlignIT to what they make of their inputs
BASE = "a photo of a cat in snow"
BATCH = {"batch_size": 2}


@pytest.fixture(scope="module")
def host_with_others(servers) -> Iterator[WebUI]:
    host: WebUI = servers.get("host")
    make_others(host, "others", "LoRA", 1)
    yield host
    for path in host.loras.iterdir():
        if not path.name.startswith("tiny-lora"):
            path.unlink()
    host.post("/sdapi/v1/refresh-loras")


def bound(host: WebUI, name: str, options: str, strength: float = 0.5, **payload: object) -> Pictures:
    text = f"a photo of a <{name}=cat{options and '; ' + options}> in snow <lora:{name}:{strength}>"
    return host.txt2img(text, alignit=[True], **payload)


def everywhere(host: WebUI, lora: str = "", strength: float = 1.0, **payload: object) -> Pictures:
    """The concept's row from its dummy prompt, by the reference, and the host's own LoRA at all places."""
    inject = [{"dummy": "* * * * cat * *", "rows": [5], "strength": strength}]
    return host.txt2img(f"{BASE} {lora}", reference={"inject": inject}, **payload)


def difference(ours: Pictures, theirs: Pictures) -> float:
    assert len(ours) == len(theirs)
    return max(one.difference(two) for one, two in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("kind", [*KINDS, "norm"])
def test_on_is_what_the_host_makes_of_each_kind(host: WebUI, host_with_others: WebUI, kind: str) -> None:  # noqa: ARG001
    name = f"others-{kind.lower().replace(' ', '-')}"
    make_others(host, name, kind, 3)
    nothing = everywhere(host)
    theirs = everywhere(host, f"<lora:{name}:0.2>")
    assert difference(theirs, nothing) > 1, "it changed nothing: the case proves nothing"
    ours = bound(host, name, "others on", 0.2)
    assert difference(ours, theirs) < ROUNDING
    assert difference(bound(host, name, "others off", 0.2), nothing) < ROUNDING
    assert note(ours) == ""


@pytest.mark.parametrize("payload", [BATCH, HIRES, {"n_iter": 2}])
def test_on_in_batches_and_passes(host: WebUI, host_with_others: WebUI, payload: dict) -> None:  # noqa: ARG001
    theirs = everywhere(host, "<lora:others:0.5>", **payload)
    assert difference(bound(host, "others", "others on", **payload), theirs) < ROUNDING


def test_strength(host: WebUI, host_with_others: WebUI) -> None:  # noqa: ARG001
    theirs = everywhere(host, "<lora:others:0.25>")
    assert difference(bound(host, "others", "others on 0.5"), theirs) < ROUNDING
    half = everywhere(host, "<lora:others:0.25>", 0.5)
    assert difference(bound(host, "others", "others on; 0.5"), half) < ROUNDING
    assert difference(bound(host, "others", "others on 0"), everywhere(host)) < ROUNDING
    assert bound(host, "others", "others on; class word") == host.txt2img(BASE)


def test_masked_is_the_default_and_begins_at_the_second_step(host: WebUI, host_with_others: WebUI) -> None:  # noqa: ARG001
    off, masked = bound(host, "others", "others off"), bound(host, "others", "")
    assert masked == bound(host, "others", "others masked 1")
    assert difference(masked, off) > CHANGED
    assert difference(masked, bound(host, "others", "others on")) > CHANGED
    assert bound(host, "others", "", steps=1) == bound(host, "others", "others off", steps=1)
    assert bound(host, "others", "steps 0-0.25") == bound(host, "others", "others off; steps 0-0.25")


def test_masked_is_each_pictures_own(host: WebUI, host_with_others: WebUI) -> None:  # noqa: ARG001
    both = bound(host, "others", "", **BATCH)
    alone = [bound(host, "others", "", seed=seed) for seed in (1, 2)]
    for number, picture in enumerate(alone):
        assert both[number].difference(picture[0]) < ROUNDING
    host.options(batch_cond_uncond=False)
    assert difference(bound(host, "others", "", **BATCH), both) < ROUNDING


def test_a_picture_without_the_words_in_a_batch_has_nothing_of_it(host: WebUI, host_with_others: WebUI) -> None:  # noqa: ARG001
    plain = host.txt2img("a house")
    ours = host.txt2img("a house <lora:others:0.5>", alignit=[True, "others=cat"])
    assert ours == plain
    assert "'cat' is not in the prompt: write <others=cat>" in note(ours)


def test_masks_of_two(host: WebUI, host_with_others: WebUI) -> None:
    make_others(host_with_others, "more", "LoRA", 2)
    prompt, words = "a <others=cat> and a <more=dog>", "<lora:others:0.5><lora:more:0.5>"
    both = host.txt2img(f"{prompt} {words}", alignit=[True])
    one = host.txt2img(f"a <others=cat> and a <more=dog; others off> {words}", alignit=[True])
    assert difference(both, one) > CHANGED
    swapped = host.txt2img(f"{prompt} <lora:more:0.5><lora:others:0.5>", alignit=[True])
    assert difference(both, swapped) < ROUNDING


@pytest.mark.parametrize("options", ["", "others on"])
def test_nothing_is_left_behind(host: WebUI, host_with_others: WebUI, options: str) -> None:  # noqa: ARG001
    plain, lora = host.txt2img(BASE), host.txt2img(f"{BASE} <lora:others:0.5>")
    assert host.txt2img(BASE) == plain
    before = comparable(host.state())
    for payload in ({}, HIRES, {"reference": {"interrupt_at": 2}}):
        bound(host, "others", options, **payload)
        assert host.txt2img(f"{BASE} <lora:others:0.5>") == lora
        assert host.txt2img(BASE) == plain
        assert comparable(host.state()) == before
