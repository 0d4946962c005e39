"""Words at words, and the controls of each concept, in the host."""

from __future__ import annotations

import pytest

from tests.host.test_deltas import note
from tests.host.webui import HIRES, WebUI

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


@pytest.mark.parametrize("options", OPTIONS)
def test_controls(host: WebUI, options: str) -> None:
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


@pytest.mark.parametrize("payload", [{"batch_size": 2, "n_iter": 2}, HIRES, {"refiner_checkpoint": "tiny-sd1-b"}])
def test_controls_in_the_hosts_situations(host: WebUI, payload: dict) -> None:
    if "refiner_checkpoint" in payload:
        payload = payload | {"refiner_switch_at": 0.5}
    wanted = host.txt2img(BASE, reference=reference(values=False, strength=0.7), **payload)
    assert same(host.txt2img(PROMPT.format("; keys; 0.7"), alignit=[True], **payload), wanted)


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
