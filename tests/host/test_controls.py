"""Words at words, and the controls of each concept, in the host."""

from __future__ import annotations

import numpy as np
import pytest

from tests.host import test_catversion
from tests.host.test_catversion import Files
from tests.host.test_deltas import note
from tests.host.test_exact import EMPHASIS, PROMPTS, SITUATIONS, Case
from tests.host.webui import HIRES, OPTIMIZATIONS, WebUI

concepts = test_catversion.files  # the fixture

PROMPT = "a photo of <my-cat=cat{}> in snow"
BASE, DUMMY, ROWS = "a photo of cat in snow", "* * * my-cat * *", [4]


def reference(**more: object) -> dict[str, object]:
    return {"inject": [{"dummy": DUMMY, "rows": ROWS, **more}]}


WORDS = [
    ("a jumping <cat=dog>", "a jumping dog", "* * cat", [3]),
    ("<banana=cucumber> in a white plate", "cucumber in a white plate", "banana * * * *", [1]),
    ("a <black cat=dog>, snow", "a cat dog, snow".replace("cat dog", "dog dog"), "* black cat * *", [2, 3]),
    ("a <cat=golden retriever> in snow", "a golden retriever in snow", "* * cat * *", [3]),
    ("<zebra=dog> and <black=white> snow", "dog and white snow", None, [1, 3]),
]


@pytest.mark.parametrize("case", WORDS, ids=[case[0] for case in WORDS])
@pytest.mark.parametrize("payload", [{}, {"batch_size": 2, "negative_prompt": "ugly, " * 45}, HIRES])
def test_words_at_words(host: WebUI, case: tuple, payload: dict) -> None:
    text, base, dummy, rows = case
    inject = [{"dummy": dummy, "rows": rows}]
    if dummy is None:
        inject = [{"dummy": "zebra * * *", "rows": [1]}, {"dummy": "* * black *", "rows": [3]}]
    ours = host.txt2img(text, alignit=[True], **payload)
    assert ours == host.txt2img(base, reference={"inject": inject}, **payload)
    assert ours[0].difference(host.txt2img(base, **payload)[0]) > 1
    assert note(ours) == ""


def test_words_on_sdxl(host: WebUI) -> None:
    host.load("tiny-sdxl")
    ours = host.txt2img("a jumping <cat=dog>", alignit=[True])
    assert ours == host.txt2img("a jumping dog", reference={"inject": [{"dummy": "* * cat", "rows": [3]}]})


OPTIONS = {
    "0.5": {"strength": 0.5},
    "keys": {"values": False},
    "values": {"keys": False},
    "steps 0-0.5": {"steps": [0, 1]},
    "layers down": {"layers": ["input_blocks"]},
    "layers mid up": {"layers": ["middle_block", "output_blocks"]},
    "layers /4": {"layers": ["input_blocks.7.", "input_blocks.8.", *(f"output_blocks.{n}." for n in (3, 4, 5))]},
    "layers in04; keys; 1.5": {"layers": ["input_blocks.4."], "values": False, "strength": 1.5},
}


def same(ours: list, wanted: list) -> bool:
    """Equal up to rounding: rows that layers compute are computed one by one."""
    return all(one.difference(other) < 0.05 for one, other in zip(ours, wanted, strict=True))


@pytest.mark.parametrize(
    ("checkpoint", "options"),
    [
        *(("tiny-sd1", options) for options in OPTIONS),
        # Its layers are all at one resolution.
        *(("miniature", options) for options in OPTIONS if "/4" not in options),
    ],
)
def test_controls(host: WebUI, checkpoint: str, options: str) -> None:
    host.load(checkpoint)
    wanted = host.txt2img(BASE, reference=reference(**OPTIONS[options]))
    full = host.txt2img(BASE, reference=reference())
    assert wanted[0].difference(full[0]) > 0.2, "the option changes nothing: the case proves nothing"
    in_prompt = host.txt2img(PROMPT.format(f"; {options}"), alignit=[True])
    assert same(in_prompt, wanted)
    for arguments in ([True, f"my-cat=cat; {options}"], [True, "", 1, 0, 1, options]):
        assert host.txt2img(PROMPT.format(""), alignit=arguments) == in_prompt
    words = in_prompt.info["extra_generation_params"]["AlignIT class words"]
    assert words == f"my-cat=cat; {options}"
    assert note(in_prompt) == ""


