"""The parts that AlignIT adds to its host, each set up by itself: what a host lacks costs one of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from alignit.webui.host import host
from alignit.webui.host.ports import UnknownHostError

_lost: dict[str, str] = {}


def lost_parts() -> list[str]:
    """Return what was said about each part that is not there, for the panel."""
    return list(_lost.values())


def forget_lost_parts() -> None:
    """Begin anew, as the host loads its scripts again."""
    _lost.clear()


@contextmanager
def part(name: str) -> Iterator[None]:
    """Set a part up in a block. Where that fails, the console and the panel say that it is missing, and why.

    Args:
        name: What users know it by.
    """
    try:
        yield
    except UnknownHostError as error:
        # Nothing of AlignIT works, and there is no port to say it by.
        if "" not in _lost:
            _lost[""] = f"{error}"
            print(f"*** {error}", file=sys.stderr)
    except Exception as error:
        if name not in _lost:
            _lost[name] = f"{name} cannot be used with this WebUI: {error}. The rest of AlignIT can. Update both."
            host().life.report(f"AlignIT: {_lost[name]}")
