from __future__ import annotations

from typing import Any

AlwaysVisible = object()
scripts_data: list[Any] = []


class Script:
    """A script of the host; its attributes are set by the runner."""

    tabname = "txt2img"
    is_img2img = False
    args_from = 0
    args_to = 0

    def elem_id(self, item: str) -> str:
        return f"script_{self.tabname}_{self.title().lower()}_{item}"
