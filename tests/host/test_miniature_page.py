"""The page of the miniature, in a real browser: three pictures and the words' maps, and what is wrong in words."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("gradio")

from playwright.sync_api import BrowserContext, Page, expect

from miniature.page import Studio, make_page


@pytest.fixture(scope="module")
def studio() -> Studio:
    return Studio()


@pytest.fixture(scope="module")
def page(studio: Studio, browser: BrowserContext) -> Iterator[Page]:
    made = make_page(studio)
    _, url, _ = made.launch(prevent_thread_lock=True, quiet=True)
    try:
        page = browser.new_page()
        page.goto(url)
        yield page
        page.close()
    finally:
        made.close()


def test_a_prompt_gives_three_pictures_and_a_map_for_each_word(page: Page) -> None:
    page.get_by_label("Prompt, with {}").fill("a photo of {} in the snow")
    page.get_by_role("button", name="Generate").click()
    for text in ("class word", "concept alone", "AlignIT"):
        expect(page.get_by_role("button").filter(has_text=text).first).to_be_visible(timeout=60_000)
    expect(page.get_by_role("button").filter(has_text="snow").first).to_be_visible()


def test_what_is_wrong_is_said_in_the_page(page: Page) -> None:
    page.get_by_label("Prompt, with {}").fill("a photo of {} on the moon")
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_text("does not know the word 'moon'")).to_be_visible(timeout=60_000)


def test_controls_and_seed_count(studio: Studio) -> None:
    name, prompt = next(iter(studio.subjects)), "a photo of {} in the snow"

    def pictures(*arguments: object) -> list[bytes]:
        return [picture.tobytes() for picture, _ in studio.pictures(name, prompt, *arguments)[0]]  # type: ignore[arg-type]

    first = pictures(1, "")
    assert pictures(1, "") == first
    maps = [word for _, word in studio.pictures(name, prompt, 1, "")[1]]
    assert len(maps) == 7, "a map for each word"
    assert maps[-1] == "snow"
    weaker = pictures(1, "0.5")
    assert weaker[:2] == first[:2]
    assert weaker[2] not in first
    other = pictures(2, "")
    assert all(a != b for a, b in zip(first, other, strict=True))
