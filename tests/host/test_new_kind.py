"""A new kind of concept is one reader and one record: a test-only one is at work everywhere in a WebUI."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import torch
from safetensors.torch import save_file

from alignit.concepts.layer_names import layer_of
from tests.host.conftest import Servers
from tests.host.test_deltas import CHANGED, note, projections, same
from tests.host.webui import WebUI

NEW_KIND = Path(__file__).parent / "new_kind"
PROMPT = "a glitter ball in snow <sparkle:glitter:1>"


@pytest.fixture(scope="module")
def sparkling_host(servers: Servers) -> WebUI:
    """A WebUI with a page, AlignIT, the probe, and an extension that adds a kind of concept to AlignIT's."""
    return servers.get("sparkling_host", extensions=(NEW_KIND,), page=True)


@pytest.fixture
def weights(sparkling_host: WebUI, tmp_path: Path) -> Iterator[Path]:
    """A concept of the new kind in its folder; W' as the reference reads it."""
    generator = torch.Generator().manual_seed(3)
    base = projections(sparkling_host, "miniature")
    differences = {
        name: 0.5 * tensor.std() * torch.randn(tensor.shape, generator=generator) for name, tensor in base.items()
    }
    folder = sparkling_host.data / "models" / "sparkles"
    folder.mkdir(exist_ok=True)
    concept = {f"sparkle:{layer_of(name)}": tensor for name, tensor in differences.items()}
    save_file(concept, folder / "glitter.safetensors")
    file = tmp_path / "weights.safetensors"
    save_file({name: tensor + differences[name] for name, tensor in base.items()}, file)
    yield file
    (folder / "glitter.safetensors").unlink()


@pytest.mark.parametrize(
    ("prompt", "class_words"),
    [
        (PROMPT, "glitter=red"),
        ("a <glitter=red> ball in snow <sparkle:glitter:1>", ""),
    ],
)
def test_it_is_aligned(sparkling_host: WebUI, weights: Path, prompt: str, class_words: str) -> None:
    host = sparkling_host
    ours = host.txt2img(prompt, alignit=[True, class_words])
    base = "a red ball in snow"
    inject = [{"dummy": "* glitter * * *", "rows": [2], "weights": str(weights)}]
    wanted = host.txt2img(base, reference={"inject": inject})
    assert same(ours, wanted)
    assert note(ours) == ""
    assert ours[0].difference(host.txt2img(base)[0]) > CHANGED


def test_where_alignit_is_off_it_is_what_its_method_is(sparkling_host: WebUI, weights: Path) -> None:  # noqa: ARG001
    host = sparkling_host
    ours = host.txt2img("a <glitter=red> ball in snow <sparkle:glitter:1>")
    assert ours == host.txt2img("a red ball in snow <sparkle:glitter:1>")
    assert ours != host.txt2img("a red ball in snow")


def test_what_is_wrong_is_said(sparkling_host: WebUI, weights: Path) -> None:  # noqa: ARG001
    host = sparkling_host
    unused = host.txt2img("a ball in snow <sparkle:glitter:1>", alignit=[True, "glitter=red"])
    assert "Nothing sparkles: write glitter, which is a red." in note(unused)
    missing = host.txt2img("a ball in snow <sparkle:nothing:1>", alignit=[True])
    assert "'nothing' is not in the folder 'sparkles'" in note(missing)
    assert "The picture is made without <sparkle:nothing>" in note(missing)
    strong = host.txt2img("a ball in snow <sparkle:glitter:very>")
    assert "has the strength 'very' in the prompt" in note(strong)


def test_it_is_in_api_settings_and_page(sparkling_host: WebUI, weights: Path) -> None:  # noqa: ARG001
    host = sparkling_host
    installed = {concept["name"]: concept for concept in host.get("/alignit/v1/concepts")}
    assert installed["glitter"] == {
        "name": "glitter",
        "method": "Sparkle",
        "prompt": "<sparkle:glitter:1>",
        "class_word": None,
        "fits": None,
    }
    seen = host.post("/alignit/v1/inspect", {"prompt": PROMPT, "class_words": "red"})
    assert [(concept["name"], concept["method"]) for concept in seen["concepts"]] == [("glitter", "Sparkle")]
    assert host.get("/sdapi/v1/options")["alignit_sparkle_folder"] == ""
    page = requests.get(host.url + "/config", timeout=60).json()
    ids = {component["props"].get("elem_id") for component in page["components"]}
    assert "txt2img_sparkle_cards_html" in ids
    panel = json.dumps([component["props"].get("value") for component in page["components"]])
    assert "Sparkle&quot;" in panel
