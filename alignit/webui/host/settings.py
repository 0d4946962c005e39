"""AlignIT's section in the WebUI's settings."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from modules import paths, shared

SECTION = ("alignit", "AlignIT")
_USE_SUGGESTIONS = "alignit_use_suggestions"
_NOTES_IN_INFO = "alignit_notes_in_info"
_CACHE_MIB = "alignit_cache_mib"
_CACHE_MIB_DEFAULT = 512
_DELTAS_FOLDER = "alignit_deltas_folder"
_CATVERSION_FOLDER = "alignit_catversion_folder"


def add_settings() -> None:
    """Add the section; the host calls this when it builds its settings page."""
    shared.opts.add_option(
        _USE_SUGGESTIONS,
        shared.OptionInfo(
            False, "Where a concept has no class word, use the nearest noun to its embedding", section=SECTION
        ).info("the picture's info then names it as suggested"),
    )
    shared.opts.add_option(
        _NOTES_IN_INFO,
        shared.OptionInfo(True, "Keep AlignIT's notes in the picture's info", section=SECTION).info(
            "they stand under the picture, and in the API's answer, in any case"
        ),
    )
    shared.opts.add_option(
        _CACHE_MIB,
        shared.OptionInfo(
            _CACHE_MIB_DEFAULT,
            "Memory for concepts' files that were used, in MiB",
            section=SECTION,
        ).info("the one in use is always kept"),
    )
    for option, text, default in (
        (_DELTAS_FOLDER, "Folder with Custom Diffusion files", "models/deltas"),
        (_CATVERSION_FOLDER, "Folder with CatVersion adapters", "models/catversion"),
    ):
        # The tabs show pictures from there: with --hide-ui-dir-config, who uses the page may not choose the folder.
        info = shared.OptionInfo("", text, component_args=shared.hide_dirs, section=SECTION)
        shared.opts.add_option(option, info.info(f"empty: {default}"))
    text = "What AlignIT's panel starts with is kept where it is for the rest of the page: Settings, Other, Defaults."
    shared.opts.add_option("alignit_defaults", shared.OptionHTML(text))
    shared.opts.data_labels["alignit_defaults"].section = SECTION


def settings() -> dict[str, Any]:
    """Return AlignIT's settings by name."""
    names = (_USE_SUGGESTIONS, _NOTES_IN_INFO, _CACHE_MIB, _DELTAS_FOLDER, _CATVERSION_FOLDER)
    return {name: getattr(shared.opts, name, None) for name in names}


def deltas_folder() -> Path:
    """Return the folder with Custom Diffusion files."""
    # custom-diffusion-webui defines the flag, where it is installed.
    flag = getattr(shared.cmd_opts, "deltas_dir", None)
    return _folder(_DELTAS_FOLDER, flag or Path(paths.models_path) / "deltas")


def catversion_folder() -> Path:
    """Return the folder with CatVersion adapters."""
    return _folder(_CATVERSION_FOLDER, Path(paths.models_path) / "catversion")


def _folder(option: str, default: str | Path) -> Path:
    text = str(getattr(shared.opts, option, "")).strip()
    # The host's tabs compare paths as text.
    return Path(os.path.abspath(os.path.expanduser(text or default)))


def use_suggestions() -> bool:
    """Say whether a suggested class word may be used without being asked for."""
    return bool(getattr(shared.opts, _USE_SUGGESTIONS, False))


def notes_in_info() -> bool:
    """Say whether what AlignIT says about a picture made in the page is kept in its info too."""
    return bool(getattr(shared.opts, _NOTES_IN_INFO, True))


def cache_bytes() -> int:
    """Return how much memory concepts' files may take after their use, in bytes."""
    return int(getattr(shared.opts, _CACHE_MIB, _CACHE_MIB_DEFAULT)) * 2**20
