"""AlignIT's own API, by a client that knows what the docs say."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import pytest
import requests

import alignit
from tests.host.webui import WebUI

INSPECT = "/alignit/v1/inspect"
REPORT = "/alignit/v1/report"


def refused(host: WebUI, payload: Any) -> str:
    answer = requests.post(host.url + INSPECT, json=payload, timeout=60)
    assert answer.status_code == 422
    return answer.text


def test_the_schema_is_in_the_hosts_docs(host: WebUI) -> None:
    schema = host.get("/openapi.json")
    assert {"/alignit/v1/concepts", "/alignit/v1/about", INSPECT, REPORT} <= schema["paths"].keys()
    prompt = schema["components"]["schemas"]["Prompt"]
    assert prompt["required"] == ["prompt"]
    assert set(prompt["properties"]) == {"prompt", "class_words", "controls"}


def test_concepts(host: WebUI) -> None:
    concepts = host.get("/alignit/v1/concepts")
    by_name = {concept["name"]: concept for concept in concepts if concept["method"] == "textual inversion"}
    cat = {"method": "textual inversion", "prompt": "my-cat", "class_word": None, "fits": True}
    assert by_name["my-cat"] == {"name": "my-cat", **cat}
    assert not by_name["sd2-cat"]["fits"]
    assert not by_name["xl-cat"]["fits"]


def test_inspect(host: WebUI) -> None:
    seen = host.post(INSPECT, {"prompt": "a <my-toy=golden toy; keys> and my-cat", "class_words": "my-cat=cat"})
    assert seen["notes"] == []
    assert seen["suggestions"] == {}
    toy, cat = seen["concepts"]
    assert toy == {
        "name": "my-toy",
        "method": "textual inversion",
        "class_word": "golden toy",
        "source": "prompt",
        "vectors": 3,
        "options": "keys",
    }
    assert (cat["name"], cat["class_word"], cat["source"], cat["vectors"]) == ("my-cat", "cat", "panel", 1)
    ((text, (chunk,)),) = seen["texts"].items()
    assert text == "a <my-toy=golden toy; keys> and my-cat"
    assert chunk["base"][1:7] == ["a", "toy", "golden", "toy", "and", "cat"]
    assert len(chunk["base"]) == 77
    assert chunk["dummies"]["my-toy"][1:7] == ["*", "my-toy", "my-toy", "my-toy", "*", "*"]
    assert chunk["dummies"]["my-cat"][1:7] == ["*", "*", "*", "*", "*", "my-cat"]
    assert chunk["rows"] == {"my-toy": [2, 3, 4], "my-cat": [6]}


@pytest.mark.parametrize("checkpoint", ["tiny-sd2", "tiny-sdxl"])
def test_inspect_other_models(host: WebUI, checkpoint: str) -> None:
    host.load(checkpoint)
    seen = host.post(INSPECT, {"prompt": "a <cat=dog> AND snow"})
    assert [concept["method"] for concept in seen["concepts"]] == ["words"]
    assert seen["texts"]["a <cat=dog>"][0]["base"][1:3] == ["a", "dog"]
    assert seen["texts"]["a <cat=dog>"][0]["dummies"]["cat"][1:3] == ["*", "cat"]


def test_what_is_in_the_way_is_said(host: WebUI) -> None:
    seen = host.post(INSPECT, {"prompt": "a my-cat <delta:nothing:1>"})
    assert seen["concepts"] == []
    assert len(seen["suggestions"]["my-cat"]) == 5
    assert any("'my-cat' has no class word" in note for note in seen["notes"])
    assert any("'nothing' is not in the folder" in note for note in seen["notes"])


def test_a_huge_prompt(host: WebUI) -> None:
    seen = host.post(INSPECT, {"prompt": "my-cat, " * 2000, "class_words": "cat"})
    assert sum(len(chunk["rows"]["my-cat"]) for chunk in next(iter(seen["texts"].values()))) == 2000
    assert "MAX" not in refused(host, {"prompt": "a" * 100_001})


@pytest.mark.host_errors
@pytest.mark.parametrize(
    ("payload", "said"),
    [
        ({}, "field required"),
        ({"prompt": ["a"]}, "str type expected"),
        ({"prompt": "a", "words": ""}, "extra fields not permitted"),
        ({"prompt": "a", "class_words": "=cat"}, "names no concept: write my-cat=cat"),
        ({"prompt": "a", "controls": "louder"}, "'louder' is no option"),
        ("text", "not a valid dict"),
    ],
)
def test_what_cannot_be_used_is_refused(host: WebUI, payload: Any, said: str) -> None:
    assert said in refused(host, payload)


def test_looking_changes_nothing(host: WebUI) -> None:
    host.txt2img("a house")
    before = host.state()
    host.post(INSPECT, {"prompt": "a <my-cat=cat> and my-toy"})
    assert host.state() == before


def test_about(host: WebUI) -> None:
    about = host.get("/alignit/v1/about")
    assert about["version"] == alignit.__version__
    arguments = about["arguments"]["properties"]
    assert list(arguments)[:3] == ["enabled", "class_words", "strength"]
    assert (arguments["strength"]["minimum"], arguments["strength"]["maximum"]) == (0, 2)
    assert all(argument["description"] for argument in arguments.values())
    # What the schema says can be sent.
    sent = {name: argument["default"] for name, argument in arguments.items()} | {"enabled": True}
    assert host.txt2img("a my-cat", alignit=[sent]) == host.txt2img("a my-cat", alignit=[True])
    assert {"written": "`falling`", "strength": "is s (1 - (f - a) / (b - a))"}.items() <= about["options"][1].items()


def test_the_report_holds_what_is_asked_for_and_nothing_else(host: WebUI, request: pytest.FixtureRequest) -> None:
    prompt = "a my-cat in a very secret place"
    host.txt2img(prompt, alignit=[True])
    secret = str(Path.home() / "secret")
    host.options(alignit_deltas_folder=secret)
    # A host without a page does not list it at its start, from which settings are restored after each test.
    request.addfinalizer(lambda: host.options(alignit_deltas_folder=""))
    report = host.get(REPORT)
    assert list(report["versions"]) == ["AlignIT", "Host", "Python", "torch", "gradio"]
    assert report["versions"]["AlignIT"] == alignit.__version__
    assert host.version in report["versions"]["Host"]
    assert platform.system() in report["versions"]["Python"]
    assert report["settings"]["alignit_deltas_folder"] == str(Path("~") / "secret")
    assert report["settings"]["alignit_notes_in_info"] is True
    installed = [concept["name"] for concept in host.get("/alignit/v1/concepts")]
    assert sum(report["concepts"].values()) == len(installed)
    assert 0 < report["fits"] < report["concepts"]["textual inversion"]
    assert report["names"] is None
    assert report["notes"][-1]["text"].startswith("'…' has no class word")
    assert not any(note["prompts"] for note in report["notes"])
    text = requests.get(host.url + REPORT, params={"format": "text"}, timeout=60).text
    assert text.startswith(f"AlignIT: {alignit.__version__}\nHost: WebUI ")
    for left_out in ("my-cat", "secret place", str(Path.home())):
        assert left_out not in text
        assert left_out not in str(report)

    assert set(installed) == {name for names in host.get(REPORT, names=True)["names"].values() for name in names}
    asked = host.get(REPORT, names=True, prompts=True, paths=True)
    assert asked["notes"][-1]["prompts"] == [prompt]
    assert asked["notes"][-1]["text"].startswith("'my-cat' has no class word")
    assert asked["settings"]["alignit_deltas_folder"] == secret


@pytest.mark.host_errors
def test_a_report_of_something_else_is_refused(host: WebUI) -> None:
    answer = requests.get(host.url + REPORT, params={"prompt": "true"}, timeout=60)
    assert answer.status_code == 422
    assert "there is no parameter 'prompt': there are names, prompts, paths, format" in answer.text
