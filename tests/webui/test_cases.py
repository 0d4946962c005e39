"""Inputs from real use that failed: prompts that are filled in late, names, emoticons, lists, numbers."""

from __future__ import annotations

import importlib
import json
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from tests.webui.conftest import FakeHost

ON = [True, ""]
LOOK = json.dumps({"number": 1, "action": "look", "lengths": {}})


@pytest.fixture
def client(host: FakeHost) -> TestClient:
    app = FastAPI()
    host.call("app_started", None, app)
    return TestClient(app)


def seen(prompt: str, class_words: str = "") -> dict[str, Any]:
    """Return what the panel's list says of a prompt."""
    panel = importlib.import_module("alignit.webui.ui.panel_concepts")  # as it is loaded into the fake host
    return json.loads(panel.answer(LOOK, prompt, class_words, "", []))


@pytest.mark.parametrize("hook", ["process", "before_process_batch"])
@pytest.mark.parametrize("filled", ["a my-cat <delta:nothing:1>", "a my-cat"])
def test_prompts_that_are_filled_in_after_ours_were_asked(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch, hook: str, filled: str
) -> None:
    host.add_embedding("my-cat")
    original, last = getattr(host.script, hook), host.script.process_batch
    begun = []

    def fill_in(p: Any, *arguments: Any, **named: Any) -> None:
        original(p, *arguments, **named)
        p.all_prompts = [prompt.replace("__run__", filled) for prompt in p.all_prompts]
        p.prompts = list(p.all_prompts)

    def watch(p: Any, *arguments: Any, **named: Any) -> None:
        last(p, *arguments, **named)
        begun.append("alignit" in vars(p))

    monkeypatch.setattr(host.script, hook, fill_in)
    monkeypatch.setattr(host.script, "process_batch", watch)
    made = host.make("__run__ in snow")
    assert begun == ["delta" in filled]
    assert "alignit" not in vars(made.p)
    assert made.picture == host.make(f"{filled} in snow".replace("<delta:nothing:1>", "")).picture
    said = [comment for comment in made.p.comments if "'nothing' is not in the folder" in comment]
    assert len(said) == ("delta" in filled)


FORMS = {
    "brackets": ("my-cat (1)", r"my-cat \(1\)"),
    "decomposed": ("cre\u0300me-chat", "cr\u00e8me-chat"),
}


@pytest.mark.parametrize(("installed", "written"), FORMS.values(), ids=FORMS)
def test_a_name_that_is_written_otherwise_in_prompts(
    host: FakeHost, client: TestClient, installed: str, written: str
) -> None:
    host.add_embedding("my-cat")
    host.add_embedding(installed, vectors=2)
    plain = host.make(f"a {written} in snow")
    assert plain.picture != host.make("a my-cat in snow").picture
    assert host.make(f"a <{written}=cat> in snow").picture == plain.picture

    wanted = host.make(f"a {written}, {written}", [True, f"{installed}=cat"])
    assert wanted.picture != host.make(f"a {written}, {written}").picture
    for prompt in (f"a <{written}=cat>, {written}", f"a {written}, <{written}=cat>"):
        made = host.make(prompt, ON)
        assert made.picture == wanted.picture
        assert made.p.comments == []
        assert made.info["AlignIT class words"] == f"{installed}=cat"
    assert host.make(f"a {written}, {written}", [True, f"{written}=cat"]).picture == wanted.picture

    half = host.make(f"a <{written}=cat; steps 0-0.5> here", ON)
    assert half.picture == host.make(f"a {written} here", [True, f"{installed}=cat; steps 0-0.5"]).picture
    assert half.picture != host.make(f"a {written} here", [True, f"{installed}=cat"]).picture

    (concept,) = seen(f"a <{written}=cat> here")["concepts"]
    assert (concept["name"], concept["class_word"], concept["places"][0]["rows"][0]) == (installed, "cat", 2)
    assert concept["notes"] == []
    (note,) = host.make(f"a {written}", ON).p.comments
    mend = note.partition("Write ")[2].partition(" in the prompt")[0]
    assert host.make(f"a {mend} in snow", ON).p.comments == []
    listed = {one["name"]: one["prompt"] for one in client.get("/alignit/v1/concepts").json()}
    assert host.make(f"a {listed[installed]} in snow").picture == plain.picture


@pytest.mark.parametrize(("installed", "written"), FORMS.values(), ids=FORMS)
def test_a_file_that_is_written_otherwise_in_prompts(host: FakeHost, installed: str, written: str) -> None:
    network = importlib.import_module("alignit.webui.networks.table").DELTA
    path = host.folder / "deltas" / f"{installed}.ckpt"
    path.parent.mkdir()
    path.write_bytes(b"no delta")
    assert network.library.find(written) == network.library.find(installed) == path
    (said,) = host.make(f"a cat <delta:{written}:1>").p.comments
    assert "is not in the folder" not in said


def test_a_mark_whose_brackets_mean_emphasis_is_said(host: FakeHost) -> None:
    host.add_embedding("my-cat (1)")
    said = r"which mean emphasis in a prompt. Write <my-cat \(1\)=cat> in the prompt."
    assert any(said in text for text in host.make("a <my-cat (1)=cat>", ON).p.comments)
    host.modules.shared.opts.emphasis = "None"
    assert host.make("a <my-cat (1)=cat>", ON).p.comments == []


