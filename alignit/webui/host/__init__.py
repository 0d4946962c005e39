"""The WebUI as AlignIT sees it: the ports, `host()` that gives them, and a folder for each kind of host.

Nothing else in AlignIT asks the host's ``modules`` for models, text encoders, embeddings, sampling or options. What a
host of the family has under another name, or not at all, is written in its folder.
"""

from __future__ import annotations

from functools import cache

from alignit.webui.host.ports import Host


@cache
def host() -> Host:
    """Return the running host; found out when it is first asked for, as a host is still loading when AlignIT is."""
    # A kind of host is known by what it has, never by its name. Another kind: its folder, and a line before this one.
    from alignit.webui.host.a1111 import A1111

    return A1111()


__all__ = ["host"]
