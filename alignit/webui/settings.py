"""AlignIT's section in the WebUI's settings."""

from __future__ import annotations

from modules import shared

SECTION = ("alignit", "AlignIT")
_USE_SUGGESTIONS = "alignit_use_suggestions"


def add_settings() -> None:
    """Add the section; the host calls this when it builds its settings page."""
    shared.opts.add_option(
        _USE_SUGGESTIONS,
        shared.OptionInfo(
            False, "Where a concept has no class word, use the nearest noun to its embedding", section=SECTION
        ).info("the picture's info then names it as suggested"),
    )


def use_suggestions() -> bool:
    """Say whether a suggested class word may be used without being asked for."""
    return bool(getattr(shared.opts, _USE_SUGGESTIONS, False))
