"""An error inside AlignIT's own code: the generation goes on, with a note, and nothing is left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import requests

from tests.host.conftest import Servers
from tests.host.webui import Pictures, WebUI

FAULTS = Path(__file__).parent / "faults"
PROMPT = "a <my-cat=cat> in snow"


@pytest.fixture
def faulty_host(servers: Servers) -> WebUI:
    """A WebUI with AlignIT, the probe, and an extension that makes AlignIT's functions raise."""
    return servers.get("faulty_host", extensions=(FAULTS,))


def generate(host: WebUI, place: str, arguments: list[Any]) -> Pictures:
    return host.txt2img(PROMPT, alignit=arguments, alwayson_scripts={"Faults": {"args": [place]}})


def note(pictures: Pictures) -> str:
    return str(pictures.info["extra_generation_params"].get("AlignIT note", ""))


def comparable(host: WebUI) -> dict[str, Any]:
    host.txt2img("a house")
    return {key: value for key, value in host.state().items() if key != "cond_caches"}


@pytest.mark.parametrize("arguments", [[True], [True, "", 1.0, 0.0, 0.5]])
@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("splice", "An error while encoding the prompt"),
        ("read", "An error while reading the prompt"),
        ("find_embedding", "An error while"),
        ("job", "An error while setting up"),
        ("end_of_pass", "An error while looking where the concepts arrived"),
    ],
)
def test_the_generation_goes_on_with_a_note(faulty_host: WebUI, place: str, says: str, arguments: list[Any]) -> None:
    before = comparable(faulty_host)
    wanted = faulty_host.txt2img(PROMPT, alignit=arguments)
    ours = generate(faulty_host, place, arguments)
    assert says in note(ours)
    assert "nowhere" not in note(ours)
    if place != "find_embedding":  # without it, the mark is text like any other
        assert ours == (wanted if place == "end_of_pass" else faulty_host.txt2img(PROMPT))
    assert faulty_host.exceptions(clear=True)
    assert comparable(faulty_host) == before
    assert faulty_host.txt2img(PROMPT, alignit=arguments) == wanted


@pytest.mark.parametrize(
    ("place", "says", "pictures"),
    [
        ("prompts", "Nothing is compared: an error while looking at the prompts", 1),
        ("batch", "An error while comparing", 3),
        ("grid", "An error while making the grid", 3),
        ("job", "An error while setting up", 1),
    ],
)
def test_a_comparison_goes_on_with_a_note(faulty_host: WebUI, place: str, says: str, pictures: int) -> None:
    arguments = [{"enabled": True, "compare": True}]
    before = comparable(faulty_host)
    wanted = faulty_host.txt2img(PROMPT, alignit=arguments)
    assert len(wanted) == 4
    ours = generate(faulty_host, place, arguments)
    assert says in note(ours)
    assert len(ours) == pictures
    if place == "grid":
        assert ours == wanted[1:]
    else:
        plain = faulty_host.txt2img(PROMPT, alignit=[place == "prompts"])
        assert list(ours) == list(plain) * pictures
    assert faulty_host.exceptions(clear=True)
    assert comparable(faulty_host) == before
    assert faulty_host.txt2img(PROMPT, alignit=arguments) == wanted


@pytest.mark.parametrize("compare", [False, True])
def test_where_the_attention_maps_cannot_be_set_up_nothing_else_is(faulty_host: WebUI, compare: bool) -> None:
    before = comparable(faulty_host)
    ours = generate(faulty_host, "maps", [{"enabled": True, "attention_maps": True, "compare": compare}])
    assert "An error while setting up" in note(ours)
    assert "This picture is made without AlignIT" in note(ours)
    assert ours == faulty_host.txt2img(PROMPT)
    assert "AlignIT class words" not in ours[0].infotext
    assert faulty_host.exceptions(clear=True)
    assert comparable(faulty_host) == before


@pytest.mark.parametrize("arguments", [[True], [True, "", 1.0, 0.0, 0.5]])
def test_an_error_while_sampling_is_told_as_what_it_does(faulty_host: WebUI, arguments: list[Any]) -> None:
    """The concepts' rows are in the conditioning by then: they stay, at every step."""
    ours = generate(faulty_host, "watch", arguments)
    assert "An error while following the sampling" in note(ours)
    assert "injected at every step of this picture" in note(ours)
    assert "nowhere" not in note(ours)
    assert ours == faulty_host.txt2img(PROMPT, alignit=[True])
    assert faulty_host.exceptions(clear=True)


@pytest.mark.parametrize("arguments", [[True], [True, "", 1.0, 0.0, 0.5]])
def test_conditioning_that_another_extension_made_anew(faulty_host: WebUI, arguments: list[Any]) -> None:
    ours = generate(faulty_host, "foreign_conditioning", arguments)
    assert "my-cat reached the picture nowhere" in note(ours)
    assert ours == faulty_host.txt2img("a house")


def test_the_report_has_what_went_wrong(faulty_host: WebUI) -> None:
    generate(faulty_host, "splice", [True])
    failure = faulty_host.get("/alignit/v1/report")["failures"][-1]
    assert failure["doing"] == "AlignIT: error while encoding the prompt"
    assert failure["error"] == "RuntimeError: raised as asked"
    assert failure["frames"][-1].endswith("in fail")
    text = requests.get(f"{faulty_host.url}/alignit/v1/report", params={"format": "text"}, timeout=60).text
    assert "RuntimeError: raised as asked" in text
    assert "my-cat" not in text
    for _ in range(12):
        generate(faulty_host, "splice", [True])
    assert len(faulty_host.get("/alignit/v1/report")["failures"]) == 10
    assert faulty_host.exceptions(clear=True)
