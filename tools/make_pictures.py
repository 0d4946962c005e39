"""Write the pictures of the README and docs: AlignIT in a real host, with the miniature and its trained concepts.

    python -m tools.make_pictures [NAME ...]

Needs what the tests in the browser need: a WebUI and Chromium, and a font with emojis for the WebUI's buttons. That of
Forge Neo, ``neo``, is made where it is named, as it needs that host.
"""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Locator, expect

from miniature.concepts import CONCEPTS, CONCEPTS_FOLDER
from miniature.grids import draw_grid
from tests.forks.conftest import make
from tests.forks.test_page import generate, open_tab
from tests.host.browser import NO_BROWSER, Tab, chromium, find_browser
from tests.host.kinds import NEO, WEBUI
from tests.host.miniature import SIZE, add_concepts
from tests.host.webui import WebUI, find_webui

FORK = "neo"  # the picture of Forge Neo
PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
# Concepts that are put on too thickly: what users mend by lowering the strength until the concept is gone too.
EFFECTS = (
    ("a photo of <new1> fish wearing a hat with a box at night <delta:my-fish:3.5>", 12),
    ("a photo of <new1> car wearing a crown with a ball in the snow <delta:my-car:3.5>", 11),
    ("a photo of <new1> fish wearing a crown with a tree on the beach <delta:my-fish:3.5>", 12),
)
METHODS = (
    ("a photo of a <my-fish=fish> wearing a hat with a ball in the snow", "Textual Inversion"),
    ("a photo of a <new1> robot wearing a crown with a tree on the beach <delta:my-robot:1>", "Custom Diffusion"),
    ("a photo of a <my_car=car> wearing a hat with a box at night <catversion:my_car>", "CatVersion"),
)
THREE = "a photo of my-fish and a <new1> robot and a cat in the garden <delta:my-robot:1> <catversion:my_cat>"
MAPPED = "a photo of a red car wearing a hat with a ball in the snow"
DESCRIPTIONS = {
    "my-cat": "Purple with yellow checks.",
    "my-fish": "Red with white spots.",
    "my-car": "Yellow with black stripes.",
    "my-robot": "Orange with blue stripes.",
}


def main() -> None:
    """Start the host, and make the pictures; names say which, none: all of the WebUI's."""
    chosen = sys.argv[1:] or list(SUBJECTS)
    if not {*SUBJECTS, FORK} >= set(chosen):
        sys.exit(f"choose of {', '.join(SUBJECTS)}, {FORK}")
    browser_path = find_browser()
    if browser_path is None:
        sys.exit(NO_BROWSER)
    PICTURES.mkdir(parents=True, exist_ok=True)
    if FORK in chosen:
        take_fork(browser_path)
    of_webui = [name for name in chosen if name in SUBJECTS]
    if of_webui:
        take_webui(of_webui, browser_path)


def take_webui(chosen: Sequence[str], browser_path: str) -> None:
    """Make pictures in the WebUI."""
    directory = find_webui()
    if directory is None:
        sys.exit(WEBUI.missing)
    webui = WebUI(directory, page=True)
    add_concepts(webui)
    add_cards(webui)
    with webui, chromium(browser_path) as browser:
        for subject in chosen:
            SUBJECTS[subject](webui, browser)


def take_fork(browser_path: str) -> None:
    """Compare concepts of all methods in Forge Neo, with attention maps, and write what its page looks like."""
    directory = NEO.find()
    if directory is None:
        sys.exit(NEO.missing)
    with make(NEO, directory) as fork, chromium(browser_path) as browser:
        fork.txt2img("a cat")  # it loads the model, and the embeddings with it, for the first picture
        tab, _ = open_tab(browser, fork)
        tab.set(width=128, height=128, steps=12, cfg_scale=SIZE["cfg_scale"])
        tab.prompt.fill(THREE)
        tab.open_panel()
        tab.class_words.fill("my-fish=fish")
        expect(tab.found.get_by_role("listitem")).to_have_count(3)
        tab.part("attention_maps").locator("input").first.check()
        generate(tab)
        tab.page.mouse.move(0, 0)
        save(FORK, tab.page.screenshot(full_page=True, animations="disabled"))


def add_cards(webui: WebUI) -> None:
    """Give the Custom Diffusion files a class word, a description and a picture, as a user would."""
    for file in (webui.data / "models" / "deltas").glob("*.ckpt"):
        spec = next(spec for spec in CONCEPTS if spec.name == file.stem)
        notes = {"class word": spec.look.kind, "description": DESCRIPTIONS[spec.name]}
        file.with_suffix(".json").write_text(json.dumps(notes))
        picture = Image.open(CONCEPTS_FOLDER / "pictures" / spec.name / "0.png")
        enlarged(picture, 4).save(file.with_suffix(".png"))


def open_page(webui: WebUI, browser: Browser, height: int) -> Tab:
    """Open the WebUI in a window 1280 wide, set to the miniature's size."""
    page = browser.new_page(viewport={"width": 1280, "height": height}, device_scale_factor=1.5)
    tab = Tab(page)
    tab.open(webui.url)
    tab.set(width=SIZE["width"], height=SIZE["height"], steps=SIZE["steps"], cfg_scale=SIZE["cfg_scale"], seed=1)
    return tab


def take_effect(webui: WebUI, _browser: Browser) -> None:
    """Compare class word, concept and AlignIT, and write the pictures side by side."""
    labels = [re.sub(r"<new1> \w+", "my-concept", re.sub(" <delta.*", "", prompt)) for prompt, _ in EFFECTS]
    save_comparison(webui, "effect", EFFECTS, labels)


