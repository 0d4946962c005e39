"""AlignIT as a person uses it, in the WebUI's own page."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from playwright.sync_api import BrowserContext, Route, expect

import alignit
from tests.host.browser import Tab, opened
from tests.host.webui import Picture, WebUI

PROMPT = "a photo of my-cat on the moon"
PAGE = {"sampler_name": "DPM++ 2M", "cfg_scale": 7}  # what the page starts with


@pytest.fixture
def tab(browser: BrowserContext, page_host: WebUI) -> Iterator[Tab]:
    with opened(browser, page_host.url) as tab:
        yield tab
    for sidecar in page_host.embeddings.glob("*.json"):
        sidecar.unlink()


def test_from_the_prompt_to_the_picture_and_back(page_host: WebUI, tab: Tab) -> None:
    tab.prompt.fill(PROMPT)
    tab.open_panel()
    tab.expect_concept("my-cat", "textual inversion, 1 vector", "", "no class word: used as a plain embedding")
    expect(tab.concept("my-cat")).to_contain_text(re.compile(r"Nearest nouns\s+Use \w+\s+Use \w+"))
    tab.class_words.press_sequentially("my-cat=golden retriever")
    tab.expect_concept("my-cat", "textual inversion, 1 vector", "golden retriever", "from the panel")
    for name, value in {"strength": "0.8", "start": "0.25", "end": "0.75"}.items():
        tab.number(name).fill(value)
    picture = tab.generate(page_host.url)

    expect(tab.prompt).to_have_value(PROMPT)
    expect(tab.comments).to_be_empty()
    assert picture.infotext.splitlines()[0].strip() == PROMPT
    wanted = (
        "AlignIT class words: my-cat=golden retriever, AlignIT strength: 0.8, AlignIT start: 0.25, AlignIT end: 0.75"
    )
    assert wanted in picture.infotext
    assert wanted in picture.png_info
    over_api = page_host.txt2img(PROMPT, **PAGE, alignit=[True, "my-cat=golden retriever", 0.8, 0.25, 0.75])[0]
    assert picture == over_api
    assert picture.png_info == over_api.png_info.replace("CFG scale: 7.0", "CFG scale: 7")
    assert picture != page_host.txt2img(PROMPT, **PAGE)[0]

    tab.open(page_host.url)
    expect(tab.checkbox).not_to_be_checked()
    tab.paste(picture.infotext)
    expect(tab.checkbox).to_be_checked()
    tab.expect_concept("my-cat", "textual inversion, 1 vector", "golden retriever", "from the panel")
    expect(tab.prompt).to_have_value(PROMPT)
    expect(tab.class_words).to_have_value("my-cat=golden retriever")
    expect(tab.number("strength")).to_have_value("0.8")
    expect(tab.number("start")).to_have_value("0.25")
    expect(tab.number("end")).to_have_value("0.75")
    again = tab.generate(page_host.url)
    assert again == picture
    assert again.infotext == picture.infotext

    plain = page_host.txt2img(PROMPT, **PAGE)[0]
    tab.paste(plain.infotext)
    expect(tab.checkbox).not_to_be_checked()
    assert tab.generate(page_host.url) == plain


def test_png_info_sends_a_picture_to_both_tabs(page_host: WebUI, tab: Tab, tmp_path: Path) -> None:
    prompt = "a photo of <my-cat=cat> on the moon"
    picture = page_host.txt2img(prompt, **PAGE, alignit=[True, "", 0.5])[0]
    file = tmp_path / "picture.png"
    file.write_bytes(picture.png)
    for name in ("txt2img", "img2img"):
        target = Tab(tab.page, name)
        tab.page.locator("#tabs > .tab-nav button", has_text="PNG Info").click()
        if name == "txt2img":
            tab.page.locator("#pnginfo_image input[type=file]").set_input_files(file)
        expect(tab.page.locator("#tab_pnginfo")).to_contain_text("AlignIT strength")
        tab.page.locator("#tab_pnginfo").get_by_role("button", name=f"Send to {name}").click()
        expect(target.prompt).to_be_visible()
        expect(target.prompt).to_have_value(prompt)
        expect(target.checkbox).to_be_checked()
        expect(target.number("strength")).to_have_value("0.5")
        target.expect_concept("my-cat", "textual inversion, 1 vector", "cat", "from the prompt")
        made = target.generate(page_host.url)
        assert "AlignIT class words: my-cat=cat, AlignIT strength: 0.5" in made.infotext
        assert made.infotext.splitlines()[0].strip() == prompt
        assert (made == picture) == (name == "txt2img")


def test_send_to_img2img_takes_alignit_along(page_host: WebUI, tab: Tab) -> None:
    tab.prompt.fill(PROMPT)
    tab.open_panel()
    tab.class_words.fill("my-cat=cat")
    picture = tab.generate(page_host.url)
    tab.page.locator("#txt2img_send_to_img2img").click()
    img2img = Tab(tab.page, "img2img")
    expect(img2img.prompt).to_be_visible()
    expect(img2img.prompt).to_have_value(PROMPT)
    expect(img2img.checkbox).to_be_checked()
    expect(img2img.class_words).to_have_value("my-cat=cat")
    expect(tab.page.locator("#img2img_image img").first).to_be_visible()
    changed = img2img.generate(page_host.url)
    assert "AlignIT class words: my-cat=cat" in changed.infotext
    assert changed != picture
    over_api = page_host.img2img(PROMPT, init=picture, **PAGE, denoising_strength=0.75, alignit=[True, "my-cat=cat"])[0]
    assert changed == over_api


def test_without_a_class_word_the_page_says_so_under_the_picture(page_host: WebUI, tab: Tab) -> None:
    tab.prompt.fill(PROMPT)
    tab.checkbox.check()
    picture = tab.generate(page_host.url)
    expect(tab.comments).to_contain_text("AlignIT: 'my-cat' has no class word, so it is used as a plain embedding.")
    assert picture == page_host.txt2img(PROMPT, **PAGE)[0]
    assert "AlignIT class words" not in picture.infotext


def test_the_panel_follows_the_prompt_and_the_class_words(tab: Tab) -> None:
    tab.prompt.fill("a photo of <b>the moon</b>")
    tab.page.wait_for_timeout(1000)  # longer than the panel waits for the end of typing
    assert tab.found.text_content() == "", "the server was asked while AlignIT was off"
    tab.open_panel()
    expect(tab.found).to_have_text("No concept in the prompt.")
    tab.prompt.fill(f"{PROMPT} with <my-toy=robot> and my-dog")
    tab.class_words.fill("my-cat=")
    expect(tab.found.get_by_role("alert")).to_contain_text("The class word in 'my-cat=' is empty")

    tab.class_words.fill("my-dog=dog")
    tab.press("Suggest class words")
    expect(tab.class_words).to_have_value(re.compile(r"^my-dog=dog, my-cat=\w+$"))
    noun = tab.class_words.input_value().rpartition("=")[2]
    expect(tab.found.get_by_role("listitem")).to_have_count(3)
    tab.expect_concept("my-cat", "textual inversion, 1 vector", noun, "from the panel")
    tab.expect_concept("my-toy", "textual inversion, 3 vectors", "robot", "from the prompt")
    tab.expect_concept("my-dog", "textual inversion, 1 vector", "dog", "from the panel")
    assert "nearest noun" in (tab.part("suggest").get_attribute("title") or "")


def test_attention_maps_behind_the_pictures(page_host: WebUI, tab: Tab) -> None:
    tab.prompt.fill(PROMPT)
    tab.open_panel()
    tab.class_words.fill("my-cat=cat")
    tab.part("attention_maps").locator("input").check()
    tab.part("map_words").locator("textarea").fill("moon, zebra")
    picture = tab.generate(page_host.url)
    arguments = {"enabled": True, "class_words": "my-cat=cat", "attention_maps": True, "map_words": "moon, zebra"}
    over_api = page_host.txt2img(PROMPT, **PAGE, alignit=[arguments])
    assert picture == over_api[0]
    expect(tab.comments).to_contain_text("No attention map of 'zebra', which is not in the prompt")
    thumbnails = tab.page.locator("#txt2img_gallery .thumbnail-small")
    expect(thumbnails).to_have_count(2)
    thumbnails.last.click()
    expect(tab.info).to_contain_text("AlignIT class words: my-cat=cat")
    assert "sheet" in (tab.part("attention_maps").get_attribute("title") or "")


def test_remembered_class_words_survive_the_metadata_editor(page_host: WebUI, tab: Tab) -> None:
    sidecar = page_host.embeddings / "my-cat.json"
    extra = tab.page.locator("#txt2img_extra_tabs > .tab-nav button")
    extra.get_by_text("Textual Inversion").click()
    card = tab.page.locator("#txt2img_textual_inversion_cards .card[data-name=my-cat]")
    expect(card).to_be_visible()
    extra.get_by_text("Generation").click()

    tab.prompt.fill(PROMPT)
    tab.open_panel()
    tab.class_words.fill("my-cat=cat")
    tab.press("Remember class words")
    expect(tab.found).to_contain_text("Remembered: my-cat = cat")
    assert json.loads(sidecar.read_text()) == {"class word": "cat"}
    tab.class_words.fill("")
    tab.expect_concept("my-cat", "textual inversion, 1 vector", "cat", "remembered")

    # The cards were listed before the class word was remembered, and are not refreshed.
    extra.get_by_text("Textual Inversion").click()
    card.hover()
    card.locator(".edit-button").click()
    editor = tab.page.locator("#txt2img_textual_inversion_edit_user_metadata")
    expect(editor.locator(".extra-network-name").last).to_contain_text("my-cat")
    editor.get_by_label("Description").fill("Our cat.")
    editor.get_by_role("button", name="Save").click()
    expect(editor).to_be_hidden()
    expect(card).to_contain_text("Our cat.")
    metadata = json.loads(sidecar.read_text())
    assert metadata["class word"] == "cat"
    assert metadata["description"] == "Our cat."

    extra.get_by_text("Generation").click()
    picture = tab.generate(page_host.url)
    assert "AlignIT class words: my-cat=cat" in picture.infotext


def test_the_report_is_copied(page_host: WebUI, browser: BrowserContext, tab: Tab) -> None:
    browser.grant_permissions(["clipboard-read", "clipboard-write"])
    try:
        tab.open_panel()
        expect(tab.found).to_have_text("No concept in the prompt.")  # the list's own status comes first
        expect(tab.part("version").and_(tab.page.locator(".prose"))).to_have_text(f"AlignIT {alignit.__version__}")
        button = tab.panel.get_by_role("button", name="Copy report", exact=True)
        assert "No prompts" in (button.get_attribute("title") or "")
        tab.part("map_words").locator("textarea").focus()
        tab.page.keyboard.press("Tab")
        expect(button).to_be_focused()
        tab.page.keyboard.press("Enter")
        expect(tab.found.get_by_role("status")).to_have_text("The report is copied.")
        copied = tab.page.evaluate("navigator.clipboard.readText()")
        wanted = requests.get(f"{page_host.url}/alignit/v1/report", params={"format": "text"}, timeout=60).text
        assert copied.splitlines() == wanted.splitlines()
        assert copied.startswith(f"AlignIT: {alignit.__version__}\n")

        # Without https the page of another machine has no clipboard; and then a browser can forbid the other way too.
        tab.page.evaluate("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
        tab.page.evaluate("document.execCommand = () => false")
        button.click()
        field = tab.panel.get_by_role("textbox", name="Report", exact=True)
        expect(field).to_be_focused()
        expect(tab.found.get_by_role("status")).to_have_text("Copy the report from the field below.")
        assert field.input_value().splitlines() == wanted.splitlines()
    finally:
        browser.clear_permissions()


def test_after_reload_ui_the_panel_is_there_once_and_works(webui_dir: Path, browser: BrowserContext) -> None:
    # A server of its own: one that the host fails to start again must not take other tests with it.
    with WebUI(webui_dir, page=True) as host, opened(browser, host.url) as tab:
        expected = host.txt2img(PROMPT, **PAGE, alignit=[True, "my-cat=cat"])[0]
        starts = host.log.count("Startup time:")

        def hold_back_until_started(route: Route) -> None:
            # A request in the middle of its start breaks the WebUI: it adds middleware, which a used application
            # refuses.
            if host.log.count("Startup time:") > starts:
                route.continue_()
            else:
                route.abort()

        tab.page.route("**/internal/ping", hold_back_until_started)
        tab.page.locator("#footer").get_by_text("Reload UI").click()
        expect(tab.page.get_by_text("Reloading")).to_be_visible()
        tab.page.route("**/*", hold_back_until_started)
        tab.wait_until_ready()
        for name in ("txt2img", "img2img"):
            expect(Tab(tab.page, name).panel).to_have_count(1)
        expect(tab.page.locator(".input-accordion > .label-wrap", has_text="AlignIT")).to_have_count(2)
        for title in ("Custom Diffusion", "CatVersion"):
            expect(tab.page.locator("#txt2img_extra_tabs > .tab-nav button", has_text=title)).to_have_count(1)
        tab.set(width=64, height=64, steps=4, seed=1)
        tab.prompt.fill(PROMPT)
        tab.open_panel()
        tab.class_words.fill("my-cat=cat")
        tab.expect_concept("my-cat", "textual inversion, 1 vector", "cat", "from the panel")
        picture: Picture = tab.generate(host.url)
        assert picture == expected
        assert picture == host.txt2img(PROMPT, **PAGE, alignit=[True, "my-cat=cat"])[0]
        assert not host.exceptions()
