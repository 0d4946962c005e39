"""AlignIT's section in the WebUI's settings."""

from __future__ import annotations

from collections.abc import Iterable

from alignit.webui.host import host
from alignit.webui.host.ports import Setting

_USE_SUGGESTIONS = Setting(
    "alignit_use_suggestions",
    False,
    "Where a concept has no class word, use the nearest noun to its embedding",
    "the picture's info then names it as suggested",
)
_NOTES_IN_INFO = Setting(
    "alignit_notes_in_info",
    True,
    "Keep AlignIT's notes in the picture's info",
    "they stand under the picture, and in the API's answer, in any case",
)
_CACHE_MIB = Setting(
    "alignit_cache_mib",
    512,
    "Memory for concepts' files that were used, in MiB",
    "the one in use is always kept",
)
_SETTINGS = (_USE_SUGGESTIONS, _NOTES_IN_INFO, _CACHE_MIB)
_REMARK = "What AlignIT's panel starts with is kept where it is for the rest of the page: Settings, Other, Defaults."


def add_settings(folders: Iterable[Setting]) -> None:
    """Add the section, when the host builds its settings page.

    Args:
        folders: The settings of folders with concepts' files.
    """
    host().options.add(("alignit", "AlignIT"), [*_SETTINGS, *folders], _REMARK)


def settings(folders: Iterable[Setting]) -> dict[str, bool | int | str]:
    """Return AlignIT's settings by name; takes those of folders with concepts' files."""
    return {setting.name: _value(setting) for setting in (*_SETTINGS, *folders)}


def use_suggestions() -> bool:
    """Say whether a suggested class word may be used without being asked for."""
    return bool(_value(_USE_SUGGESTIONS))


def notes_in_info() -> bool:
    """Say whether what AlignIT says about a picture made in the page is kept in its info too."""
    return bool(_value(_NOTES_IN_INFO))


def cache_bytes() -> int:
    """Return how much memory concepts' files may take after their use, in bytes."""
    return int(_value(_CACHE_MIB)) * 2**20


def _value(setting: Setting) -> bool | int | str:
    return host().options.get(setting.name, setting.default)
