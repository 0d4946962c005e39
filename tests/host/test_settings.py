"""AlignIT's settings, as the host's own pages keep them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, expect

from tests.host.browser import opened
from tests.host.webui import WebUI

PROMPT = "a photo of my-cat on the moon"
NOTE = "'my-cat' has no class word"


@pytest.fixture(scope="module")
def set_host(webui_dir: Path) -> Iterator[WebUI]:
    """A WebUI in which someone has kept defaults of the panel, and does not want notes in the pictures' info."""
    host = WebUI(webui_dir, page=True, config={"alignit_notes_in_info": False})
    panel = "customscript/alignit.py/txt2img"
    kept = {f"{panel}/Class words/value": "my-dog=dog", f"{panel}/Strength/value": 0.5}
    (host.data / "ui-config.json").write_text(json.dumps(kept))
    with host:
        yield host


def test_the_panel_starts_with_the_defaults_that_the_host_keeps(set_host: WebUI, browser: BrowserContext) -> None:
    with opened(browser, set_host.url) as tab:
        tab.open_panel()
        expect(tab.class_words).to_have_value("my-dog=dog")
        expect(tab.number("strength")).to_have_value("0.5")


def test_notes_stay_out_of_the_info_but_not_out_of_sight(set_host: WebUI, browser: BrowserContext) -> None:
    with opened(browser, set_host.url) as tab:
        tab.prompt.fill(PROMPT)
        tab.checkbox.check()
        picture = tab.generate(set_host.url)
        expect(tab.comments).to_contain_text(NOTE)
        assert NOTE not in picture.infotext
    assert NOTE in set_host.txt2img(PROMPT, alignit=[True]).info["extra_generation_params"]["AlignIT note"]


def test_the_section_says_what_is_set_where(set_host: WebUI, browser: BrowserContext) -> None:
    with opened(browser, set_host.url) as tab:
        tab.page.locator("#tabs > .tab-nav button", has_text="Settings").click()
        tab.page.locator("#settings > .tab-nav button", has_text="AlignIT").click()
        section = tab.page.locator("#settings_alignit")
        expect(section).to_contain_text("Settings, Other, Defaults")
        for name in ("use_suggestions", "notes_in_info", "cache_mib", "deltas_folder", "catversion_folder"):
            expect(section.locator(f"#setting_alignit_{name}")).to_be_visible()
