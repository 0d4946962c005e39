"""The tabs with the cards of Custom Diffusion and CatVersion."""

from __future__ import annotations

import html
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
import torch
from PIL import Image
from playwright.sync_api import BrowserContext, Locator, expect

from tests.formats.writers import save_adapter
from tests.host.browser import Tab, opened
from tests.host.miniature import ADAPTED, WIDTH
from tests.host.test_deltas import projections, save_webui_delta
from tests.host.test_page import PAGE
from tests.host.webui import WebUI


@dataclass
class Folders:
    """Where the concepts of this file lie, in the server's own data folder."""

    deltas: Path
    adapters: Path


def save_picture(path: Path) -> None:
    Image.new("RGB", (30, 40), (200, 100, 50)).save(path)


@pytest.fixture
def folders(page_host: WebUI) -> Iterator[Folders]:
    folders = Folders(page_host.data / "models" / "deltas", page_host.data / "models" / "catversion")
    folders.deltas.mkdir()
    generator = torch.Generator().manual_seed(5)
    base = projections(page_host, "miniature")
    weights = {
        name: tensor + 0.4 * tensor.std() * torch.randn(tensor.shape, generator=generator)
        for name, tensor in base.items()
    }
    vectors = torch.randn(2, WIDTH, generator=generator)
    vectors *= 2.5 / vectors.norm(dim=1, keepdim=True)
    # As train.py of custom-diffusion saves one concept, and two.
    torch.save({"state_dict": {**weights, "embed": vectors[:1]}}, folders.deltas / "my-run.ckpt")
    torch.save({"state_dict": {**weights, "embed": vectors}}, folders.deltas / "two.ckpt")
    differences = {name: tensor - base[name] for name, tensor in weights.items()}
    save_webui_delta(folders.deltas / "my-cat.delta.safetensors", differences)
    # What lies beside the concepts, and is none.
    torch.save({"<new1>": vectors[0]}, folders.deltas / "<new1>.bin")
    torch.save({"my-cat": vectors[0]}, folders.deltas / "my-cat.pt")
    (folders.deltas / "damaged.ckpt").write_bytes(b"<html>Not found</html>")
    save_picture(folders.deltas / "my-run.png")
    save_picture(folders.deltas / "my-cat.preview.png")
    for place in ("teddy_bear/checkpoints/adapter_gs-499", "teddy_bear/checkpoints/adapter_gs-999", "bear (v+2)"):
        numbers = 15 * torch.randn(6 * WIDTH, generator=generator)
        save_adapter(folders.adapters / place, {"control_trans": numbers}, ADAPTED, hidden_size=WIDTH)
    yield folders
    for folder in (folders.deltas, folders.adapters):
        shutil.rmtree(folder)


@pytest.fixture
def tab(browser: BrowserContext, page_host: WebUI, folders: Folders) -> Iterator[Tab]:  # noqa: ARG001
    with opened(browser, page_host.url) as tab:
        yield tab


class Cards:
    """One of AlignIT's tabs beside the generation's."""

    def __init__(self, tab: Tab, title: str) -> None:
        self.page = tab.page
        self.name = f"{tab.name}_{title.lower().replace(' ', '_')}"
        self.button = self.page.locator(f"#{tab.name}_extra_tabs > .tab-nav button", has_text=title)
        self.all = self.page.locator(f"#{self.name}_cards .card")
        self.editor = self.page.locator(f"#{self.name}_edit_user_metadata")
        # The host moves a pane's controls up beside the tabs, and the pane gets a second copy when its cards arrive.
        self.controls = self.page.locator(f".tab-nav #{self.name}_controls")
        self.search = self.controls.locator(f"#{self.name}_extra_search")
        # What a click writes depends on settings that the page fetches for itself.
        self.page.wait_for_function("'extra_networks_add_text_separator' in opts")
        self.button.click()
        self.refresh()

    def refresh(self) -> None:
        self.controls.locator(f"#{self.name}_extra_refresh").click()

    def card(self, name: str) -> Locator:
        return self.page.locator(f'#{self.name}_cards .card[data-name="{name}"]')

    def click(self, name: str) -> None:
        self.card(name).locator(".name").click()

    def edit(self, name: str) -> None:
        self.card(name).hover()
        self.card(name).locator(".edit-button").click()
        expect(self.editor.locator(".extra-network-name").last).to_contain_text(name)

    def save(self) -> None:
        self.editor.get_by_role("button", name="Save").click()

    def names(self) -> list[str]:
        return [str(card.get_attribute("data-name")) for card in self.all.filter(visible=True).all()]


