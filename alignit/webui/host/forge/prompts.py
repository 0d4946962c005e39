"""How prompts are taken apart."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from alignit.webui.host.a1111.prompts import A1111Prompts
from alignit.webui.host.ports import Embedding


class ForgePrompts(A1111Prompts):
    """The host's reading of prompts; a `alignit.webui.host.ports.Prompts`."""

    used_key = "TI"

    @property
    def info(self) -> MutableMapping[str, Any]:
        """See `alignit.webui.host.ports.Prompts`; the host makes it anew after each encoding."""
        from backend.text_processing import classic_engine

        info = getattr(classic_engine, "last_extra_generation_params", None)
        if info is None:
            from backend.args import dynamic_args

            info = dynamic_args.last_extra_generation_params
        params: MutableMapping[str, Any] = info
        return params

    def used(self, name: str, embedding: Embedding) -> str | None:  # noqa: ARG002
        """See `alignit.webui.host.ports.Prompts`."""
        return name.replace(":", "").replace(",", "")
