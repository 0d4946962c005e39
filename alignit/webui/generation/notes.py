"""What AlignIT tells the user about a generation, in words that name the cause and the mend."""

from __future__ import annotations

from typing import Any

from alignit.webui.host.recent import RECENT
from alignit.webui.settings import notes_in_info

INFOTEXT_KEY = "AlignIT note"


class Notes:
    """The notes of one generation, each said once: under the picture, in its info, and in the API's answer."""

    def __init__(self, p: Any) -> None:
        """Write to the host's processing object `p`."""
        self._p = p
        self._said: list[str] = []

    def say(self, note: str) -> None:
        """Add a note."""
        if note not in self._said:
            self._said.append(note)
            RECENT.note(note, _prompts(self._p))
            self._p.comment(f"AlignIT: {note}")
            if not notes_in_info() and not getattr(self._p, "is_api", False):
                return
            # Comments never reach the API's answer; generation parameters do, through its "info".
            params = self._p.extra_generation_params
            text = params.get(INFOTEXT_KEY, "")
            if note not in text:
                params[INFOTEXT_KEY] = f"{text} {note}".strip()

    def __bool__(self) -> bool:
        """Whether anything was said."""
        return bool(self._said)


def _prompts(p: Any) -> list[str]:
    prompts = getattr(p, "all_prompts", None) or getattr(p, "prompt", "")
    return [prompts] if isinstance(prompts, str) else [f"{prompt}" for prompt in prompts or ()]