def to_generation(tab: Tab) -> None:
    tab.page.locator(f"#{tab.name}_extra_tabs > .tab-nav button").get_by_text("Generation").click()


def test_custom_diffusion_from_the_card_to_the_picture(page_host: WebUI, folders: Folders, tab: Tab) -> None:
    sidecar = folders.deltas / "my-run.json"
    sidecar.write_text('{"of another program": 1}')
    cards = Cards(tab, "Custom Diffusion")
    expect(cards.all).to_have_count(4)
    assert cards.names() == ["damaged", "my-cat", "my-run", "two"]
    for name in ("my-cat", "my-run"):
        picture = cards.card(name).locator("img.preview")
        expect(picture).to_have_js_property("naturalHeight", 40)
    expect(cards.card("damaged")).to_contain_text("'damaged.ckpt' is a web page or an error message")

    cards.search.fill("<NEW1>")
    expect(cards.card("my-cat")).to_be_hidden()
    assert cards.names() == ["my-run", "two"]
    cards.search.fill("")
    expect(cards.card("my-cat")).to_be_visible()

    tab.prompt.fill("a photo of")
    cards.click("my-run")
    expect(tab.prompt).to_have_value("a photo of <delta:my-run:1> <new1>")
    cards.click("my-run")
    expect(tab.prompt).to_have_value("a photo of")
    cards.click("my-cat")
    expect(tab.prompt).to_have_value("a photo of <delta:my-cat:1> <my-cat>")
    cards.click("my-cat")
    expect(tab.prompt).to_have_value("a photo of")

    cards.edit("my-run")
    expect(cards.editor).to_contain_text("my-run.ckpt")
    cards.editor.get_by_label("Description").fill("Our cat.")
    cards.editor.get_by_label("Class word").fill("a|b")
    cards.save()
    expect(cards.editor.locator(".alignit-note")).to_have_text(
        "The class word 'a|b' contains '|', which has a meaning of its own in a prompt: "
        "write ordinary words, such as cat."
    )
    assert json.loads(sidecar.read_text()) == {"of another program": 1}
    cards.editor.get_by_label("Class word").fill("sleepy cat")
    cards.editor.locator("input[type=number]").fill("0.7")
    cards.editor.get_by_label("Notes").fill("Fluffy.")
    cards.save()
    expect(cards.editor).to_be_hidden()
    expect(cards.card("my-run")).to_contain_text("Our cat.")
    assert json.loads(sidecar.read_text()) == {
        "of another program": 1,
        "description": "Our cat.",
        "notes": "Fluffy.",
        "class word": "sleepy cat",
        "preferred weight": 0.7,
    }
    cards.click("my-run")
    expect(tab.prompt).to_have_value("a photo of <delta:my-run:0.7> <new1> sleepy cat")

    to_generation(tab)
    tab.open_panel()
    tab.expect_concept("<new1>", "Custom Diffusion, 1 vector", "sleepy cat", "from the prompt")
    picture = tab.generate(page_host.url)
    assert "AlignIT class words: <new1>=sleepy cat" in picture.infotext
    assert "AlignIT note" not in picture.infotext
    prompt = tab.prompt.input_value()
    assert picture == page_host.txt2img(prompt, **PAGE, alignit=[True])[0]
    assert picture != page_host.txt2img("a photo of sleepy cat", **PAGE)[0]


