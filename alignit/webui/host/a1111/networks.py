"""Networks in prompts, and their tabs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class A1111Networks:
    """The host's extra networks; a `alignit.webui.host.ports.Networks`."""

    def register(self, keyword: str, before_encoding: Callable[[Any], None]) -> None:
        """See `alignit.webui.host.ports.Networks`."""
        from modules import extra_networks

        class Network(extra_networks.ExtraNetwork):  # type: ignore[misc]
            """Makes the host take it out of prompts; what is to be done is done by the generation."""

            def activate(self, p: Any, params_list: list[Any]) -> None:  # noqa: ARG002
                """Have the generation told of, whether the network is in its prompts or not."""
                before_encoding(p)

            def deactivate(self, p: Any) -> None:
                """Do nothing: what a generation set up ends with it."""

        extra_networks.register_extra_network(Network(keyword))

    def reread(self, filename: str) -> None:
        """See `alignit.webui.host.ports.Networks`."""
        try:
            from modules import ui_extra_networks
        except ImportError:
            return  # no tabs

        for page in ui_extra_networks.extra_pages:
            for item in page.items.values():
                if item.get("filename") == filename:
                    page.read_user_metadata(item, use_cache=False)
