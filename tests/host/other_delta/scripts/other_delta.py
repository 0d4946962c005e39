"""A test-only extension that, like custom-diffusion-webui, has a network named delta and says when it is used."""

from __future__ import annotations

from typing import Any

from modules import extra_networks, script_callbacks


class OtherDelta(extra_networks.ExtraNetwork):
    def __init__(self) -> None:
        super().__init__("delta")

    def activate(self, p: Any, params_list: list[Any]) -> None:  # noqa: ARG002
        p.extra_generation_params["Other delta"] = "used"

    def deactivate(self, p: Any) -> None:
        pass


script_callbacks.on_before_ui(lambda: extra_networks.register_extra_network(OtherDelta()))
