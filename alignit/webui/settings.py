"""AlignIT's section in the WebUI's settings."""

from __future__ import annotations

import os
from pathlib import Path

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
_DELTAS_FOLDER = Setting(
    "alignit_deltas_folder", "", "Folder with Custom Diffusion files", "empty: models/deltas", folder=True
)
_CATVERSION_FOLDER = Setting(
    "alignit_catversion_folder", "", "Folder with CatVersion adapters", "empty: models/catversion", folder=True
)
_SETTINGS = (_USE_SUGGESTIONS, _NOTES_IN_INFO, _CACHE_MIB, _DELTAS_FOLDER, _CATVERSION_FOLDER)
_REMARK = "What AlignIT's panel starts with is kept where it is for the rest of the page: Settings, Other, Defaults."


def add_settings() -> None:
    """Add the section; the host calls this when it builds its settings page."""
    host().options.add(("alignit", "AlignIT"), _SETTINGS, _REMARK)


def settings() -> dict[str, bool | int | str]:
    """Return AlignIT's settings by name."""
    return {setting.name: _value(setting) for setting in _SETTINGS}


def deltas_folder() -> Path:
    """Return the folder with Custom Diffusion files."""
    # custom-diffusion-webui defines the flag, where it is installed.
    flag = host().options.flag("deltas_dir", "")
    return _folder(_DELTAS_FOLDER, flag or Path(host().options.models_folder) / "deltas")


def catversion_folder() -> Path:
    """Return the folder with CatVersion adapters."""
    return _folder(_CATVERSION_FOLDER, Path(host().options.models_folder) / "catversion")


def _folder(setting: Setting, default: str | Path) -> Path:
    text = str(_value(setting)).strip()
    # The host's tabs compare paths as text.
    return Path(os.path.abspath(os.path.expanduser(text or default)))


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
