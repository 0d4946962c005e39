"""A new control is one declaration, and so is a new argument: see new_control/scripts/new_control.py."""

from __future__ import annotations

import base64
import json

import pytest
from playwright.sync_api import BrowserContext, expect

from tests.host.browser import opened
from tests.host.conftest import Servers
from tests.host.test_axes import labels, plot
from tests.host.webui import ALIGNIT, Picture, WebUI

PROMPT = "a photo of my-cat in snow"


@pytest.fixture
def new_host(servers: Servers) -> WebUI:
    return servers.get("new_host", page=True, extensions=(ALIGNIT / "tests" / "host" / "new_control",))


def test_the_host_lists_the_argument_last(new_host: WebUI, page_host: WebUI) -> None:
    def arguments(host: WebUI) -> list[dict[str, object]]:
        scripts = host.get("/sdapi/v1/script-info")
        return next(item["args"] for item in scripts if item["name"] == "alignit" and not item["is_img2img"])

    *known, new = arguments(new_host)
    assert known == arguments(page_host)
    assert (new["label"], new["value"], new["minimum"], new["maximum"], new["step"]) == ("Grain", 0.5, 0, 3, 0.5)


def test_the_schema_has_both(new_host: WebUI, page_host: WebUI) -> None:
    new, known = (host.get("/alignit/v1/about") for host in (new_host, page_host))
    names = list(new["arguments"]["properties"])
    assert names == [*known["arguments"]["properties"], "grain"]
    assert new["arguments"]["properties"]["grain"] == {
        "type": "number",
        "title": "Grain",
        "description": "For this test.",
        "default": 0.5,
        "minimum": 0,
        "maximum": 3,
    }
    assert new["options"] == [*known["options"], {"written": "`calm 0.5`", "strength": "", "meaning": "for this test"}]


def test_both_are_read_written_and_refused(new_host: WebUI) -> None:
    by_name = new_host.txt2img(PROMPT, alignit=[{"enabled": True, "class_words": "cat", "grain": 2}])[0]
    by_position = new_host.txt2img(PROMPT, alignit=[True, "cat", 1, 0, 1, "", False, False, "", 2])[0]
    for picture in (by_name, by_position):
        assert "AlignIT grain: 2.0" in picture.infotext
    unchanged = new_host.txt2img(PROMPT, alignit=[True, "cat"])[0]
    assert "grain" not in unchanged.infotext
    assert unchanged == by_name
    said = new_host.txt2img("a <my-cat=cat; calm 0.5> in snow", alignit=[True]).info["extra_generation_params"]
    assert said["AlignIT class words"] == "my-cat=cat; calm 0.5"
    assert "AlignIT note" not in said
    with pytest.raises(Exception, match="grain must be from 0 to 3, not 4"):
        new_host.txt2img(PROMPT, alignit=[{"enabled": True, "grain": 4}])
    with pytest.raises(
        Exception, match=r"'calm 2' is no option: there are strength 0.5, .*, class word, calm 0.5, with"
    ):
        new_host.txt2img(PROMPT, alignit=[{"enabled": True, "controls": "calm 2"}])
    new_host.exceptions(clear=True)


def test_both_are_axes(new_host: WebUI) -> None:
    assert {"[AlignIT] Grain", "[AlignIT] Calm"} <= set(labels(new_host))
    pictures = plot(new_host, ("[AlignIT] Grain", "1, 2"), ("[AlignIT] Calm", "0.1, 0.2"), alignit=[True, "cat"])
    written = [(f"AlignIT grain: {grain}", f"calm {calm}") for calm in (0.1, 0.2) for grain in (1.0, 2.0)]
    for picture, parts in zip(pictures, written, strict=True):
        assert all(part in picture.infotext for part in parts)


def test_the_panel_has_the_field_and_pasting_restores_it(new_host: WebUI, browser: BrowserContext) -> None:
    grainy = new_host.txt2img(PROMPT, alignit=[{"enabled": True, "class_words": "cat", "grain": 2}])[0]
    plain = new_host.txt2img(PROMPT, alignit=[True, "cat"])[0]
    with opened(browser, new_host.url) as tab:
        tab.open_panel()
        expect(tab.number("grain")).to_have_value("0.5")
        expect(tab.part("grain")).to_have_attribute("title", "How grainy it is.")
        tab.paste(grainy.infotext)
        expect(tab.number("grain")).to_have_value("2")
        tab.paste(plain.infotext)
        expect(tab.number("grain")).to_have_value("0.5")
    again = new_host.post("/sdapi/v1/txt2img", {"infotext": grainy.infotext})
    assert "AlignIT grain: 2.0" in json.loads(again["info"])["infotexts"][0]
    assert Picture(base64.b64decode(again["images"][0]), "") == grainy
