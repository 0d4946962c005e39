"""AlignIT in a picture's info: everything that is needed to make it again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alignit import __version__
from alignit.prompt.class_words import format_class_words
from alignit.webui.generation.arguments import Arguments, infotext_key
from alignit.webui.generation.concepts import Found
from alignit.webui.generation.declarations import Argument, Paste
from alignit.webui.generation.notes import INFOTEXT_KEY
from alignit.webui.host import host

SUGGESTED_KEY = "AlignIT suggested"
VERSION_KEY = "AlignIT version"
_HASHES_KEY = "TI hashes"


def _written() -> list[Argument]:
    return [item for item in Arguments.declared() if item.declared.infotext]


def take_info(p: Any) -> dict[str, str]:
    """Remove what was noted for a generation, and return it; X/Y/Z plot hands the dict on from cell to cell."""
    params = p.extra_generation_params
    keys = (*(item.declared.infotext for item in _written()), VERSION_KEY, INFOTEXT_KEY, SUGGESTED_KEY)
    return {key: params.pop(key) for key in keys if key in params}


def write_info(p: Any, arguments: Arguments, found: Mapping[str, Found]) -> None:
    """Note the arguments of a generation, with the class words in use from wherever they came, and AlignIT's version.

    Args:
        p: The host's processing object.
        arguments: The generation's arguments.
        found: The concepts that were injected, by name.
    """
    params = p.extra_generation_params
    for item in _written():
        value = getattr(arguments, item.name)
        if item.declared.paste is not Paste.DEFAULT or value != item.default:
            params[item.declared.infotext] = f"{value}"
    words = {
        name: "; ".join(part for part in (item.concept.class_word, item.options) if part)
        for name, item in found.items()
    }
    params[infotext_key("class_words")] = format_class_words(words)
    params[VERSION_KEY] = __version__
    suggested = [name for name, item in found.items() if item.source == "suggested"]
    if suggested:
        params[SUGGESTED_KEY] = ", ".join(suggested)
    if host().options.get("textual_inversion_add_hashes_to_infotext", False):
        _write_hashes(found)


def tidy_hashes(p: Any) -> None:
    """Keep each embedding's hash once: the host notes them anew for each text that it encodes."""
    hashes = p.extra_generation_params.get(_HASHES_KEY)
    if hashes:
        p.extra_generation_params[_HASHES_KEY] = ", ".join(dict.fromkeys(hashes.split(", ")))


def _write_hashes(found: Mapping[str, Found]) -> None:
    # The host notes the hash of each embedding that it encodes; it sees the class word in the place of ours.
    params = host().prompts.info
    entries = [entry for entry in params.get(_HASHES_KEY, "").split(", ") if entry]
    for name, item in found.items():
        shorthash = getattr(item.concept.embedding, "shorthash", None)
        entry = f"{name.replace(':', '').replace(',', '')}: {shorthash}"
        if shorthash and entry not in entries:
            entries.append(entry)
    if entries:
        params[_HASHES_KEY] = ", ".join(entries)
