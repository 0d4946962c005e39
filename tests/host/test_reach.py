"""What concepts do beyond their own rows, and what stands around them in their dummy prompts, against the probe."""

from __future__ import annotations

from typing import Any

import pytest

from tests.host import test_catversion
from tests.host.test_catversion import Files
from tests.host.test_controls import same
from tests.host.test_deltas import note
from tests.host.webui import HIRES, WebUI

concepts = test_catversion.files  # the fixture

PROMPT = "a photo of <my-cat=cat{}> in snow"
BASE, DUMMY, ROWS = "a photo of cat in snow", "* * * my-cat * *", [4]
AROUND = "a photo of my-cat in snow"
WITH_CLASS_WORD = "* * * cat * *"


def ends(words: int, chunk: int = 0) -> list[int]:
    """Rows of the end token and the padding."""
    return list(range(77 * chunk + 1 + words, 77 * (chunk + 1)))


ENDS = ends(6)
OWN = {"dummy": DUMMY, "rows": ROWS}

# The options, and what they add to the paper's injection, which for the last ones is another.
REACHES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "reach difference": (OWN, {"dummy": DUMMY, "minus": WITH_CLASS_WORD, "rows": ENDS}),
    "reach difference 0.5": (OWN, {"dummy": DUMMY, "minus": WITH_CLASS_WORD, "rows": ENDS, "factor": 0.5}),
    "reach target padding": (OWN, {"dummy": AROUND, "rows": ENDS}),
    "reach padding": (OWN, {"dummy": DUMMY, "rows": ENDS}),
    "reach whole 0.5": (OWN, {"dummy": DUMMY, "minus": BASE, "rows": [0, *ENDS], "factor": 0.5}),
    "context prompt; reach padding": ({"dummy": AROUND, "rows": ROWS}, {"dummy": AROUND, "rows": ENDS}),
    "reach difference; 0.7": (
        OWN | {"strength": 0.7},
        {"dummy": DUMMY, "minus": WITH_CLASS_WORD, "rows": ENDS, "strength": 0.7},
    ),
    "reach difference; keys; layers down; steps 0-0.5": (
        OWN | {"values": False, "layers": ["input_blocks"], "steps": [0, 1]},
        {
            "dummy": DUMMY,
            "minus": WITH_CLASS_WORD,
            "rows": ENDS,
            "values": False,
            "layers": ["input_blocks"],
            "steps": [0, 1],
        },
    ),
}


@pytest.mark.parametrize("options", REACHES)
def test_each_reach(host: WebUI, options: str) -> None:
    wanted = host.txt2img(BASE, reference={"inject": list(REACHES[options])})
    assert wanted[0].difference(host.txt2img(BASE, reference={"inject": [OWN]})[0]) > 0.2, "the case proves nothing"
    ours = host.txt2img(PROMPT.format(f"; {options}"), alignit=[True])
    assert same(ours, wanted)
    assert host.txt2img(PROMPT.format(""), alignit=[True, "", 1, 0, 1, options]) == ours
    assert ours.info["extra_generation_params"]["AlignIT class words"] == f"my-cat=cat; {options}"
    assert note(ours) == ""


@pytest.mark.parametrize("options", ["reach paper", "reach difference 0", "context stars", "reach difference; 0"])
def test_what_is_none_of_it_is_the_papers_to_the_bit(host: WebUI, options: str) -> None:
    strength = 0 if options.endswith("; 0") else 1
    paper = host.txt2img(PROMPT.format(""), alignit=[True, "", strength])
    assert host.txt2img(PROMPT.format(f"; {options}"), alignit=[True]) == paper


def test_the_prompts_own_words_around_a_concept(host: WebUI) -> None:
    wanted = host.txt2img(BASE, reference={"inject": [{"dummy": AROUND, "rows": ROWS}]})
    assert host.txt2img(PROMPT.format("; context prompt"), alignit=[True]) == wanted
    assert wanted != host.txt2img(BASE, reference={"inject": [OWN]})


