"""Panel, arguments, info text and paste, X/Y/Z plot and settings, as the host sees them."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

import alignit
from tests.webui.conftest import FakeHost

PROMPT = "a my-cat in snow"
LABELS = [
    "AlignIT",
    "Class words",
    "Strength",
    "Start at",
    "End at",
    "More controls",
    "Compare",
    "Attention maps",
    "Words to map",
]


@pytest.fixture(autouse=True)
def _concept(host: FakeHost) -> None:
    host.add_embedding("my-cat")


def test_the_script_is_what_the_host_looks_for(host: FakeHost) -> None:
    assert host.script.title() == "AlignIT"
    assert host.script.show(is_img2img=True) is host.modules.scripts.AlwaysVisible


def test_arguments_keep_their_order_and_labels(host: FakeHost) -> None:
    assert [component.settings["label"] for component in host.panel] == LABELS
    assert [component.value for component in host.panel] == [False, "", 1.0, 0.0, 1.0, "", False, False, ""]
    assert len({component.settings["elem_id"] for component in host.panel}) == len(LABELS)


def test_the_panels_list_asks_the_server_in_one_call(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    host.script.after_component(prompt := object(), elem_id="txt2img_prompt")
    host.script.after_component(styles := object(), elem_id="txt2img_styles")
    seen: list[dict[str, Any]] = []
    component = importlib.import_module("gradio").Component
    click = component.click
    monkeypatch.setattr(component, "click", lambda self, **event: seen.append(event) or click(self, **event))
    components = host.script.ui(is_img2img=False)
    asked, report = [event for event in seen if event["fn"] is not None]
    assert asked["inputs"][1:] == [prompt, components[1], components[5], styles]
    answer = asked["fn"]('{"number": 3, "action": "look", "lengths": {}}', PROMPT, "my-cat=cat", "", [])
    assert '"number": 3' in answer
    assert '"name": "my-cat"' in answer
    assert report["fn"]().startswith(f"AlignIT: {alignit.__version__}\n")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([True, "", 5.0], "strength must be from 0 to 2, not 5.0"),
        ([True, "", 1.0, 0.8, 0.2], r"start \(0.8\) must not be greater than end \(0.2\)"),
        ([True, 3], "class_words must be text, not 3"),
        ([True, "", True], "strength must be a number from 0 to 2"),
        ({"enabled": True, "strenght": 1}, "has no argument 'strenght'"),
        ({"enabled": True, "controls": "layers left"}, "no layers 'left'"),
    ],
)
def test_wrong_arguments_are_refused_in_the_api_and_said_in_the_page(host: FakeHost, given: Any, said: str) -> None:
    with pytest.raises(Exception, match=said) as caught:
        host.make(PROMPT, given, is_api=True)
    assert caught.value.status_code == 422
    made = host.make(PROMPT, given)
    assert made.picture == host.make(PROMPT).picture
    (comment,) = made.p.comments
    assert "This picture is made without AlignIT." in comment


def test_what_is_off_is_never_wrong(host: FakeHost) -> None:
    assert host.make(PROMPT, [False, 3, "x"], is_api=True).p.comments == []


def test_by_name_and_by_position_are_the_same(host: FakeHost) -> None:
    by_position = host.make(PROMPT, [True, "my-cat=cat", 0.5, 0.2, 0.8, "keys"])
    named = {"class_words": "my-cat=cat", "strength": 0.5, "start": 0.2, "end": 0.8, "controls": "keys"}
    by_name = host.make(PROMPT, {"enabled": True, **named})
    assert by_name.picture == by_position.picture
    assert by_name.info == by_position.info


def test_info_is_pasted_back(host: FakeHost) -> None:
    given = [True, "my-cat=cat", 0.5, 0.2, 0.8, "keys"]
    made = host.make(PROMPT, given)
    pasted = {}
    for component, source in host.script.infotext_fields:
        value = source(made.info) if callable(source) else made.info[source]
        pasted[component.settings["label"]] = type(component.value)(value)
    assert [pasted[label] for label in LABELS[:6]] == given
    off = {c.settings["label"]: s({}) for c, s in host.script.infotext_fields if callable(s)}
    assert off["AlignIT"] is False
    assert len(host.script.paste_field_names) == len(host.script.infotext_fields)


def test_axes_set_arguments_for_one_cell(host: FakeHost) -> None:
    axes = {option.label.removeprefix("[AlignIT] "): option for option in host.xyz.axis_options}
    host.call("before_ui")
    assert len(host.xyz.axis_options) == len(axes), "added once, however often they are offered"
    panel = [False, "my-cat=cat"]
    for name, text, given in [
        ("On or off", "on", [True, "my-cat=cat"]),
        ("Strength", 0.5, [True, "my-cat=cat", 0.5]),
        ("Steps", "0-0.5", [True, "my-cat=cat", 1.0, 0.0, 0.5]),
        ("Controls", "keys", [True, "my-cat=cat", 1.0, 0.0, 1.0, "keys"]),
    ]:
        p = host.p(PROMPT, panel)
        axes[name].confirm(p, [text])
        axes[name].apply(p, text, [text])
        assert host.run(p).picture == host.make(PROMPT, given).picture != host.make(PROMPT, panel).picture
    with pytest.raises(Exception, match="no range of steps"):
        axes["Steps"].confirm(host.p(PROMPT), ["half"])
    with pytest.raises(Exception, match="there is no concept 'your-cat'"):
        axes["Concept"].confirm(host.p(PROMPT), ["my-cat", "your-cat"])


def test_networks_pages_and_settings_are_registered(host: FakeHost) -> None:
    assert {"delta", "catversion"} <= set(host.modules.extra_networks.extra_network_registry)
    assert {page.title for page in host.modules.ui_extra_networks.extra_pages} == {"Custom Diffusion", "CatVersion"}
    labels = host.modules.shared.opts.data_labels
    ours = {name for name, option in labels.items() if option.section == ("alignit", "AlignIT")}
    assert {"alignit_use_suggestions", "alignit_notes_in_info", "alignit_cache_mib"} <= ours


def test_a_network_whose_file_is_missing_is_said(host: FakeHost) -> None:
    made = host.make(f"{PROMPT} <delta:nothing:1>")
    assert made.picture == host.make(f"{PROMPT} ").picture
    assert any("'nothing' is not in the folder" in comment for comment in made.p.comments)
