"""Attention maps in the host: against the probabilities of the host's own attention, and what users see of them.

The reference generation is the base prompt with the paper's injection done by index (`probe/scripts/probe.py`), without
an attention optimisation: the probe adds up what the host's own softmax returns in each cross-attention layer.
"""

from __future__ import annotations

import base64
import contextlib
import io
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image

from tests.bilinear import enlarged
from tests.host import test_deltas
from tests.host.test_axes import plot
from tests.host.test_clean import comparable
from tests.host.test_deltas import Files
from tests.host.webui import HIRES, OPTIMIZATIONS, Pictures, WebUI

files = test_deltas.files  # a fixture: files of a Custom Diffusion run
URL = "/alignit/v1/attention-maps"
WORDS = "my-cat=cat, my-toy=toy, xl-cat=cat, sd2-cat=cat"


def mapped(host: WebUI, prompt: str, words: str = "", more: dict[str, Any] | None = None, **payload: Any) -> Pictures:
    arguments = {"enabled": True, "class_words": WORDS, "attention_maps": True, "map_words": words, **(more or {})}
    return host.txt2img(prompt, alignit=[arguments], **payload)


def values(host: WebUI, word: str, picture: int = 0, **query: Any) -> np.ndarray:
    answer = host.get(URL, picture=picture, word=word, format="values", **query)
    (item,) = answer["pictures"][0]["maps"]
    return np.array(item["values"])


def note(pictures: Pictures) -> str:
    return str(pictures.info["extra_generation_params"].get("AlignIT note", ""))


def probed(
    host: WebUI, rows: list[int], part: int = 0, of_pass: str = "0 first", layers: tuple[str, ...] = ("",)
) -> np.ndarray:
    """The mean over layers of the probe's attention to rows, in the size of the latent picture, which is square."""
    side = 16 if "hires" in of_pass else 8
    maps = [
        np.array(row).reshape(int(len(row) ** 0.5), -1)
        for name, of_layer in host.get("/probe/attention")[of_pass].items()
        if name.split()[0] == str(part) and any(layer in name for layer in layers)
        for row in of_layer[: len(rows)]
    ]
    return np.mean([enlarged(item, (side, side)) for item in maps], axis=0)


def close(ours: np.ndarray, wanted: np.ndarray) -> bool:
    return ours.shape == wanted.shape and bool(np.abs(ours - wanted).max() < 0.001 * wanted.max())


@dataclass
class Case:
    """A target prompt, what the paper makes of it, and a word of it with its rows."""

    target: str
    base: str
    inject: list[dict[str, Any]]
    word: str
    rows: list[int]
    payload: dict[str, Any] = field(default_factory=dict)
    part: int = 0
    of_pass: str = "0 first"
    picture: int = 0
    arguments: dict[str, Any] = field(default_factory=dict)
    layers: tuple[str, ...] = ("",)
    options: dict[str, Any] = field(default_factory=dict)
    hires: list[dict[str, Any]] | None = None


def simple(word: str = "my-cat", rows: tuple[int, ...] = (2,), **more: Any) -> Case:
    inject = [{"dummy": "* my-cat * * * *", "rows": [2], **more.pop("how", {})}]
    return Case("a my-cat playing with a ball", "a cat playing with a ball", inject, word, list(rows), **more)


def check(host: WebUI, case: Case, optimization: str = "InvokeAI") -> None:
    """Compare a map with the probe's, and see that another row's or the plain picture's would not do."""
    payload = {"override_settings": case.options, **case.payload}
    host.options(cross_attention_optimization=optimization)
    ours = mapped(host, case.target, case.word, case.arguments, **payload)
    assert note(ours) == ""
    found = values(host, case.word.split(";")[0], case.picture)
    host.options(cross_attention_optimization="None")
    reference = {"inject": case.inject} if case.hires is None else {"inject": case.inject, "hires": case.hires}
    host.txt2img(case.base, reference={**reference, "attention": case.rows}, **payload)
    wanted = probed(host, case.rows, case.part, case.of_pass, case.layers)
    host.txt2img(case.base, reference={**reference, "attention": [1]}, **payload)
    other_row = probed(host, [1], case.part, case.of_pass, case.layers)
    assert close(found, wanted), f"difference {np.abs(found - wanted).max()} of {wanted.max()}"
    assert not close(found, other_row), "a map of another word would pass: the case proves nothing"


