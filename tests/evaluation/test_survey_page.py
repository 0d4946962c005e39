"""The survey's page in a real browser, opened as a file, used with the keyboard; answers are made up by rules."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, expect

from evaluation.__main__ import main
from evaluation.plan import ALIGNED, PLAIN
from evaluation.survey.pairs import CONCEPT, PROMPT, read_key
from evaluation.survey.tally import NO_DIFFERENCE
from tests.evaluation.surveys import PROMPTS, make_references, make_run, way_of
from tests.host.browser import NO_BROWSER, chromium, find_browser, watch_errors

PAIRS = 8
TEXTS = [prompt.replace("{}", "cat") for prompt in PROMPTS]
KEYS = {"left": ("ArrowLeft", "1"), "right": ("ArrowRight", "2"), None: ("0",)}


@pytest.fixture(scope="module")
def started() -> Iterator[Browser]:
    path = find_browser()
    if path is None:
        pytest.skip(f"the survey's page is not tested: {NO_BROWSER}")
    with chromium(path) as browser:
        yield browser


@pytest.fixture
def context(started: Browser) -> Iterator[BrowserContext]:
    """A browser that knows nothing yet."""
    context = started.new_context(accept_downloads=True, viewport={"width": 1100, "height": 900})
    yield context
    context.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder, with a survey."""
    folder = tmp_path_factory.mktemp("survey")
    make_run(folder / "run")
    references = make_references(folder / "references")
    command = ["survey", str(folder / "run"), "--references", str(references), "--pairs", str(PAIRS)]
    assert main(command) == 0
    return folder / "run"


def opened(context: BrowserContext, run: Path) -> tuple[Page, list[str]]:
    """The page, and a list that fills with what it did wrong: errors, and anything that it asks for."""
    page = context.new_page()
    wrong = watch_errors(page)
    page.on("request", lambda one: wrong.append(one.url) if not re.match("(file|data|blob):", one.url) else None)
    page.goto((run / "survey.html").as_uri())
    return page, wrong


def begin(page: Page) -> None:
    """From the heading to the button, as on a keyboard."""
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name=re.compile("^(Begin|Go on)$"))).to_be_focused()
    page.keyboard.press("Enter")


def sides(page: Page) -> tuple[str, str]:
    """How the pictures at the left and at the right were made, by what they look like."""
    ways = []
    for side in ("Left", "Right"):
        source = page.get_by_role("img", name=f"{side} picture").get_attribute("src") or ""
        ways.append(way_of(Image.open(io.BytesIO(base64.b64decode(source.split(",", 1)[1])))))
    assert sorted(ways) == sorted([PLAIN, ALIGNED])
    return ways[0], ways[1]


def press(page: Page, way: str | None, turn: int = 0) -> None:
    """Answer with the key for what is better."""
    side = None if way is None else ("left", "right")[sides(page).index(way)]
    page.keyboard.press(KEYS[side][turn % len(KEYS[side])])


def by_rule(text: str | None) -> str | None:
    """AlignIT follows the first two texts better, and there is no difference else; the plain one shows the concept."""
    if text is None:
        return PLAIN
    return ALIGNED if text in TEXTS[:2] else None


def walk(page: Page, rule: Callable[[str | None], str | None]) -> list[tuple[str | None, tuple[str, str]]]:
    """Answer all by keyboard; return each question's text (None: the one of the concept), and the sides."""
    seen = []
    for part in range(2):
        expect(page.get_by_role("heading", level=2)).to_contain_text(f"Part {part + 1} of 2")
        begin(page)
        for turn in range(PAIRS):
            number = part * PAIRS + turn + 1
            expect(page.locator("#where")).to_have_text(f"Question {number} of {2 * PAIRS}")
            assert page.get_by_role("progressbar").evaluate("bar => bar.value / bar.max") == (number - 1) / 2 / PAIRS
            text = page.locator("blockquote").inner_text() if part == 0 else None
            assert page.locator("blockquote").is_visible() == (part == 0)
            assert page.get_by_role("img", name="Reference picture 2").is_visible() == (part == 1)
            seen.append((text, sides(page)))
            press(page, rule(text), turn)
    expect(page.get_by_role("heading", name="That was all")).to_be_focused()
    return seen


