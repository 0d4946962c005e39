"""Chromium, and a tab of the WebUI's page as a person uses it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import requests
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect, sync_playwright

from tests.host.webui import Picture

NO_BROWSER = "no chromium on the path"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # The WebUI's page asks a CDN for a script that it does without.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
# The page of a WebUI without any extension has these too.
HOST_ERRORS = ("Failed to load resource", "Cannot read properties of undefined (reading 'props')")
WAIT = 20_000  # milliseconds


def find_browser() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser")


@contextmanager
def chromium(path: str) -> Iterator[Browser]:
    expect.set_options(timeout=WAIT)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


def watch_errors(page: Page) -> list[str]:
    """A list that fills with the errors in the page that are not the host's own."""
    errors: list[str] = []

    def note(text: str) -> None:
        if not any(known in text for known in HOST_ERRORS):
            errors.append(text)

    page.on("pageerror", lambda error: note(f"{error} {error.stack}"))
    page.on("console", lambda message: note(message.text) if message.type == "error" else None)
    return errors


class Tab:
    """txt2img or img2img, with AlignIT's panel in it."""

    def __init__(self, page: Page, name: str = "txt2img") -> None:
        self.page = page
        self.name = name
        self.panel = self.part("enabled")
        self.checkbox = page.locator(f"#script_{name}_alignit_enabled-visible-checkbox")
        self.class_words = self.part("class_words").locator("textarea")
        self.prompt = page.locator(f"#{name}_prompt textarea")
        self.found = self.prose(f"script_{name}_alignit_found")
        self.info = self.prose(f"html_info_{name}")
        self.comments = self.prose(f"html_log_{name}").locator(".comments")
        self.pictures = page.locator(f"#{name}_gallery img")

    def prose(self, name: str) -> Locator:
        """What an HTML component shows: gradio 3 gives its id to two elements, gradio 4 to the outer one."""
        return self.page.locator(f"#{name}.prose, #{name} .prose")

    def part(self, name: str) -> Locator:
        """An element of the panel."""
        return self.page.locator(f"#script_{self.name}_alignit_{name}")

    def number(self, name: str) -> Locator:
        """The number of one of the panel's sliders."""
        return self.part(name).locator("input[type=number]")

    def concept(self, name: str) -> Locator:
        """A concept's row in the panel's list."""
        return self.found.locator(".alignit-concept").filter(has=self.page.get_by_role("button", name=name, exact=True))

    def word(self, name: str) -> Locator:
        """The field with a concept's class word, which is not there where the prompt gives it."""
        return self.concept(name).get_by_label(f"Class word of {name}", exact=True)

    def expect_concept(self, name: str, method: str, word: str, source: str) -> None:
        """Wait until the list shows a concept; method: with its vectors, as "textual inversion, 1 vector"."""
        row = self.concept(name)
        expect(row.locator(".alignit-source")).to_have_text(source)
        expect(row.locator(".alignit-method").filter(visible=True)).to_have_text(method.split(", "))
        if source == "from the prompt":
            expect(row.locator(".alignit-word strong")).to_have_text(word)
            expect(self.word(name)).to_be_hidden()
        else:
            expect(self.word(name)).to_have_value(word)

    def open(self, url: str) -> None:
        """Load the page, and wait until the WebUI has set it up."""
        self.page.goto(url)
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        self.checkbox.wait_for(state="attached", timeout=60_000)

    def set(self, **values: object) -> None:
        """Fill number fields of the tab: width, height, steps, seed."""
        for name, value in values.items():
            self.page.locator(f"#{self.name}_{name} input[type=number]").fill(f"{value}")

    def press(self, text: str) -> None:
        """Press a button of the panel."""
        self.panel.get_by_role("button", name=text).click()

    def open_panel(self) -> None:
        self.panel.locator("> .label-wrap").click()
        expect(self.checkbox).to_be_checked()

    def paste(self, text: str) -> None:
        """Put an info text into the prompt box and have the WebUI read it."""
        self.prompt.fill(text)
        self.page.locator(f"#{self.name}_tools #paste").click()

    def generate(self, url: str) -> Picture:
        """Press Generate and wait for the picture; the text is the one under it."""
        before = self.pictures.first.get_attribute("src") if self.pictures.count() else None
        self.page.locator(f"#{self.name}_generate").click()
        if before is None:
            self.pictures.first.wait_for()
        else:
            expect(self.pictures.first).not_to_have_attribute("src", before)
        expect(self.info).to_contain_text("Steps: ")
        expect(self.page.locator(f"#{self.name}_interrupt")).to_be_hidden()
        source = self.pictures.first.get_attribute("src") or ""
        answer = requests.get(re.sub(r"^(https?://[^/]+)?", url, source), timeout=30)
        answer.raise_for_status()
        return Picture(answer.content, self.info.inner_text().strip())


@contextmanager
def opened(browser: BrowserContext, url: str) -> Iterator[Tab]:
    """txt2img, freshly loaded, set to small and quick pictures; the page may print no error until it is closed."""
    page = browser.new_page()
    errors = watch_errors(page)
    tab = Tab(page)
    tab.open(url)
    tab.set(width=64, height=64, steps=4, seed=1)
    yield tab
    page.close()
    assert not errors