@pytest.mark.parametrize(
    "payload", [{"batch_size": 2, "n_iter": 2, "negative_prompt": "ugly, " * 45}, HIRES], ids=["batches", "hires fix"]
)
@pytest.mark.parametrize("options", ["reach difference", "reach difference; keys; layers down; steps 0-0.5"])
def test_batches_and_hires_fix(host: WebUI, options: str, payload: dict) -> None:
    wanted = host.txt2img(BASE, reference={"inject": list(REACHES[options])}, **payload)
    assert same(host.txt2img(PROMPT.format(f"; {options}"), alignit=[True], **payload), wanted)


HOUSES = "house " * 76
CHUNKS = {
    "AND, the other longer": (
        "a my-cat AND {houses}",
        "a cat AND {houses}",
        {"dummy": "* my-cat", "minus": "* cat", "rows": [2], "parts": [0]},
        ends(2),
    ),
    "BREAK": (
        "sky BREAK a my-cat",
        "sky BREAK a cat",
        {"dummy": "* BREAK * my-cat", "minus": "* BREAK * cat", "rows": [79]},
        ends(2, 1),
    ),
    "in the first of two chunks": (
        "a my-cat BREAK sky",
        "a cat BREAK sky",
        {"dummy": "* my-cat BREAK *", "minus": "* cat BREAK *", "rows": [2]},
        ends(2),
    ),
    "long": (
        "{houses} my-cat in snow",
        "{houses} cat in snow",
        {"dummy": "* " * 76 + "my-cat * *", "minus": "* " * 76 + "cat * *", "rows": [79]},
        ends(4, 1),
    ),
    "emphasis": (
        "a (my-cat:1.3) in (snow:1.2)",
        "a (cat:1.3) in (snow:1.2)",
        {"dummy": "* (my-cat:1.3) * *", "minus": "* (cat:1.3) * *", "rows": [2]},
        ends(4),
    ),
}


@pytest.mark.parametrize("in_layers", [False, True], ids=["rows", "layers"])
@pytest.mark.parametrize("name", CHUNKS)
def test_chunks(host: WebUI, name: str, in_layers: bool) -> None:
    target, base, difference, rows = CHUNKS[name]
    target, base = (text.format(houses=HOUSES) for text in (target, base))
    own = {key: value for key, value in difference.items() if key != "minus"}
    inject = [own, difference | {"rows": rows, "factor": 2}]
    wanted = host.txt2img(base, reference={"inject": inject})
    assert wanted[0].difference(host.txt2img(base, reference={"inject": inject[:1]})[0]) > 0.1, "it proves nothing"
    options = "reach difference 2" + ("; layers down mid up" if in_layers else "")
    ours = host.txt2img(target, alignit=[True, "my-cat=cat", 1, 0, 1, options])
    assert same(ours, wanted)
    assert note(ours) == ""


@pytest.mark.parametrize("checkpoint", ["tiny-sd2", "tiny-sdxl"])
@pytest.mark.parametrize("keys", [False, True], ids=["rows", "layers"])
def test_other_models(host: WebUI, checkpoint: str, keys: bool) -> None:
    """Their padding is 0 after one end token; SDXL has two text encoders, with one padding each."""
    host.load(checkpoint)
    name = {"tiny-sd2": "sd2-cat", "tiny-sdxl": "xl-cat"}[checkpoint]
    own = {"dummy": f"* {name} * *", "rows": [2]} | ({"values": False} if keys else {})
    inject = [own, own | {"minus": "* cat * *", "rows": ends(4)}]
    wanted = host.txt2img("a cat in snow", reference={"inject": inject})
    assert wanted[0].difference(host.txt2img("a cat in snow", reference={"inject": [own]})[0]) > 0.1
    ours = host.txt2img(f"a <{name}=cat; reach difference{'; keys' if keys else ''}> in snow", alignit=[True])
    assert same(ours, wanted)


METHODS = ["my-toy=toy", "<new1>=dog", "cat=cat"]
TARGET = "my-toy, a <new1> dog and a cat <delta:mixed:1> <catversion:cat>"
ALL_BASE = "toy toy toy, a dog dog and a cat"


