"""What AlignIT registers with the host, each time that the host loads its scripts."""

from __future__ import annotations

from modules import script_callbacks

from alignit.webui.generation.compare import name_file
from alignit.webui.host import host
from alignit.webui.host.settings import add_settings
from alignit.webui.networks.table import NETWORKS
from alignit.webui.ui.api import add_routes
from alignit.webui.ui.axes import add_axes
from alignit.webui.ui.pages import ConceptsPage
from alignit.webui.ui.script import on_cfg_denoiser


def register() -> None:
    """Register the callbacks. The host clears all of them before it loads scripts again."""
    script_callbacks.on_ui_settings(lambda: add_settings(network.folder.setting for network in NETWORKS))
    script_callbacks.on_cfg_denoiser(on_cfg_denoiser)
    script_callbacks.on_before_image_saved(name_file)
    # At once, as the API alone, --nowebui, asks scripts for their arguments before the rest; and again, in case that
    # the plot's script is loaded after AlignIT's.
    add_axes()
    script_callbacks.on_before_ui(add_axes)
    # The host empties its registries of networks and of their tabs after it has loaded scripts.
    script_callbacks.on_before_ui(_register_networks)
    script_callbacks.on_before_ui(_register_pages)
    # Once more, after all others have registered theirs: a fork of custom-diffusion-webui has a network of the same
    # name, and with both at work its weights would be in the picture twice.
    script_callbacks.on_app_started(lambda _demo, _app: _register_networks())
    script_callbacks.on_app_started(add_routes)


def _register_networks() -> None:
    for network in NETWORKS:
        host().networks.register(network.keyword)


def _register_pages() -> None:
    for network in NETWORKS:
        host().networks.register_page(ConceptsPage(network))