@pytest.mark.parametrize("prompt", ["my-cat, >_<, =_=, :>", "i <3 my-cat =D >:)", ">_< my-cat >_<"])
def test_emoticons_are_text(host: FakeHost, client: TestClient, prompt: str) -> None:
    host.add_embedding("my-cat")
    base = prompt.replace("my-cat", "cat")
    asked = client.post("/alignit/v1/inspect", json={"prompt": prompt, "class_words": "my-cat=cat"}).json()
    wanted = client.post("/alignit/v1/inspect", json={"prompt": base}).json()["texts"][base][0]["base"]
    (chunk,) = asked["texts"][prompt]
    assert chunk["base"] == wanted
    assert asked["notes"] == []
    assert [concept["name"] for concept in asked["concepts"]] == ["my-cat"]
    (concept,) = seen(prompt, "my-cat=cat")["concepts"]
    assert concept["notes"] == []
    made = host.make(prompt, [True, "my-cat=cat"])
    assert made.p.comments == []
    assert made.info["AlignIT class words"] == "my-cat=cat"
    off = host.make(prompt)
    assert off.p.prompts == [prompt]
    assert off.picture != made.picture


def test_a_list_that_names_nothing_in_the_prompt_is_said(host: FakeHost) -> None:
    host.add_embedding("my-cat")
    host.add_embedding("my-toy")
    said = "The class words name 'my-cat=cat; my-toy', which is not in the prompt, and not 'my-cat', which is."
    made = host.make("a my-cat, a my-toy", [True, "my-cat=cat; my-toy=toy"])
    assert any(said in comment for comment in made.p.comments)
    assert said in " ".join(seen("a my-cat, a my-toy", "my-cat=cat; my-toy=toy")["notes"])
    for prompt, words in (("a my-cat", "my-cat=cat, my-dog=dog"), ("a <my-cat=cat>", "my-dog=dog"), ("a my-cat", "")):
        assert not any("which is not in the prompt" in text for text in host.make(prompt, [True, words]).p.comments)


def test_a_name_with_a_comma_comes_back_from_the_info(host: FakeHost) -> None:
    host.add_embedding("x,y-cat")
    made = host.make("a <x,y-cat=cat> in snow", ON)
    words = made.info["AlignIT class words"]
    assert words == r"x\,y-cat=cat"
    again = host.make("a x,y-cat in snow", [True, words])
    assert again.picture == made.picture
    assert again.info["AlignIT class words"] == words
    (concept,) = seen("a x,y-cat in snow")["concepts"]
    assert concept["place"]["before"] == r"x\,y-cat="


def test_comments_are_not_in_the_list(host: FakeHost, client: TestClient) -> None:
    host.add_embedding("my-cat")

    def strip(params: Any) -> None:
        params.prompt = params.prompt.partition("\n#")[0]

    host.modules.script_callbacks.on_before_token_counter(strip)
    prompt = "a dog\n# a my-cat"
    assert seen(prompt, "my-cat=cat")["concepts"] == []
    asked = client.post("/alignit/v1/inspect", json={"prompt": prompt, "class_words": "my-cat=cat"}).json()
    assert (asked["concepts"], list(asked["texts"])) == ([], ["a dog"])


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (r'{"prompt": "a \ud83d cat"}', "the request holds half a character"),
        (r'{"prompt": "a", "class_words": "\ude00=cat"}', "the request holds half a character"),
        (json.dumps({"prompt": "[" * 1000}), "1000 brackets with prompt editing among them are too many"),
    ],
)
def test_what_inspect_refuses(client: TestClient, body: str, said: str) -> None:
    answered = client.post("/alignit/v1/inspect", content=body, headers={"Content-Type": "application/json"})
    assert answered.status_code == 422
    assert said in answered.json()["detail"]


def test_the_axis_for_concepts_puts_whole_names_in(host: FakeHost) -> None:
    for name in ("my-cat", "my-cat-neg", "my-toy", "my-cat (1)"):
        host.add_embedding(name)
    (axis,) = [option for option in host.xyz.axis_options if option.label == "[AlignIT] Concept"]
    p = host.p("a my-cat, my-cat-neg, <MY-CAT=cat>")
    p.hr_prompt = "big my-cat"
    values = ["my-cat", "my-toy"]
    axis.confirm(p, values)
    axis.apply(p, "my-toy", values)
    assert (p.prompt, p.hr_prompt) == ("a my-toy, my-cat-neg, <my-toy=cat>", "big my-toy")
    axis.apply(p, "my-cat (1)", ["my-toy"])
    assert p.hr_prompt == r"big my-cat \(1\)"
    axis.confirm(p, ["my-cat (1)"])
    axis.apply(p, "my-toy", ["my-cat (1)"])
    assert p.hr_prompt == "big my-toy"
    with pytest.raises(Exception, match="is not in the prompt"):
        axis.confirm(host.p("a my-cat-neg"), values)


def test_a_number_in_an_info_text_that_is_none_is_said(host: FakeHost) -> None:
    (field,) = [
        source for component, source in host.script.infotext_fields if component.settings["label"] == "Strength"
    ]
    assert field({}) is None
    assert field({"AlignIT strength": "0.5"}) == "0.5"
    with pytest.raises(Exception, match="'AlignIT strength' is 'strong' in the info text") as caught:
        field({"AlignIT strength": "strong"})
    assert caught.value.status_code == 422
