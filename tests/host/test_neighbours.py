"""Beside extensions that stand in the way: other attention, encoders called again, generations inside, LoRAs by step.

The probe's Neighbour and Nested do what such extensions do, and the probe's reference counts rows in the context.
"""

from __future__ import annotations

import pytest

from tests.host.test_clean import comparable
from tests.host.test_deltas import Files, files, same  # noqa: F401  # a fixture
from tests.host.webui import HIRES, Pictures, WebUI

WORDS = "my-cat=cat, my-toy=toy"
ATTENTIONS = ["regions", "extended", "cut", "twice"]
TOKEN = {"dummy": "* newtoken cat * *", "rows": [2, 3]}


def beside(**asked: object) -> dict:
    return {"alwayson_scripts": {"Neighbour": {"args": [asked]}}}


def notes(pictures: Pictures) -> str:
    return str(pictures.info["extra_generation_params"].get("AlignIT note", ""))


def state_after_a_picture(host: WebUI) -> dict:
    """What an extension could leave behind, without what the test before did."""
    host.txt2img("a house")
    return comparable(host.state())


@pytest.mark.parametrize("around", [False, True])
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("options", ["", "values", "0.5; keys", "delta"])
def test_other_attention(host: WebUI, files: Files, attention: str, options: str, around: bool) -> None:  # noqa: F811
    """A concept put in by its row, by hooks, or by changed weights is right in each part that a projection is given."""
    if attention == "twice" and around:
        pytest.skip("the same as without")
    target, base, injection = "a <my-cat=cat> in snow", "a cat in snow", {"dummy": "* my-cat * *", "rows": [2]}
    if options == "delta":
        target, base, injection = "a <new1> cat in snow", "a cat cat in snow", TOKEN | {"weights": str(files.weights)}
    if attention == "regions":  # the concept is in the second, and what is in the first is not its
        target, base = f"a house BREAK {target}", f"a house BREAK {base}"
        rows = [row + 77 for row in injection["rows"]]
        injection = injection | {"dummy": f"* * BREAK {injection['dummy']}", "rows": rows}
    injection |= {"values": {"keys": False}, "0.5; keys": {"values": False, "strength": 0.5}}.get(options, {})
    network = " <delta:my-run:1>" if options == "delta" else ""
    arguments = [True, "", 1.0, 0.0, 1.0, "" if options == "delta" else options]
    other = {"attention": attention, "around": around}
    before = state_after_a_picture(host)
    ours = host.txt2img(target + network, alignit=arguments, **beside(**other))
    wanted = host.txt2img(base, reference={"inject": [injection]}, **beside(**other, whole=True))
    without = host.txt2img(base, **beside(**other))
    alone = host.txt2img(base, reference={"inject": [injection]})
    assert wanted[0].difference(without[0]) > 0.05, "the concept changes nothing: the case proves nothing"
    assert attention == "twice" or wanted[0].difference(alone[0]) > 0.05, "the other extension changes nothing"
    assert same(ours, wanted), f"{ours[0].difference(wanted[0])}, of {wanted[0].difference(without[0])}"
    assert not notes(ours)
    assert comparable(host.state()) == before


def test_a_concept_that_does_not_come_to_the_layers_is_told_of_and_by_whom(host: WebUI) -> None:
    changed = beside(attention="twice", change=True)
    ours = host.txt2img("a my-cat in snow", alignit=[True, WORDS, 1.0, 0.0, 1.0, "0.5"], **changed)
    assert not notes(ours), "its row is all there is to it"
    ours = host.txt2img("a my-cat in snow", alignit=[True, WORDS, 1.0, 0.0, 1.0, "keys"], **changed)
    assert "my-cat is not put in exactly: in 6 places of the UNet" in notes(ours)
    assert "probe changes them: turn it off." in notes(ours)


