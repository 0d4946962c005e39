"""AlignIT in every host of the family, with one model: the widened miniature.

Each host is compared with Algorithm 1 done by index in that host (`probe/scripts/fork_probe.py`), with itself without
AlignIT, and with the WebUI, whose pictures of the same model differ by rounding alone. What a host does with prompts
and networks in detail is tested in the WebUI (`tests/host`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import requests

from tests.bilinear import enlarged
from tests.forks.conftest import LONG, OFF, SIZE, TOKEN, TOKEN_OF, keep, kept
from tests.host.kinds import FORGE, NEO, WEBUI, Kind
from tests.host.webui import Pictures, WebUI

MEAN = 0.05  # mean difference of pixels of pictures that are not the same; no pixel differs by more than 1 otherwise


def same(ours: Pictures, wanted: Pictures, most: int = 1) -> bool:
    """Equal up to rounding: the reference computes rows in a batch, AlignIT each of them once."""
    return len(ours) == len(wanted) and all(
        np.abs(one.pixels.astype(int) - other.pixels).max() <= most for one, other in zip(ours, wanted, strict=True)
    )


def apart(ours: Pictures, other: Pictures) -> bool:
    return all(one.difference(two) > MEAN for one, two in zip(ours, other, strict=True))


def note(pictures: Pictures) -> str:
    return str(pictures.info["extra_generation_params"].get("AlignIT note", ""))


@dataclass
class Case:
    """A target prompt, and what the paper makes of it.

    Attributes:
        exact: Whether AlignIT's picture equals the reference's to the last bit.
    """

    target: str
    base: str
    inject: list[dict[str, Any]]
    alignit: list[Any]
    payload: dict[str, Any] = field(default_factory=dict)
    exact: bool = True

    @property
    def key(self) -> str:
        """Differs where AlignIT's picture is another."""
        return repr((self.target, self.alignit, {**SIZE, **self.payload}))


CAT = {"dummy": "* * * * my-cat * * *", "rows": [5, 6, 7, 8]}
CAT_BASE = "a photo of a cat cat cat cat with a ball"
ON = [True, "my-cat=cat"]
ROBOT = {"dummy": f"* {TOKEN} robot * * *", "rows": [2, 3], "weights": f"deltas/{TOKEN_OF}.ckpt"}
ROBOT_TARGET, ROBOT_BASE = "a <new1> robot in the snow <delta:my-robot:1>", "a robot robot in the snow"
ADAPTED = {"dummy": "* cat * * *", "rows": [2], "adapter": "catversion/my_cat/pytorch_adapter.bin"}
ADAPTED_TARGET, ADAPTED_BASE = "a <my_cat=cat> in the snow <catversion:my_cat>", "a cat in the snow"

CASES = {
    "an embedding of four vectors": Case("a photo of a my-cat with a ball", CAT_BASE, [CAT], ON),
    "a long negative prompt and a batch": Case(
        "a photo of a my-cat with a ball", CAT_BASE, [CAT], ON, {**LONG, "batch_size": 2}
    ),
    "keys alone, from the half on": Case(
        "a photo of a my-cat with a ball",
        CAT_BASE,
        [{**CAT, "values": False, "steps": [2, 3]}],
        [{"enabled": True, "class_words": "my-cat=cat", "start": 0.5, "controls": "keys"}],
        exact=False,
    ),
    "half the strength in some layers": Case(
        "a photo of a my-cat with a ball",
        CAT_BASE,
        [{**CAT, "strength": 0.5, "layers": ["input_blocks", "middle_block"]}],
        [{"enabled": True, "class_words": "my-cat=cat", "strength": 0.5, "controls": "layers down mid"}],
        LONG,
        exact=False,
    ),
    "emphasis, BREAK, AND": Case(
        "snow BREAK a (my-cat:1.2) AND a my-cat at night :0.6",
        "snow BREAK a (cat cat cat cat:1.2) AND a cat cat cat cat at night :0.6",
        [
            {"dummy": "* BREAK * (my-cat:1.2)", "rows": [79, 80, 81, 82], "part": 0},
            {"dummy": "* my-cat * *", "rows": [2, 3, 4, 5], "part": 1},
        ],
        ON,
    ),
    "prompt editing": Case(
        "a [dog:my-cat:0.5] in the snow",
        "a [dog:cat cat cat cat:0.5] in the snow",
        [{"dummy": "* my-cat * * *", "rows": [2, 3, 4, 5], "steps": [3, 3]}],
        ON,
    ),
    "words alone": Case("a jumping <cat=dog>", "a jumping dog", [{"dummy": "* * cat", "rows": [3]}], [True]),
    "Custom Diffusion": Case(ROBOT_TARGET, ROBOT_BASE, [ROBOT], [True], exact=False),
    "Custom Diffusion at strength 0.7, keys alone, a long negative prompt": Case(
        ROBOT_TARGET,
        ROBOT_BASE,
        [{**ROBOT, "values": False, "strength": 0.7}],
        [{"enabled": True, "strength": 0.7, "controls": "keys"}],
        LONG,
        exact=False,
    ),
    "CatVersion": Case(ADAPTED_TARGET, ADAPTED_BASE, [ADAPTED], [True], exact=False),
}