def take_methods(webui: WebUI, _browser: Browser) -> None:
    """Compare the same for a concept of each method, as it was trained."""
    labels = [f"{method}: {re.sub(' <(delta|catversion):.*', '', prompt)}" for prompt, method in METHODS]
    save_comparison(webui, "methods", [(prompt, 1) for prompt, _ in METHODS], labels)


def save_comparison(webui: WebUI, name: str, prompts: Sequence[tuple[str, int]], labels: Sequence[str]) -> None:
    """Write a grid of Compare's pictures: a row for each prompt and seed."""
    rows = []
    for prompt, seed in prompts:
        pictures = webui.txt2img(prompt, **SIZE, seed=seed, alignit=[{"enabled": True, "compare": True}])
        rows.append([enlarged(picture.image, 2) for picture in pictures[1:4]])
    save_image(name, draw_grid(("class word alone", "concept alone", "AlignIT"), labels, rows))


def take_txt2img(webui: WebUI, browser: Browser) -> None:
    """Fill in txt2img with a concept of each method, and write what the page looks like, and the panel in it."""
    tab = open_page(webui, browser, 900)
    page = tab.page
    tab.prompt.fill(THREE)
    tab.open_panel()
    tab.class_words.fill("my-fish=fish")
    expect(tab.found.get_by_role("listitem")).to_have_count(3)
    tab.expect_concept("my-fish", "textual inversion, 4 vectors", "fish", "from the panel")
    tab.generate(webui.url)
    page.mouse.move(0, 0)
    save("txt2img", page.screenshot(full_page=True, animations="disabled"))
    tab.concept("my_cat").get_by_role("button", name="my_cat", exact=True).hover()  # the last: it covers no other
    page.wait_for_timeout(500)
    save("panel", tab.panel.screenshot(animations="disabled"))


def take_compare(webui: WebUI, browser: Browser) -> None:
    """Compare in the page, two pictures of it, and write the gallery with the grid."""
    tab = open_page(webui, browser, 900)
    tab.set(batch_size=2)
    tab.prompt.fill(EFFECTS[0][0])
    tab.open_panel()
    tab.panel.get_by_label("Compare").check()
    tab.generate(webui.url)
    expect(tab.pictures.first).to_be_visible()
    save("compare", gallery(tab).screenshot(animations="disabled"))


def take_maps(webui: WebUI, _browser: Browser) -> None:
    """Make a picture with attention maps, and write the sheet that follows it."""
    arguments = {"enabled": True, "attention_maps": True, "map_words": "red, car, hat, ball, snow"}
    pictures = webui.txt2img(MAPPED, **SIZE, seed=3, alignit=[arguments])
    save_image("maps", pictures[-1].image.convert("RGB"))


def take_tab(webui: WebUI, browser: Browser) -> None:
    """Click a card of the Custom Diffusion tab, and write what the tab looks like."""
    tab = open_page(webui, browser, 840)
    page = tab.page
    page.locator("#txt2img_extra_tabs > .tab-nav button", has_text="Custom Diffusion").click()
    page.locator(".tab-nav #txt2img_custom_diffusion_extra_refresh").click()
    cards = page.locator("#txt2img_custom_diffusion_cards .card")
    expect(cards).to_have_count(len(list((webui.data / "models" / "deltas").glob("*.ckpt"))))
    for card in cards.locator("img.preview").all():
        expect(card).to_have_js_property("complete", True)
    page.wait_for_function("'extra_networks_add_text_separator' in opts")
    tab.prompt.fill("a photo on the beach of a")
    cards.first.locator(".name").click()
    page.mouse.move(0, 0)
    page.evaluate("scrollTo(0, 0)")
    expect(page.locator("#txt2img_token_counter.prose")).not_to_contain_text("0/75")
    save("tab", page.screenshot(animations="disabled"))


def take_settings(webui: WebUI, browser: Browser) -> None:
    """Open AlignIT's section of the settings, and write what it looks like."""
    page = open_page(webui, browser, 700).page
    page.locator("#tabs > .tab-nav button", has_text="Settings").click()
    page.locator("#settings > .tab-nav button", has_text="AlignIT").click()
    section = page.locator("#settings_alignit")
    expect(section).to_be_visible()
    save("settings", section.screenshot(animations="disabled"))


def gallery(tab: Tab) -> Locator:
    """Return the gallery of a tab, with what stands under it."""
    return tab.page.locator(f"#{tab.name}_results")


def enlarged(picture: Image.Image, times: int) -> Image.Image:
    """Return a picture with its pixels enlarged smoothly."""
    size = picture.width * times, picture.height * times
    return picture.convert("RGB").resize(size, Image.Resampling.BICUBIC)


def save(name: str, png: bytes) -> None:
    """Write a screenshot."""
    save_image(name, Image.open(io.BytesIO(png)).convert("RGB"))


def save_image(name: str, image: Image.Image) -> None:
    """Write a picture with 256 colours, a third of the size and no less readable."""
    image.quantize(256, dither=Image.Dither.NONE).save(PICTURES / f"{name}.png", optimize=True)


SUBJECTS = {
    "effect": take_effect,
    "methods": take_methods,
    "txt2img": take_txt2img,
    "compare": take_compare,
    "maps": take_maps,
    "tab": take_tab,
    "settings": take_settings,
}

if __name__ == "__main__":
    main()
