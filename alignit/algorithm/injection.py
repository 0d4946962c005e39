"""Line 4 of Algorithm 1 (arXiv 2406.18893): K_p[i] = K'[i] and V_p[i] = V'[i], in every layer on every step.

A cross-attention layer's key at index i is W_k C[i], its value W_v C[i], with C the conditioning. Three things put in a
concept's:

- **its row**, C'[i] of its dummy prompt in the place of C_p[i], written by `alignit.algorithm.conditioning.splice` with
  the strength that `row_strength` gives. Where nothing else is asked for, this is all of line 4, and there is nothing
  to do in the UNet;
- **what it adds to other rows**, where it reaches beyond its own (`alignit.algorithm.reach`), written in the same way;
- **hooks in the layers**, `alignit.algorithm.projections`, where `needs_projections` says so: the row stays whole, and
  each layer's keys and values at it are made there.

`Injection` does what is left to do in the UNet while it samples, and knows whether the rows came there. Each kind of
thing that is done there is a part with hooks of its own: `alignit.algorithm.context` at the UNet's entry, and in its
layers those that `Injection` lists as `alignit.algorithm.hooks.Part`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch

from alignit.algorithm.conditioning import Injected
from alignit.algorithm.context import ContextRows, PromptsOverSteps
from alignit.algorithm.controls import Controls
from alignit.algorithm.hooks import Networks, Part, functions_in, no_networks
from alignit.algorithm.others import OtherLayers
from alignit.algorithm.plain import ChangedEverywhere
from alignit.algorithm.projections import ChangedAtConcepts, Prepare, unchanged
from alignit.concepts.layer_change import LayerChange
from alignit.concepts.weight_change import WeightChange


def needs_projections(controls: Controls, changes: bool) -> bool:
    """Say whether a concept's keys and values have to be computed in each layer; else its row carries them.

    Args:
        controls: How it is put in.
        changes: Whether it changes W_k and W_v.
    """
    # At strength 0 nothing of the concept is there, and its row is the base prompt's own.
    return controls.strength != 0 and (changes or not controls.uniform)


def row_strength(controls: Controls, changes: bool) -> float:
    """Return the strength with which a concept's row is written into the conditioning.

    Args: as in `needs_projections`. Where the layers blend keys and values, the row stays whole.
    """
    return 1.0 if needs_projections(controls, changes) else controls.strength


@dataclass(frozen=True)
class EncodedBatch:
    """What a host encoded for pictures that are sampled together.

    Attributes:
        prompts: The prompts that hold concepts, with their rows written as `row_strength` says.
        controls: How each concept of these is put in, by its name.
        changes: The changes of W_k and W_v, by the name of the concept that brings it.
        others: The changes of other layers, by the name of the concept that brings it.
        everywhere: Changes of W_k and W_v for every token: Custom Diffusion itself, without Algorithm 1.
    """

    prompts: tuple[Injected, ...] = ()
    controls: Mapping[str, Controls] = field(default_factory=dict)
    changes: Mapping[str, WeightChange] = field(default_factory=dict)
    everywhere: tuple[WeightChange, ...] = ()
    others: Mapping[str, LayerChange] = field(default_factory=dict)

    @classmethod
    def joined(cls, several: Iterable[EncodedBatch]) -> EncodedBatch:
        """Join several, for where something else took rows of any of them for a conditioning of its own."""
        prompts: list[Injected] = []
        controls: dict[str, Controls] = {}
        changes: dict[str, WeightChange] = {}
        everywhere: dict[WeightChange, None] = {}
        others: dict[str, LayerChange] = {}
        for one in several:
            prompts += one.prompts
            controls |= one.controls
            changes |= one.changes
            everywhere |= dict.fromkeys(one.everywhere)
            others |= one.others
        return cls(tuple(prompts), controls, changes, tuple(everywhere), others)

    @cached_property
    def concepts(self) -> frozenset[str]:
        """The names of the concepts in the prompts."""
        return frozenset(name for prompt in self.prompts for name in prompt.rows.values())

    @cached_property
    def in_layers(self) -> frozenset[str]:
        """The names of those whose keys and values have to be computed in each layer."""
        return frozenset(
            name for name in self.concepts if needs_projections(self.controls_of(name), name in self.changes)
        )

    @cached_property
    def steady(self) -> bool:
        """Whether every step is as the others."""
        return all(self.controls_of(name).steady for name in self.concepts)

    def controls_of(self, concept: str) -> Controls:
        """Return how a concept is put in: as in the paper, where nothing else is said."""
        return self.controls.get(concept, Controls())


class Injection:
    """Does line 4 in a host's UNet, step by step, for what the host samples with.

    Use as a context manager, or call `release`: no hook is left then.
    """

    def __init__(
        self,
        batch: EncodedBatch | None = None,
        levels: Callable[[torch.nn.Module], int] = lambda _unet: 4,
        prepare: Prepare = unchanged,
        networks: Networks = no_networks,
    ) -> None:
        """Prepare; nothing is hooked before the first step.

        Args:
            batch: What is sampled with; another one can come with `use`.
            levels: Gives the number of resolutions that a UNet works at: 4 in SD1 and SD2, 3 in SDXL.
            prepare: Gives the inputs of `to_k` and `to_v` for rows of the context, [n, width] each: hypernetworks.
            networks: Gives what else than its weights is in what a layer's `to_k` or `to_v` computes, as something that
                differs where that does: LoRAs. What was computed with another is computed again.
        """
        self._levels = levels
        self._prepare = prepare
        self._networks = networks
        self._batch = batch or EncodedBatch()
        self._weights: Hashable = None
        self._prompts = self._over_steps()
        self._entry = ContextRows(self._prompts)
        self._parts: tuple[Part, ...] = ()
        self._unet: torch.nn.Module | None = None
        # Over a sampling pass, which can have several of these.
        self._expected: set[str] = set()
        self._seen: set[str] = set()
        self._unplaced: set[str] = set()
        self._missing: dict[str, frozenset[str]] = {}
        self._functions: tuple[Callable[..., object], ...] = ()

    def __enter__(self) -> Injection:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def use(self, batch: EncodedBatch, weights: Hashable = None) -> None:
        """Sample with this from now on.

        Args:
            batch: What is sampled with.
            weights: Stands for the UNet's weights. Where it is another, as after a change of checkpoints or LoRAs in
                the same modules, what was computed with the weights before is computed again.
        """
        # Where it is only made anew, as a host does for the second pass of hires fix, all that was computed holds.
        same = (batch, weights) == (self._batch, self._weights)
        if not same:
            self.release()
        self._batch, self._weights = batch, weights
        if not same:
            self._prompts = self._over_steps()
            self._entry = ContextRows(self._prompts)

    def begin_pass(self) -> None:
        """A sampling pass begins, in which all concepts have to be seen anew."""
        self._expected.clear()
        self._seen.clear()
        self._unplaced.clear()
        self._missing, self._functions = {}, ()
        for part in self._parts:
            part.begin_pass()
        self._entry.release()
        self._entry = ContextRows(self._prompts)

    def step(self, unet: torch.nn.Module, fraction: float = 0.0) -> None:
        """A sampling step begins: be ready for it in this UNet, and in no other.

        Args:
            unet: The UNet; its forward takes a context [rows, tokens, width].
            fraction: The fraction of the sampling steps before this one. Where `steady`, any will do.
        """
        if unet is not self._unet:
            if self._parts:
                self.release()
                self._entry = ContextRows(self._prompts)
            self._parts = tuple(self._layer_parts(unet))
            self._unet = unet
        self._expected |= self._batch.concepts
        for part in self._parts:
            part.step(unet, fraction)
        self._entry.step(unet, fraction)

    @property
    def steady(self) -> bool:
        """Whether every step is as the others."""
        return self._batch.steady

    @property
    def lost(self) -> frozenset[str]:
        """The concepts that ought to have reached the UNet in this pass, and have not so far."""
        return frozenset(self._expected - self._seen - self._entry.seen)

    @property
    def missing(self) -> Mapping[str, Collection[str]]:
        """The layers that a concept did not come to in this pass so far, by concept, where the UNet got it.

        Something computes keys and values there without the modules, or of other rows: what there is of the concept is
        its row, read by the base model.
        """
        return self._missing_now()

    @property
    def functions(self) -> Collection[Callable[..., object]]:
        """The functions of others that were at work in the UNet where a concept did not come to a layer."""
        return self._functions

    @property
    def waiting(self) -> frozenset[str]:
        """The layers whose hooks were not called yet: something can compute keys and values without the modules."""
        return frozenset(layer for part in self._parts for layer in part.waiting)

    @property
    def unplaced(self) -> frozenset[str]:
        """The other layers of concepts that were off, as their places are not known: see `OtherLayers.unplaced`."""
        return frozenset(
            layer for part in self._parts if isinstance(part, OtherLayers) for layer in part.unplaced
        ) | frozenset(self._unplaced)

    def release(self) -> None:
        """Remove all hooks, and forget what was computed. `lost`, `missing` still answer, till the next pass begins."""
        self._release_parts()
        self._seen |= self._entry.seen
        self._entry.release()

    def _over_steps(self) -> PromptsOverSteps:
        batch = self._batch
        return PromptsOverSteps(batch.prompts, {name: batch.controls_of(name).steps for name in batch.concepts})

    def _layer_parts(self, unet: torch.nn.Module) -> Iterator[Part]:
        batch = self._batch
        if batch.in_layers:
            controls = {name: batch.controls_of(name) for name in batch.concepts}
            levels = self._levels(unet)
            yield ChangedAtConcepts(
                self._prompts, controls, batch.in_layers, batch.changes, levels, self._prepare, self._networks
            )
        if batch.everywhere:
            yield ChangedEverywhere(batch.everywhere, self._networks)
        others = {name: batch.others[name] for name in batch.others if name in batch.concepts}
        others = {name: change for name, change in others.items() if batch.controls_of(name).wants_others}
        if others:
            controls = {name: batch.controls_of(name) for name in others}
            yield OtherLayers(self._prompts, controls, others)

    def _missing_now(self) -> dict[str, frozenset[str]]:
        """Return `missing`: of the parts that are at work, and of those before them."""
        missing = dict(self._missing)
        for part in self._parts:
            for layer, names in part.missing.items():
                for name in self._entry.arrived.intersection(names):
                    missing[name] = missing.get(name, frozenset()) | {layer}
        return missing

    def _release_parts(self) -> None:
        self._unplaced |= self.unplaced
        self._missing = self._missing_now()
        if self._missing and self._unet is not None:
            self._functions = tuple(functions_in(self._unet))
        for part in self._parts:
            part.release()
        self._parts, self._unet = (), None
