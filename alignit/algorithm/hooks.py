"""Hooks in a UNet's cross-attention layers: what the parts of line 4 of Algorithm 1 there have in common."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from alignit.algorithm.rows import version
from alignit.concepts.layer_names import layer_of

Networks = Callable[[torch.nn.Module], Hashable]


def no_networks(_module: torch.nn.Module) -> None:
    """Say that nothing but its weights is in what a module computes."""


@dataclass(frozen=True)
class Weights:
    """What a module computes with at a moment: another one, after something wrote to its weights or changed networks.

    Attributes:
        marks: Differ where it does.
        held: The parameters, held so that no other takes the place of one in memory.
    """

    marks: tuple[Hashable, ...]
    held: tuple[torch.Tensor, ...] = field(compare=False)

    @classmethod
    def of(cls, module: torch.nn.Module, networks: Networks) -> Weights:
        """Return those of a module."""
        # Asked at each call of each layer: mostly there is one weight, and no module within.
        own = tuple(one for one in module._parameters.values() if one is not None)
        held = tuple(module.parameters()) if module._modules else own
        return cls((*((id(one), one.data_ptr(), version(one)) for one in held), networks(module)), held)


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

    @property
    def missing(self) -> Mapping[str, Collection[str]]:
        """The concepts that did not come to a layer in this sampling pass so far, by layer."""

    def begin_pass(self) -> None:
        """A sampling pass begins, in which concepts have to come to the layers anew."""

    def release(self) -> None:
        """Remove the hooks, and forget what was computed with this UNet's weights."""


class LayerHooks:
    """Hooks on the cross-attention layers of a UNet. Use as a context manager: they are gone after the block."""

    def __init__(self, networks: Networks = no_networks) -> None:
        """Prepare; nothing is hooked before the first step.

        Args:
            networks: Gives what else than its weights is in what a layer's `to_k` or `to_v` computes: LoRAs.
        """
        self._networks = networks
        self._unet: torch.nn.Module | None = None
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._layers: list[str] = []
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

    @property
    def missing(self) -> Mapping[str, Collection[str]]:
        """See `Part`."""
        return {}

    def begin_pass(self) -> None:
        """See `Part`."""

    def release(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._layers.clear()
        self._waiting.clear()
        self._unet = None

    def _weights(self, module: torch.nn.Module) -> Weights:
        return Weights.of(module, self._networks)

    def _hook(self, name: str, attention: Any) -> None:
        raise NotImplementedError

    def _hook_projections(self, name: str, attention: Any, hook: Callable[[str, int], Callable[..., Any]]) -> None:
        """Set the hook that a function gives for a layer and its index, 0 for keys and 1 for values."""
        for index, part in enumerate(("to_k", "to_v")):
            layer = layer_of(f"{name}.{part}")
            if layer is not None:
                self._layers.append(layer)
                self._waiting.add(layer)
                self._handles.append(
                    getattr(attention, part).register_forward_hook(self._noted(layer, hook(layer, index)))
                )

    def _noted(self, layer: str, hook: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any) -> Any:
            self._waiting.discard(layer)
            return hook(*args)

        return noted


def functions_in(unet: torch.nn.Module) -> Iterator[Callable[..., Any]]:
    """Yield others' functions by which a UNet and its cross-attention layers compute: who it is that changes them.

    These are the modules' ways to compute, which other code can replace, and the hooks on them.
    """
    unet = eager(unet)
    for name, module in [("", unet), *unet.named_modules()]:
        if not name or re.search(r"\.attn2(\.to_[kv])?$", name):
            for function in (module.forward, *module._forward_pre_hooks.values(), *module._forward_hooks.values()):
                if not str(getattr(function, "__module__", "")).startswith("alignit."):
                    yield function


def eager(unet: Any) -> Any:
    """Return the module that torch.compile wraps, or the module itself."""
    return getattr(unet, "_orig_mod", unet)
