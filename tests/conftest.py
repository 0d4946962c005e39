"""Fixtures of all tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.formats.writers import SHARED

MISSING = "real files that are not shipped are missing in"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real files that are not shipped."""
    if not SHARED.is_dir():
        pytest.skip(f"{MISSING} {SHARED}")
    return SHARED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = [item for item in terminalreporter.stats.get("skipped", []) if MISSING in str(item.longrepr)]
    if skipped:
        terminalreporter.section("REAL FILES MISSING", red=True, bold=True)
        for item in skipped:
            terminalreporter.line(f"{item.nodeid} did not run", red=True)
        terminalreporter.line(f"{MISSING} {SHARED}: see tests/data/README.md", red=True)
