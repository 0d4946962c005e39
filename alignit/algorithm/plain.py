"""Custom Diffusion itself, without Algorithm 1: the changed W_k and W_v for every token of the prompt.

It is no part of the paper's injection, and what that is compared with. The model's weights are never written to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from alignit.algorithm.hooks import LayerHooks
from alignit.algorithm.rows import Content
from alignit.concepts.weight_change import WeightChange


class ChangedEverywhere(LayerHooks):
    """The changed weights for every token, through hooks on `to_k` and `to_v`. Several changes add up.

    A sampler gives the same rows at most steps: what a layer makes of them is computed once, and kept till they change.
    """

    def __init__(self, changes: Sequence[WeightChange]) -> None:
        """Take the changes of W_k and W_v, at least one."""
        super().__init__()
        self._changes = changes
        self._inputs = Content()
        self._results: dict[str, torch.Tensor] = {}

    def release(self) -> None:
        """Remove the hooks, and forget what was computed with this UNet's weights."""
        super().release()
        self._inputs = Content()
        self._results.clear()

    def _hook(self, name: str, attention: Any) -> None:
        self._hook_projections(name, attention, self._changed)

    def _changed(self, layer: str, _index: int) -> Callable[..., torch.Tensor]:
        def hook(_module: torch.nn.Module, args: tuple[torch.Tensor, ...], outputs: torch.Tensor) -> torch.Tensor:
            if self._inputs.is_new(args[0], layer):
                self._results.clear()
            if layer not in self._results:
                self._results[layer] = self._result(layer, args[0], outputs)
            return self._results[layer].clone()  # an attention may scale its keys in place

        return hook

    def _result(self, layer: str, inputs: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        first, *others = self._changes
        result = first.apply(layer, inputs, outputs)
        for change in others:
            result = result + (change.apply(layer, inputs, outputs) - outputs)
        return result
