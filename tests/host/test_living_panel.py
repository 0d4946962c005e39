"""The panel's list of concepts while a prompt is typed: what it shows, what one can do there, what it leaves alone."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import BrowserContext, Page, expect

from tests.formats.writers import save_adapter
from tests.host.browser import Tab, opened
from tests.host.miniature import ADAPTED, WIDTH
from tests.host.webui import WebUI

PROMPT = "a photo of my-cat on the moon"
PAGE = {"sampler_name": "DPM++ 2M", "cfg_scale": 7}  # what the page starts with
ONE = "textual inversion, 1 vector"
NO_WORD = "no class word: used as a plain embedding"
PAUSE = 600  # milliseconds that the panel waits for the end of typing


@pytest.fixture
def tab(browser: BrowserContext, page_host: WebUI) -> Iterator[Tab]:
    """txt2img, freshly loaded, with the panel on."""
    with opened(browser, page_host.url) as tab:
        tab.open_panel()
        yield tab
    for sidecar in page_host.embeddings.glob("*.json"):
        sidecar.unlink()


def focused(page: Page) -> str:
    return str(page.evaluate("document.activeElement.ariaLabel ?? document.activeElement.textContent"))


def choose_style(page: Page, name: str) -> None:
    page.locator("#txt2img_styles input").click()
    page.locator("#txt2img_styles ul.options li", has_text=name).click()


def count_questions(page: Page) -> None:
    """Let the page count what its panels ask the server, in window.questions."""
    page.evaluate("""() => {
        window.questions = [];
        const question = AlignitPanel.prototype.question;
        AlignitPanel.prototype.question = function(values) {
            const sent = question.call(this, values);
            window.questions.push({id: this.id, ...JSON.parse(sent[0]), prompt: sent[1]});
            return sent;
        };
    }""")


def questions(page: Page) -> list[dict[str, Any]]:
    return page.evaluate("questions")  # type: ignore[no-any-return]


def test_rows_follow_what_is_typed(tab: Tab) -> None:
    status = tab.found.get_by_role("status")
    expect(status).to_have_text("No concept in the prompt.")
    tab.prompt.press_sequentially("a my-cat")
    tab.expect_concept("my-cat", ONE, "", NO_WORD)
    expect(status).to_have_text("Concepts: 1, not put in: 1")
    tab.prompt.press_sequentially(", <my-toy=robot> and <cat=dog>, my-dog")
    tab.expect_concept("my-toy", "textual inversion, 3 vectors", "robot", "from the prompt")
    tab.expect_concept("cat", "words", "dog", "from the prompt")
    names = tab.found.locator(".alignit-name")
    expect(names).to_have_text(["my-cat", "my-toy", "cat", "my-dog"])
    tab.class_words.fill("animal, my-dog=dog; 0.5")
    tab.expect_concept("my-dog", ONE, "dog", "from the panel")
    expect(tab.concept("my-dog").locator(".alignit-options")).to_have_text("0.5")
    tab.expect_concept("my-cat", ONE, "animal", "from the panel")
    expect(status).to_have_text("Concepts: 4")
    tab.prompt.fill("a my-dog")
    expect(names).to_have_text(["my-dog"])
    # What would have no effect is not offered.
    tab.prompt.fill("a <my-dog=dog>, <cat=dog>")
    tab.expect_concept("my-dog", ONE, "dog", "from the prompt")
    expect(tab.concept("cat").get_by_role("button")).to_have_count(1)
    tab.checkbox.uncheck()
    expect(names.first).to_be_hidden()


def test_all_methods_and_styles(page_host: WebUI, tab: Tab) -> None:
    torch.manual_seed(0)
    adapter = {"control_trans": torch.randn(6 * WIDTH)}
    save_adapter(page_host.data / "models" / "catversion" / "teapot", adapter, ADAPTED, hidden_size=WIDTH)
    try:
        tab.prompt.fill("a teapot <catversion:teapot>")
        tab.expect_concept("teapot", "CatVersion", "teapot", "from the name of its file")
        tab.word("teapot").fill("pot")
        tab.word("teapot").press("Enter")
        expect(tab.class_words).to_have_value("teapot=pot")
        expect(tab.concept("teapot")).to_contain_text("is in the prompt, but its class word 'pot' is not")
        tab.prompt.fill("a pot <catversion:teapot>")
        tab.expect_concept("teapot", "CatVersion", "pot", "from the panel")
        expect(tab.found.get_by_role("status")).to_have_text("Concepts: 1")
    finally:
        shutil.rmtree(page_host.data / "models" / "catversion" / "teapot")
    tab.prompt.fill("a house")
    expect(tab.found.get_by_role("status")).to_have_text("No concept in the prompt.")
    choose_style(tab.page, "concept")
    tab.expect_concept("my-cat", ONE, "", NO_WORD)


def test_a_suggestion_is_accepted_and_a_class_word_changed_and_the_picture_is_the_apis(
    page_host: WebUI, tab: Tab
) -> None:
    tab.class_words.fill("my-dog=golden retriever; keys")
    tab.prompt.fill(f"{PROMPT} with a my-dog")
    button = (
        tab.concept("my-cat").get_by_role("button", name=re.compile(r"^Use \w+ as the class word of my-cat$")).first
    )
    noun = (button.text_content() or "").split()[1]
    button.click()
    expect(tab.class_words).to_have_value(f"my-dog=golden retriever; keys, my-cat={noun}")
    tab.expect_concept("my-cat", ONE, noun, "from the panel")
    expect(tab.word("my-cat")).to_be_focused()

    tab.word("my-dog").fill("poodle")
    tab.word("my-cat").fill("cat")  # without a pause or Enter, straight to Generate
    picture = tab.generate(page_host.url)
    expect(tab.class_words).to_have_value("my-dog=poodle; keys, my-cat=cat")
    over_api = page_host.txt2img(f"{PROMPT} with a my-dog", **PAGE, alignit=[True, "my-dog=poodle; keys, my-cat=cat"])[
        0
    ]
    assert picture == over_api
    assert (
        picture
        != page_host.txt2img(f"{PROMPT} with a my-dog", **PAGE, alignit=[True, f"my-dog=poodle, my-cat={noun}"])[0]
    )

    tab.word("my-cat").fill("")
    tab.word("my-cat").press("Tab")
    expect(tab.class_words).to_have_value("my-dog=poodle; keys")
    tab.expect_concept("my-cat", ONE, "", NO_WORD)


def test_remembering_one_concept(page_host: WebUI, tab: Tab) -> None:
    tab.class_words.fill("my-cat=cat, my-dog=dog")
    tab.prompt.fill(f"{PROMPT} with a my-dog")
    tab.found.get_by_role("button", name="Remember cat as the class word of my-cat").click()
    expect(tab.found.get_by_role("status")).to_have_text("Remembered: my-cat = cat")
    assert json.loads((page_host.embeddings / "my-cat.json").read_text()) == {"class word": "cat"}
    assert not (page_host.embeddings / "my-dog.json").exists()
    expect(tab.concept("my-cat").get_by_text("Remember", exact=True)).to_be_hidden()
    expect(tab.word("my-cat")).to_be_focused()
    tab.class_words.fill("")
    tab.prompt.fill("another my-cat")
    tab.expect_concept("my-cat", ONE, "cat", "remembered")
    # A changed one can be remembered in its place.
    tab.word("my-cat").fill("tiger")
    tab.word("my-cat").press("Enter")
    tab.found.get_by_role("button", name="Remember tiger as the class word of my-cat").click()
    expect(tab.found.get_by_role("status")).to_have_text("Remembered: my-cat = tiger")
    assert json.loads((page_host.embeddings / "my-cat.json").read_text()) == {"class word": "tiger"}


def test_what_cannot_be_remembered_is_told_and_the_rows_stay(page_host: WebUI, tab: Tab) -> None:
    sidecar = page_host.embeddings / "my-cat.json"
    sidecar.write_text("[]")
    tab.class_words.fill("my-cat=cat")
    tab.prompt.fill(PROMPT)
    tab.found.get_by_role("button", name="Remember cat as the class word of my-cat").click()
    expect(tab.found.get_by_role("alert")).to_contain_text("my-cat.json holds no metadata")
    tab.expect_concept("my-cat", ONE, "cat", "from the panel")
    expect(tab.word("my-cat")).to_be_enabled()
    assert sidecar.read_text() == "[]"


def test_another_model_is_noticed(tab: Tab) -> None:
    tab.prompt.fill("a <my-cat=cat>")
    tab.expect_concept("my-cat", ONE, "cat", "from the prompt")
    checkpoint = tab.page.locator("#setting_sd_model_checkpoint input")
    checkpoint.click()
    tab.page.locator("#setting_sd_model_checkpoint ul.options li", has_text="tiny-sd2").first.click()
    expect(tab.found).to_contain_text("made for another kind of model", timeout=60_000)
    expect(tab.found.locator(".alignit-name")).to_have_count(0)


@pytest.mark.parametrize("way", ["hover", "focus", "touch"])
def test_positions_are_those_of_the_api(page_host: WebUI, tab: Tab, way: str) -> None:
    prompt = "a <my-toy=golden toy> and " + "trees in the garden, " * 16 + "my-cat"
    tab.prompt.fill(prompt)
    tab.class_words.fill("my-cat=cat")
    tab.expect_concept("my-cat", ONE, "cat", "from the panel")
    seen = page_host.post("/alignit/v1/inspect", {"prompt": prompt, "class_words": "my-cat=cat"})
    (chunks,) = seen["texts"].values()
    for name, number in (("my-toy", 1), ("my-cat", 2)):
        title = tab.concept(name).get_by_role("button", name=name, exact=True)
        places = tab.concept(name).locator(".alignit-places")
        expect(places).to_be_hidden()
        expect(title).to_have_attribute("aria-expanded", "false")
        rows = ", ".join(map(str, chunks[number - 1]["rows"][name]))
        expect(title).to_have_accessible_description(f"Chunk {number}, rows {rows}")
        {"hover": title.hover, "focus": title.focus, "touch": title.click}[way]()
        expect(places).to_be_visible()
        expect(title).to_have_attribute("aria-expanded", "true")
        expect(places.locator(".alignit-where")).to_have_text(f"Chunk {number}, rows {rows}")
        for line, tokens in enumerate((chunks[number - 1]["base"], chunks[number - 1]["dummies"][name])):
            shown = places.locator(".alignit-tokens").nth(line)
            assert [
                (int(row), text)
                for row, text in shown.locator(".alignit-token").evaluate_all(
                    "tokens => tokens.map(token => [token.dataset.row, token.firstChild?.data ?? ''])"
                )
            ] == list(enumerate(tokens))[: shown.locator(".alignit-token").count()]
            assert (
                tokens[shown.locator(".alignit-token").count() :].count(tokens[-1])
                == 77 - shown.locator(".alignit-token").count()
            ), "more than the padding is left out"
            expect(shown.locator("mark sub")).to_have_text(rows.split(", "))
        tab.page.keyboard.press("Escape")
        expect(places).to_be_hidden()
        tab.page.mouse.move(0, 0)


def test_with_the_keyboard_alone(tab: Tab) -> None:
    page = tab.page
    tab.prompt.fill(f"{PROMPT}, <my-toy=robot>")
    tab.expect_concept("my-cat", ONE, "", NO_WORD)
    nouns = [text.split()[1] for text in tab.concept("my-cat").locator("[data-use]").all_text_contents()]
    tab.checkbox.focus()
    walked = []
    for _ in range(10):
        page.keyboard.press("Tab")
        walked.append(focused(page))
        if walked[-1] == "my-toy":
            break
    wanted = [
        "my-cat",
        "Class word of my-cat",
        *(f"Use {noun} as the class word of my-cat" for noun in nouns),
        "my-toy",
    ]
    assert walked == wanted
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Space")
    expect(tab.class_words).to_have_value(f"my-cat={nouns[-1]}")
    tab.expect_concept("my-cat", ONE, nouns[-1], "from the panel")
    expect(tab.word("my-cat")).to_be_focused()
    page.keyboard.press("Control+a")
    page.keyboard.type("ca(t")
    page.keyboard.press("Enter")
    expect(tab.concept("my-cat").get_by_role("alert")).to_contain_text("'ca(t' contains '('")
    expect(tab.word("my-cat")).to_have_attribute("aria-invalid", "true")
    expect(tab.class_words).to_have_value(f"my-cat={nouns[-1]}")
    page.keyboard.press("Escape")
    expect(tab.word("my-cat")).to_have_value(nouns[-1])
    page.keyboard.press("Control+a")
    page.keyboard.type("cat")
    page.keyboard.press("Enter")
    expect(tab.class_words).to_have_value("my-cat=cat")
    page.keyboard.press("Shift+Tab")
    places = tab.concept("my-cat").locator(".alignit-places")
    expect(places).to_be_visible()
    page.keyboard.press("Enter")
    expect(places).to_have_class(re.compile("alignit-pinned"))
    page.keyboard.press("Tab")
    expect(places).to_be_visible()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Escape")
    expect(places).to_be_hidden()


def test_nothing_of_the_page_lies_over_the_positions(tab: Tab) -> None:
    tab.prompt.fill("a my-cat in the garden")
    tab.class_words.fill("my-cat=cat")
    tab.expect_concept("my-cat", ONE, "cat", "from the panel")
    tab.concept("my-cat").get_by_role("button", name="my-cat", exact=True).hover()
    places = tab.concept("my-cat").locator(".alignit-places")
    expect(places).to_be_visible()
    seen = places.evaluate(
        """places => {
            const {left, top, width, height} = places.getBoundingClientRect();
            const parts = [...Array(19).keys()].map(i => (i + 1) / 20);
            const points = parts.flatMap(x => parts.map(y => [left + x * width, top + y * height]));
            return points.map(point => document.elementFromPoint(...point)).map(at => at && places.contains(at));
        }"""
    )
    assert seen.count(True) > 200
    assert seen.count(False) == 0


def test_what_is_being_typed_in_a_row_stays_when_the_list_is_made_again(tab: Tab) -> None:
    tab.class_words.fill("my-cat=cat")
    tab.prompt.fill(PROMPT)
    tab.expect_concept("my-cat", ONE, "cat", "from the panel")
    tab.word("my-cat").focus()
    tab.page.keyboard.type("x y")
    # As a paste or another extension would do it; the row of the field moves too.
    tab.page.evaluate("""() => {
        const box = gradioApp().querySelector("#txt2img_prompt textarea");
        box.value = "a <my-toy=robot> and my-cat, my-dog";
        updateInput(box);
    }""")
    expect(tab.found.locator(".alignit-name")).to_have_text(["my-toy", "my-cat", "my-dog"])
    expect(tab.word("my-cat")).to_be_focused()
    expect(tab.word("my-cat")).to_have_value(re.compile("x y"))
    expect(tab.class_words).to_have_value("my-cat=cat")


def test_a_malformed_list_is_told_and_nothing_is_lost(tab: Tab) -> None:
    tab.prompt.fill(PROMPT)
    tab.class_words.fill("my-cat=cat")
    tab.expect_concept("my-cat", ONE, "cat", "from the panel")
    tab.class_words.fill("my-cat=cat, my-dog=(")
    expect(tab.found.get_by_role("alert")).to_contain_text("The class word in 'my-dog=(' contains '('")
    expect(tab.word("my-cat")).to_have_value("cat")
    expect(tab.word("my-cat")).to_be_disabled()
    expect(tab.class_words).to_have_value("my-cat=cat, my-dog=(")
    tab.class_words.fill("my-cat=cat, my-dog=dog")
    expect(tab.found.get_by_role("alert")).to_be_hidden()
    expect(tab.word("my-cat")).to_be_enabled()


def test_huge_prompts_are_told_and_stay(browser: BrowserContext, webui_dir: Path) -> None:
    # A server of its own: the host's counter of tokens works on the second of these prompts for minutes.
    with WebUI(webui_dir, page=True) as host, opened(browser, host.url) as tab:
        tab.open_panel()
        count_questions(tab.page)
        for prompt, said in (
            ("my-cat, " * 12_500, "100,000 characters are too many to look at while you type"),
            ("[a:b:0.5] (cat) " * 200, "400 brackets with prompt editing among them are too many"),
        ):
            tab.prompt.fill(prompt)
            expect(tab.found.get_by_role("alert")).to_contain_text(said)
            expect(tab.prompt).to_have_value(prompt)
        assert questions(tab.page)[0]["prompt"] == ""
        tab.prompt.fill(("a my-cat in snow, " * 1000) + "".join(f"<nothing-{number}=cat>" for number in range(40)))
        tab.expect_concept("my-cat", ONE, "", NO_WORD)
        expect(tab.found).to_contain_text("60 more notes are not shown")
        tab.prompt.fill(PROMPT)
        expect(tab.found.locator(".alignit-note").filter(visible=True)).to_have_count(0)


def test_few_questions_and_none_while_one_is_open(tab: Tab) -> None:
    expect(tab.found.get_by_role("status")).to_have_text("No concept in the prompt.")
    count_questions(tab.page)
    typed = "a my-cat in the garden with a my-dog, morning light, trees, a bench and a pond" * 3
    tab.prompt.press_sequentially(typed, delay=15)
    expect(tab.found.locator(".alignit-name")).to_have_text(["my-cat", "my-dog"])
    assert len(questions(tab.page)) <= 2, "one, or one more where the machine paused in the middle of typing"
    # Answers are held back: there is one open question, whatever is typed.
    tab.page.evaluate("""() => {
        window.held = [];
        const answered = AlignitPanel.prototype.answered;
        AlignitPanel.prototype.answered = function(text) { held.push(() => answered.call(this, text)); };
        window.questions.length = 0;
    }""")
    for prompt in ("my-cat", "my-toy", "my-dog", "<my-toy=robot>"):
        tab.prompt.fill(prompt)
        tab.page.wait_for_timeout(PAUSE + 200)
    tab.page.wait_for_function("held.length == 1")
    assert [question["prompt"] for question in questions(tab.page)] == ["my-cat"]
    tab.page.evaluate("held[0]()")
    tab.page.wait_for_function("held.length == 2")
    assert [question["prompt"] for question in questions(tab.page)] == ["my-cat", "<my-toy=robot>"]
    tab.page.evaluate("held[1]()")
    tab.expect_concept("my-toy", "textual inversion, 3 vectors", "robot", "from the prompt")
    tab.page.evaluate("held[0]()")  # an old answer changes nothing
    expect(tab.found.locator(".alignit-name")).to_have_text(["my-toy"])


def test_both_tabs_are_on_their_own(tab: Tab) -> None:
    tab.prompt.fill(PROMPT)
    tab.expect_concept("my-cat", ONE, "", NO_WORD)
    tab.page.locator("#tabs > .tab-nav button", has_text="img2img").first.click()
    img2img = Tab(tab.page, "img2img")
    img2img.prompt.fill("a <my-toy=robot>")
    tab.page.wait_for_timeout(PAUSE + 400)
    assert not img2img.found.inner_text().strip(), "the server was asked while AlignIT was off in this tab"
    img2img.open_panel()
    img2img.expect_concept("my-toy", "textual inversion, 3 vectors", "robot", "from the prompt")
    expect(tab.found.locator(".alignit-name")).to_have_text(["my-cat"])


def test_the_hosts_prompt_tools_work_as_before(tab: Tab) -> None:
    page = tab.page
    tab.prompt.fill("a my-cat in (snow)")
    expect(page.locator("#txt2img_token_counter.prose")).to_contain_text(re.compile(r"[1-9]\d*/75"))
    tab.expect_concept("my-cat", ONE, "", NO_WORD)
    tab.prompt.focus()
    page.keyboard.press("Control+End")
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    page.keyboard.press("Control+ArrowUp")
    expect(tab.prompt).to_have_value("a my-cat in (snow:1.2)")
    # Completions of tags take these keys at the box itself, or on the way to the document.
    page.evaluate("""() => {
        window.keys = [];
        document.addEventListener("keydown", event => keys.push([event.key, event.defaultPrevented]));
    }""")
    for key in ("ArrowDown", "Enter", "Escape", "Tab"):
        page.keyboard.press(key)
    assert page.evaluate("keys") == [["ArrowDown", False], ["Enter", False], ["Escape", False], ["Tab", False]]
    choose_style(page, "garden")
    page.locator("#txt2img_style_apply").click()
    expect(tab.prompt).to_have_value("a my-cat in (snow:1.2), in the garden")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_no_accessibility_violations_and_no_overflow(
    browser: BrowserContext, page_host: WebUI, theme: str, width: int, tmp_path: Path
) -> None:
    page = browser.new_page()
    page.set_viewport_size({"width": width, "height": 1000})
    tab = Tab(page)
    tab.open(f"{page_host.url}/?__theme={theme}")
    tab.prompt.fill(
        f"a my-cat, <my-toy=robot>, my-dog, <{'long' * 30}=cat>, <nothing-at-all-{'x' * 60}=dog> and <cat=dog>"
    )
    tab.open_panel()
    tab.class_words.fill("my-dog=dog")
    tab.expect_concept("my-dog", ONE, "dog", "from the panel")
    for name in ("my-toy", "my-cat"):
        tab.concept(name).get_by_role("button", name=name, exact=True).click()
        expect(tab.concept(name).locator(".alignit-places")).to_be_visible()
    tab.panel.screenshot(path=Path(os.environ.get("ALIGNIT_SCREENSHOTS") or tmp_path) / f"panel-{theme}-{width}.png")
    found = Axe().run(page, context="#script_txt2img_alignit_found")
    assert found.violations_count == 0, found.generate_report()
    wide = tab.found.evaluate(
        "found => [...found.querySelectorAll('*')].filter(one => one.scrollWidth > one.clientWidth + 1 "
        "&& getComputedStyle(one).display !== 'inline' && one.clientWidth).map(one => one.outerHTML)"
    )
    assert wide == []
    box, panel = tab.found.bounding_box(), tab.panel.bounding_box()
    assert box
    assert panel
    assert box["x"] + box["width"] <= panel["x"] + panel["width"] <= width
    page.close()


def test_names_and_prompts_are_text(tab: Tab) -> None:
    page, bad = tab.page, '"><img src=x onerror=hacked(1)>'
    page.evaluate("() => { window.hacked = () => { window.wasHacked = true; }; }")
    for prompt in (
        f"a {bad} in snow",
        "a <<img src=x onerror=hacked(1)>=cat>",
        "<script>hacked(1)</script><b onmouseover=hacked(1)>",
        "<&lt;img src=x onerror=hacked(1)&gt;=dog> my-cat",
        f"<{bad}=cat> <lora:{bad}:1> <delta:{bad}:1>",
    ):
        tab.prompt.fill(prompt)
        page.wait_for_function("alignitPanel('script_txt2img_alignit_').waiting")
        page.wait_for_function("!alignitPanel('script_txt2img_alignit_').waiting")
        expect(tab.found.locator("img, script, [onmouseover]")).to_have_count(0)
    tab.class_words.fill(f"{bad}, another")
    expect(tab.found.get_by_role("alert")).to_contain_text(bad[:10])
    # Whatever a file could be named, and the server could answer.
    concept = {
        **dict.fromkeys(("name", "method", "class_word", "source", "options"), bad),
        "vectors": 1,
        "place": {"start": 0, "stop": 0, "before": bad, "entry_start": 0, "entry_stop": 0},
        "remember": True,
        "suggestions": [bad],
        "notes": [bad],
        "places": [{"text": bad, "chunk": 1, "rows": [1], "base": [bad, bad], "dummy": [bad, bad]}],
        "more_places": 0,
    }
    answer = {"error": None, "concepts": [concept], "missing": 0, "more_concepts": 0, "notes": [bad], "more_notes": 0}
    page.evaluate(
        "answer => alignitPanel('script_txt2img_alignit_').concepts.show(answer)", {**answer, "said": {bad: bad}}
    )
    title = tab.found.get_by_role("button", name=bad, exact=True)
    expect(title).to_have_text(bad)
    title.click()
    expect(tab.found.locator(".alignit-token mark, mark.alignit-token").first).to_contain_text(bad)
    tab.found.get_by_role("button", name=f"Use {bad} as the class word of {bad}").click()
    expect(tab.found.locator("img, script, [onerror]")).to_have_count(0)
    page.wait_for_timeout(300)
    assert not page.evaluate("window.wasHacked")


TRANSLATIONS = {
    "Class words": "Klassenwörter",
    "Strength": "Stärke",
    "Start at": "Beginn",
    "End at": "Ende",
    "More controls": "Weitere Regler",
    "Suggest class words": "Vorschlagen",
    "Copy report": "Bericht kopieren",
    "Remember class words": "Alle merken",
    "Add the nearest noun for each concept of the prompt that has no class word.": "Vorschlag für alle.",
    "my-cat=cat, my-dog=golden retriever": "meine-katze=Katze",
    "What each concept is, in ordinary words. <my-cat=cat> in the prompt does the same.": "Was es ist.",
    "AlignIT": "AlignIT (de)",
    "Class word": "Klassenwort",
    "Class word of {name}": "Klassenwort von {name}",
    "textual inversion": "Textumkehr",
    "1 vector": "1 Vektor",
    "{count} vectors": "{count} Vektoren",
    "from the panel": "aus dem Feld",
    "from the prompt": "aus dem Prompt",
    "Remember": "Merken",
    "Remember {word} as the class word of {name}": "Merken: {word} für {name}",
    "Nearest nouns": "Nächste Hauptwörter",
    "Use": "Nimm",
    "Use {word} as the class word of {name}": "Nimm {word} für {name}",
    "Concepts: {count}, not put in: {missing}": "Konzepte: {count}, davon ungenutzt: {missing}",
    "Chunk {chunk}, rows {rows}": "Block {chunk}, Zeilen {rows}",
    "Base prompt": "Grundprompt",
    NO_WORD: "ohne Klassenwort",
}


@pytest.fixture
def german(webui_dir: Path, tmp_path: Path) -> Iterator[WebUI]:
    folder = tmp_path / "localizations"
    folder.mkdir()
    (folder / "de.json").write_text(json.dumps(TRANSLATIONS), encoding="utf8")
    flag = f"--localizations-dir={folder}"
    with WebUI(webui_dir, page=True, flags=(flag,), config={"localization": "de"}) as webui:
        yield webui


def test_the_panel_speaks_the_pages_language(browser: BrowserContext, german: WebUI) -> None:
    page = browser.new_page()
    tab = Tab(page)
    tab.open(german.url)
    tab.prompt.fill("a my-cat, my-dog and <my-toy=robot>")
    tab.open_panel()
    tab.class_words.fill("my-dog=dog")
    expect(tab.found.get_by_role("status")).to_have_text("Konzepte: 3, davon ungenutzt: 1")
    panel = tab.panel
    for text in ("Stärke", "Beginn", "Ende", "Weitere Regler", "Was es ist.", "AlignIT (de)"):
        expect(panel.get_by_text(text, exact=True).first).to_be_visible()
    expect(panel.get_by_text("Klassenwörter", exact=True)).to_be_visible()
    for text in ("Vorschlagen", "Alle merken", "Bericht kopieren"):
        expect(panel.get_by_role("button", name=text, exact=True)).to_be_visible()
    expect(tab.part("suggest")).to_have_attribute("title", "Vorschlag für alle.")
    expect(tab.class_words).to_have_attribute("placeholder", "meine-katze=Katze")
    cat, dog, toy = (tab.concept(name) for name in ("my-cat", "my-dog", "my-toy"))
    for row, texts in (
        (cat, ["Textumkehr", "1 Vektor", "Klassenwort", "ohne Klassenwort", "Nächste Hauptwörter", "Nimm"]),
        (dog, ["Klassenwort", "aus dem Feld", "Merken"]),
        (toy, ["3 Vektoren", "Klassenwort", "aus dem Prompt"]),
    ):
        for text in texts:
            expect(row.get_by_text(text, exact=True).filter(visible=True).first).to_be_visible()
    expect(dog.get_by_role("button", name="Merken: dog für my-dog")).to_be_visible()
    expect(dog.get_by_label("Klassenwort von my-dog")).to_have_value("dog")
    expect(cat.get_by_role("button", name=re.compile(r"^Nimm \w+ für my-cat$")).first).to_be_visible()
    dog.get_by_role("button", name="my-dog", exact=True).click()
    expect(dog.locator(".alignit-where")).to_have_text(re.compile(r"Block 1, Zeilen \d+"))
    expect(dog.locator(".alignit-label").first).to_have_text("Grundprompt")
    page.close()
