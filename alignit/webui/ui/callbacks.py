"""What AlignIT registers with the host, each time that the host loads its scripts.

Each part is imported where it is registered, and guarded: its base class can be one that the host does not have.
"""

# ruff: noqa: PLC0415

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec

from alignit.webui.host import host
from alignit.webui.host.ports import LifeCycle
from alignit.webui.ui.parts import forget_lost_parts, part

P = ParamSpec("P")


def register() -> None:
    """Register the callbacks. The host clears all of them before it loads scripts again."""
    forget_lost_parts()
    with part("AlignIT"):
        _register(host().life)


def _register(life: LifeCycle) -> None:
    from alignit.webui.networks.table import NETWORKS

    keywords = " and ".join(f"<{network.keyword}:...>" for network in NETWORKS)
    methods = " and ".join(network.method for network in NETWORKS)
    with part("AlignIT's section in the settings"):
        from alignit.webui.settings import add_settings

        life.on_settings(lambda: add_settings(network.folder.setting for network in NETWORKS))
    with part("The injection at each step"):
        from alignit.webui.ui.script import on_step

        life.on_step(on_step)
    with part("The names of compared pictures' files"):
        from alignit.webui.ui.script import on_save

        life.on_save(on_save)
    with part(axes := "AlignIT's axes of the X/Y/Z plot"):
        from alignit.webui.ui.axes import add_axes

        # At once, as the API alone, --nowebui, asks scripts for their arguments before the rest; and again, in case
        # that the plot's script is loaded after AlignIT's.
        add_axes()
        life.on_page(_guarded(axes, add_axes))
    with part(networks := f"{keywords} in prompts"):
        # The host empties its registries of networks and of their tabs after it has loaded scripts.
        life.on_page(_guarded(networks, _register_networks))
        # Once more, after all others have registered theirs: a fork of custom-diffusion-webui has a network of the
        # same name, and with both at work its weights would be in the picture twice.
        life.on_started(_guarded(networks, lambda _app: _register_networks()))
    with part(pages := f"The tabs with cards for {methods}"):
        from alignit.webui.ui.pages import register_pages

        life.on_page(_guarded(pages, register_pages))
    with part(api := "AlignIT's own API"):
        from alignit.webui.ui.api import add_routes

        life.on_started(_guarded(api, add_routes))


def _guarded(name: str, call: Callable[P, None]) -> Callable[P, None]:
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        with part(name):
            call(*args, **kwargs)

    return guarded


def _register_networks() -> None:
    from alignit.webui.networks.table import NETWORKS
    from alignit.webui.ui.script import before_encoding

    for network in NETWORKS:
        host().networks.register(network.keyword, before_encoding)
