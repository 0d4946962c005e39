"""AlignIT's section in the WebUI's settings."""

from __future__ import annotations

from modules import shared

SECTION = ("alignit", "AlignIT")
_USE_SUGGESTIONS = "alignit_use_suggestions"
_CACHE_MIB = "alignit_cache_mib"
_CACHE_MIB_DEFAULT = 512


def add_settings() -> None:
    """Add the section; the host calls this when it builds its settings page."""
    shared.opts.add_option(
        _USE_SUGGESTIONS,
        shared.OptionInfo(
            False, "Where a concept has no class word, use the nearest noun to its embedding", section=SECTION
        ).info("the picture's info then names it as suggested"),
    )
    shared.opts.add_option(
        _CACHE_MIB,
        shared.OptionInfo(
            _CACHE_MIB_DEFAULT, "Memory for Custom Diffusion files that were used, in MiB", section=SECTION
        ).info("the one in use is always kept"),
    )


def use_suggestions() -> bool:
    """Say whether a suggested class word may be used without being asked for."""
    return bool(getattr(shared.opts, _USE_SUGGESTIONS, False))


def cache_bytes() -> int:
    """Return how much memory concepts' files may take after their use, in bytes."""
    return int(getattr(shared.opts, _CACHE_MIB, _CACHE_MIB_DEFAULT)) * 2**20