def test_the_editor_and_remembering_leave_each_others_words(folders: Folders, tab: Tab) -> None:
    sidecar = folders.deltas / "my-run.json"
    cards = Cards(tab, "Custom Diffusion")
    expect(cards.card("my-run")).to_be_visible()
    to_generation(tab)
    tab.prompt.fill("a <new1> cat <delta:my-run:1>")
    tab.open_panel()
    tab.press("Remember class words")
    expect(tab.found).to_contain_text("Remembered: <new1> = cat")

    # The cards were listed before, and are not refreshed.
    cards.button.click()
    cards.edit("my-run")
    expect(cards.editor.get_by_label("Class word")).to_have_value("cat")
    cards.editor.get_by_label("Notes").fill("Fluffy.")
    cards.save()
    expect(cards.editor).to_be_hidden()
    to_generation(tab)
    tab.prompt.fill("a <new1> dog <delta:my-run:1>")
    tab.expect_concept("<new1>", "Custom Diffusion, 1 vector", "dog", "from the prompt")
    tab.press("Remember class words")
    expect(tab.found).to_contain_text("Remembered: <new1> = dog")
    assert json.loads(sidecar.read_text()) == {"class word": "dog", "notes": "Fluffy."}

    cards.button.click()
    cards.edit("my-run")
    expect(cards.editor.get_by_label("Class word")).to_have_value("dog")
    cards.editor.get_by_label("Class word").fill("")
    cards.save()
    expect(cards.editor).to_be_hidden()
    assert json.loads(sidecar.read_text()) == {"notes": "Fluffy."}

    sidecar.write_text("{")
    cards.edit("my-run")
    said = cards.editor.locator(".alignit-note")
    expect(said).to_have_text("my-run.json is not valid JSON: mend or delete it.")
    cards.save()
    expect(said).to_have_text("my-run.json is not valid JSON: mend or delete it.")
    assert sidecar.read_text() == "{"


def test_another_token_of_a_file_and_refresh(folders: Folders, tab: Tab) -> None:
    cards = Cards(tab, "Custom Diffusion")
    cards.edit("two")
    cards.editor.get_by_label("Token").click()
    cards.editor.locator("li", has_text="<new2>").click()
    cards.save()
    expect(cards.editor).to_be_hidden()
    cards.click("two")
    expect(tab.prompt).to_have_value(re.compile(re.escape("<delta:two:1> <new2>") + "$"))
    assert json.loads((folders.deltas / "two.json").read_text()) == {"token": "<new2>"}

    (folders.deltas / "two.ckpt").rename(folders.deltas / "three.ckpt")
    cards.refresh()
    expect(cards.card("three")).to_be_visible()
    expect(cards.card("two")).to_have_count(0)
    metadata = cards.card("my-cat")
    metadata.hover()
    metadata.locator(".metadata-button").click()
    expect(tab.page.locator(".global-popup")).to_contain_text("entries")


def test_catversion_from_the_card_to_the_picture(page_host: WebUI, folders: Folders, tab: Tab) -> None:
    last = folders.adapters / "teddy_bear" / "checkpoints" / "adapter_gs-999"
    save_picture(last / "pytorch_adapter.png")
    (folders.adapters / "bear (v+2)" / "pytorch_adapter.txt").write_text("A grey one.")
    cards = Cards(tab, "CatVersion")
    expect(cards.all).to_have_count(2)
    expect(cards.card("teddy_bear").locator("img.preview")).to_have_js_property("naturalHeight", 40)
    expect(cards.card("bear (v+2)").locator("img.preview")).to_have_count(0)
    expect(cards.card("bear (v+2)")).to_contain_text("A grey one.")
    tab.prompt.fill("a photo of a")
    cards.click("bear (v+2)")
    expect(tab.prompt).to_have_value("a photo of a <catversion:bear (v+2):1> bear v 2")
    cards.click("bear (v+2)")
    expect(tab.prompt).to_have_value("a photo of a")
    cards.click("teddy_bear")
    expect(tab.prompt).to_have_value("a photo of a <catversion:teddy_bear> teddy bear")
    cards.click("teddy_bear")
    expect(tab.prompt).to_have_value("a photo of a")

    cards.edit("teddy_bear")
    expect(cards.editor.get_by_label("Preferred strength")).to_have_count(0)
    cards.editor.get_by_label("Class word").fill("bear")
    cards.editor.get_by_label("Description").fill("Our bear.")
    cards.save()
    expect(cards.editor).to_be_hidden()
    expect(cards.card("teddy_bear")).to_contain_text("Our bear.")
    stored = json.loads((last / "pytorch_adapter.json").read_text())
    assert stored == {"class word": "bear", "description": "Our bear."}
    cards.click("teddy_bear")
    expect(tab.prompt).to_have_value("a photo of a <catversion:teddy_bear> bear")
    to_generation(tab)
    tab.open_panel()
    picture = tab.generate(page_host.url)
    assert "AlignIT class words: teddy_bear=bear" in picture.infotext
    assert picture == page_host.txt2img(tab.prompt.input_value(), **PAGE, alignit=[True])[0]