def get_file(page: Page, name: str, folder: Path) -> Path:
    """Press a button, and keep the file that comes."""
    with page.expect_download() as coming:
        page.get_by_role("button", name=name, exact=True).press("Enter")
    path = folder / coming.value.suggested_filename
    coming.value.save_as(path)
    return path


def said(path: Path) -> list[dict[str, str]]:
    """The answers in a file."""
    answers: list[dict[str, str]] = json.loads(path.read_text())["answers"]
    return answers


def test_by_keyboard_from_the_file_to_the_table(context: BrowserContext, run: Path, tmp_path: Path) -> None:
    page, wrong = opened(context, run)
    seen = walk(page, by_rule)
    assert sorted(text for text, _ in seen if text) == sorted(TEXTS * 2)
    first = get_file(page, "Get the file", tmp_path)

    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Somebody else answers").press("Enter")
    seen_later = walk(page, lambda _: ALIGNED)
    second = get_file(page, "Get the file", tmp_path)
    assert first.name != second.name
    assert [text for text, _ in seen] != [text for text, _ in seen_later], "each sees an order of one's own"
    lefts = [{(one["pair"], one["question"]): one["left"] for one in said(path)} for path in (first, second)]
    assert 0 < sum(lefts[0][asked] == lefts[1][asked] for asked in lefts[0]) < 2 * PAIRS, "and sides of one's own"
    for one in (seen, seen_later):
        assert {way for _, (way, _) in one} == {PLAIN, ALIGNED}, "each way is at either side"

    assert main(["tally", str(run), str(first), str(second)]) == 0
    data = json.loads((run / "survey-table.json").read_text())
    assert data["people"] == 2
    assert data["unfinished"] == 0
    assert data["not counted"] == []
    # Four of the eight pairs are of the first two texts.
    counts = {question: result["counts"] for question, result in data["questions"].items()}
    assert counts[PROMPT] == {ALIGNED: 4 + PAIRS, PLAIN: 0, NO_DIFFERENCE: 4}
    assert counts[CONCEPT] == {ALIGNED: PAIRS, PLAIN: PAIRS, NO_DIFFERENCE: 0}
    chosen = [(by_rule(text), left) for text, (left, _) in seen] + [(ALIGNED, left) for _, (left, _) in seen_later]
    expected = sum(way == left for way, left in chosen) / sum(way is not None for way, _ in chosen)
    assert data["left of those who chose"][0] == pytest.approx(expected)
    assert not wrong


def test_it_goes_on_where_it_was_left(context: BrowserContext, run: Path, tmp_path: Path) -> None:
    page, wrong = opened(context, run)
    expect(page.get_by_text("This browser keeps your answers")).to_be_visible()
    begin(page)
    for _ in range(3):
        press(page, ALIGNED)
    before = page.locator("blockquote").inner_text(), sides(page)
    early = get_file(page, "Get the file of the answers so far", tmp_path)
    expect(page.get_by_text(f"The file {early.name} has 3 of {2 * PAIRS} answers.")).to_be_visible()
    page.close()

    page, wrong_later = opened(context, run)
    begin(page)
    expect(page.locator("#where")).to_have_text(f"Question 4 of {2 * PAIRS}")
    assert (page.locator("blockquote").inner_text(), sides(page)) == before

    # Back, where the answer shows, and another one instead.
    page.keyboard.press("Backspace")
    expect(page.locator("#where")).to_have_text(f"Question 3 of {2 * PAIRS}")
    pressed = page.locator("#ask [aria-pressed=true]")
    expect(pressed).to_have_count(1)
    assert pressed.get_attribute("id") == ("left", "right")[sides(page).index(ALIGNED)]
    press(page, None)
    late = get_file(page, "Get the file of the answers so far", tmp_path / "late")
    first, second = (json.loads(path.read_text()) for path in (early, late))
    assert first["person"] == second["person"]
    assert first["answers"][:2] == second["answers"][:2]
    assert second["answers"][2] == {**first["answers"][2], "chosen": None}
    key = read_key(run)
    ways = {name: way for pair in key.pairs for name, way in pair.pictures.items()}
    assert [ways[one["chosen"]] for one in first["answers"]] == [ALIGNED] * 3
    assert not wrong
    assert not wrong_later