@pytest.mark.parametrize("payload", [{"batch_size": 2, "n_iter": 2}, HIRES, {"refiner_checkpoint": "miniature-b"}])
def test_controls_in_the_hosts_situations(host: WebUI, payload: dict) -> None:
    if "refiner_checkpoint" in payload:
        payload = payload | {"refiner_switch_at": 0.5}
    wanted = host.txt2img(BASE, reference=reference(values=False, strength=0.7), **payload)
    assert same(host.txt2img(PROMPT.format("; keys; 0.7"), alignit=[True], **payload), wanted)


HOOKED = {
    **{name: PROMPTS[name] for name in ("second chunk", "BREAK", "AND", "prompt editing", "alternating words")},
    **{name: PROMPTS[name] for name in ("class word of two tokens, three vectors", "two concepts", "two mentions")},
    **{f"emphasis {mode}": EMPHASIS[mode] for mode in ("Original", "No norm")},
    **{
        name: SITUATIONS[name]
        for name in (
            "concept in the negative prompt too",
            "pad_cond_uncond",
            "batch_cond_uncond off, long negative, two images",
            "no negative guidance in early steps",
            "clip skip",
            "token merging",
            "hires fix with its own prompt",
            "styles",
        )
    },
}


def with_keys_alone(host: WebUI, case: Case) -> None:
    """Compare keys alone at 0.7, which need hooks in all layers, with the reference."""
    payload = {"override_settings": case.options, **case.payload}

    def changed(inject: list) -> list:
        return [{**injection, "values": False, "strength": 0.7} for injection in inject]

    told = {"inject": changed(case.inject)} | ({"hires": changed(case.hires)} if case.hires else {})
    ours = host.txt2img(case.target, alignit=[True, case.words, 1, 0, 1, "keys; 0.7"], **payload)
    wanted = host.txt2img(case.base, reference=told, **payload | case.base_payload)
    without = host.txt2img(case.base, **payload | case.base_payload)
    assert wanted[0].difference(without[0]) > 0.06, "the case proves nothing"
    assert same(ours, wanted)
    assert note(ours) == ""


@pytest.mark.parametrize("name", HOOKED)
def test_controls_in_prompts_and_settings(host: WebUI, name: str) -> None:
    with_keys_alone(host, HOOKED[name])


@pytest.mark.parametrize("optimization", OPTIMIZATIONS)
def test_controls_with_attention_optimizations(host: WebUI, optimization: str) -> None:
    host.options(cross_attention_optimization=optimization)
    with_keys_alone(host, PROMPTS["three vectors"])


def test_controls_on_sd2(host: WebUI) -> None:
    host.load("tiny-sd2")
    words = "sd2-cat=cat"
    case = Case("a sd2-cat in snow", "a cat in snow", [{"dummy": "* sd2-cat * *", "rows": [2]}], words=words)
    with_keys_alone(host, case)


def test_controls_and_words_in_img2img_and_inpainting(host: WebUI) -> None:
    init = host.txt2img("a house")[0]
    mask = np.zeros((64, 64, 3), np.uint8)
    mask[16:48, 16:48] = 255
    for masked in ({}, {"mask": mask, "inpainting_fill": 1, "inpaint_full_res": False}):
        payload = {"init": init, "denoising_strength": 0.8, **masked}
        base = host.img2img("a dog in snow", **payload)
        for options, changes in (("", {}), ("; values; 0.7", {"keys": False, "strength": 0.7})):
            ours = host.img2img(f"a <cat=dog{options}> in snow", alignit=[True], **payload)
            told = {"inject": [{"dummy": "* cat * *", "rows": [2], **changes}]}
            wanted = host.img2img("a dog in snow", reference=told, **payload)
            assert same(ours, wanted)
            assert wanted[0].difference(base[0]) > 0.1