@pytest.mark.parametrize("options", ["", "0.5", "keys", "0.5; values", "steps 0-0.5"])
@pytest.mark.parametrize(
    ("target", "base", "injections"),
    [
        ("a my-cat, red ball, green tree", "a cat, red ball, green tree", [("* my-cat * * * * * *", [2])]),
        (
            "a red my-cat, green my-toy",
            "a red cat, green toy toy toy",
            [("* * my-cat * * * * *", [3]), ("* * * * * my-toy", [6, 7, 8])],
        ),
    ],
)
def test_a_text_encoder_that_is_called_again_from_inside(
    host: WebUI, target: str, base: str, injections: list[tuple[str, list[int]]], options: str
) -> None:
    """What the other extension does to rows of other words stays, and the concept's row is the concept's."""
    changes = {
        "0.5": {"strength": 0.5},
        "keys": {"values": False},
        "0.5; values": {"keys": False, "strength": 0.5},
        "steps 0-0.5": {"steps": [0, 1]},
    }.get(options, {})
    inject = [{"dummy": dummy, "rows": rows, **changes} for dummy, rows in injections]
    before = state_after_a_picture(host)
    ours = host.txt2img(target, alignit=[True, WORDS, 1.0, 0.0, 1.0, options], **beside(encoder=["red", "green"]))
    wanted = host.txt2img(base, reference={"inject": inject}, **beside(encoder=["red", "green"]))
    assert wanted[0] != host.txt2img(base, **beside(encoder=["red", "green"]))[0]
    assert wanted[0] != host.txt2img(base, reference={"inject": inject})[0]
    assert same(ours, wanted), f"{ours[0].difference(wanted[0])}"
    assert not notes(ours)
    assert comparable(host.state()) == before


@pytest.mark.parametrize("options", ["", "0.5; keys"])
def test_two_text_encoders_that_are_called_again_from_inside(host: WebUI, options: str) -> None:
    host.load("tiny-sdxl")
    inject = {"dummy": "* * xl-cat * * *", "rows": [3]} | ({"values": False, "strength": 0.5} if options else {})
    beside_it = beside(encoder=["red", "green"])
    arguments = [True, "xl-cat=cat", 1.0, 0.0, 1.0, options]
    ours = host.txt2img("a red xl-cat, green tree", alignit=arguments, **beside_it)
    wanted = host.txt2img("a red cat, green tree", reference={"inject": [inject]}, **beside_it)
    assert wanted[0] != host.txt2img("a red cat, green tree", **beside_it)[0]
    assert wanted[0] != host.txt2img("a red cat, green tree", reference={"inject": [inject]})[0]
    assert same(ours, wanted), f"{ours[0].difference(wanted[0])}"
    assert not notes(ours)


@pytest.mark.parametrize("functional", [False, True])
@pytest.mark.parametrize("options", ["", "values", "0.5; keys", "delta"])
@pytest.mark.parametrize("strength", [0.0, -2.0])
def test_a_lora_whose_strength_changes_in_mid_sampling(
    host: WebUI,
    files: Files,  # noqa: F811
    options: str,
    strength: float,
    functional: bool,
) -> None:
    host.options(lora_functional=functional)
    lora, payload = " <lora:tiny-lora:1>", {"steps": 6}
    target, base, injection = "a <my-cat=cat> in snow", "a cat in snow", {"dummy": "* my-cat * *", "rows": [2]}
    injection |= {"values": {"keys": False}, "0.5; keys": {"values": False, "strength": 0.5}}.get(options, {})
    network = ""
    if options == "delta":
        network = " <delta:my-cat:1>"
        injection |= {"weights": str(files.weights), "delta": True}
    arguments = [True, WORDS, 1.0, 0.0, 1.0, "" if options == "delta" else options]
    ours = host.txt2img(target + lora + network, alignit=arguments, **payload, **beside(lora=[2, strength]))
    wanted = host.txt2img(base + lora, reference={"inject": [injection]}, **payload, **beside(lora=[2, strength]))
    steady = host.txt2img(base + lora, reference={"inject": [injection]}, **payload)
    assert wanted[0].difference(steady[0]) > 0.3, "the change in mid-sampling changes nothing: the case proves nothing"
    assert same(ours, wanted), f"{ours[0].difference(wanted[0])}, of {wanted[0].difference(steady[0])}"


@pytest.mark.parametrize("functional", [False, True])
def test_a_delta_for_every_token_beside_a_lora_whose_strength_changes(
    host: WebUI,
    files: Files,  # noqa: F811
    functional: bool,
) -> None:
    """AlignIT off: Custom Diffusion itself is the same as a checkpoint with its weights."""
    host.options(lora_functional=functional)
    prompt, changing = "a cat in snow <lora:tiny-lora:1>", beside(lora=[2, -2.0])
    ours = host.txt2img(f"{prompt} <delta:my-cat:1>", steps=6, **changing)
    wanted = host.txt2img(prompt, steps=6, override_settings={"sd_model_checkpoint": files.checkpoint}, **changing)
    assert same(ours, wanted), f"{ours[0].difference(wanted[0])}"


