"""The WebUI as AlignIT sees it: the ports, `host()` that gives them, and a folder for each kind of host.

Nothing else in AlignIT asks the host's ``modules`` for models, text encoders, embeddings, sampling or options. What a
host of the family has under another name, or not at all, is written in its folder.
"""

from __future__ import annotations

from functools import cache

from alignit.webui.host import a1111, forge
from alignit.webui.host.ports import Host, UnknownHostError

_KINDS = (a1111.find, forge.find)


@cache
def host() -> Host:
    """Return the running host, known by what it has and not by its name.

    Raises:
        UnknownHostError: It is of no kind that AlignIT knows.
    """
    found = next((kind for find in _KINDS if (kind := find()) is not None), None)
    if found is None:
        raise UnknownHostError(
            "AlignIT does not know this kind of WebUI, and makes pictures as without it. See its README for the kinds "
            "that it knows, and update both."
        )
    return found


__all__ = ["host"]
