"""Fixtures of all tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.formats.writers import SHARED


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real files."""
    if not SHARED.is_dir():
        pytest.skip(f"real files are not there: {SHARED}")
    return SHARED