@pytest.mark.parametrize("options", OPTIONS)
def test_controls_of_concepts_of_all_three_methods(host: WebUI, concepts: Files, options: str) -> None:
    prompt = "my-toy, a <new1> dog and a cat <delta:mixed:1> <catversion:cat>"
    inject = [
        {"dummy": "my-toy * * * * * *", "rows": [1, 2, 3]},
        {"dummy": "* * * * * mixedtoken dog * * *", "rows": [6, 7], "weights": concepts.weights},
        {"dummy": "* * * * * * * * * cat", "rows": [10], "adapter": concepts.cat},
    ]
    base = "toy toy toy, a dog dog and a cat"
    for i, concept in enumerate(inject):
        alone = [*inject[:i], concept | OPTIONS[options], *inject[i + 1 :]]
        words = ["my-toy=toy", "<new1>=dog", "cat=cat"]
        words[i] += f"; {options}"
        ours = host.txt2img(prompt, alignit=[True, ", ".join(words)])
        assert same(ours, host.txt2img(base, reference={"inject": alone}))
    told = {"inject": [concept | OPTIONS[options] for concept in inject]}
    wanted = host.txt2img(base, reference=told)
    assert same(host.txt2img(prompt, alignit=[True, "my-toy=toy", 1, 0, 1, options]), wanted)
    assert wanted[0].difference(host.txt2img(base, reference={"inject": inject})[0]) > 0.2


EACH = {
    "textual inversion": ("my-toy in snow", "toy toy toy", "my-toy", "my-toy=toy"),
    "Custom Diffusion": ("<new1> dog in snow <delta:mixed:1>", "dog dog", "mixedtoken dog", "<new1>=dog"),
    "CatVersion": ("cat in snow <catversion:cat>", "cat", "cat", "cat=cat"),
}


@pytest.mark.parametrize("method", EACH)
def test_a_schedule_and_a_filler_for_a_concept_of_each_method(host: WebUI, concepts: Files, method: str) -> None:
    target, base, dummy, words = EACH[method]
    more = {"Custom Diffusion": {"weights": concepts.weights}, "CatVersion": {"adapter": concepts.cat}}.get(method, {})
    rows = list(range(2, 2 + len(base.split())))
    ours = host.txt2img(f"a {target}", alignit=[True, f"{words}; falling; steps 0-0.5; filler the"])
    inject = [
        {"dummy": f"the {dummy} the the", "rows": rows, "steps": [i, i], "strength": strength, **more}
        for i, strength in enumerate((1, 0.5))
    ]
    wanted = host.txt2img(f"a {base} in snow", reference={"inject": inject})
    assert same(ours, wanted)
    assert wanted[0].difference(host.txt2img(f"a {base} in snow")[0]) > 0.2


def test_words_at_words_beside_a_trained_concept(host: WebUI, concepts: Files) -> None:
    ours = host.txt2img("a <cat=dog> and <new1> house <delta:mixed:1>", alignit=[True, "<new1>=house"])
    inject = [
        {"dummy": "* cat * * *", "rows": [2]},
        {"dummy": "* * * mixedtoken house", "rows": [4, 5], "weights": concepts.weights},
    ]
    assert same(ours, host.txt2img("a dog and house house", reference={"inject": inject}))


def test_words_at_words_in_and_break_emphasis_and_editing(host: WebUI) -> None:
    cases = [
        ("sky BREAK a <cat=dog>", "sky BREAK a dog", {"dummy": "* BREAK * cat", "rows": [79]}),
        ("a [house:<cat=dog>:0.5] in snow", "a [house:dog:0.5] in snow", {"steps": [3, 9]}),
        ("a <cat=dog> in snow AND a ball", "a dog in snow AND a ball", {"parts": [0]}),
        ("a (<cat=dog>:1.3) in snow", "a (dog:1.3) in snow", {"dummy": "* (cat:1.3) * *"}),
    ]
    for target, base, changes in cases:
        ours = host.txt2img(target, alignit=[True])
        told = {"inject": [{"dummy": "* cat * *", "rows": [2]} | changes]}
        assert ours == host.txt2img(base, reference=told)
        assert ours != host.txt2img(base)


