"""Replacing an attribute of a host's object, so that it cannot be left behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def replaced(target: object, name: str, value: Any) -> Iterator[None]:
    """Set an attribute on an instance for the length of a block; afterwards it is as it was, or not there at all.

    The instance alone is changed, never its class: what other code has put on the class keeps working.
    """
    missing = object()
    before = vars(target).get(name, missing)
    setattr(target, name, value)
    try:
        yield
    finally:
        if before is missing:
            delattr(target, name)
        else:
            setattr(target, name, before)