def test_a_browser_that_keeps_nothing(context: BrowserContext, run: Path, tmp_path: Path) -> None:
    context.add_init_script("""Object.defineProperty(window, "localStorage", {
        get() { throw new DOMException("not for files", "SecurityError"); }
    })""")
    page, wrong = opened(context, run)
    expect(page.get_by_text("This browser does not keep your answers")).to_be_visible()
    walk(page, by_rule)
    assert len(json.loads(get_file(page, "Get the file", tmp_path).read_text())["answers"]) == 2 * PAIRS
    assert not wrong


@pytest.mark.parametrize("kept", ["", "3", "null", '{"person": "me", "answers": {}}', '{"person": "' + "0" * 32 + '"}'])
def test_what_else_is_kept_under_its_name_is_no_answer(context: BrowserContext, run: Path, kept: str) -> None:
    name = f"alignit-survey-{read_key(run).survey}"
    context.add_init_script(f"localStorage.setItem({json.dumps(name)}, {json.dumps(kept)})")
    page, wrong = opened(context, run)
    begin(page)
    press(page, PLAIN)
    expect(page.locator("#where")).to_have_text(f"Question 2 of {2 * PAIRS}")
    assert not wrong


def test_mouse_and_keys_that_are_off_held_or_for_the_browser(context: BrowserContext, run: Path) -> None:
    page, wrong = opened(context, run)
    where = page.locator("#where")
    page.keyboard.press("1")  # nothing is asked yet
    begin(page)
    expect(where).to_have_text(f"Question 1 of {2 * PAIRS}")
    page.get_by_role("button", name="Left picture").click()
    expect(where).to_have_text(f"Question 2 of {2 * PAIRS}")
    page.get_by_role("button", name="No difference").click()
    expect(where).to_have_text(f"Question 3 of {2 * PAIRS}")
    page.keyboard.down("2")
    for _ in range(3):
        page.keyboard.down("2")  # held down
    page.keyboard.up("2")
    expect(where).to_have_text(f"Question 4 of {2 * PAIRS}")
    page.keyboard.press("Control+0")
    page.get_by_label("Answer with keys").uncheck()
    page.keyboard.press("1")
    expect(where).to_have_text(f"Question 4 of {2 * PAIRS}")
    page.get_by_role("button", name="Back").click()
    expect(where).to_have_text(f"Question 3 of {2 * PAIRS}")
    expect(page.get_by_role("button", name="Right picture")).to_have_attribute("aria-pressed", "true")
    assert not wrong


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(context: BrowserContext, run: Path, scheme: str) -> None:
    page, _ = opened(context, run)
    page.emulate_media(color_scheme=scheme)
    found = []

    def look(view: str) -> None:
        found.extend((view, one["id"], one["nodes"]) for one in Axe().run(page).response["violations"])

    look("begin")
    begin(page)
    press(page, PLAIN)
    page.keyboard.press("Backspace")
    look("prompt")
    for _ in range(PAIRS):
        press(page, PLAIN)
    look("part 2")
    begin(page)
    look("concept")
    for _ in range(PAIRS):
        press(page, None)
    look("end")
    assert found == []


def test_a_new_question_is_told_to_who_does_not_see_it(context: BrowserContext, run: Path) -> None:
    page, _ = opened(context, run)
    begin(page)
    expect(page.get_by_role("heading", name="Which picture follows the text better?")).to_be_focused()
    press(page, PLAIN)
    text = page.locator("blockquote").inner_text()
    expect(page.get_by_role("status").first).to_have_text(f"Question 2 of {2 * PAIRS}. {text}")