@pytest.mark.parametrize("taking_part", ["some", "none"])
@pytest.mark.parametrize("options", ["", "keys", "delta"])
@pytest.mark.parametrize("hires", [False, True])
def test_a_generation_inside_another_that_leaves_the_script_out(
    host: WebUI,
    files: Files,  # noqa: F811
    taking_part: str,
    options: str,
    hires: bool,
) -> None:
    """As ADetailer's inpainting does: the concept is aligned there as in the outer one, and no mark stays as text."""
    if hires and (options or taking_part == "none"):
        pytest.skip("one of each is enough")
    injection = {"dummy": "* my-cat * *", "rows": [2]} | ({"values": False} if options == "keys" else {})
    words, base = "<my-cat=cat>", "cat"
    if options == "delta":
        injection, words, base = TOKEN | {"weights": str(files.weights)}, "<new1> cat <delta:my-run:1>", "cat cat"
    arguments = [True, "", 1.0, 0.0, 1.0, "" if options == "delta" else options]
    payload = {**(HIRES if hires else {}), "negative_prompt": "a <my-cat=dog> here"}
    reference = {"inject": [injection]}

    def nested(prompt: str, scripts: str) -> dict:
        return {"alwayson_scripts": {"Nested": {"args": [prompt, scripts]}}}

    before = state_after_a_picture(host)
    ours = host.txt2img(f"a {words} in snow", alignit=arguments, **payload, **nested(f"a {words} at sea", taking_part))
    plain = {**payload, "negative_prompt": "a my-cat here"}
    wanted = host.txt2img(f"a {base} in snow", reference=reference, **plain, **nested(f"a {base} at sea", "all"))
    without = host.txt2img(f"a {base} in snow", reference=reference, **plain, **nested(f"a {base} at sea", "none"))
    # Not to the last bit: the host draws an inner picture's latents with no seed, from a narrow distribution.
    assert wanted[0].difference(without[0]) > 0.3, "the concept in the inner picture changes nothing"
    assert ours[0].difference(wanted[0]) < 0.1
    assert not notes(ours)
    again = host.txt2img(
        f"a {words} in snow", alignit=arguments, **payload, **nested(f"a {words} at sea", taking_part), n_iter=2, seed=0
    )
    assert again[-1].difference(ours[0]) < 0.1, "the batch after one with an inner generation"
    assert not notes(again)
    assert comparable(host.state()) == before


def test_class_words_and_options_of_the_outer_prompt_count_inside(host: WebUI) -> None:
    def nested(prompt: str) -> dict:
        return {"alwayson_scripts": {"Nested": {"args": [prompt, "some"]}}}

    ours = host.txt2img("a <my-cat=cat; 0.5> in snow", alignit=[True, ""], **nested("my-cat"))
    wanted = host.txt2img("a <my-cat=cat; 0.5> in snow", alignit=[True, ""], **nested("<my-cat=cat; 0.5>"))
    assert ours[-1].difference(wanted[-1]) < 0.1
    assert not notes(ours)


@pytest.mark.parametrize("alignit", [None, [False]])
def test_marks_are_no_text_in_an_inner_generation_where_alignit_is_off(host: WebUI, alignit: list | None) -> None:
    def nested(prompt: str) -> dict:
        return {"alwayson_scripts": {"Nested": {"args": [prompt, "some"]}}}

    ours = host.txt2img("a my-cat in snow", alignit=alignit, **nested("a <my-cat=cat; 0.5> at sea"))
    wanted = host.txt2img("a my-cat in snow", **nested("a my-cat at sea"))
    assert ours[-1].difference(wanted[-1]) < 0.1


def test_a_delta_of_an_inner_generation_alone(host: WebUI, files: Files) -> None:  # noqa: F811
    def nested(prompt: str) -> dict:
        return {"alwayson_scripts": {"Nested": {"args": [prompt, "some"]}}}

    assert files.weights.exists()
    ours = host.txt2img("a house", **nested("a my-cat cat <delta:my-cat:1>"))
    inner = host.txt2img("a house", **nested("a my-cat cat <delta:my-cat:0>"))
    assert ours[-1].difference(inner[-1]) > 0.1