def test_new_damaged_and_removed_adapters_with_refresh(folders: Folders, tab: Tab) -> None:
    cards = Cards(tab, "CatVersion")
    expect(cards.card("teddy_bear")).to_be_visible()
    shutil.copytree(folders.adapters / "bear (v+2)", folders.adapters / "old_dog" / "adapter_gs-9")
    (folders.adapters / "teddy_bear" / "checkpoints" / "adapter_gs-999" / "pytorch_adapter.bin").write_bytes(b"<html>")
    cards.refresh()
    expect(cards.card("old_dog")).to_be_visible()
    expect(cards.card("teddy_bear")).to_contain_text("'pytorch_adapter.bin' is a web page or an error message")
    cards.search.fill("old dog")
    expect(cards.card("teddy_bear")).to_be_hidden()
    assert cards.names() == ["old_dog"]
    tab.prompt.fill("a")
    cards.click("old_dog")
    expect(tab.prompt).to_have_value("a <catversion:old_dog> old dog")
    shutil.rmtree(folders.adapters / "old_dog")
    cards.refresh()
    expect(cards.card("old_dog")).to_have_count(0)


def card(host: WebUI, name: str, page: str = "custom_diffusion") -> str:
    return str(host.get("/sd_extra_networks/get-single-card", page=page, tabname="txt2img", name=name)["html"])


def inserted(host: WebUI, name: str, page: str = "custom_diffusion") -> str:
    """The JavaScript of a click on a card."""
    return html.unescape(
        re.search(r"onclick=\"cardClicked\('txt2img', (.*?), '", html.unescape(card(host, name, page)))[1]
    )  # type: ignore[index]


def thumb(host: WebUI, name: str, page: str = "custom_diffusion") -> requests.Response:
    source = html.unescape(re.search(r'<img src="\./([^"]*)"', card(host, name, page))[1])  # type: ignore[index]
    return requests.get(f"{host.url}/{source}", timeout=20)


def test_a_class_word_of_the_card_is_the_concepts_with_its_token_elsewhere(page_host: WebUI, folders: Folders) -> None:
    (folders.deltas / "my-cat.pt").unlink()  # the token is the embedding of that name
    (folders.deltas / "my-cat.delta.json").write_text('{"class word": "sleepy dog"}')
    assert inserted(page_host, "my-cat").endswith('"> <my-cat> sleepy dog"')
    made = page_host.txt2img("a <my-cat> sleepy dog in snow <delta:my-cat:1>", alignit=[True])
    assert made.info["extra_generation_params"]["AlignIT class words"] == "my-cat=sleepy dog"
    (folders.deltas / "my-cat.delta.json").unlink()
    embedding = page_host.embeddings / "my-cat.json"
    embedding.write_text('{"class word": "sleepy cat"}')
    made = page_host.txt2img("a <my-cat> sleepy cat in snow <delta:my-cat:1>", alignit=[True])
    embedding.unlink()
    assert made.info["extra_generation_params"]["AlignIT class words"] == "my-cat=sleepy cat"


SIDECARS = {
    "[]": "my-run.json holds no metadata",
    "{": "my-run.json is not valid JSON",
    '{"class word": 5}': "The class word in my-run.json is not text",
    '{"class word": "a|b"}': "The class word in my-run.json contains",
    '{"description": 5, "notes": [], "preferred weight": "much", "token": {}}': "",
    '{"preferred weight": NaN, "token": "<new9>", "description": "<b>"}': "&lt;b&gt;",
}


@pytest.mark.parametrize("content", SIDECARS)
def test_damaged_metadata_is_told_on_the_card(page_host: WebUI, folders: Folders, content: str) -> None:
    (folders.deltas / "my-run.json").write_text(content)
    assert SIDECARS[content] in card(page_host, "my-run")
    wanted = '"<delta:my-run:" + opts.extra_networks_default_multiplier + "> <new1>"'
    assert inserted(page_host, "my-run") == wanted


def test_names_cannot_break_the_page(page_host: WebUI, folders: Folders) -> None:
    name = "<img src=x onerror=alert(1)>'"
    shutil.copy(folders.deltas / "my-run.ckpt", folders.deltas / f"{name}.ckpt")
    shown = card(page_host, name)
    assert "cannot be written in a prompt" in html.unescape(shown)
    assert "<img src=x" not in re.sub(r'data-clipboard-text="[^"]*"', "", shown)  # which the host does not escape


