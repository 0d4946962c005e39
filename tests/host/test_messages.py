"""What cannot be done is said, with cause and mend, and the generation goes on where it sensibly can."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.host.miniature import WIDTH
from tests.host.webui import Pictures, WebUI


def note(pictures: Pictures) -> str:
    text = pictures.info["extra_generation_params"].get("AlignIT note", "")
    # In each picture's own info too. (Quoted there, as it has commas.)
    assert not text or all("AlignIT note: " in line for line in pictures.info["infotexts"])
    return str(text)


def refresh(host: WebUI) -> None:
    host.post("/sdapi/v1/refresh-embeddings")


def save_embedding(host: WebUI, name: str, vectors: int, width: int = WIDTH) -> None:
    generator = torch.Generator().manual_seed(vectors)
    vectors_of_it = torch.randn(vectors, width, generator=generator) * 0.1
    save_file({name: vectors_of_it}, host.embeddings / f"{name}.safetensors")
    refresh(host)


def test_no_class_word(host: WebUI) -> None:
    ours = host.txt2img("a my-cat in snow", alignit=[True])
    assert ours == host.txt2img("a my-cat in snow")
    assert "'my-cat' has no class word" in note(ours)
    assert "<my-cat=cat>" in note(ours)
    assert "Nearest to it: " in note(ours)


@pytest.mark.parametrize(
    ("class_word", "why"),
    [
        ("", "is empty"),
        ("my-toy", "contains the embedding 'my-toy'"),
        ("cat " * 80, "has 80 tokens"),
        ("\x01", "has no letters"),
    ],
)
def test_class_word_in_the_prompt_that_cannot_be_used(host: WebUI, class_word: str, why: str) -> None:
    ours = host.txt2img(f"a <my-cat={class_word}> in snow", alignit=[True])
    assert why in note(ours)
    assert ours == host.txt2img("a my-cat in snow")


def test_class_word_in_the_panel_that_is_an_embedding(host: WebUI) -> None:
    ours = host.txt2img("a my-cat in snow", alignit=[True, "my-cat=my-toy"])
    assert "contains the embedding 'my-toy'" in note(ours)
    assert ours == host.txt2img("a my-cat in snow")


def test_unknown_embedding(host: WebUI) -> None:
    ours = host.txt2img("a <your-cat=cat> in snow", alignit=[True])
    assert "There is no embedding 'your-cat'" in note(ours)
    assert ours == host.txt2img("a cat in snow")


def test_embedding_removed_and_renamed_between_two_generations(host: WebUI) -> None:
    shutil.copy(host.embeddings / "my-cat.pt", host.embeddings / "old-cat.pt")
    refresh(host)
    there = host.txt2img("a <old-cat=cat> in snow", alignit=[True])
    assert not note(there)
    (host.embeddings / "old-cat.pt").rename(host.embeddings / "new-cat.pt")
    refresh(host)
    gone = host.txt2img("a <old-cat=cat> in snow", alignit=[True])
    assert "There is no embedding 'old-cat'" in note(gone)
    assert gone == host.txt2img("a cat in snow")
    assert host.txt2img("a <new-cat=cat> in snow", alignit=[True]) == there
    (host.embeddings / "new-cat.pt").unlink()
    refresh(host)


@pytest.mark.parametrize("prompt", ["a <xl-cat=cat> in snow", "a xl-cat in snow", "a <sd2-cat=cat> in snow"])
def test_embedding_of_another_kind_of_model(host: WebUI, prompt: str) -> None:
    ours = host.txt2img(prompt, alignit=[True, "xl-cat=cat"])
    assert "was made for another kind of model" in note(ours)
    wanted = prompt if "=" not in prompt else "a cat in snow"
    assert ours == host.txt2img(wanted)


def test_more_vectors_than_fit(host: WebUI) -> None:
    save_embedding(host, "huge", 80)
    ours = host.txt2img("a <huge=cat> in snow", alignit=[True])
    assert "'huge' has 80 vectors, and a prompt chunk holds 75" in note(ours)
    assert ours == host.txt2img("a cat in snow")
    (host.embeddings / "huge.safetensors").unlink()
    refresh(host)


def test_as_many_vectors_as_fit(host: WebUI) -> None:
    save_embedding(host, "large", 75)
    ours = host.txt2img("snow <large=cat>", alignit=[True])
    assert not note(ours)
    inject = [{"dummy": "* BREAK large", "rows": list(range(78, 78 + 75))}]
    assert ours == host.txt2img("snow BREAK " + "cat " * 75, reference={"inject": inject})
    (host.embeddings / "large.safetensors").unlink()
    refresh(host)


def test_injected_nowhere_because_another_extension_rewrote_the_conditioning(host: WebUI) -> None:
    for arguments in ([True, "cat"], [True, "cat", 1.0, 0.0, 0.5]):
        ours = host.txt2img("a my-cat in snow", alignit=arguments, reference={"rewrite_cond": True})
        assert "my-cat reached the picture nowhere" in note(ours)
    assert not note(host.txt2img("a my-cat in snow", alignit=[True, "cat"]))


def test_old_emphasis_implementation(host: WebUI) -> None:
    setting = {"override_settings": {"use_old_emphasis_implementation": True}}
    ours = host.txt2img("a my-cat in snow", alignit=[True, "cat"], **setting)
    assert "Use old emphasis implementation" in note(ours)
    assert ours == host.txt2img("a my-cat in snow", **setting)


def test_stable_diffusion_3(host: WebUI) -> None:
    """The small model only says that it is one: there is no small checkpoint of that kind."""
    ours = host.txt2img("a <my-cat=cat> in snow", alignit=[True], reference={"is_sd3": True})
    assert "Stable Diffusion 3 has no cross-attention" in note(ours)
    assert ours == host.txt2img("a my-cat in snow")


@pytest.mark.parametrize("arguments", [None, [True]])
def test_stable_diffusion_3_and_an_embedding_that_the_host_passes_over(
    host: WebUI, arguments: list[Any] | None
) -> None:
    ours = host.txt2img("a <xl-cat=cat> in snow", alignit=arguments, reference={"is_sd3": True})
    assert ("Stable Diffusion 3 has no cross-attention" in note(ours)) == bool(arguments)
    assert not host.exceptions()


def test_suggestion_that_the_settings_allow(host: WebUI) -> None:
    host.options(alignit_use_suggestions=True)
    ours = host.txt2img("a my-cat in snow", alignit=[True])
    params = ours.info["extra_generation_params"]
    assert not note(ours)
    assert params["AlignIT suggested"] == "my-cat"
    name, word = params["AlignIT class words"].split("=")
    assert (name, word.isalpha()) == ("my-cat", True)
    host.options(alignit_use_suggestions=False)
    assert ours == host.txt2img("a my-cat in snow", alignit=[True, f"my-cat={word}"])


def test_a_suggestion_is_never_the_name_of_an_embedding(host: WebUI) -> None:
    """It could not be used: a class word is an ordinary word."""
    first = note(host.txt2img("a my-cat in snow", alignit=[True])).rpartition("Nearest to it: ")[2].split(", ")[0]
    save_embedding(host, first, 1)
    try:
        again = note(host.txt2img("a my-cat in rain", alignit=[True])).rpartition("Nearest to it: ")[2]
        assert again
        assert first not in again.rstrip(".").split(", ")
    finally:
        (host.embeddings / f"{first}.safetensors").unlink()
        refresh(host)


def test_remembered_class_word_and_its_place_in_the_order(host: WebUI) -> None:
    sidecar = host.embeddings / "my-cat.json"
    try:
        sidecar.write_text(json.dumps({"class word": "dog", "notes": "mine"}), encoding="utf8")
        remembered = host.txt2img("a my-cat in snow", alignit=[True])
        assert not note(remembered)
        assert remembered.info["extra_generation_params"]["AlignIT class words"] == "my-cat=dog"
        panel = host.txt2img("a my-cat in snow", alignit=[True, "my-cat=bird"])
        prompt = host.txt2img("a <my-cat=fish> in snow", alignit=[True, "my-cat=bird"])
        assert panel.info["extra_generation_params"]["AlignIT class words"] == "my-cat=bird"
        assert prompt.info["extra_generation_params"]["AlignIT class words"] == "my-cat=fish"
        assert len({pictures[0].png for pictures in (remembered, panel, prompt)}) == 3
        sidecar.write_text("{", encoding="utf8")
        damaged = host.txt2img("a my-cat in snow", alignit=[True])
        assert "my-cat.json is not valid JSON" in note(damaged)
    finally:
        sidecar.unlink()


def test_a_class_word_in_the_prompt_is_for_all_mentions(host: WebUI) -> None:
    ours = host.txt2img("a my-cat and a <my-cat=cat>", alignit=[True])
    assert ours == host.txt2img("a my-cat and a my-cat", alignit=[True, "cat"])
    assert not note(ours)


def everything(pictures: Pictures) -> str:
    return json.dumps(pictures.info)


def test_huge_and_malicious_prompts_are_text_like_any_other(host: WebUI) -> None:
    for prompt in ["<" * 2000, "<a=" * 500, "my-cat " * 400, "<my-cat=cat>" * 150, "<my-cat=cat", "\x00<my-cat\n=cat>"]:
        ours = host.txt2img(prompt, alignit=[True, "my-cat=cat"])
        assert len(ours) == 1
        assert "An error while" not in everything(ours), prompt[:40]


def arguments_refused(host: WebUI, arguments: list[Any]) -> str:
    with pytest.raises(Exception, match="422") as error:
        host.txt2img("a my-cat in snow", alignit=arguments)
    return str(error.value)


@pytest.mark.host_errors
@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["yes"], "enabled must be true or false, not 'yes'"),
        ([1], "enabled must be true or false, not 1"),
        ([True, 5], "class_words must be text"),
        ([True, "=cat"], "'=cat' in the class words names no concept"),
        ([True, "my-cat="], "'my-cat=' is empty"),
        ([True, "cat", "strong"], "strength must be a number from 0 to 2, not 'strong'"),
        ([True, "cat", 3], "strength must be from 0 to 2, not 3"),
        ([True, "cat", True], "strength must be a number"),
        ([True, "cat", 10**400], "strength must be from 0 to 2, not 1000000"),
        ([True, "cat", 1, 0.8, 0.2], "start (0.8) must not be greater than end (0.2)"),
        ([{"enabled": True, "strenght": 1}], "no argument 'strenght': there are enabled, class_words, strength"),
        ([{"enabled": True, "end": -1}], "end must be from 0 to 1, not -1"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(host: WebUI, arguments: list[Any], why: str) -> None:
    assert why in arguments_refused(host, arguments)
    assert host.txt2img("a my-cat in snow", alignit=[False, *arguments[1:]]) == host.txt2img("a my-cat in snow")


@pytest.mark.parametrize(
    ("prompt", "same"),
    [
        ("a my-cat AND a <my-cat=cat>", "a my-cat AND a my-cat"),
        ("a [my-cat:<my-cat=cat>:0.5]", "a my-cat"),
        ("a <<my-dog>=cat> and my-dog", "a my-dog and my-dog"),
        ("a [<my-cat=cat>:<my-cat=dog>:0.5]", "a <my-cat=[cat:dog:0.5]>"),
    ],
)
def test_a_class_word_in_a_later_part_of_the_prompt_is_for_the_earlier_parts(
    host: WebUI, prompt: str, same: str
) -> None:
    ours = host.txt2img(prompt, alignit=[True])
    assert ours == host.txt2img(same, alignit=[True, "cat"])
    assert not note(ours)


def test_a_name_with_and_without_its_own_angle_brackets(host: WebUI) -> None:
    shutil.copy(host.embeddings / "my-cat.pt", host.embeddings / "<new1>.pt")
    shutil.copy(host.embeddings / "my-toy.pt", host.embeddings / "new1.pt")
    refresh(host)
    try:
        for prompt, same in (
            ("a <<new1>=cat> in snow", "a <my-cat=cat> in snow"),
            ("a <new1=cat> in snow", "a <my-toy=cat> in snow"),
            ("a <<my-dog>=cat> in snow", "a <my-dog=cat> in snow"),
        ):
            ours = host.txt2img(prompt, alignit=[True])
            assert not note(ours)
            assert ours == host.txt2img(same, alignit=[True])
    finally:
        (host.embeddings / "<new1>.pt").unlink()
        (host.embeddings / "new1.pt").unlink()
        refresh(host)


def test_two_embeddings_of_one_name_for_two_kinds_of_model(host: WebUI) -> None:
    wanted = host.txt2img("a my-cat in snow", alignit=[True, "cat"])
    (host.embeddings / "xl").mkdir()
    shutil.copy(host.embeddings / "xl-cat.safetensors", host.embeddings / "xl" / "my-cat.safetensors")
    refresh(host)
    try:
        ours = host.txt2img("a my-cat in snow", alignit=[True, "cat"])
        assert ours == wanted
        assert not note(ours)
        hires = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "denoising_strength": 0.7}
        hires |= {"hr_checkpoint_name": "tiny-sdxl.safetensors"}
        both = host.txt2img("a my-cat in snow", alignit=[True, "cat"], **hires)
        assert not note(both)
        assert not host.exceptions()
    finally:
        shutil.rmtree(host.embeddings / "xl")
        refresh(host)


def test_a_concept_in_the_prompt_of_hires_fix_alone(host: WebUI) -> None:
    hires = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "denoising_strength": 0.7}
    ours = host.txt2img("a cat in snow", alignit=[True, "cat"], hr_prompt="a my-cat in snow", **hires)
    assert not note(ours)
    assert ours != host.txt2img("a cat in snow", **hires)
