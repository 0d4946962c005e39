"""A new kind of concept is one reader and one record: a test-only one is at work everywhere in the WebUI wing."""

from __future__ import annotations

import json
import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from fastapi import FastAPI
from fastapi.testclient import TestClient
from safetensors.torch import save_file

from alignit.concepts.formats import READERS
from alignit.concepts.layer_names import layer_of
from tests.webui.conftest import FakeHost

NEW_KIND = Path(__file__).parents[1] / "host" / "new_kind" / "scripts" / "new_kind.py"
PROMPT = "a glitter ball in snow <sparkle:glitter:1>"


@pytest.fixture
def sparkling(host: FakeHost) -> Iterator[FakeHost]:
    """The fake host with an extension that adds a kind of concept to AlignIT's, and a file of it."""
    before = list(READERS)
    runpy.run_path(str(NEW_KIND))
    host.call("ui_settings")
    host.call("before_ui")
    folder = host.folder / "sparkles"
    folder.mkdir()
    generator = torch.Generator().manual_seed(3)
    unet = host.model.model.diffusion_model
    layers = {layer: module for name, module in unet.named_modules() if (layer := layer_of(name))}
    assert layers
    save_file(
        {f"sparkle:{layer}": torch.randn(module.weight.shape, generator=generator) for layer, module in layers.items()},
        folder / "glitter.safetensors",
    )
    yield host
    READERS[:] = before


def test_it_is_aligned(sparkling: FakeHost) -> None:
    host = sparkling
    for prompt, words in ((PROMPT, "glitter=red"), ("a <glitter=red> ball in snow <sparkle:glitter:1>", "")):
        made = host.make(prompt, [True, words])
        assert made.p.comments == []
        assert made.info["AlignIT class words"] == "glitter=red"
        assert made.picture != host.make("a red ball in snow").picture
        assert made.picture != host.make("a red ball in snow <sparkle:glitter:1>").picture
    # Nothing of it but its row, at which the weights are the changed ones.
    assert host.make(PROMPT, [True, "glitter=red", 0.0]).picture == host.make("a red ball in snow").picture


def test_what_is_wrong_is_said(sparkling: FakeHost) -> None:
    host = sparkling
    unused = host.make("a ball in snow <sparkle:glitter:1>", [True, "glitter=red"])
    assert any("Nothing sparkles: write glitter, which is a red." in comment for comment in unused.p.comments)
    assert unused.picture == host.make("a ball in snow").picture
    for name, said in (("nothing:1", "is not in the folder 'sparkles'"), ("glitter:very", "has the strength 'very'")):
        made = host.make(f"a ball in snow <sparkle:{name}>")
        assert any(said in comment for comment in made.p.comments)


def test_it_is_in_api_settings_tabs_and_panel(sparkling: FakeHost) -> None:
    host = sparkling
    app = FastAPI()
    host.call("app_started", None, app)
    client = TestClient(app)
    (installed,) = client.get("/alignit/v1/concepts").json()
    assert (installed["name"], installed["method"]) == ("glitter", "Sparkle")
    assert installed["prompt"] == "<sparkle:glitter:1>"
    (seen,) = client.post("/alignit/v1/inspect", json={"prompt": PROMPT, "class_words": "red"}).json()["concepts"]
    assert (seen["name"], seen["method"], seen["class_word"]) == ("glitter", "Sparkle", "red")
    assert "alignit_sparkle_folder" in host.modules.shared.opts.data_labels
    assert "sparkle" in host.modules.extra_networks.extra_network_registry
    (tab,) = [page for page in host.modules.ui_extra_networks.extra_pages if page.title == "Sparkle"]
    (card,) = tab.list_items()
    assert json.loads(card["prompt"].split(" + ")[0]) == "<sparkle:glitter:"
    assert json.loads(card["prompt"].split(" + ")[-1]) == "> glitter"