def test_adapters_of_another_kind_are_told(page_host: WebUI, folders: Folders) -> None:
    source = folders.adapters / "bear (v+2)" / "pytorch_adapter.bin"
    shutil.copy(source, folders.deltas / "bear.bin")
    assert "'bear.bin' is for CatVersion, not Custom Diffusion." in html.unescape(card(page_host, "bear"))


def test_the_card_of_two_files_of_a_name_is_of_the_one_that_the_prompt_finds(
    page_host: WebUI, folders: Folders
) -> None:
    (folders.deltas / "later").mkdir()
    shutil.copy(folders.deltas / "two.ckpt", folders.deltas / "later" / "My-Run.bin")
    shutil.move(folders.deltas / "damaged.ckpt", folders.deltas / "later" / "two.ckpt")
    assert "later/My-Run.bin" in card(page_host, "My-Run")
    assert "'two.ckpt' is a web page" in html.unescape(card(page_host, "two"))
    prompt = "a <new2> cat in snow <delta:my-run:1>"
    made = page_host.txt2img(prompt, alignit=[True])
    assert made.info["extra_generation_params"]["AlignIT class words"] == "<new2>=cat"
    refused = page_host.txt2img("a <new2> cat in snow <delta:two:1>", alignit=[True])
    assert "'two.ckpt' is a web page" in refused.info["extra_generation_params"]["AlignIT note"]


def test_folder_of_the_settings(page_host: WebUI, folders: Folders, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "cats"
    folder.mkdir(parents=True)
    shutil.copy(folders.deltas / "my-run.ckpt", folder / "other.ckpt")
    save_picture(folder / "other.png")
    page_host.options(alignit_deltas_folder=f"{tmp_path}/runs/")
    assert inserted(page_host, "other").endswith('> <new1>"')
    assert thumb(page_host, "other").ok
    page_host.options(alignit_deltas_folder="")
    assert thumb(page_host, "my-run").ok


def test_folder_with_adapters_of_the_settings(page_host: WebUI, folders: Folders, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "old_dog" / "checkpoints" / "adapter_gs-9"
    shutil.copytree(folders.adapters / "bear (v+2)", folder)
    save_picture(folder / "pytorch_adapter.png")
    page_host.options(alignit_catversion_folder=f"{tmp_path}/runs/")
    assert inserted(page_host, "old_dog", "catversion") == '"<catversion:old_dog> old dog"'
    assert thumb(page_host, "old_dog", "catversion").ok
    made = page_host.txt2img("an old dog <catversion:old_dog>", alignit=[True])
    assert made.info["extra_generation_params"]["AlignIT class words"] == "old_dog=old dog"
    prompt = "a teddy bear <catversion:teddy_bear>"
    elsewhere = page_host.txt2img(prompt, alignit=[True])
    assert "'teddy_bear' is not in the folder 'runs'" in elsewhere.info["extra_generation_params"]["AlignIT note"]
    page_host.options(alignit_catversion_folder="")
    made = page_host.txt2img(prompt, alignit=[True])
    assert made.info["extra_generation_params"]["AlignIT class words"] == "teddy_bear=teddy bear"


def test_folder_of_another_extensions_flag(servers, folders: Folders, tmp_path: Path) -> None:
    extension = tmp_path / "custom-diffusion-webui"
    extension.mkdir()
    (extension / "preload.py").write_text(
        "def preload(parser):\n    parser.add_argument('--deltas-dir', type=str, default=None)\n"
    )
    runs = tmp_path / "runs"
    runs.mkdir()
    shutil.copy(folders.deltas / "my-run.ckpt", runs / "flagged.ckpt")
    save_picture(runs / "flagged.png")
    with WebUI(
        servers.directory,
        page=True,
        flags=(f"--deltas-dir={runs}", "--hide-ui-dir-config"),
        extensions=(extension,),
    ) as host:
        assert inserted(host, "flagged").endswith('> <new1>"')
        assert thumb(host, "flagged").ok
        # Who may not choose folders in the settings may not look into others with these either.
        assert host.options(alignit_deltas_folder=str(folders.deltas))["alignit_deltas_folder"] == ""
        made = host.txt2img("a <new1> cat in snow <delta:flagged:1>", alignit=[True])
        assert made.info["extra_generation_params"]["AlignIT class words"] == "<new1>=cat"
        assert host.exceptions() == []
