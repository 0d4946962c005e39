"""Settings and command line."""

from __future__ import annotations

from alignit.webui.host.a1111.options import A1111Options


class ForgeOptions(A1111Options):
    """The host's settings; a `alignit.webui.host.ports.Options`."""

    @property
    def old_emphasis(self) -> bool:
        """See `alignit.webui.host.ports.Options`; where the setting still is, nothing reads it."""
        return False
