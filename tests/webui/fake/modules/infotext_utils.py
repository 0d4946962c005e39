from __future__ import annotations

from typing import Any, NamedTuple


class PasteField(NamedTuple):
    component: Any
    label: Any
