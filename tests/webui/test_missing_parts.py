"""A host that lacks a module, as the hosts of its family do: AlignIT loses what needs it, says so, and works on."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fastapi import FastAPI

from tests.webui.conftest import FakeHost

PROMPT = "a <my-cat=cat> in snow"
ON = {"enabled": True}
PARTS = {"axes", "networks", "tabs", "panel", "settings", "API"}


@contextmanager
def without(host: FakeHost, module: str) -> Iterator[None]:
    """Load AlignIT anew into a host that lacks a module."""
    gone = [name for name in sys.modules if f"{name}.".startswith(f"modules.{module}.")]
    kept = {name: sys.modules.pop(name) for name in gone}
    vars(sys.modules["modules"]).pop(module, None)
    sys.modules[f"modules.{module}"] = None  # type: ignore[assignment]  # Python's sign of one that is not there
    modules = host.modules
    for registry in (
        modules.script_callbacks.registered,
        modules.extra_networks.extra_network_registry,
        modules.ui_extra_networks.extra_pages,
        modules.shared.opts.data_labels,
        host.xyz.axis_options,
        modules.errors.reported,
    ):
        registry.clear()
    try:
        host.load()
        yield
        modules.errors.reported.clear()  # was looked at
    finally:
        del sys.modules[f"modules.{module}"]
        sys.modules.update(kept)


def parts(host: FakeHost) -> set[str]:
    """Return which parts of AlignIT are there."""
    app = FastAPI()
    host.call("app_started", None, app)
    there = {
        "axes": host.xyz.axis_options,
        "networks": {"delta", "catversion"} <= set(host.modules.extra_networks.extra_network_registry),
        "tabs": host.modules.ui_extra_networks.extra_pages,
        "panel": host.panel,
        "settings": "alignit_cache_mib" in host.modules.shared.opts.data_labels,
        "API": any(getattr(route, "path", "").startswith("/alignit/") for route in app.router.routes),
    }
    return {part for part, found in there.items() if found}


@pytest.fixture(autouse=True)
def shown(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the page shows as HTML."""
    texts: list[str] = []
    gradio = sys.modules["gradio"]
    monkeypatch.setattr(gradio, "HTML", lambda text, **_: texts.append(text), raising=False)
    host.add_embedding("my-cat")
    return texts


def test_all_parts_are_there(host: FakeHost) -> None:
    assert parts(host) == PARTS


@pytest.mark.parametrize(
    ("module", "lost", "said"),
    [
        ("ui_extra_networks_user_metadata", "tabs", "The tabs with cards for Custom Diffusion and CatVersion"),
        ("ui_extra_networks", "tabs", "The tabs with cards for Custom Diffusion and CatVersion"),
        ("extra_networks", "networks", "<delta:...> and <catversion:...> in prompts"),
    ],
)
def test_one_part_is_lost_with_one_message(host: FakeHost, shown: list[str], module: str, lost: str, said: str) -> None:
    wanted = host.make(PROMPT, ON).picture
    with without(host, module):
        assert parts(host) == PARTS - {lost}
        ((message, error),) = host.modules.errors.reported
        assert message.startswith(f"AlignIT: {said} cannot be used with this WebUI: ")
        assert f"modules.{module}" in message
        assert isinstance(error, ImportError)
        assert sum("cannot be used" in text for text in shown) == 1
        made = host.make(PROMPT, ON)
        assert made.picture == wanted
        assert made.p.comments == []


def test_without_the_panels_accordion_pictures_are_made_as_without_alignit(host: FakeHost, shown: list[str]) -> None:
    plain = host.make(PROMPT).picture
    with without(host, "ui_components"):
        assert parts(host) == PARTS - {"panel"}
        ((message, _),) = host.modules.errors.reported
        assert message.startswith("AlignIT: AlignIT's panel cannot be used with this WebUI: ")
        assert any("AlignIT&#x27;s panel cannot be used" in text for text in shown)
        assert host.make(PROMPT, ON).picture == plain


@pytest.mark.parametrize("module", ["infotext_utils", "hypernetworks", "sd_hijack_open_clip"])
def test_what_is_not_needed_is_not_missed(host: FakeHost, shown: list[str], module: str) -> None:
    given = ON | {"controls": "keys"}  # a layer's inputs are asked for, and no hypernetwork changes them
    wanted = host.make(PROMPT, given).picture
    assert wanted != host.make(PROMPT, ON).picture
    with without(host, module):
        if module == "hypernetworks":
            del host.modules.shared.loaded_hypernetworks
        assert parts(host) == PARTS
        assert host.make(PROMPT, given).picture == wanted
        assert host.modules.errors.reported == []
        assert not [text for text in shown if "cannot be used" in text]


def test_without_the_vocabulary_tokens_are_not_shown(host: FakeHost) -> None:
    encoder = host.model.cond_stage_model
    with without(host, "sd_hijack_open_clip"):
        wanted = host.make(PROMPT, ON)
        ids = encoder.tokenizer.ids
        encoder.tokenize = lambda texts: [ids(text) for text in texts]
        encoder.tokenizer = None
        answered = sys.modules["alignit.webui.ui.panel_concepts"].answer(
            '{"number": 1, "action": "look", "name": null, "lengths": {}}', PROMPT, "", ""
        )
        assert "this WebUI lacks the vocabulary of the model's text encoder" in answered
        made = host.make(PROMPT, ON | {"attention_maps": True})
        assert made.picture == wanted.picture
        *_, comment = made.p.comments
        assert "No attention maps: this WebUI lacks the vocabulary" in comment
        assert host.modules.errors.reported == []


def test_an_unknown_kind_of_host_is_left_alone(
    host: FakeHost, shown: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    prompt = "a my-cat in snow"
    plain = host.make(prompt).picture
    with without(host, "sd_hijack"):
        assert parts(host) == set()
        assert capsys.readouterr().err.count("AlignIT does not know this kind of WebUI") == 1
        assert sum("AlignIT does not know this kind of WebUI" in text for text in shown) == 1
        assert host.make(prompt, ON).picture == plain
        assert host.modules.errors.reported == []


def test_a_setting_that_the_host_does_not_have_counts_as_its_default(host: FakeHost) -> None:
    wanted = host.make(PROMPT, ON)
    options: Any = host.modules.shared.opts
    for name in ("sdxl_clip_l_skip", "fp8_storage", "cache_fp16_weight", "samples_format"):
        delattr(options, name)
    made = host.make(PROMPT, ON)
    assert made.picture == wanted.picture
    assert made.p.comments == []
