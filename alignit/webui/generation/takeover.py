"""Attributes of the host's processing object that stand in for its own during a generation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")
_MISSING = object()


def attached(p: Any, attribute: str, kind: type[T]) -> T | None:
    """Return what lives on a processing object under an attribute, or None; a copy has none of its own.

    Args:
        p: The host's processing object. The host copies it, attributes and all.
        attribute: The attribute.
        kind: What lives there; it keeps its processing object in `_p`.
    """
    found = getattr(p, attribute, None)
    return found if isinstance(found, kind) and vars(found)["_p"] is p else None


class Takeover:
    """Replaces attributes of an object, on the instance alone, until they are given back."""

    def __init__(self, target: Any, replacements: Mapping[str, Any]) -> None:
        """Replace them."""
        self._replacements = dict(replacements)
        self._originals = {name: vars(target).get(name, _MISSING) for name in replacements}
        for name, value in replacements.items():
            setattr(target, name, value)

    def give_back(self, target: Any) -> None:
        """Give an object back as it was, be it the one taken over or a copy; what was set in the meantime stays."""
        for name, value in self._replacements.items():
            if vars(target).get(name) is value:
                if self._originals[name] is _MISSING:
                    delattr(target, name)
                else:
                    setattr(target, name, self._originals[name])