@pytest.mark.parametrize("optimization", OPTIMIZATIONS)
def test_every_attention_optimization(host: WebUI, optimization: str) -> None:
    check(host, simple(), optimization)


LONG = "house " * 76
CASES = {
    "an ordinary word": simple("ball", (6,)),
    "two words together": simple("playing with", (3, 4)),
    "the class word stands where the concept does": simple("cat", (2,)),
    "three vectors": Case(
        "a my-toy on the moon",
        "a toy toy toy on the moon",
        [{"dummy": "* my-toy * * *", "rows": [2, 3, 4]}],
        "my-toy",
        [2, 3, 4],
    ),
    "keys alone, in half strength, in some layers": simple(
        arguments={"controls": "keys; 0.5; layers down mid"},
        how={"values": False, "strength": 0.5, "layers": ["input_blocks", "middle_block"]},
    ),
    "chosen layers": simple("ball; down mid", (6,), layers=("input_blocks", "middle_block")),
    "second chunk": Case(
        f"{LONG} my-cat in snow",
        f"{LONG} cat in snow",
        [{"dummy": "* " * 76 + "my-cat * *", "rows": [79]}],
        "my-cat",
        [79],
    ),
    "the first picture of two": simple(payload={"batch_size": 2}),
    "the second picture of two": simple(payload={"batch_size": 2}, picture=1, part=1),
    "the second batch": simple(payload={"batch_size": 2, "n_iter": 2}, picture=3, part=1, of_pass="1 first"),
    "a second part, over AND": Case(
        "a my-cat in snow AND a big ball on the moon :0.7",
        "a cat in snow AND a big ball on the moon :0.7",
        [{"dummy": "* my-cat * *", "rows": [2], "parts": [0]}],
        "ball",
        [3],
        part=1,
    ),
    "cut into calls": simple(payload={"batch_size": 2}, picture=1, part=1, options={"batch_cond_uncond": False}),
    "a long negative prompt": simple(payload={"negative_prompt": "ugly, " * 45}),
    "a long negative prompt, padded": simple(
        payload={"negative_prompt": "ugly, " * 45}, options={"pad_cond_uncond": True}
    ),
    "no negative guidance": simple(payload={"cfg_scale": 1}),
    "hires fix: the second pass": simple(payload=HIRES, of_pass="0 hires"),
    "the same prompt as the negative one": simple(payload={"negative_prompt": "a cat playing with a ball"}),
    "token merging": simple(options={"token_merging_ratio": 0.5}),
    "two calls in a step": simple(payload={"sampler_name": "Heun"}),
    "DDIM": simple(payload={"sampler_name": "DDIM"}),
    "refiner": simple(payload={"refiner_checkpoint": "miniature-b", "refiner_switch_at": 0.5}),
    "hires fix with its own prompt": simple(
        "ball", (4,), payload=HIRES | {"hr_prompt": "snow and a ball"}, of_pass="0 hires", hires=[]
    ),
} | {
    f"{network} in the prompt": Case(
        f"a my-cat in snow {network}",
        f"a cat in snow {network}",
        [{"dummy": "* my-cat * *", "rows": [2]}],
        "my-cat",
        [2],
    )
    for network in ("<lora:tiny-lora:1>", "<hypernet:tiny-hyper:1>")
}


@pytest.mark.parametrize("name", CASES)
def test_situations(host: WebUI, name: str) -> None:
    check(host, CASES[name])


@pytest.mark.parametrize(("checkpoint", "concept"), [("tiny-sdxl", "xl-cat"), ("tiny-sd2", "sd2-cat")])
def test_other_models(host: WebUI, checkpoint: str, concept: str) -> None:
    host.load(checkpoint)
    inject = [{"dummy": f"* {concept} * *", "rows": [2]}]
    for word, row in ((concept, 2), ("snow", 4)):
        check(host, Case(f"a {concept} in snow", "a cat in snow", inject, word, [row]))


