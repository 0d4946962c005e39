"""Attributes of a host's objects that are others for a while, so that none can be left behind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MISSING = object()


class Replaced:
    """Attributes of an object that are replaced.

    The instance alone is changed, never its class: what other code has put on the class keeps working.

    For a block, use it as a context manager: afterwards the object is as it was, whatever happened in the block. For
    longer, call `give_back` in the end, which leaves alone what other code has replaced in the meantime.
    """

    def __init__(self, target: object, values: Mapping[str, Any]) -> None:
        """Replace attributes, all or none of them.

        Args:
            target: The object.
            values: The new values, by the attributes' names.
        """
        self._target = target
        self._values = dict(values)
        self._before = {name: vars(target).get(name, _MISSING) for name in values}
        try:
            for name, value in values.items():
                setattr(target, name, value)
        except BaseException:
            self.give_back()
            raise

    def __enter__(self) -> None:
        """Begin the block; there is nothing left to do."""

    def __exit__(self, *_: object) -> None:
        for name in self._values:
            self._restore(self._target, name)

    def give_back(self, copied: object | None = None) -> None:
        """Give the object back as it was; or a copy of it, which was made with the new values."""
        target = self._target if copied is None else copied
        for name, value in self._values.items():
            if vars(target).get(name, _MISSING) is value:
                self._restore(target, name)

    def _restore(self, target: object, name: str) -> None:
        if self._before[name] is not _MISSING:
            setattr(target, name, self._before[name])
        elif name in vars(target):
            delattr(target, name)


def replaced(target: object, name: str, value: Any) -> Replaced:
    """Replace one attribute: see `Replaced`."""
    return Replaced(target, {name: value})
