"""AlignIT's section in the WebUI's settings."""

from __future__ import annotations

from collections.abc import Iterable

from modules import shared

from alignit.webui.host.ports import Setting

SECTION = ("alignit", "AlignIT")
_USE_SUGGESTIONS = "alignit_use_suggestions"
_NOTES_IN_INFO = "alignit_notes_in_info"
_CACHE_MIB = "alignit_cache_mib"
_CACHE_MIB_DEFAULT = 512


def add_settings(folders: Iterable[Setting]) -> None:
    """Add the section, when the host builds its settings page.

    Args:
        folders: The settings of folders with concepts' files.
    """
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
    for folder in folders:
        # The tabs show pictures from there: with --hide-ui-dir-config, who uses the page may not choose the folder.
        info = shared.OptionInfo(folder.default, folder.label, component_args=shared.hide_dirs, section=SECTION)
        shared.opts.add_option(folder.name, info.info(folder.info))
    text = "What AlignIT's panel starts with is kept where it is for the rest of the page: Settings, Other, Defaults."
    shared.opts.add_option("alignit_defaults", shared.OptionHTML(text))
    shared.opts.data_labels["alignit_defaults"].section = SECTION


def use_suggestions() -> bool:
    """Say whether a suggested class word may be used without being asked for."""
    return bool(getattr(shared.opts, _USE_SUGGESTIONS, False))


def notes_in_info() -> bool:
    """Say whether what AlignIT says about a picture made in the page is kept in its info too."""
    return bool(getattr(shared.opts, _NOTES_IN_INFO, True))


def cache_bytes() -> int:
    """Return how much memory concepts' files may take after their use, in bytes."""
    return int(getattr(shared.opts, _CACHE_MIB, _CACHE_MIB_DEFAULT)) * 2**20
