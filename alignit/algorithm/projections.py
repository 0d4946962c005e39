"""Keys and values at a concept's rows: where line 4 of Algorithm 1 (arXiv 2406.18893) is done in each layer.

That is for concepts whose row of the conditioning cannot carry them: those that change W_k and W_v (Custom Diffusion),
and those that are put in differently in different layers, in keys and in values, or at each step (see
`alignit.algorithm.controls`). `alignit.algorithm.injection` decides which these are.

The model's weights are never written to. Forward hooks on `to_k` and `to_v` of each `attn2` change what these modules
return at the rows of a concept. LDM, sgm and diffusers give these modules the same names, and every attention
optimisation calls them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import torch

from alignit.algorithm.conditioning import Addition, Injected
from alignit.algorithm.context import PromptsOverSteps
from alignit.algorithm.controls import Controls
from alignit.algorithm.hooks import LayerHooks, Networks, Weights, no_networks
from alignit.algorithm.rows import Contents, as_batch, context_name, index_of, locate
from alignit.concepts.weight_change import WeightChange

_Key = tuple[int, int]  # a prompt and a row of it
_Located = tuple[Injected, int, tuple[int, int]]  # a prompt, a row of it, and where it is in a batch

_ROUNDING = 1e-2  # between a row that was prepared alone and one among others, in half precision

Prepare = Callable[[torch.nn.Module, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def unchanged(_attention: torch.nn.Module, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Give the rows of a context to `to_k` and `to_v` as they are, as a UNet without hypernetworks does."""
    return rows, rows


