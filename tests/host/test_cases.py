"""Inputs from real use that failed, where it takes the host itself to see it: filled-in prompts, names, emoticons."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import torch
from safetensors.torch import save_file

from tests.host.miniature import WIDTH
from tests.host.test_clean import comparable
from tests.host.webui import HIRES, MINIATURE, Pictures, WebUI

DELTA = "a <new1> cat in snow <delta:run-cat:1>"
PLAIN = "a my-cat in snow"
BRACKETS, ESCAPED = "my-cat (1)", r"my-cat \(1\)"
DECOMPOSED, COMPOSED = "cre\u0300me-chat", "cr\u00e8me-chat"
INSPECT = "/alignit/v1/inspect"


@pytest.fixture(scope="module")
def installed(servers) -> Iterator[None]:
    host: WebUI = servers.get("host")
    generator = torch.Generator().manual_seed(5)
    paths = [host.embeddings / f"{name}.safetensors" for name in (BRACKETS, DECOMPOSED, "x,y-cat")]
    for path in paths:
        vector = torch.randn(1, WIDTH, generator=generator)
        save_file({"emb": 2.5 * vector / vector.norm()}, path)
    delta = host.data / "models" / "deltas" / "run-cat.ckpt"
    delta.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(MINIATURE / "concept_files" / "custom_diffusion" / "my-cat.ckpt", delta)
    host.post("/sdapi/v1/refresh-embeddings")
    yield
    for path in (*paths, delta):
        path.unlink()
    host.post("/sdapi/v1/refresh-embeddings")


@pytest.fixture(autouse=True)
def _installed(installed: None) -> None:
    pass


def filled(host: WebUI, prompts: list[str], method: str, **payload: Any) -> Pictures:
    """Make pictures whose prompts are filled in when AlignIT has been asked; without a grid."""
    wildcards = {"Wildcards": {"args": [prompts, method]}}
    return host.txt2img("a __run__", n_iter=len(prompts), alwayson_scripts=wildcards, **payload)[-len(prompts) :]


@pytest.mark.parametrize("alignit", [None, [True, "cat"]], ids=["off", "on"])
@pytest.mark.parametrize("method", ["process", "before_process_batch"])
def test_prompts_that_are_filled_in(host: WebUI, method: str, alignit: list[Any] | None) -> None:
    before = comparable(host.state())
    prompts = [DELTA, PLAIN, "a dog", DELTA]
    pictures = filled(host, prompts, method, alignit=alignit)
    typed = [host.txt2img(prompt, seed=1 + index, alignit=alignit)[0] for index, prompt in enumerate(prompts)]
    assert pictures == typed
    # The last one has the first one's class words too, in a generation of several.
    assert [picture.infotext.partition("\n")[0] for picture in pictures] == prompts
    assert all(("AlignIT" in picture.infotext) == (alignit is not None) for picture in pictures)
    assert typed[0].difference(host.txt2img(DELTA.partition("<delta")[0], alignit=alignit)[0]) > 0.1
    assert comparable(host.state()) == before


def test_a_prompt_of_hires_fix_that_is_filled_in(host: WebUI) -> None:
    # The host's own prompts for the second pass are what wildcards leave alone here.
    payload = {**HIRES, "hr_prompt": DELTA}
    ours = filled(host, ["a dog"], "process", **payload)
    assert ours == host.txt2img("a dog", **payload)
    assert ours[0].difference(host.txt2img("a dog", **{**payload, "hr_prompt": DELTA.partition("<delta")[0]})[0]) > 0.1


def test_off_without_networks_is_the_host_alone(host: WebUI, plain_host: WebUI) -> None:
    for method in ("process", "before_process_batch"):
        assert filled(host, [PLAIN, "a dog"], method) == filled(plain_host, [PLAIN, "a dog"], method)


@pytest.mark.parametrize(
    ("name", "written"), [(BRACKETS, ESCAPED), (DECOMPOSED, COMPOSED)], ids=["brackets", "composed"]
)
class TestNames:
    """Names that a prompt has in another form than their files."""

    def reference(self, host: WebUI, written: str, **inject: Any) -> Pictures:
        # The host finds the embedding by its tokens, be its name composed or not.
        wanted = {"inject": [{"dummy": f"* {written} * *", "rows": [2], **inject}]}
        return host.txt2img("a cat in snow", reference=wanted)

    def test_off(self, host: WebUI, plain_host: WebUI, name: str, written: str) -> None:  # noqa: ARG002
        plain = host.txt2img(f"a {written} in snow")
        assert host.txt2img(f"a <{written}=cat> in snow") == plain
        assert plain[0].difference(host.txt2img(PLAIN)[0]) > 0.1
        assert plain[0].difference(host.txt2img("a cat in snow")[0]) > 0.1

    def test_on(self, host: WebUI, name: str, written: str) -> None:
        wanted = self.reference(host, written)
        for prompt, words in (
            (f"a <{written}=cat> in snow", ""),
            (f"a <{written}> in snow", f"{name}=cat"),
            (f"a {written} in snow", f"{name}=cat"),
            (f"a {written} in snow", f"{written}=cat"),
            (f"(a <{written}=cat> in snow:1.0)", ""),
        ):
            ours = host.txt2img(prompt, alignit=[True, words])
            assert ours == wanted, prompt
            assert "AlignIT note" not in ours[0].infotext
            assert ours.info["extra_generation_params"]["AlignIT class words"] == f"{name}=cat"

    def test_two_mentions_and_options(self, host: WebUI, name: str, written: str) -> None:  # noqa: ARG002
        ours = host.txt2img(f"a <{written}=cat>, {written}", alignit=[True])
        both = {"inject": [{"dummy": f"* {written} * {written}", "rows": [2, 4]}]}
        assert ours == host.txt2img("a cat, cat", reference=both)
        assert "AlignIT note" not in ours[0].infotext
        half = host.txt2img(f"a <{written}=cat; steps 0-0.5> in snow", alignit=[True])
        assert half == self.reference(host, written, steps=[0, 1])
        assert half[0].difference(self.reference(host, written)[0]) > 0.1

    def test_inspect(self, host: WebUI, name: str, written: str) -> None:
        seen = host.post(INSPECT, {"prompt": f"a <{written}=cat; keys>, (big {written}:1.2)"})
        ((concept, *others),) = [seen["concepts"]]
        assert (concept["name"], concept["class_word"], concept["options"], others) == (name, "cat", "keys", [])
        ((chunk,),) = seen["texts"].values()
        assert chunk["rows"] == {name: [2, 5]}
        assert seen["notes"] == []


def test_a_mark_whose_brackets_mean_emphasis(host: WebUI) -> None:
    ours = host.txt2img(f"a <{BRACKETS}=cat>", alignit=[True])
    assert rf"Write <{ESCAPED}=cat> in the prompt" in ours.info["extra_generation_params"]["AlignIT note"]
    # With AlignIT off it is known what is meant, and with the setting for emphasis off these are no brackets.
    assert host.txt2img(f"a <{BRACKETS}=cat>") == host.txt2img(f"a {ESCAPED}")
    host.options(emphasis="None")
    assert host.txt2img(f"a <{BRACKETS}=cat>") == host.txt2img(f"a {BRACKETS}")
    wanted = host.txt2img("a cat", reference={"inject": [{"dummy": f"* {BRACKETS}", "rows": [2]}]})
    assert host.txt2img(f"a <{BRACKETS}=cat>", alignit=[True]) == wanted


@pytest.mark.parametrize("prompt", ["my-cat, >_<, =_=, :>", "i <3 my-cat =D >:)", ">_< my-cat >_<"])
def test_emoticons(host: WebUI, plain_host: WebUI, prompt: str) -> None:
    assert host.txt2img(prompt) == plain_host.txt2img(prompt)
    ours = host.txt2img(prompt, alignit=[True, "my-cat=cat"])
    base = prompt.replace("my-cat", "cat")
    seen = host.post(INSPECT, {"prompt": prompt, "class_words": "my-cat=cat"})
    ((chunk,),) = seen["texts"].values()
    (row,) = chunk["rows"]["my-cat"]
    ((plain,),) = host.post(INSPECT, {"prompt": base})["texts"].values()
    assert chunk["base"] == plain["base"]
    assert plain["base"][row] == "cat"
    dummy = " ".join([*"*" * (row - 1), "my-cat"])
    assert ours == host.txt2img(base, reference={"inject": [{"dummy": dummy, "rows": [row]}]})
    assert seen["notes"] == []
    assert "AlignIT note" not in ours[0].infotext
    assert ours.info["extra_generation_params"]["AlignIT class words"] == "my-cat=cat"


def test_a_name_with_a_comma_comes_back_from_the_info(host: WebUI) -> None:
    ours = host.txt2img("a <x,y-cat=cat> in snow", alignit=[True])
    again = host.txt2img("a x,y-cat in snow", infotext=ours[0].infotext)
    assert again == ours
    assert again.info["extra_generation_params"] == ours.info["extra_generation_params"]


def test_comments_of_the_prompt_are_not_looked_at(host: WebUI) -> None:
    prompt = "a dog\n# a <my-cat=cat>"
    seen = host.post(INSPECT, {"prompt": prompt})
    assert (seen["concepts"], [text.strip() for text in seen["texts"]]) == ([], ["a dog"])
    host.options(enable_prompt_comments=False)
    assert [concept["name"] for concept in host.post(INSPECT, {"prompt": prompt})["concepts"]] == ["my-cat"]


@pytest.mark.host_errors
def test_an_info_text_with_no_number_for_the_strength(host: WebUI) -> None:
    text = "a my-cat\nSteps: 4, AlignIT class words: my-cat=cat, AlignIT strength: strong"
    answer = requests.post(f"{host.url}/sdapi/v1/txt2img", json={"infotext": text}, timeout=60)
    assert answer.status_code == 422
    assert "'AlignIT strength' is 'strong' in the info text" in answer.text


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (rb'{"prompt": "a \ud83d cat"}', "half a character"),
        (rb'{"prompt": "a", "\ud83d": "cat"}', "half a character"),
        (b'{"prompt": "%s"}' % (b"[" * 1000), "1000 brackets with prompt editing"),
    ],
)
def test_what_inspect_refuses(host: WebUI, body: bytes, said: str) -> None:
    begin = time.monotonic()
    answer = requests.post(host.url + INSPECT, data=body, headers={"Content-Type": "application/json"}, timeout=60)
    assert answer.status_code == 422
    assert said in answer.json()["detail"]
    assert time.monotonic() - begin < 5
