"""Stands in for the WebUI's gradio 3: components that keep what they were made with, and their events."""

from __future__ import annotations

from typing import Any

__version__ = "3.41.2"


class Component:
    """Any component or layout.

    Attributes:
        value: Its first value.
        settings: What it was made with.
        events: The arguments of each event that was set on it, by the event's name.
    """

    def __init__(self, *values: Any, **settings: Any) -> None:
        self.value = settings.get("value", values[0] if len(values) == 1 else None)
        self.settings = settings
        self.events: dict[str, list[dict[str, Any]]] = {}

    def __enter__(self) -> Component:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def _on(self, event: str, **arguments: Any) -> Component:
        self.events.setdefault(event, []).append(arguments)
        return self

    def click(self, **arguments: Any) -> Component:
        return self._on("click", **arguments)

    def change(self, **arguments: Any) -> Component:
        return self._on("change", **arguments)

    def then(self, **arguments: Any) -> Component:
        return self._on("then", **arguments)

    @classmethod
    def update(cls, **changes: Any) -> dict[str, Any]:
        return update(**changes)


def update(**changes: Any) -> dict[str, Any]:
    return changes


def __getattr__(name: str) -> type[Component]:
    if not name[0].isupper():
        raise AttributeError(name)
    return globals().setdefault(name, type(name, (Component,), {}))
