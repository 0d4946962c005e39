"""Write the pictures of the README: AlignIT in a real WebUI's page, with the small test checkpoint.

    python -m tools.make_pictures [txt2img] [tab]

Needs what the tests in the browser need: a WebUI and Chromium, and a font with emojis for the WebUI's buttons. The
checkpoint has random weights, so the picture that it makes is abstract.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import torch
from PIL import Image
from playwright.sync_api import Browser, expect
from safetensors.torch import load_file

from alignit.layer_names import layer_of
from tests.formats.writers import save_adapter
from tests.host.browser import NO_BROWSER, Tab, chromium, find_browser
from tests.host.webui import WebUI, find_webui, webui_directory

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
PROMPT = "my-toy, a <new1> dog and a teddy bear in the garden, morning light <delta:my-dog:1> <catversion:teddy_bear>"
CLASS_WORDS = "my-toy=robot"
LAYER = "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2"
CARDS: dict[str, dict[str, object]] = {
    "my-cat": {"class word": "cat", "description": "Our cat, 14 photos, 500 steps."},
    "my-chair": {"class word": "chair", "preferred weight": 0.8, "description": "The green chair."},
    "my-dog": {"class word": "golden retriever", "description": "Indoors and on the lawn."},
    "my-pot": {},
}


def main() -> None:
    """Start the WebUI, and take the screenshots of its page; names say which, none: all."""
    chosen = sys.argv[1:] or list(SUBJECTS)
    if not SUBJECTS.keys() >= set(chosen):
        sys.exit(f"choose of {', '.join(SUBJECTS)}")
    directory, browser_path = find_webui(), find_browser()
    if directory is None:
        sys.exit(f"no WebUI with a venv at {webui_directory()} (set WEBUI_DIR)")
    if browser_path is None:
        sys.exit(NO_BROWSER)
    PICTURES.mkdir(parents=True, exist_ok=True)
    with WebUI(directory, page=True) as webui, chromium(browser_path) as browser:
        for subject in chosen:
            SUBJECTS[subject](webui, browser)


def open_page(webui: WebUI, browser: Browser, height: int) -> Tab:
    """Open the WebUI in a window 1280 wide."""
    page = browser.new_page(viewport={"width": 1280, "height": height}, device_scale_factor=1.5)
    tab = Tab(page)
    tab.open(webui.url)
    return tab


def take_txt2img(webui: WebUI, browser: Browser) -> None:
    """Fill in txt2img with a concept of each method, and write what the page looks like, and the panel in it."""
    train_concepts(webui)
    tab = open_page(webui, browser, 900)
    page = tab.page
    tab.set(width=128, height=128, steps=20, seed=7)
    tab.prompt.fill(PROMPT)
    tab.open_panel()
    tab.class_words.fill(CLASS_WORDS)
    expect(tab.found.get_by_role("listitem")).to_have_count(3)
    tab.expect_concept("my-toy", "textual inversion, 3 vectors", "robot", "from the panel")
    tab.generate(webui.url)
    page.mouse.move(0, 0)
    save("txt2img", page.screenshot(full_page=True, animations="disabled"))
    save("panel", tab.panel.screenshot(animations="disabled"))


def train_concepts(webui: WebUI) -> None:
    """Write files of Custom Diffusion and CatVersion that fit the model, with random numbers."""
    torch.manual_seed(0)
    base = load_file(webui.cache / "checkpoints" / "tiny-sd1.safetensors")
    weights = {name: tensor + 0.01 * torch.randn(tensor.shape) for name, tensor in base.items() if layer_of(name)}
    width = next(iter(weights.values())).shape[1]
    deltas = webui.data / "models" / "deltas"
    deltas.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": {**weights, "embed": 0.1 * torch.randn(1, width)}}, deltas / "my-dog.ckpt")
    adapter = {"control_trans": torch.randn(6 * width)}
    save_adapter(webui.data / "models" / "catversion" / "teddy_bear", adapter, hidden_size=width)


def take_tab(webui: WebUI, browser: Browser) -> None:
    """Put some concepts' files into the folder, click a card, and write what the tab looks like."""
    folder = webui.data / "models" / "deltas"
    folder.mkdir(parents=True, exist_ok=True)
    for number, (name, notes) in enumerate(CARDS.items()):
        state = {f"{LAYER}.to_{letter}.weight": torch.zeros(8, 8) for letter in "kv"}
        torch.save({"state_dict": {**state, "embed": torch.zeros(1, 8)}}, folder / f"{name}.ckpt")
        (folder / f"{name}.json").write_text(json.dumps(notes))
        preview(number).save(folder / f"{name}.png")
    tab = open_page(webui, browser, 840)
    page = tab.page
    page.locator("#txt2img_extra_tabs > .tab-nav button", has_text="Custom Diffusion").click()
    page.locator(".tab-nav #txt2img_custom_diffusion_extra_refresh").click()
    cards = page.locator("#txt2img_custom_diffusion_cards .card")
    expect(cards).to_have_count(len(CARDS))
    for card in cards.locator("img.preview").all():
        expect(card).to_have_js_property("complete", True)
    page.wait_for_function("'extra_networks_add_text_separator' in opts")
    tab.prompt.fill("a photo on the beach of a")
    cards.first.locator(".name").click()
    page.mouse.move(0, 0)
    page.evaluate("scrollTo(0, 0)")
    expect(page.locator("#txt2img_token_counter.prose")).not_to_contain_text("0/75")
    save("tab", page.screenshot(animations="disabled"))


def preview(number: int) -> Image.Image:
    """Return a picture of nothing, in a colour of its own."""
    return Image.new("RGB", (256, 384), f"hsl({(30 + 100 * number) % 360}, 45%, 60%)")


def save(name: str, png: bytes) -> None:
    """Write a screenshot with 256 colours, a third of the size and no less readable."""
    image = Image.open(io.BytesIO(png)).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    image.save(PICTURES / f"{name}.png", optimize=True)


SUBJECTS = {"txt2img": take_txt2img, "tab": take_tab}

if __name__ == "__main__":
    main()
