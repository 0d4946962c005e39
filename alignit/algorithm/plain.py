"""Custom Diffusion itself, without Algorithm 1: the changed W_k and W_v for every token of the prompt.

It is no part of the paper's injection, and what that is compared with. The model's weights are never written to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from alignit.algorithm.hooks import LayerHooks, Networks, Weights, no_networks
from alignit.algorithm.rows import Contents
from alignit.concepts.weight_change import WeightChange


class ChangedEverywhere(LayerHooks):
    """The changed weights for every token, through hooks on `to_k` and `to_v`. Several changes add up.

    A sampler gives the same rows at most steps: what a layer makes of them is computed once, and kept till they change,
    or till the layer's own weights do.
    """

    def __init__(self, changes: Sequence[WeightChange], networks: Networks = no_networks) -> None:
        """Take what is done.

        Args:
            changes: The changes of W_k and W_v, at least one.
            networks: See `alignit.algorithm.hooks.LayerHooks`.
        """
        super().__init__(networks)
        self._changes = changes
        self._results: Contents[dict[str, tuple[Weights, torch.Tensor]]] = Contents(lambda _inputs: {})

    def step(self, unet: torch.nn.Module, fraction: float) -> None:
        """See `alignit.algorithm.hooks.Part`."""
        super().step(unet, fraction)
        self._results.step()

    def release(self) -> None:
        """Remove the hooks, and forget what was computed with this UNet's weights."""
        super().release()
        self._results.forget()

    def _hook(self, name: str, attention: Any) -> None:
        self._hook_projections(name, attention, self._changed)

    def _changed(self, layer: str, _index: int) -> Callable[..., torch.Tensor]:
        def hook(module: torch.nn.Module, args: tuple[torch.Tensor, ...], outputs: torch.Tensor) -> torch.Tensor:
            results, weights = self._results.of(args[0], layer), self._weights(module)
            known, result = results.get(layer, (None, outputs))
            if known != weights:
                result = self._result(layer, args[0], outputs)
                results[layer] = weights, result
            return result.clone()  # an attention may scale its keys in place

        return hook

    def _result(self, layer: str, inputs: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        first, *others = self._changes
        result = first.apply(layer, inputs, outputs)
        for change in others:
            result = result + (change.apply(layer, inputs, outputs) - outputs)
        return result