def test_custom_diffusion_aligned_and_alone(host: WebUI, files: Files) -> None:
    """Its keys are put in by hooks: at the concept, and for the concept alone at every token."""
    prompt = "a <new1> cat in snow <delta:my-run:1>"
    inject = [{"dummy": "* newtoken cat * *", "rows": [2, 3], "weights": str(files.weights)}]
    check(host, Case(prompt, "a cat cat in snow", inject, "<new1>", [2, 3]))
    check(host, Case(prompt, "a cat cat in snow", inject, "snow", [5]))
    mapped(host, prompt, "snow", {"compare": True})
    (alone,) = host.get(URL, picture=1, format="values")["pictures"][0]["maps"]
    host.load(files.checkpoint)
    host.options(cross_attention_optimization="None")
    host.txt2img("a newtoken cat in snow", reference={"attention": [5]})
    assert close(np.array(alone["values"]), probed(host, [5]))


def test_a_part_of_the_steps_and_prompt_editing(host: WebUI) -> None:
    """Of a word that comes later, only the steps in which it is there."""
    options = {"cross_attention_optimization": "None"}
    host.options(**options)
    mapped(host, "a [house:ball:0.5] in snow", "house, ball, snow")
    house, ball, snow = (values(host, word) for word in ("house", "ball", "snow"))
    mapped(host, "a [house:ball:0.5] in snow", "snow; steps 0-0.75")
    early = values(host, "snow")
    mapped(host, "a [house:ball:0.5] in snow", "snow; steps 0.75-1")
    late = values(host, "snow")
    np.testing.assert_allclose(snow, (3 * early + late) / 4, atol=1e-6)
    # The host changes one step after the half: three steps and one.
    mapped(host, "a [house:ball:0.5] in snow", "house; steps 0-0.75")
    np.testing.assert_allclose(house, values(host, "house"), atol=1e-6)
    mapped(host, "a [house:ball:0.5] in snow", "ball; steps 0.75-1")
    np.testing.assert_allclose(ball, values(host, "ball"), atol=1e-6)
    assert not close(house, ball)


def test_without_a_concept_and_for_a_plain_embedding(host: WebUI) -> None:
    """Class word alone, plain concept and AlignIT: each has maps of its own."""
    found = []
    for prompt, more in (
        ("a cat in snow", {"class_words": ""}),
        ("a my-cat in snow", {"class_words": ""}),
        ("a my-cat in snow", {"class_words": "cat"}),
    ):
        ours = mapped(host, prompt, "snow", more)
        assert len(ours) == 2
        found.append(values(host, "snow"))
        host.options(cross_attention_optimization="None")
        plain = {"cat": "a cat in snow", "my-cat": prompt}["cat" if more["class_words"] else "my-cat"]
        inject = [{"dummy": "* my-cat * *", "rows": [2]}] if more["class_words"] else []
        host.txt2img(plain, reference={"inject": inject, "attention": [4]})
        assert close(found[-1], probed(host, [4]))
        host.restore_options()
    assert not close(found[0], found[1])
    assert not close(found[1], found[2])
    mapped(host, "a my-cat in snow", "", {"class_words": ""})
    assert [item["word"] for item in host.get(URL)["pictures"][0]["maps"]] == ["a", "my-cat", "in", "snow"]


def test_strength_0_is_the_class_word(host: WebUI) -> None:
    mapped(host, "a my-cat in snow", "snow", {"strength": 0})
    strength_0 = values(host, "snow")
    mapped(host, "a cat in snow", "snow")
    np.testing.assert_array_equal(strength_0, values(host, "snow"))


@pytest.mark.parametrize("payload", [{}, {"batch_size": 2, "n_iter": 2}, HIRES, {"negative_prompt": "ugly, " * 45}])
def test_pictures_are_the_same_bit_by_bit(host: WebUI, payload: dict[str, Any]) -> None:
    off = host.txt2img("a my-cat in snow", alignit=[True, WORDS], **payload)
    on = mapped(host, "a my-cat in snow", **payload)
    assert len(on) == 2 * len(off)
    assert list(on[: len(off)]) == list(off)
    assert [picture.infotext for picture in on[: len(off)]] == [picture.infotext for picture in off]


