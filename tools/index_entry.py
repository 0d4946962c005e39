"""Write AlignIT's entry for the WebUI's index of extensions, checked against the index's rules.

    python -m tools.index_entry https://example.org/OWNER/NAME.git [--index index.json] [--output FOLDER]

The entry is one file of the index's `extensions` folder, to be sent as a pull request to its `extensions` branch. With
--index, a copy of the published index.json, name and address are also checked to be new, and tags to exist there.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

NAME = "AlignIT"
DESCRIPTION = "Keeps the rest of the prompt when an embedding or Custom Diffusion concept is in it. arXiv:2406.18893."
TAGS = ["manipulations", "prompting", "script"]
# The keys of the index's tags.json, November 2026.
KNOWN_TAGS = frozenset(
    [
        "script",
        "localization",
        "tab",
        "dropdown",
        "ads",
        "installed",
        "training",
        "models",
        "prompting",
        "editing",
        "manipulations",
        "online",
        "animation",
        "query",
        "science",
        "extras",
    ]
) | {"UI related"}


class EntryError(Exception):
    """An entry that the index would not take; the message says why."""


def make_entry(url: str) -> dict[str, Any]:
    """Return the entry for a repository's address. The index fills in the date itself."""
    return {"name": NAME, "url": url, "description": DESCRIPTION, "tags": TAGS}


def check_entry(
    entry: Mapping[str, Any], known_tags: Iterable[str] = KNOWN_TAGS, others: Iterable[Mapping[str, Any]] = ()
) -> None:
    """Check an entry by what the index's own validation asks for, and what its maintainers do.

    Args:
        entry: The entry.
        known_tags: The tags that the index knows.
        others: The entries that are in the index already.

    Raises:
        EntryError: The index would refuse it.
    """
    missing = [key for key in ("name", "url", "description", "tags") if not entry.get(key)]
    if missing:
        raise EntryError(f"The entry has no {missing[0]}.")
    url = str(entry["url"])
    if not re.fullmatch(r"https://[^\s/]+/[^\s]+\.git", url):
        raise EntryError(f"{url!r} is not the address of a repository: it must begin with https:// and end in .git.")
    unknown = sorted(set(entry["tags"]) - set(known_tags))
    if unknown:
        raise EntryError(f"The index has no tag {unknown[0]!r}.")
    if {"installed", "localization"} & set(entry["tags"]):
        raise EntryError("The tags 'installed' and 'localization' are not for extensions such as this one.")
    for other in others:
        if str(other.get("name", "")).casefold() == str(entry["name"]).casefold():
            raise EntryError(f"The index has an extension named {other['name']!r} already.")
        if _bare(str(other.get("url", ""))) == _bare(url):
            raise EntryError(f"The index has {url} already, as {other.get('name')!r}.")


def _bare(url: str) -> str:
    return url.casefold().removesuffix("/").removesuffix(".git")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="address of the repository, https://... .git")
    parser.add_argument("--index", type=Path, help="a copy of the published index.json")
    parser.add_argument("--output", type=Path, help="folder for AlignIT.json; without it the entry is printed")
    options = parser.parse_args(arguments)
    entry = make_entry(options.url)
    text = json.dumps(entry, indent=4)
    try:
        if options.index:
            index = json.loads(options.index.read_text(encoding="utf-8"))
            check_entry(entry, index["tags"], index["extensions"])
        else:
            check_entry(entry)
        if options.output:
            (options.output / f"{NAME}.json").write_text(text, encoding="utf-8")
    except EntryError as error:
        print(error, file=sys.stderr)
        return 1
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"Can't read {options.index} or write to {options.output}: {error}", file=sys.stderr)
        return 1
    if not options.output:
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
