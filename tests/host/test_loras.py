"""``<lora:NAME>`` that is bound to a word, by the host's own code for every kind of LoRA, and what is left of it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import torch
from safetensors.torch import save_file

from tests.host.loras import KINDS, UNET, Files, make
from tests.host.test_clean import comparable
from tests.host.test_deltas import CHANGED, note, same
from tests.host.webui import HIRES, WebUI

BATCHES: dict[str, Any] = {"batch_size": 2, "n_iter": 2, "negative_prompt": "ugly, sks cat"}


@pytest.fixture(scope="module")
def folder(servers, tmp_path_factory) -> Iterator[Path]:
    host: WebUI = servers.get("host")
    folder: Path = tmp_path_factory.mktemp("loras")
    yield folder
    for path in host.loras.iterdir():
        if not path.name.startswith("tiny-lora"):
            path.unlink()
    host.post("/sdapi/v1/refresh-loras")


@pytest.fixture(scope="module")
def mine(servers, folder: Path) -> Files:
    """One of which the user has noted the words, at strength 0.7."""
    files = make(servers.get("host"), folder, "mine", "LoRA", 1, 0.7)
    files.path.with_suffix(".json").write_text(json.dumps({"activation text": " sks cat, ", "notes": "kept"}))
    return files


def reference(files: Files, dummy: str = "a photo of a sks cat in snow", **others: Any) -> dict[str, Any]:
    """What the paper injects for the words "sks cat" of a prompt, given as the target without the LoRA."""
    words = dummy.split()
    first = words.index("sks")
    dummies = ["*"] * len(words)
    dummies[first : first + 2] = "sks", "cat"
    return {"dummy": " ".join(dummies), "rows": [first + 1, first + 2], **files.parts, **others}


TARGET = "a photo of a <mine=cat> in snow <lora:mine:0.7>"
BASE = "a photo of a cat cat in snow"


@pytest.mark.parametrize("kind", [*KINDS, "norm"])
def test_each_kind_at_the_words_alone(host: WebUI, folder: Path, kind: str) -> None:
    name = kind.lower().replace(" ", "-")
    files = make(host, folder, name, kind, 3, 0.6)
    ours = host.txt2img(f"a photo of a <{name}=cat> in snow <lora:{name}:0.6>", alignit=[True, f"{name}=dog"])
    inject = [{"dummy": "* * * * cat * *", "rows": [5], **files.parts}]
    wanted = host.txt2img("a photo of a cat in snow", reference={"inject": inject})
    assert same(ours, wanted)
    assert note(ours) == ""
    assert ours.info["extra_generation_params"]["AlignIT class words"] == f"{name}=cat"
    for part in files.parts:
        less = [{key: value for key, value in inject[0].items() if key != part}]
        without = host.txt2img("a photo of a cat in snow", reference={"inject": less})
        if (part, kind) != ("weights", "norm"):
            assert wanted[0].difference(without[0]) > CHANGED, f"{part} changed nothing: the case proves nothing"


@pytest.mark.parametrize("payload", [{}, BATCHES, HIRES])
def test_activation_text_is_the_words(host: WebUI, mine: Files, payload: dict) -> None:
    ours = host.txt2img(TARGET, alignit=[True], **payload)
    wanted = host.txt2img(BASE, reference={"inject": [reference(mine)]}, **payload)
    assert same(ours, wanted)
    assert note(ours) == ""


@pytest.mark.parametrize("payload", [{}, BATCHES, HIRES])
def test_what_is_not_bound_acts_as_always(host: WebUI, plain_host: WebUI, mine: Files, payload: dict) -> None:
    copy = plain_host.loras / mine.path.name
    copy.write_bytes(mine.path.read_bytes())
    plain_host.post("/sdapi/v1/refresh-loras")
    prompt = "a photo of a sks cat in snow <lora:mine:0.7>"
    plain = plain_host.txt2img(prompt, **payload)
    nothing = plain_host.txt2img("a photo of a sks cat in snow", **payload)
    assert plain[0].difference(nothing[0]) > CHANGED
    for alignit in (None, [False, "mine=cat"], [True], [True, "cat"], [True, "cat, other=dog"]):
        assert host.txt2img(prompt, alignit=alignit, **payload) == plain
        assert host.txt2img(TARGET, alignit=[True], **payload) != plain
    assert host.txt2img(TARGET, **payload) == plain  # where AlignIT is off the mark means the words
    assert host.txt2img("a photo of a sks cat in snow", **payload) == nothing


@pytest.mark.parametrize(
    ("noted", "alignit"),
    [({}, [True, "mine=cat"]), ({"class word": "cat"}, [True])],
)
def test_bound_in_the_panel_or_beside_its_file(host: WebUI, mine: Files, noted: dict, alignit: list) -> None:
    beside = mine.path.with_suffix(".json")
    before = beside.read_text()
    beside.write_text(json.dumps(json.loads(before) | noted))
    try:
        for keyword in ("lora", "lyco"):
            ours = host.txt2img(f"a photo of a sks cat in snow <{keyword}:mine:0.7>", alignit=alignit)
            assert same(ours, host.txt2img(BASE, reference={"inject": [reference(mine)]}))
        elsewhere = host.txt2img("a photo of a house <lora:mine:0.7>", alignit=alignit)
        assert elsewhere == host.txt2img("a photo of a house")
        assert "'sks cat' is not in the prompt: write <mine=cat>" in note(elsewhere)
    finally:
        beside.write_text(before)


def test_words_of_the_training_data(host: WebUI, folder: Path) -> None:
    tags = {"ss_tag_frequency": {"img": {"x": 1}, "10_sks_my cat": {"y": 2}}}
    files = make(host, folder, "trained", "LoRA", 5, 1.0, metadata=tags)
    ours = host.txt2img("a <trained=cat> in snow <lora:trained:1>", alignit=[True])
    inject = [{"dummy": "* sks my cat * *", "rows": [2, 3, 4], **files.parts}]
    assert same(ours, host.txt2img("a cat cat cat in snow", reference={"inject": inject}))


def test_strengths_of_encoder_and_unet(host: WebUI, folder: Path) -> None:
    weights, encoder = (make(host, folder, "strong", "LoRA", 6, strength) for strength in (0.3, 0.9))
    ours = host.txt2img("a <strong=cat> in snow <lora:strong:0.9:0.3>", alignit=[True])
    make(host, folder, "strong", "LoRA", 6, 0.3)
    weights = make(host, folder, "strong-weights", "LoRA", 6, 0.3)
    inject = [{"dummy": "* cat * *", "rows": [2], "weights": weights.weights, "encoder": encoder.encoder}]
    make(host, folder, "strong", "LoRA", 6, 0.9)
    assert same(ours, host.txt2img("a cat in snow", reference={"inject": inject}))


def test_two_loras_do_not_reach_each_other(host: WebUI, folder: Path, mine: Files) -> None:
    dog = make(host, folder, "other", "DoRA", 8, 1.0)
    prompt = "a <mine=cat> and a <other=dog> <lora:mine:0.7><lora:other:1>"
    ours = host.txt2img(prompt, alignit=[True], **BATCHES)
    inject = [
        {"dummy": "* sks cat * * *", "rows": [2, 3], **mine.parts},
        {"dummy": "* * * * * dog", "rows": [6], **dog.parts},
    ]
    assert same(ours, host.txt2img("a cat cat and a dog", reference={"inject": inject}, **BATCHES))
    alone = host.txt2img("a <mine=cat> and a dog <lora:mine:0.7>", alignit=[True], **BATCHES)
    assert ours[0].difference(alone[0]) > CHANGED


def test_beside_one_that_is_not_bound(host: WebUI, mine: Files) -> None:
    """It is part of the base model, and what is bound comes on top."""
    ours = host.txt2img(f"{TARGET} <lora:tiny-lora:0>", alignit=[True])
    assert same(ours, host.txt2img(BASE, reference={"inject": [reference(mine)]}))
    both = host.txt2img(f"{TARGET} <lora:tiny-lora:1>", alignit=[True])
    assert both[0].difference(ours[0]) > CHANGED
    half = host.txt2img(f"a photo of a {'<mine=cat; 0>'} in snow <lora:mine:0.7> <lora:tiny-lora:1>", alignit=[True])
    assert half == host.txt2img(f"{BASE} <lora:tiny-lora:1>")


def test_parts_of_files(host: WebUI, folder: Path) -> None:
    for name, wanted in (("unet", lambda n: n.startswith(UNET)), ("encoder", lambda n: not n.startswith(UNET))):
        files = make(host, folder, f"{name}-only", "LoRA", 9, 1.0, wanted=wanted)
        ours = host.txt2img(f"a <{files.name}=cat> in snow <lora:{files.name}:1>", alignit=[True])
        inject = [{"dummy": "* cat * *", "rows": [2], **files.parts}]
        wanted_pictures = host.txt2img("a cat in snow", reference={"inject": inject})
        assert same(ours, wanted_pictures)
        assert ours[0].difference(host.txt2img("a cat in snow")[0]) > CHANGED


def test_class_word_alone_is_the_base_model(host: WebUI, mine: Files) -> None:  # noqa: ARG001
    ours = host.txt2img("a photo of a <mine=cat; 0> in snow <lora:mine:0.7>", alignit=[True])
    assert ours == host.txt2img(BASE)


@pytest.mark.parametrize("functional", [False, True])
def test_nothing_is_left_behind(host: WebUI, mine: Files, functional: bool) -> None:  # noqa: ARG001
    host.options(lora_functional=functional)
    plain, lora = "a photo of a sks cat in snow", "a photo of a sks cat in snow <lora:mine:0.7>"
    negative = {"negative_prompt": "sks cat"}
    wanted = [host.txt2img(prompt, **negative) for prompt in (plain, lora, plain)]
    before = comparable(host.state())
    for payload in ({}, BATCHES, HIRES, {"reference": {"interrupt_at": 1}}):
        assert host.txt2img(TARGET, alignit=[True], **{**payload, **negative}) != wanted[1]
        assert host.txt2img(lora, **negative) == wanted[1]
        assert host.txt2img(plain, **negative) == wanted[0]
        assert comparable(host.state()) == before


def test_a_script_without_networks_finds_the_list_as_it_was(host: WebUI, mine: Files) -> None:  # noqa: ARG001
    host.txt2img(TARGET, alignit=[True])
    assert set(host.state()["loras"]) == {"mine"}


@pytest.mark.host_errors
@pytest.mark.parametrize("place", ["unet", "encoder", "sample"])
def test_nothing_is_left_behind_after_an_error(host: WebUI, mine: Files, place: str) -> None:  # noqa: ARG001
    lora = host.txt2img("a photo of a sks cat in snow <lora:mine:0.7>")
    plain = host.txt2img("a garden")
    before = comparable(host.state())
    with contextlib.suppress(requests.HTTPError):  # in the encoder AlignIT goes on without itself
        host.txt2img(TARGET, alignit=[True], reference={"raise_in": place, "raise_at": 2})
    assert host.raised("as asked")
    assert set(host.state()["loras"]) == {"mine"}
    assert host.txt2img("a photo of a sks cat in snow <lora:mine:0.7>") == lora
    assert host.txt2img("a garden") == plain
    assert comparable(host.state()) == before


def test_compare(host: WebUI, mine: Files) -> None:
    ways = host.txt2img(TARGET, alignit=[{"enabled": True, "compare": True}])
    assert ways[1] == host.txt2img(BASE)[0]
    assert ways[2] == host.txt2img("a photo of a sks cat in snow <lora:mine:0.7>")[0]
    assert same(ways[3], host.txt2img(BASE, reference={"inject": [reference(mine)]})[0])


def test_hires_with_another_lora(host: WebUI, folder: Path, mine: Files) -> None:
    other = make(host, folder, "second", "LoHa", 11, 1.0)
    payload = HIRES | {"hr_prompt": "a photo of a <second=dog> in snow <lora:second:1>"}
    ours = host.txt2img(TARGET, alignit=[True], **payload)
    inject = {"inject": [reference(mine)], "hires": [{"dummy": "* * * * dog * *", "rows": [5], **other.parts}]}
    wanted = host.txt2img(BASE, reference=inject, **HIRES, hr_prompt="a photo of a dog in snow")
    assert same(ours, wanted)


@pytest.mark.parametrize("name", ["lora_unet_no_such_layer", "unet.down_blocks.1.attentions.0.proj_in.lora"])
def test_a_file_of_which_the_host_uses_nothing(host: WebUI, folder: Path, name: str) -> None:  # noqa: ARG001
    tensors = {f"{name}.lora_down.weight": torch.zeros(4, 8), f"{name}.lora_up.weight": torch.zeros(8, 4)}
    save_file(tensors, host.loras / "foreign.safetensors")
    host.post("/sdapi/v1/refresh-loras")
    ours = host.txt2img("a <foreign=cat> in snow <lora:foreign:1>", alignit=[True])
    assert "'foreign.safetensors' has nothing that this WebUI can use with the loaded model" in note(ours)


def test_two_loras_with_one_trigger(host: WebUI, folder: Path, mine: Files) -> None:  # noqa: ARG001
    twin = make(host, folder, "twin", "LoRA", 12, 1.0)
    twin.path.with_suffix(".json").write_text(json.dumps({"activation text": "sks cat"}))
    ours = host.txt2img("a sks cat <lora:mine:0.7><lora:twin:1>", alignit=[True, "mine=cat, twin=cat"])
    assert "'sks cat' is the class word of both 'mine' and 'twin'" in note(ours)
    assert "write <mine=cat>" in note(ours)


def test_what_the_api_sees_of_it(host: WebUI, mine: Files) -> None:  # noqa: ARG001
    seen = host.post("/alignit/v1/inspect", {"prompt": TARGET, "class_words": ""})
    (concept,) = seen["concepts"]
    assert (concept["name"], concept["method"], concept["class_word"]) == ("mine", "LoRA", "cat")
    assert host.post("/alignit/v1/inspect", {"prompt": "a sks cat <lora:mine:1>", "class_words": ""})["concepts"] == []


def test_pasting_the_info_binds_it_again(host: WebUI, mine: Files) -> None:  # noqa: ARG001
    ours = host.txt2img("a sks cat in snow <lora:mine:0.7>", alignit=[True, "mine=cat; others off"])
    words = ours.info["extra_generation_params"]["AlignIT class words"]
    assert words == "mine=cat; others off"
    assert host.txt2img("a sks cat in snow <lora:mine:0.7>", alignit=[True, words]) == ours