def test_the_gallery_has_a_sheet_for_each_picture_with_its_text(host: WebUI) -> None:
    ours = mapped(host, "a my-cat in snow", "snow, my-cat", batch_size=2, width=128)
    assert len(ours) == 4
    assert [picture.infotext for picture in ours[2:]] == [picture.infotext for picture in ours[:2]]
    assert ours[3].png_info == ours[1].infotext
    for picture, page in zip(ours[:2], ours[2:], strict=True):
        # Three cells in a row, and the picture in the first.
        width, height = page.image.size
        assert width > 3 * 128
        assert 64 < height < 140
        corner = page.pixels[8 : 8 + 64, 8 : 8 + 128]
        assert np.array_equal(corner, picture.pixels)
        assert not np.array_equal(page.pixels[8 : 8 + 64, 8 + 136 : 8 + 136 + 128], picture.pixels)
    assert ours[2] != ours[3]


def test_inpainting_with_masks_in_the_gallery(host: WebUI) -> None:
    init = host.txt2img("a house")[0]
    mask = np.zeros((64, 64), np.uint8)
    mask[:, 32:] = 255
    arguments = {"enabled": True, "class_words": WORDS, "attention_maps": True, "map_words": "snow"}
    override = {"return_mask": True}
    payload = {"init": init, "mask": mask, "batch_size": 2, "override_settings": override, "denoising_strength": 0.7}
    plain = host.img2img("a my-cat in snow", alignit=[True, WORDS], **payload)
    ours = host.img2img("a my-cat in snow", alignit=[arguments], **payload)
    # Not to the last bit: the host draws the latents of the picture to begin with without a seed.
    assert all(one.difference(other) < 0.1 for one, other in zip(ours, plain, strict=False))
    assert [picture.infotext for picture in ours[:2]] == [picture.infotext for picture in plain[:2]]
    assert len(ours) == len(plain) + 2
    assert ours[-1].infotext == ours.info["infotexts"][1]


def test_plots_and_other_scripts_get_no_sheets(host: WebUI) -> None:
    arguments = {"enabled": True, "class_words": WORDS, "attention_maps": True}
    ours = plot(host, ("[AlignIT] Strength", "0, 1"), prompt="a my-cat in snow", alignit=[arguments])
    assert list(ours) == list(
        plot(host, ("[AlignIT] Strength", "0, 1"), prompt="a my-cat in snow", alignit=[True, WORDS])
    )
    script = {"script_name": "prompt matrix", "script_args": [False, False, "positive", "comma", 0]}
    matrix = host.txt2img("a my-cat|in snow", alignit=[arguments], **script)
    assert list(matrix) == list(host.txt2img("a my-cat|in snow", alignit=[True, WORDS], **script))
    assert host.get(URL)["pictures"], "of the last one, for the API"


def test_a_generation_inside_another(host: WebUI) -> None:
    nested = {"alwayson_scripts": {"Nested": {"args": ["a big my-toy"]}}}
    before = comparable(host.state())
    ours = mapped(host, "a my-cat in snow", "", None, n_iter=2, **nested)
    assert len(ours) == 4 or len(ours) == 5, "two pictures and two sheets, and perhaps a grid"
    answer = host.get(URL)
    assert [item["prompt"] for item in answer["pictures"]] == ["a my-cat in snow"] * 2
    assert comparable(host.state()) == before


def test_nothing_is_left_after_success_and_nothing_is_there_when_off(host: WebUI) -> None:
    before = comparable(host.state())
    for payload in ({}, {"batch_size": 2, "n_iter": 2}, HIRES):
        mapped(host, "a my-cat in snow", **payload)
        assert comparable(host.state()) == before
    mapped(host, "a my-cat in snow", "cat")
    maps = {"alignit.maps.recorder", "alignit.maps.result", "alignit.webui.generation.maps"}
    kept = host.state(objects=True)["objects"]["alignit"]
    host.txt2img("a my-cat in snow", alignit=[{"enabled": True, "class_words": WORDS}])
    alive = host.state(objects=True)["objects"]["alignit"]
    assert {name.rpartition(".")[0] for name in alive} & maps
    assert {name: alive.get(name) for name in kept if name.rpartition(".")[0] in maps} == {
        name: count for name, count in kept.items() if name.rpartition(".")[0] in maps
    }, "the last maps are kept, and nothing is added"
    assert "alignit.maps.recorder.Recorder" not in alive


