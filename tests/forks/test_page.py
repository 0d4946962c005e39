"""The page of the hosts with gradio 4: the panel, its live list, Compare, a map, a concept of each method."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Locator, expect

from tests.host.browser import NO_BROWSER, Tab, chromium, find_browser, watch_errors
from tests.host.kinds import Kind
from tests.host.webui import WebUI

WAIT = 120_000  # milliseconds; these models take seconds for a step on a busy computer
METHODS = {
    "a photo of a <my-cat=cat> in the snow": ("my-cat", "textual inversion, 4 vectors", "cat"),
    "a <new1> robot in the snow <delta:my-robot:1>": ("<new1>", "Custom Diffusion, 1 vector", "robot"),
    "a <my_car=car> in the snow <catversion:my_car>": ("my_car", "CatVersion", "car"),
}


@pytest.fixture
def tab(kind: Kind, fork: WebUI) -> Iterator[Tab]:
    """txt2img of a host with gradio 4; the page may print no error until it is closed."""
    if not kind.engines:
        pytest.skip("its page is the WebUI's, with gradio 3: tests/host")
    path = find_browser()
    if path is None:
        pytest.skip(NO_BROWSER)
    with chromium(path) as browser:
        tab, errors = open_tab(browser, fork)
        yield tab
        assert not errors


def open_tab(browser: Browser, fork: WebUI) -> tuple[Tab, list[str]]:
    expect.set_options(timeout=WAIT)
    page = browser.new_page(viewport={"width": 1280, "height": 1100}, device_scale_factor=1.5)
    page.set_default_timeout(WAIT)
    errors = watch_errors(page)
    tab = Tab(page)
    tab.open(fork.url)
    tab.panel.wait_for()
    tab.set(width=64, height=64, steps=2, seed=3)
    return tab, errors


def generate(tab: Tab) -> str:
    """Press Generate, wait for the end, and return what stands under the picture."""
    interrupt = tab.page.locator(f"#{tab.name}_interrupt")
    tab.page.locator(f"#{tab.name}_generate").click()
    expect(interrupt).to_be_visible()
    expect(interrupt).to_be_hidden()
    expect(tab.info).to_contain_text("Steps: ")
    return tab.info.inner_text()


def thumbnails(tab: Tab) -> Locator:
    return tab.page.locator(f"#{tab.name}_gallery .thumbnail-small img")


def test_the_page(tab: Tab) -> None:
    tab.prompt.fill("a photo of a my-cat with a ball")
    tab.open_panel()
    expect(tab.concept("my-cat").get_by_role("button", name=re.compile("^Use "))).not_to_have_count(0)
    tab.word("my-cat").fill("cat")
    tab.word("my-cat").press("Enter")
    tab.expect_concept("my-cat", "textual inversion, 4 vectors", "cat", "from the panel")
    info = generate(tab)
    assert "AlignIT class words: my-cat=cat" in info
    assert "AlignIT note" not in info

    for name in ("compare", "attention_maps"):
        tab.part(name).locator("input").first.check()
    assert "AlignIT note" not in generate(tab)
    expect(thumbnails(tab)).to_have_count(7)  # the grid, its three pictures, and a sheet for each of them
    for name in ("compare", "attention_maps"):
        tab.part(name).locator("input").first.uncheck()

    tab.class_words.fill("")
    for prompt, (name, method, word) in METHODS.items():
        tab.prompt.fill(prompt)
        tab.expect_concept(name, method, word, "from the prompt")
        info = generate(tab)
        assert f"{name}={word}" in info
        assert "AlignIT note" not in info

    tab.page.locator(f"#{tab.name}_tools button").first.wait_for()
    text = "a photo of a my-car\nSteps: 2, Seed: 5, Size: 64x64, AlignIT class words: my-car=car, AlignIT strength: 0.5"
    tab.paste(text)
    expect(tab.number("strength")).to_have_value("0.5")
    expect(tab.class_words).to_have_value("my-car=car")

    for title in ("Custom Diffusion", "CatVersion"):
        tab.page.get_by_role("tab", name=title, exact=True).first.click()
        cards = tab.page.locator(f"#{tab.name}_{title.lower().replace(' ', '_')}_cards .card")
        expect(cards).to_have_count(4)
