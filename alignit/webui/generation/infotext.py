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
    _write_used(found)


def tidy_used(p: Any) -> None:
    """List each embedding once: the host lists them anew for each text that it encodes."""
    key = host().prompts.used_key
    used = p.extra_generation_params.get(key)
    if used:
        p.extra_generation_params[key] = ", ".join(dict.fromkeys(used.split(", ")))


def _write_used(found: Mapping[str, Found]) -> None:
    # The host lists each embedding that it encodes; it sees the class word in the place of ours.
    prompts = host().prompts
    embeddings = {name: item.concept.embedding for name, item in found.items()}
    entries = [prompts.used(name, embedding) for name, embedding in embeddings.items() if embedding is not None]
    used = [entry for entry in entries if entry is not None]
    if used:
        params = prompts.info
        listed = [entry for entry in params.get(prompts.used_key, "").split(", ") if entry]
        params[prompts.used_key] = ", ".join(dict.fromkeys([*listed, *used]))