@pytest.mark.parametrize("reach", ["difference 0.5", "target padding 0.5", "whole 0.5"])
def test_concepts_of_all_three_methods_add_up(host: WebUI, concepts: Files, reach: str) -> None:
    own = [
        {"dummy": "my-toy * * * * * * *", "rows": [1, 2, 3]},
        {"dummy": "* * * * * mixedtoken dog * * *", "rows": [6, 7], "weights": concepts.weights},
        {"dummy": "* * * * * * * * * cat", "rows": [10], "adapter": concepts.cat},
    ]
    class_words = ["toy toy toy * * * * * * *", "* * * * * dog dog * * *", "* * * * * * * * * cat"]
    targets = ["my-toy, a dog dog and a cat", "toy toy toy, a mixedtoken dog and a cat", ALL_BASE]
    inject = list(own)
    # The comma is a token.
    rows = ends(10)
    for concept, class_word, target in zip(own, class_words, targets, strict=True):
        if reach.startswith("difference"):
            added = concept | {"minus": class_word, "rows": rows}
        elif reach.startswith("whole"):
            added = concept | {"minus": ALL_BASE, "rows": [0, *rows]}
        else:
            added = concept | {"dummy": target, "minus": ALL_BASE, "rows": rows}
        inject.append(added | {"factor": 0.5})
    wanted = host.txt2img(ALL_BASE, reference={"inject": inject})
    assert wanted[0].difference(host.txt2img(ALL_BASE, reference={"inject": own})[0]) > 0.2
    ours = host.txt2img(TARGET, alignit=[True, ", ".join(METHODS), 1, 0, 1, f"reach {reach}"])
    assert same(ours, wanted)
    assert note(ours) == ""
    # Each alone, so that the sum cannot hide one.
    for i, name in enumerate(("<new1>=dog", "cat=cat"), 1):
        words = [f"{word}; reach {reach}" if word == name else word for word in METHODS]
        wanted = host.txt2img(ALL_BASE, reference={"inject": [*own, inject[3 + i]]})
        assert same(host.txt2img(TARGET, alignit=[True, ", ".join(words)]), wanted)


def test_concepts_with_steps_of_their_own(host: WebUI, concepts: Files) -> None:
    """Rows that both reach are another's sum in each part of the sampling."""
    ours = host.txt2img(
        "my-toy, a <new1> dog <delta:mixed:1>",
        alignit=[True, "my-toy=toy; reach difference; steps 0-0.5, <new1>=dog; reach difference; steps 0.25-0.75"],
    )
    toy = {"dummy": "my-toy * * * *", "rows": [1, 2, 3], "steps": [0, 1]}
    dog = {"dummy": "* * * * * mixedtoken dog", "rows": [6, 7], "weights": concepts.weights, "steps": [1, 2]}
    inject = [
        toy,
        dog,
        toy | {"minus": "toy toy toy * * * *", "rows": ends(7)},
        dog | {"minus": "* * * * * dog dog", "rows": ends(7)},
    ]
    wanted = host.txt2img("toy toy toy, a dog dog", reference={"inject": inject})
    assert same(ours, wanted)
    assert wanted[0].difference(host.txt2img("toy toy toy, a dog dog", reference={"inject": inject[:2]})[0]) > 0.1


def test_words_at_words_reach_too(host: WebUI) -> None:
    ours = host.txt2img("a <cat=dog; reach difference> in snow", alignit=[True])
    own = {"dummy": "* cat * *", "rows": [2]}
    inject = [own, own | {"minus": "* dog * *", "rows": ends(4)}]
    assert same(ours, host.txt2img("a dog in snow", reference={"inject": inject}))


@pytest.mark.host_errors
def test_what_is_wrong_is_said(host: WebUI) -> None:
    unknown = host.txt2img(PROMPT.format("; reach far"), alignit=[True])
    assert "there is no reach 'far': write paper, difference" in note(unknown)
    assert unknown == host.txt2img(PROMPT.format(""), alignit=[True])
    with pytest.raises(Exception, match="no reach 'far'"):
        host.txt2img(PROMPT.format(""), alignit=[{"enabled": True, "controls": "reach far"}])