def reference(fork: WebUI, inject: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """The probe's request, with whole paths in it."""
    files = ("weights", "adapter")
    whole = [{k: str(fork.cache / v) if k in files else v for k, v in injection.items()} for injection in inject]
    return {"inject": whole, **more}


# The first test: the server without AlignIT is gone before the other starts.
@pytest.mark.parametrize("prompt", OFF)
def test_off_is_the_host_without_alignit(plain_pictures: dict[str, Pictures], fork: WebUI, prompt: str) -> None:
    ours = fork.txt2img(prompt, **OFF[prompt])
    assert ours == plain_pictures[prompt]
    assert [picture.infotext for picture in ours] == [picture.infotext for picture in plain_pictures[prompt]]


@pytest.mark.parametrize("name", CASES)
def test_the_picture_is_the_references(kind: Kind, fork: WebUI, gallery: dict[str, Pictures], name: str) -> None:
    case = CASES[name]
    payload = {**SIZE, **case.payload}
    ours = gallery[name] = fork.txt2img(case.target, alignit=case.alignit, **payload)
    wanted = fork.txt2img(case.base, reference=reference(fork, case.inject), **payload)
    without = fork.txt2img(case.base, **payload)
    assert note(ours) == ""
    assert apart(wanted, without), "the reference changed nothing: the case proves nothing"
    assert ours == wanted if case.exact else same(ours, wanted)
    if kind is WEBUI:
        keep(WEBUI, case.key, ours)


@pytest.mark.parametrize("name", CASES)
def test_the_picture_is_the_webuis(kind: Kind, fork: WebUI, gallery: dict[str, Pictures], name: str) -> None:
    if kind is WEBUI:
        pytest.skip("it is the WebUI")
    case = CASES[name]
    wanted = kept(WEBUI, case.key)
    if wanted is None:
        pytest.skip(f"no picture of the WebUI's is kept: {WEBUI.missing}, or it was not tested yet")
    ours = gallery.get(name) or fork.txt2img(case.target, alignit=case.alignit, **{**SIZE, **case.payload})
    assert same(ours, wanted, 2)


def test_strength_zero_is_the_class_word_and_all_layers_are_all(fork: WebUI) -> None:
    base = fork.txt2img(CAT_BASE, **SIZE)
    assert fork.txt2img("a photo of a my-cat with a ball", alignit=[*ON, 0.0], **SIZE) == base
    in_layers = [{"enabled": True, "class_words": "my-cat=cat", "controls": "layers down mid up"}]
    ours = fork.txt2img("a photo of a my-cat with a ball", alignit=in_layers, **SIZE)
    assert ours == fork.txt2img("a photo of a my-cat with a ball", alignit=ON, **SIZE)
    assert apart(ours, base)


def test_without_a_negative_prompt_at_cfg_1(fork: WebUI) -> None:
    payload = {**SIZE, "cfg_scale": 1}
    ours = fork.txt2img("a photo of a my-cat with a ball", alignit=ON, **payload)
    assert ours == fork.txt2img(CAT_BASE, reference=reference(fork, [CAT]), **payload)
    assert note(ours) == ""


def test_another_clip_skip_and_another_emphasis(fork: WebUI) -> None:
    payload = {**SIZE, "override_settings": {"CLIP_stop_at_last_layers": 2, "emphasis": "No norm"}}
    target, base = "a (my-cat:1.3) in the snow", "a (cat cat cat cat:1.3) in the snow"
    inject = [{"dummy": "* (my-cat:1.3) * * *", "rows": [2, 3, 4, 5]}]
    ours = fork.txt2img(target, alignit=ON, **payload)
    assert ours == fork.txt2img(base, reference=reference(fork, inject), **payload)
    assert ours != fork.txt2img(target, alignit=ON, **SIZE), "the settings changed nothing: the case proves nothing"


def test_hires_fix(kind: Kind, fork: WebUI) -> None:
    upscaler = "None" if kind is NEO else "Latent"  # Neo has none of latents, and others need a model
    payload = {**SIZE, "enable_hr": True, "hr_scale": 2, "hr_upscaler": upscaler, "denoising_strength": 0.7}
    payload |= {"hr_second_pass_steps": 2} | ({"hr_additional_modules": ["Use same choices"]} if kind.engines else {})
    ours = fork.txt2img("a photo of a my-cat with a ball", alignit=ON, **payload)
    assert ours[0].image.size == (128, 128)
    assert ours == fork.txt2img(CAT_BASE, reference=reference(fork, [CAT]), **payload)


def test_img2img(fork: WebUI) -> None:
    init = fork.txt2img("a red car in the snow", **SIZE)[0]
    ours = fork.img2img("a photo of a my-cat with a ball", init=init, alignit=ON, **SIZE)
    assert ours == fork.img2img(CAT_BASE, init=init, reference=reference(fork, [CAT]), **SIZE)


def test_cross_attention_that_a_patch_computes(kind: Kind, fork: WebUI) -> None:
    """An IP-Adapter of these hosts does not call the layer, where concepts are looked for otherwise."""
    if kind is WEBUI:
        pytest.skip("it has no such patches")
    ours = fork.txt2img(ROBOT_TARGET, alignit=[True], reference={"patched": True}, **SIZE)
    wanted = fork.txt2img(ROBOT_TARGET, alignit=[True], **SIZE)
    assert same(ours, wanted)
    assert apart(wanted, fork.txt2img(ROBOT_BASE, **SIZE))


MAPS = {
    "the concept": (CASES["an embedding of four vectors"], "my-cat", [5, 6, 7, 8], 0, 0),
    "beside a long negative prompt, the second picture of a batch": (
        CASES["a long negative prompt and a batch"],
        "ball",
        [11],
        1,
        1,
    ),
    "the second part of AND": (CASES["emphasis, BREAK, AND"], "night", [7], 0, 1),
}


@pytest.mark.parametrize("name", MAPS)
def test_attention_maps(fork: WebUI, gallery: dict[str, Pictures], name: str) -> None:
    case, word, rows, picture, part = MAPS[name]
    payload = {**SIZE, **case.payload}
    arguments = {"enabled": True, "class_words": "my-cat=cat", "attention_maps": True, "map_words": word}
    ours = gallery[f"map of {name}"] = fork.txt2img(case.target, alignit=[arguments], **payload)
    assert note(ours) == ""
    answer = fork.get("/alignit/v1/attention-maps", picture=picture, word=word, format="values")
    (item,) = answer["pictures"][0]["maps"]
    found = np.array(item["values"])
    fork.txt2img(case.base, reference=reference(fork, case.inject, attention=rows), **payload)
    wanted = probed(fork, part)
    assert np.abs(found - wanted).max() < 0.002 * wanted.max()
    fork.txt2img(case.base, reference=reference(fork, case.inject, attention=[1]), **payload)
    assert np.abs(found - probed(fork, part)).max() > 0.02 * wanted.max(), "another word's would do"


def probed(fork: WebUI, part: int) -> np.ndarray:
    layers = [rows for name, rows in fork.get("/probe/attention").items() if name.split()[0] == str(part)]
    maps = [np.array(row).reshape(int(len(row) ** 0.5), -1) for rows in layers for row in rows]
    return np.mean([enlarged(item, (8, 8)) for item in maps], axis=0)


def test_compare(fork: WebUI) -> None:
    prompt = "a photo of a my-cat with a ball"
    compared = fork.txt2img(prompt, alignit=[{"enabled": True, "class_words": "my-cat=cat", "compare": True}], **SIZE)
    assert len(compared) == 4
    aligned, plain = fork.txt2img(prompt, alignit=ON, **SIZE), fork.txt2img(prompt, **SIZE)
    assert aligned[0] in compared
    assert plain[0] in compared
    assert note(compared) == ""


def test_wrong_arguments_are_refused(fork: WebUI) -> None:
    for wrong, says in (([True, "", 9.0], "strength"), ([{"enabled": True, "no": 1}], "no argument 'no'")):
        with pytest.raises(requests.HTTPError, match=says) as refused:
            fork.txt2img("a cat", alignit=wrong)
        assert refused.value.response.status_code == 422
    fork.exceptions(clear=True)


def test_own_routes(fork: WebUI, record_property: Any) -> None:
    concepts = {concept["name"] for concept in fork.get("/alignit/v1/concepts")}
    assert {"my-cat", TOKEN_OF, "my_cat"} <= concepts
    seen = fork.post("/alignit/v1/inspect", {"prompt": "a my-cat in the snow", "class_words": "my-cat=cat"})
    assert [concept["name"] for concept in seen["concepts"]] == ["my-cat"]
    report = fork.get("/alignit/v1/report")
    assert report["failures"] == []
    record_property("version", report["versions"]["Host"])


def test_the_info_lists_the_embedding_as_the_host_does(kind: Kind, fork: WebUI) -> None:
    ours = fork.txt2img("a my-cat and my-car", alignit=ON, **SIZE)
    assert "AlignIT class words: my-cat=cat" in ours[0].infotext
    if kind in (FORGE, NEO):
        listed = ours.info["extra_generation_params"]["TI"].split(", ")
        assert sorted(set(listed)) == ["my-car", "my-cat"]


@pytest.mark.host_errors
def test_nothing_is_left_behind(fork: WebUI) -> None:
    target = "a photo of a my-cat with a ball"
    plain = fork.txt2img(target, **SIZE)
    before = fork.state()
    everything = {"enabled": True, "class_words": "my-cat=cat", "strength": 0.5, "controls": "keys; layers down"}
    prompt = f"{target} <delta:my-robot:1> <catversion:my_car>"
    fork.txt2img(prompt, alignit=[{**everything, "attention_maps": True}], **SIZE)
    fork.txt2img(prompt, **SIZE)
    raising = {**everything, "attention_maps": True}
    with pytest.raises(requests.HTTPError, match="raised as asked"):
        fork.txt2img(f"{prompt} here", alignit=[raising], reference={"raise_in": "unet"}, **SIZE)
    # AlignIT catches what is raised while it encodes; the host encodes a negative prompt that it does not know.
    made = fork.txt2img(f"{prompt} there", alignit=[raising], reference={"raise_in": "encoder"}, **SIZE)
    assert "An error while encoding the prompt" in note(made)
    for place, says in (("splice", "encoding the prompt"), ("watch", "following the sampling")):
        faulty = fork.txt2img(target, alignit=ON, alwayson_scripts={"Faults": {"args": [place]}}, **SIZE)
        assert f"An error while {says}" in note(faulty)
        assert faulty == (plain if place == "splice" else fork.txt2img(target, alignit=ON, **SIZE))
    assert fork.txt2img(target, **SIZE) == plain
    assert fork.state() == before
