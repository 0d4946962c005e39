"""Hooks in a UNet's cross-attention layers: what the parts of line 4 of Algorithm 1 there have in common."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Protocol

import torch

from alignit.concepts.layer_names import layer_of


class Part(Protocol):
    """One of the things that are done in a UNet's layers; `alignit.algorithm.injection` decides which are."""

    def step(self, unet: torch.nn.Module, fraction: float) -> None:
        """Be at work in this UNet, and in no other.

        Args:
            unet: The UNet.
            fraction: The fraction of the sampling steps before the step that begins.
        """

    @property
    def waiting(self) -> Collection[str]:
        """The layers whose hooks were not called yet: something can compute keys and values without the modules."""

    def release(self) -> None:
        """Remove the hooks, and forget what was computed with this UNet's weights."""


class LayerHooks:
    """Hooks on the cross-attention layers of a UNet. Use as a context manager: they are gone after the block."""

    def __init__(self) -> None:
        self._unet: torch.nn.Module | None = None
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._waiting: set[str] = set()

    def __enter__(self) -> LayerHooks:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def step(self, unet: torch.nn.Module, fraction: float) -> None:  # noqa: ARG002
        """See `Part`."""
        self.watch(unet)

    def watch(self, unet: torch.nn.Module) -> None:
        """Set the hooks on this UNet, and on no other."""
        unet = eager(unet)
        if unet is self._unet:
            return
        self.release()
        self._unet = unet
        for name, attention in unet.named_modules():
            if name.endswith(".attn2"):
                self._hook(name, attention)

    @property
    def waiting(self) -> frozenset[str]:
        """See `Part`."""
        return frozenset(self._waiting)

    def release(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._waiting.clear()
        self._unet = None

    def _hook(self, name: str, attention: Any) -> None:
        raise NotImplementedError

    def _hook_projections(self, name: str, attention: Any, hook: Callable[[str, int], Callable[..., Any]]) -> None:
        """Set the hook that a function gives for a layer and its index, 0 for keys and 1 for values."""
        for index, part in enumerate(("to_k", "to_v")):
            layer = layer_of(f"{name}.{part}")
            if layer is not None:
                self._waiting.add(layer)
                self._handles.append(
                    getattr(attention, part).register_forward_hook(self._noted(layer, hook(layer, index)))
                )

    def _noted(self, layer: str, hook: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any) -> Any:
            self._waiting.discard(layer)
            return hook(*args)

        return noted


def eager(unet: Any) -> Any:
    """Return the module that torch.compile wraps, or the module itself."""
    return getattr(unet, "_orig_mod", unet)
