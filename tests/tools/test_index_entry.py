"""The entry for the index of extensions is one that the index takes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tools.index_entry import NAME, EntryError, check_entry, main, make_entry

URL = "https://example.org/someone/sd-webui-alignit.git"
OTHER = {"name": "ADetailer", "url": "https://example.org/other/adetailer.git", "description": "Finds faces."}


def index(folder: Path, *entries: dict[str, str]) -> Path:
    path = folder / "index.json"
    tags = dict.fromkeys(("script", "prompting", "manipulations", "training"), "what it is for")
    path.write_text(json.dumps({"tags": tags, "extensions": [OTHER, *entries]}))
    return path


def test_the_entry_is_written_in_the_indexs_own_form(tmp_path: Path) -> None:
    assert main([URL, "--index", str(index(tmp_path)), "--output", str(tmp_path)]) == 0
    text = (tmp_path / "AlignIT.json").read_text()
    assert text.splitlines()[1].startswith('    "name"'), "the index indents by four spaces"
    entry = json.loads(text)
    assert list(entry) == ["name", "url", "description", "tags"], "the index fills in the date"
    # What the index's own validation asks of an address, and the length of its other descriptions.
    assert re.match(r"(https://[^ ]+?)(?:(?:\.git)$|$)", entry["url"])
    assert len(entry["description"]) < 120
    assert entry["description"].isascii()


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        (make_entry("http://example.org/a/b.git"), "must begin with https://"),
        (make_entry("https://example.org/a/b"), "end in .git"),
        (make_entry("https://example.org/a b.git"), "not the address"),
        (make_entry(""), "has no url"),
        (make_entry(URL) | {"tags": []}, "has no tags"),
        (make_entry(URL) | {"tags": ["cats"]}, "no tag 'cats'"),
        (make_entry(URL) | {"tags": ["installed"]}, "'installed'"),
    ],
)
def test_what_the_index_would_refuse(entry: dict[str, str], why: str) -> None:
    with pytest.raises(EntryError, match=why):
        check_entry(entry)


@pytest.mark.parametrize(
    "other",
    [
        {"name": NAME.lower(), "url": "https://example.org/x/y.git"},
        {"name": "Other", "url": URL.removesuffix(".git").upper()},
    ],
)
def test_a_name_or_an_address_that_is_taken(
    tmp_path: Path, other: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([URL, "--index", str(index(tmp_path, other))]) == 1
    assert "already" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "[]", '{"tags": {}}'])
def test_an_index_that_is_none(tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "index.json"
    path.write_text(content)
    assert main([URL, "--index", str(path)]) == 1
    assert "index.json" in capsys.readouterr().err
