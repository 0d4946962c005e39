"""Write the pictures of the README: AlignIT in a real WebUI's page, with the small test checkpoint.

    python -m tools.make_pictures

Needs what the tests in the browser need: a WebUI and Chromium, and a font with emojis for the WebUI's buttons. The
checkpoint has random weights, so the picture that it makes is abstract.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, expect

from tests.host.browser import NO_BROWSER, Tab, chromium, find_browser
from tests.host.webui import WebUI, find_webui, webui_directory

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
PROMPT = "a photo of <my-cat=cat> playing with my-toy in the garden, soft morning light"
CLASS_WORDS = "my-toy=robot"


def main() -> None:
    """Start the WebUI, make a picture in its page, and take both screenshots."""
    directory, browser_path = find_webui(), find_browser()
    if directory is None:
        sys.exit(f"no WebUI with a venv at {webui_directory()} (set WEBUI_DIR)")
    if browser_path is None:
        sys.exit(NO_BROWSER)
    PICTURES.mkdir(parents=True, exist_ok=True)
    with WebUI(directory, page=True) as webui, chromium(browser_path) as browser:
        take_pictures(webui, browser)


def take_pictures(webui: WebUI, browser: Browser) -> None:
    """Fill in txt2img as a user does, and write what the page looks like."""
    page = browser.new_page(viewport={"width": 1280, "height": 900}, device_scale_factor=1.5)
    tab = Tab(page)
    tab.open(webui.url)
    tab.set(width=128, height=128, steps=20, seed=7)
    tab.prompt.fill(PROMPT)
    tab.open_panel()
    tab.class_words.fill(CLASS_WORDS)
    expect(tab.found.locator("p")).to_have_count(2)
    expect(tab.found).to_contain_text("robot, from the panel")
    tab.generate(webui.url)
    page.mouse.move(0, 0)
    save("txt2img", page.screenshot(full_page=True, animations="disabled"))
    save("panel", tab.panel.screenshot(animations="disabled"))


def save(name: str, png: bytes) -> None:
    """Write a screenshot with 256 colours, a third of the size and no less readable."""
    image = Image.open(io.BytesIO(png)).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    image.save(PICTURES / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
