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

    def find_preview(self, path: str) -> str | None:  # noqa: ARG002
        return None

    def find_description(self, path: str) -> str | None:  # noqa: ARG002
        return None

    def get_sort_keys(self, path: str) -> dict[str, Any]:
        return {"name": path.lower()}

    def search_terms_from_path(self, path: str) -> str:
        return path


def register_page(page: Any) -> None:
    extra_pages.append(page)
