"""A file that only grows, with JSON on each line: what is kept of a run, whenever that stops."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return what stands in the file; a line that was cut off, as when the power fails, is taken out of it.

    Raises:
        OSError: It cannot be read or written.
    """
    if not path.exists():
        return []
    content = path.read_text(encoding="utf-8", errors="replace")
    if content and not content.endswith("\n"):
        content = content[: content.rfind("\n") + 1]
        path.write_text(content, encoding="utf-8")
    found = []
    for line in content.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            found.append(entry)
    return found


def add_line(path: Path, entry: Mapping[str, Any]) -> None:
    """Write a line.

    Raises:
        OSError: It cannot be written.
    """
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry, ensure_ascii=False) + "\n")