def test_controls_on_sdxl(host: WebUI) -> None:
    host.load("tiny-sdxl")
    inject = [{"dummy": "* xl-cat * *", "rows": [2], "layers": ["input_blocks.7.", "output_blocks.2."], "keys": False}]
    wanted = host.txt2img("a cat in snow", reference={"inject": inject})
    ours = host.txt2img("a <xl-cat=cat; values; layers in07 out02> in snow", alignit=[True])
    assert same(ours, wanted)
    assert wanted[0].difference(host.txt2img("a cat in snow")[0]) > 0.2


def test_a_schedule_is_the_strength_of_each_step(host: WebUI) -> None:
    """Two of four steps at 1 and 0.5, as "falling" over the first half gives them."""
    inject = [
        {"dummy": DUMMY, "rows": ROWS, "steps": [0, 0]},
        {"dummy": DUMMY, "rows": ROWS, "steps": [1, 1], "strength": 0.5},
    ]
    wanted = host.txt2img(BASE, reference={"inject": inject})
    assert same(host.txt2img(PROMPT.format("; falling; steps 0-0.5"), alignit=[True]), wanted)


def test_another_filler(host: WebUI) -> None:
    wanted = host.txt2img(BASE, reference={"inject": [{"dummy": "the the the my-cat the the", "rows": ROWS}]})
    assert host.txt2img(PROMPT.format("; filler the"), alignit=[True]) == wanted
    assert wanted != host.txt2img(BASE, reference=reference())
    bad = host.txt2img(PROMPT.format("; filler retrievers-and-dogs"), alignit=[True])
    assert "is not one token: '*' is used instead" in note(bad)
    assert bad == host.txt2img(BASE, reference=reference())


def test_concepts_have_controls_of_their_own(host: WebUI) -> None:
    ours = host.txt2img("<my-cat=cat; keys> and my-toy", alignit=[True, "my-toy=toy; 0.5; steps 0-0.5"])
    inject = [
        {"dummy": "my-cat * *", "rows": [1], "values": False},
        {"dummy": "* * my-toy", "rows": [3, 4, 5], "strength": 0.5, "steps": [0, 1]},
    ]
    assert same(ours, host.txt2img("cat and toy toy toy", reference={"inject": inject}))


@pytest.mark.host_errors
def test_what_is_wrong_is_said(host: WebUI) -> None:
    plain = host.txt2img(PROMPT.format(""), alignit=[True])
    unknown = host.txt2img(PROMPT.format("; louder"), alignit=[True])
    assert "'louder' is no option: there are strength 0.5" in note(unknown)
    assert unknown == plain
    twice = host.txt2img("<my-cat=cat; keys> and <my-cat=cat; values>", alignit=[True])
    assert "two sets of options" in note(twice)
    letters = host.txt2img("a <xqzwv=cat>", alignit=[True])
    assert "There is no embedding 'xqzwv', so its letters are read as words" in note(letters)
    with pytest.raises(Exception, match="'louder' is no option"):
        host.txt2img(PROMPT.format(""), alignit=[{"enabled": True, "controls": "louder"}])
    with pytest.raises(Exception, match="has options for no concept"):
        host.txt2img(PROMPT.format(""), alignit=[True, "cat; keys"])


def test_off_the_mark_stays_what_it_was(host: WebUI, plain_host: WebUI) -> None:
    assert host.txt2img("a jumping <cat=dog; keys>") == plain_host.txt2img("a jumping <cat=dog; keys>")
    assert host.txt2img(PROMPT.format("; keys")) == plain_host.txt2img("a photo of my-cat in snow")