@pytest.mark.host_errors
@pytest.mark.parametrize("trouble", ["process_batch", "sample", "unet", "encoder"])
def test_nothing_is_left_after_an_error(host: WebUI, plain_host: WebUI, trouble: str) -> None:
    host.txt2img("a house")
    before = comparable(host.state())
    prompt = f"a my-cat, error in {trouble} with maps"
    with contextlib.suppress(requests.HTTPError):  # in some places the host or AlignIT goes on
        mapped(host, prompt, reference={"raise_in": trouble})
    assert host.raised("as asked")
    host.txt2img("a house again")  # the host itself leaves its embeddings noted until the next text is encoded
    assert comparable(host.state()) == before
    assert host.txt2img(prompt) == plain_host.txt2img(prompt)


@pytest.mark.parametrize("press", ["interrupt_at", "skip_at"])
def test_nothing_is_left_after_interrupt_and_skip(host: WebUI, press: str) -> None:
    before = comparable(host.state())
    ours = mapped(host, f"a my-cat, {press}", reference={press: 2})
    assert comparable(host.state()) == before
    assert note(ours) == ""
    assert len(ours) == 2


def test_the_same_unet_calls_and_encoder_passes(host: WebUI) -> None:
    counts = []
    for prompt, arguments in (
        ("one my-cat in snow", {}),
        ("two my-cat in snow", {"attention_maps": True}),
    ):
        host.txt2img(prompt, alignit=[{"enabled": True, "class_words": WORDS, **arguments}], reference={"count": True})
        counts.append(host.counts())
    assert counts[0] == counts[1]


# What cannot be done


def test_words_that_are_not_in_the_prompt_are_told(host: WebUI) -> None:
    ours = mapped(host, "a my-cat in snow", "zebra, snow")
    assert "No attention map of 'zebra', which is not in the prompt: its words are a, my-cat, in, snow" in note(ours)
    assert "AlignIT note" in ours[0].infotext
    assert len(ours) == 2
    assert [item["word"] for item in host.get(URL)["pictures"][0]["maps"]] == ["snow"]
    ours = mapped(host, "a my-cat in snow", "zebra")
    assert "'zebra'" in note(ours)
    assert len(ours) == 1


def test_layers_and_steps_without_any_are_told(host: WebUI) -> None:
    assert "no step of the sampling is in steps 0.9-0.95" in note(mapped(host, "a cat", "cat; steps 0.9-0.95"))
    assert "no cross-attention in the layers" in note(mapped(host, "a cat", "cat; in11"))


def test_a_prompt_of_many_words_has_maps_of_the_first(host: WebUI) -> None:
    letters = [f"{first}{second}" for first in "abcdefgh" for second in "mnopqr"]
    mapped(host, ", ".join(letters))
    assert [item["word"] for item in host.get(URL)["pictures"][0]["maps"]] == letters[:32]


@pytest.mark.host_errors
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"attention_maps": "yes"}, "attention_maps must be true or false, not 'yes'"),
        ({"map_words": ["cat"]}, "map_words must be text"),
        ({"map_words": "cat; left"}, "there are no layers 'left'"),
        ({"map_words": "cat; steps 2"}, "is no option"),
        ({"map_words": ",".join(f"w{index}" for index in range(40))}, "32 at most"),
        ({"maps": True}, "no argument 'maps'"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(host: WebUI, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(requests.HTTPError, match="422") as caught:
        host.txt2img("a cat", alignit=[{"enabled": True, **arguments}])
    assert said in str(caught.value)


# The API


def test_the_schema_is_in_the_hosts_docs(host: WebUI) -> None:
    schema = host.get("/openapi.json")
    route = schema["paths"][URL]["get"]
    assert {item["name"] for item in route["parameters"]} == {"picture", "word", "layers", "tokens", "format"}
    assert "404" in route["responses"]
    assert {"picture", "prompt", "seed", "infotext", "height", "width", "layers", "maps"} == set(
        schema["components"]["schemas"]["PictureMaps"]["properties"]
    )


def test_the_answer(host: WebUI) -> None:
    mapped(host, "a my-toy in snow", "my-toy, snow", batch_size=2, seed=5, width=128)
    answer = host.get(URL)
    assert [(item["picture"], item["seed"], item["prompt"]) for item in answer["pictures"]] == [
        (0, 5, "a my-toy in snow"),
        (1, 6, "a my-toy in snow"),
    ]
    first = answer["pictures"][0]
    assert (first["height"], first["width"]) == (8, 16)
    assert {"in04", "m00", "out02"} <= set(first["layers"])
    toy, _ = first["maps"]
    assert toy["word"] == "my-toy"
    assert toy["tokens"] == [{"text": "my-toy", "row": row} for row in (2, 3, 4)]
    assert toy["values"] is None
    numbers = values(host, "my-toy")
    assert numbers.shape == (8, 16)
    assert toy["peak"] == pytest.approx(numbers.max())
    assert toy["mean"] == pytest.approx(numbers.mean())
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(toy["png"]))))
    relative = (numbers - numbers.min()) / (numbers.max() - numbers.min())
    np.testing.assert_allclose(pixels, relative * 255, atol=0.51)
    assert not np.allclose(numbers, values(host, "my-toy", picture=1))
    each = host.get(URL, picture=0, word="my-toy", tokens=True, format="values")["pictures"][0]["maps"]
    np.testing.assert_allclose(np.mean([item["values"] for item in each], axis=0), numbers, atol=1e-7)
    sides = [values(host, "snow", layers=side) for side in ("down", "mid", "up")]
    np.testing.assert_allclose((2 * sides[0] + sides[1] + 3 * sides[2]) / 6, values(host, "snow"), atol=1e-6)


