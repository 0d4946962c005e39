"""The making of pictures."""

from __future__ import annotations

import sys
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch

from alignit.webui.host.ports import Value, cross_attention


class A1111Sampling:
    """The host's sampling; a `alignit.webui.host.ports.Sampling`."""

    @property
    def interrupted(self) -> bool:
        """See `alignit.webui.host.ports.Sampling`."""
        from modules import shared

        return bool(shared.state.interrupted or shared.state.skipped)

    @property
    def stopping(self) -> bool:
        """See `alignit.webui.host.ports.Sampling`."""
        from modules import shared

        return self.interrupted or bool(shared.state.stopping_generation)

    def count_jobs(self, factor: int) -> bool:
        """See `alignit.webui.host.ports.Sampling`."""
        from modules import shared

        counted = bool(shared.state.job_count > 0)
        if counted:
            shared.state.job_count *= factor
        return counted

    def rows_of_call(
        self, rows: Sequence[Value], batch: int, call: Mapping[str, Any]
    ) -> tuple[Sequence[Value | None], Sequence[Value]]:
        """See `alignit.webui.host.ports.Sampling`.

        The WebUI has the positive ones first (its `CFGDenoiser.forward`). The forks say what a call has: equal chunks,
        0 for a positive one and 1 for another (their `calc_cond_uncond_batch`).
        """
        kinds = (call.get("transformer_options") or {}).get("cond_or_uncond")
        if not kinds:
            return rows[:batch], rows[batch:]
        size = batch // len(kinds)
        # The parts of AND that are still to come, each with the rows of its pictures.
        count = len(rows) // size if size else 0
        parts = [list(rows[part::count]) for part in range(count)]
        of_call: list[Value | None] = []
        for kind in kinds:
            # The last part comes first. Rows beyond those that are known are nobody's.
            of_call += parts.pop() if kind == 0 and parts else [None] * size
        return of_call, [row for of_picture in zip(*parts, strict=True) for row in of_picture]

    def inputs(self, attention: torch.nn.Module, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `alignit.webui.host.ports.Sampling`."""
        from modules import shared

        loaded = getattr(shared, "loaded_hypernetworks", None)
        if not loaded:
            return rows, rows
        from modules.hypernetworks import hypernetwork

        keys, values = hypernetwork.apply_hypernetworks(loaded, rows[None], attention)
        return keys[0], values[0]

    def networks(self, module: torch.nn.Module) -> Hashable:  # noqa: ARG002
        """See `alignit.webui.host.ports.Sampling`."""
        # By these the host's own Lora extension tells whether it has to do something. It can be off; others replace it.
        lora = sys.modules.get("networks")
        marks = ("name", "te_multiplier", "unet_multiplier", "dyn_dim")
        return tuple(tuple(getattr(net, mark, None) for mark in marks) for net in getattr(lora, "loaded_networks", ()))


class A1111Step:
    """A step; a `alignit.webui.host.ports.Step`. It reads the host's parameters as they are asked for."""

    def __init__(self, params: Any) -> None:
        """Take the host's `CFGDenoiserParams`."""
        self._params = params

    @property
    def p(self) -> Any:
        """See `alignit.webui.host.ports.Step`."""
        return getattr(self._params.denoiser, "p", None)

    @property
    def number(self) -> int:
        """See `alignit.webui.host.ports.Step`."""
        return int(self._params.denoiser.step)

    @property
    def fraction(self) -> float:
        """See `alignit.webui.host.ports.Step`."""
        return float(self._params.denoiser.step / self._params.denoiser.total_steps)

    @property
    def conditioning(self) -> torch.Tensor:
        """See `alignit.webui.host.ports.Step`."""
        return cross_attention(self._params.text_cond)

    @property
    def size(self) -> tuple[int, int]:
        """See `alignit.webui.host.ports.Step`."""
        height, width = self._params.x.shape[-2:]
        return height, width
