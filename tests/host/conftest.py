"""Servers of the real WebUI, shared by all tests of a run and started when first asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext

from tests.host.browser import NO_BROWSER, chromium, find_browser
from tests.host.kinds import WEBUI
from tests.host.webui import WebUI, find_webui

MISSING = WEBUI.missing


class Servers:
    """The servers of this run, by name."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.running: dict[str, WebUI] = {}

    def get(self, name: str, **settings: Any) -> WebUI:
        if name not in self.running:
            server = WebUI(self.directory, **settings)
            server.start()
            self.running[name] = server
        return self.running[name]

    def stop(self) -> None:
        for server in self.running.values():
            server.stop()


@pytest.fixture(scope="session")
def webui_dir() -> Path:
    directory = find_webui()
    if directory is None:
        pytest.skip(MISSING)
    return directory


@pytest.fixture(scope="session")
def servers(webui_dir: Path) -> Iterator[Servers]:
    servers = Servers(webui_dir)
    yield servers
    servers.stop()


@pytest.fixture
def host(servers: Servers) -> WebUI:
    """A WebUI with AlignIT and the probe."""
    return servers.get("host")


@pytest.fixture
def plain_host(servers: Servers) -> WebUI:
    """The same WebUI without AlignIT."""
    return servers.get("plain_host", alignit=None)


@pytest.fixture
def page_host(servers: Servers) -> WebUI:
    """A WebUI with AlignIT and the probe that also serves its web page, at page_host.url."""
    return servers.get("page_host", page=True)


@pytest.fixture(scope="session")
def browser() -> Iterator[BrowserContext]:
    path = find_browser()
    if path is None:
        pytest.skip(NO_BROWSER)
    with chromium(path) as browser:
        yield browser.new_context(viewport={"width": 1280, "height": 1000})  # one, for its cache


@pytest.fixture(autouse=True)
def _leave_servers_clean(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test: settings as before, and no exception that the host has swallowed, unless marked host_errors."""
    used = {"host", "plain_host", "page_host"} & set(request.fixturenames)
    servers: Servers | None = request.getfixturevalue("servers") if used else None
    yield
    for name in used:
        server = servers.running.get(name) if servers else None
        if server is None:  # it did not start
            continue
        server.restore_options()
        errors = server.exceptions(clear=True)
        if errors and not request.node.get_closest_marker("host_errors"):
            pytest.fail(f"exceptions in {name}: {errors}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for reason, what in ((MISSING, "the real host"), (NO_BROWSER, "the browser")):
        skipped = [report for report in terminalreporter.stats.get("skipped", []) if reason in str(report.longrepr)]
        if skipped:
            terminalreporter.section("HOST TESTS SKIPPED", red=True, bold=True)
            terminalreporter.line(f"{len(skipped)} tests in {what} did not run: {reason}", red=True)