@pytest.mark.parametrize(
    ("query", "status", "said"),
    [
        ({"picture": 7}, 404, "no attention maps of picture 7: there are those of 0"),
        ({"picture": "two"}, 422, "not a valid integer"),
        ({"picture": -1}, 422, "greater than or equal to 0"),
        ({"word": "zebra"}, 404, "no map of 'zebra': there are those of a, cat"),
        ({"layers": "left"}, 422, "there are no layers 'left'"),
        ({"layers": "in11"}, 404, "no maps of these layers: there are those of in04"),
        ({"format": "gif"}, 422, "png"),
        ({"tokens": "perhaps"}, 422, "boolean"),
        ({"layer": "down"}, 422, "no parameter 'layer': there are picture, word, layers, tokens, format"),
    ],
)
def test_queries_that_cannot_be_answered_are_refused(
    host: WebUI, query: dict[str, Any], status: int, said: str
) -> None:
    mapped(host, "a cat")
    answer = requests.get(host.url + URL, params=query, timeout=60)
    assert answer.status_code == status
    assert said in answer.text


def test_no_maps_yet(servers: Any) -> None:
    host = servers.get("host")
    mapped(host, "a cat", "zebra")
    answer = requests.get(host.url + URL, timeout=60)
    assert answer.status_code == 404
    assert "make a picture with attention_maps on" in answer.text


def test_a_comparison_has_maps_of_each_of_its_pictures(host: WebUI) -> None:
    """Class word alone, concept alone and AlignIT: as three generations of their own, and with a grid in front."""
    compared = mapped(host, "a my-cat in snow", "", {"compare": True}, seed=5, n_iter=2)
    pictures = host.get(URL, format="values")["pictures"]
    assert len(compared) == 1 + 6 + 6
    assert [item["picture"] for item in pictures] == list(range(6))
    assert [item["seed"] for item in pictures] == [5, 5, 5, 6, 6, 6]
    assert [[word["word"] for word in item["maps"]][1] for item in pictures[:3]] == ["cat", "my-cat", "my-cat"]
    assert [item["infotext"] for item in pictures] == [picture.infotext for picture in compared[1:7]]
    assert [picture.infotext for picture in compared[7:]] == [picture.infotext for picture in compared[1:7]]
    alone = (
        ("a cat in snow", {"class_words": ""}),
        ("a my-cat in snow", {"class_words": ""}),
        ("a my-cat in snow", {}),
    )
    for index, (prompt, more) in enumerate(alone):
        for seed, of_seed in ((5, pictures[:3]), (6, pictures[3:])):
            mapped(host, prompt, "", more, seed=seed)
            (wanted,) = host.get(URL, format="values")["pictures"]
            for word, other in zip(of_seed[index]["maps"], wanted["maps"], strict=True):
                np.testing.assert_array_equal(word["values"], other["values"])