class ChangedAtConcepts(LayerHooks):
    """The paper's injection: K'[i] = W'_k C'[i] and V'[i] = W'_v C'[i] at a concept's rows, the base model elsewhere.

    Rows that concepts reach beyond their own get K_p[r] and the sum of s d (K'[r] - K_o[r]): see
    `alignit.algorithm.reach`. What is injected is computed once for a layer's weights, when it first meets the row.
    """

    def __init__(
        self,
        prompts: PromptsOverSteps,
        controls: Mapping[str, Controls],
        concepts: Set[str],
        changes: Mapping[str, WeightChange],
        levels: int = 4,
        prepare: Prepare = unchanged,
        networks: Networks = no_networks,
    ) -> None:
        """Take what to inject.

        Args:
            prompts: The prompts whose rows to look for.
            controls: How each of their concepts is put in.
            concepts: Those to put in here. Rows at which there is none of them stay as they are.
            changes: The changes of W_k and W_v, by concept.
            levels: How many resolutions the UNet works at: 4 in SD1 and SD2.
            prepare: Gives the inputs of `to_k` and `to_v` for rows of the context, [n, width] each: hypernetworks.
            networks: See `alignit.algorithm.hooks.LayerHooks`.
        """
        super().__init__(networks)
        self._prompts = prompts
        self._now = prompts.whole
        self._controls = controls
        self._concepts = concepts
        self._changes = changes
        self._levels = levels
        self._prepare = prepare
        self._fraction = 0.0
        self._places = Contents(self._places_in)
        self._forget()

    def step(self, unet: torch.nn.Module, fraction: float) -> None:
        """See `alignit.algorithm.hooks.Part`."""
        super().step(unet, fraction)
        self._fraction = fraction
        self._now = self._prompts.at(fraction)
        self._places.step()

    def begin_pass(self) -> None:
        """See `alignit.algorithm.hooks.Part`."""
        self._found.clear()

    @property
    def missing(self) -> dict[str, frozenset[str]]:
        """See `alignit.algorithm.hooks.Part`."""
        return {layer: frozenset(self._concepts) - self._found.get(layer, frozenset()) for layer in self._layers}

    def release(self) -> None:
        """Remove the hooks, and forget what was computed with this UNet's weights."""
        super().release()
        self._forget()

    def _forget(self) -> None:
        self._places.forget()
        # The attention that was called last, and what it was given.
        self._context: tuple[torch.nn.Module, torch.Tensor] | None = None
        # Each concept's strength, and the fraction of the steps for which that is so.
        self._strengths: tuple[float | None, dict[str, float]] = None, {}
        # By the layer, and by whether it is given rows that were prepared.
        self._computed: dict[tuple[str, bool], _Computed] = {}
        # The concepts that came to a layer.
        self._found: dict[str, frozenset[str]] = {}

    def _hook(self, name: str, attention: Any) -> None:
        self._handles.append(attention.register_forward_pre_hook(self._note_context, with_kwargs=True))
        self._hook_projections(name, attention, lambda layer, index: self._changed(layer, attention, index))

    def _note_context(self, attention: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        name = context_name(kwargs)
        context = kwargs[name] if name else args[1] if len(args) > 1 else None
        self._context = (attention, context) if isinstance(context, torch.Tensor) else None

    def _changed(self, layer: str, attention: Any, index: int) -> Callable[..., torch.Tensor | None]:
        def hook(module: torch.nn.Module, args: tuple[torch.Tensor, ...], outputs: torch.Tensor) -> torch.Tensor | None:
            inputs, given = as_batch(args[0]), as_batch(outputs)
            places, prepared = self._places_of(inputs, layer, attention, index)
            if not places.rows:
                return None
            self._found[layer] = self._found.get(layer, places.concepts) | places.concepts
            prepare = self._prepare if prepared else unchanged
            computed, weights = self._computed.get((layer, prepared)), self._weights(module)
            if computed is None or computed.weights != weights:
                computed = self._computed[layer, prepared] = _Computed(weights)
            payload = places.payloads.get((layer, prepared))
            if payload is None or payload.source is not computed:
                payload = self._payload(
                    computed,
                    places.rows,
                    layer,
                    inputs,
                    given,
                    lambda rows: _projected(module, prepare(attention, rows)[index]),
                )
                places.payloads[layer, prepared] = payload
            values = payload.blended(self._strengths_now()).to(outputs)
            return given.index_put(places.at, values[places.which]).view(outputs.shape)

        return hook

    def _places_of(
        self, inputs: torch.Tensor, layer: str, attention: torch.nn.Module, index: int
    ) -> tuple[_Places, bool]:
        """Say where the concepts stand in what a projection is given, and whether it is given prepared rows.

        They are looked for there and nowhere else: an attention of an extension gives it a region of the context, or
        more than the context, and can do without `attn2`'s own call. Prepared rows are in no prompt's conditioning any
        more, and stand where the context's rows do of which they were made.
        """
        if self._context is not None and self._context[0] is attention:
            context = as_batch(self._context[1])
            row = context[0, :1]
            can_be_prepared = context is not inputs and context.shape == inputs.shape
            if can_be_prepared and self._prepare(attention, row)[index] is not row:
                places = self._places.of(context, layer)
                made = self._prepare(attention, context[places.at])[index]
                if torch.allclose(made.float(), inputs[places.at].float(), rtol=_ROUNDING, atol=_ROUNDING):
                    return places, True
        return self._places.of(inputs, layer), False

    def _places_in(self, rows: torch.Tensor) -> _Places:
        located = {
            place: (injected, row)
            for place, (injected, row) in locate(rows, self._now).items()
            if not self._concepts.isdisjoint(injected.concepts_at(row))
        }
        return _Places.of(located, rows)

    def _strengths_now(self) -> dict[str, float]:
        fraction, strengths = self._strengths
        if fraction != self._fraction:
            strengths = {name: controls.strength_at(self._fraction) for name, controls in self._controls.items()}
            self._strengths = self._fraction, strengths
        return strengths

    def _payload(
        self,
        computed: _Computed,
        rows: Sequence[_Located],
        layer: str,
        inputs: torch.Tensor,
        outputs: torch.Tensor,
        project: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
    ) -> _Payload:
        """Compute K', V' and K_p, V_p of rows that this layer meets for the first time, all of a change at once."""
        keys = [(id(injected), row) for injected, row, _ in rows]
        met: dict[WeightChange | None, dict[_Key, tuple[int, int]]] = {}
        alone: dict[_Key, torch.Tensor] = {}
        added: dict[WeightChange | None, dict[tuple[_Key, int], Addition]] = {}
        concepts: list[str | None] = []
        reached: list[tuple[int, str, tuple[_Key, int]]] = []
        for at, (key, (injected, row, place)) in enumerate(zip(keys, rows, strict=True)):
            concept = injected.rows.get(row)
            if key not in computed.bases and not (concept is not None and self._whole(layer, concept)):
                alone[key] = injected.base[row]
            concepts.append(concept if concept is not None and self._chosen(layer, concept) else None)
            if concept is not None:
                if key not in computed.values:
                    met.setdefault(self._changes.get(concept), {})[key] = place
                continue
            for number, addition in enumerate(injected.reached[row]):
                if self._chosen(layer, addition.concept):
                    reached.append((at, addition.concept, (key, number)))
                    if (key, number) not in computed.additions:
                        added.setdefault(self._changes.get(addition.concept), {})[key, number] = addition
        for change, places in met.items():
            index = index_of(places.values(), inputs)
            values = outputs[index] if change is None else change.apply(layer, inputs[index], outputs[index])
            computed.values.update(zip(places, values, strict=True))
        if alone:
            bases = project(torch.stack(list(alone.values())).to(inputs))[1]
            computed.bases.update(zip(alone, bases, strict=True))
        for change, of_change in added.items():
            additions = list(of_change.values())
            given, customised = project(torch.stack([one.row for one in additions]).to(inputs))
            if change is not None:
                customised = change.apply(layer, given, customised)
            instead = project(torch.stack([one.instead for one in additions]).to(inputs))[1]
            factors = torch.tensor([one.factor for one in additions], device=customised.device)
            differences = factors[:, None] * (customised.float() - instead.float())
            computed.additions.update(zip(of_change, differences.to(outputs), strict=True))
        return _Payload(
            computed,
            concepts,
            torch.stack([computed.values[key] if key in computed.values else computed.bases[key] for key in keys]),
            torch.stack([computed.bases[key] if key in computed.bases else computed.values[key] for key in keys]),
            [(at, concept, computed.additions[key]) for at, concept, key in reached],
        )

    def _chosen(self, layer: str, concept: str) -> bool:
        return self._controls[concept].chosen(layer, self._levels)

    def _whole(self, layer: str, concept: str) -> bool:
        """Say whether nothing of the base prompt is in what this layer gets, at any step."""
        controls = self._controls[concept]
        return controls.strength == 1 and controls.steady and self._chosen(layer, concept)


def _projected(module: Any, given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what a projection is given, and what it makes of it."""
    # Not by calling the module, which would come back here; LoRA's changes are in its forward.
    return given, module.forward(given)


@dataclass
class _Computed:
    """What was computed with a layer's weights as they were at the time.

    Attributes:
        weights: The weights.
        values: Of the dummy prompts' rows.
        bases: Of the base prompts'.
        additions: Of what concepts add to rows that they reach.
    """

    weights: Weights
    values: dict[_Key, torch.Tensor] = field(default_factory=dict)
    bases: dict[_Key, torch.Tensor] = field(default_factory=dict)
    additions: dict[tuple[_Key, int], torch.Tensor] = field(default_factory=dict)


@dataclass
class _Places:
    """Where the concepts stand in rows that projections are given, and what goes there.

    Attributes:
        at: The places, as an index of the rows' first two dimensions.
        which: For each of them, which of ``rows`` is there.
        rows: The rows of prompts, each once, with a place of it.
        concepts: The names of the concepts.
        payloads: What each layer gets there, by the layer and by whether it is given prepared rows.
    """

    at: tuple[torch.Tensor, ...]
    which: torch.Tensor
    rows: Sequence[_Located]
    concepts: frozenset[str]
    payloads: dict[tuple[str, bool], _Payload] = field(default_factory=dict)

    @classmethod
    def of(cls, located: Mapping[tuple[int, int], tuple[Injected, int]], context: torch.Tensor) -> _Places:
        """Return what `alignit.algorithm.rows.locate` found in a context."""
        rows: dict[_Key, _Located] = {}
        for place, (injected, row) in located.items():
            rows.setdefault((id(injected), row), (injected, row, place))
        numbers = {key: number for number, key in enumerate(rows)}
        which = [numbers[id(injected), row] for injected, row in located.values()]
        # Those at their own rows: what they reach can be there without them.
        concepts = frozenset(injected.rows[row] for injected, row, _ in rows.values() if row in injected.rows)
        return cls(
            index_of(located, context), torch.tensor(which, device=context.device), tuple(rows.values()), concepts
        )


class _Payload:
    """What a layer gets at n rows: kept while rows, weights and strengths are the same.

    Attributes:
        source: What it was taken from.
    """

    def __init__(
        self,
        source: _Computed,
        concepts: Sequence[str | None],
        values: torch.Tensor,
        bases: torch.Tensor,
        additions: Sequence[tuple[int, str, torch.Tensor]],
    ) -> None:
        """Take the rows of the dummy prompts and of the base prompts, [n, width] each.

        Args:
            source: What they are taken from.
            concepts: Whose a row is; None where the layer gets the base prompt's.
            values: K' or V'.
            bases: K_p or V_p.
            additions: Which row gets something of which concept beyond its own, and what, [width], at strength 1.
        """
        self.source = source
        self._concepts = concepts
        self._values = values
        self._bases = bases
        self._adding = [concept for _, concept, _ in additions]
        self._added_at = torch.tensor([at for at, _, _ in additions], dtype=torch.long, device=values.device)
        self._added = torch.stack([addition for _, _, addition in additions]) if additions else None
        self._strengths: list[float] = []
        self._blended = values

    def blended(self, of_concepts: Mapping[str, float]) -> torch.Tensor:
        """Return the rows [n, width] as they are at concepts' strengths."""
        strengths = [of_concepts[concept] if concept is not None else 0.0 for concept in self._concepts]
        adding = [of_concepts[concept] for concept in self._adding]
        if strengths + adding != self._strengths:
            self._strengths = strengths + adding
            if set(self._strengths) == {1.0} and self._added is None:
                self._blended = self._values
            else:
                # In float32, so that a strength is not rounded to the model's type.
                weights = torch.tensor(strengths, device=self._values.device)
                blended = torch.lerp(self._bases.float(), self._values.float(), weights[:, None])
                if self._added is not None:
                    factors = torch.tensor(adding, device=self._values.device)
                    blended.index_add_(0, self._added_at, factors[:, None] * self._added.float())
                self._blended = blended.to(self._values)
        return self._blended
