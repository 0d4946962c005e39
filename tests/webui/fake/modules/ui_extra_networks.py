from __future__ import annotations

from typing import Any

allowed_dirs: set[str] = set()
extra_pages: list[Any] = []


class ExtraNetworksPage:
    def __init__(self, title: str) -> None:
        self.title = title
        self.name = title.lower()
        self.extra_networks_tabname = title.replace(" ", "_")
        self.items: dict[str, Any] = {}


def register_page(page: Any) -> None:
    extra_pages.append(page)
