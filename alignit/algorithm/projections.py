"""Keys and values at a concept's rows: where line 4 of Algorithm 1 (arXiv 2406.18893) is done in each layer.

That is for concepts whose row of the conditioning cannot carry them: those that change W_k and W_v (Custom Diffusion),
and those that are put in differently in different layers, in keys and in values, or at each step (see
`alignit.algorithm.controls`). `alignit.algorithm.injection` decides which these are.

The model's weights are never written to. Forward hooks on `to_k` and `to_v` of each `attn2` change what these modules
return at the rows of a concept. LDM, sgm and diffusers give these modules the same names, and every attention
optimisation calls them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from alignit.algorithm.conditioning import Injected
from alignit.algorithm.controls import Controls
from alignit.algorithm.hooks import LayerHooks, Networks, Weights, no_networks
from alignit.algorithm.rows import Contents, as_batch, context_name, index_of, locate
from alignit.concepts.weight_change import WeightChange

_Key = tuple[int, int]  # a prompt and a row of it
_Located = Mapping[tuple[int, int], tuple[Injected, int]]

_ROUNDING = 1e-2  # between a row that was prepared alone and one among others, in half precision

Prepare = Callable[[torch.nn.Module, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def unchanged(_attention: torch.nn.Module, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Give the rows of a context to `to_k` and `to_v` as they are, as a UNet without hypernetworks does."""
    return rows, rows


class ChangedAtConcepts(LayerHooks):
    """The paper's injection: K'[i] = W'_k C'[i] and V'[i] = W'_v C'[i] at a concept's rows, the base model elsewhere.

    What is injected is computed once for a layer's weights, when it first meets the row.
    """

    def __init__(
        self,
        injected: Sequence[Injected],
        controls: Mapping[str, Controls],
        changes: Mapping[str, WeightChange],
        levels: int = 4,
        prepare: Prepare = unchanged,
        networks: Networks = no_networks,
    ) -> None:
        """Take what to inject.

        Args:
            injected: The prompts whose rows to look for.
            controls: How each concept is put in. Rows of one that is not named stay as they are.
            changes: The changes of W_k and W_v, by concept.
            levels: How many resolutions the UNet works at: 4 in SD1 and SD2.
            prepare: Gives the inputs of `to_k` and `to_v` for rows of the context, [n, width] each: hypernetworks.
            networks: See `alignit.algorithm.hooks.LayerHooks`.
        """
        super().__init__(networks)
        self._injected = injected
        self._controls = controls
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
        self._places.step()

    def begin_pass(self) -> None:
        """See `alignit.algorithm.hooks.Part`."""
        self._found.clear()

    @property
    def missing(self) -> dict[str, frozenset[str]]:
        """See `alignit.algorithm.hooks.Part`."""
        wanted = frozenset(self._controls)
        return {layer: wanted - self._found.get(layer, frozenset()) for layer in self._layers}

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
            if not places.located:
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
                    places.located,
                    layer,
                    inputs,
                    given,
                    # Not by calling the module, which would come back here; LoRA's changes are in its forward.
                    lambda rows: module.forward(prepare(attention, rows)[index]),
                )
                places.payloads[layer, prepared] = payload
            values = payload.blended(self._strengths_now()).to(outputs)
            return given.index_put(places.at, values).view(outputs.shape)

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
            for place, (injected, row) in locate(rows, self._injected).items()
            if injected.rows[row] in self._controls
        }
        concepts = frozenset(injected.rows[row] for injected, row in located.values())
        return _Places(located, index_of(located, rows), concepts)

    def _strengths_now(self) -> dict[str, float]:
        fraction, strengths = self._strengths
        if fraction != self._fraction:
            strengths = {name: controls.strength_at(self._fraction) for name, controls in self._controls.items()}
            self._strengths = self._fraction, strengths
        return strengths

    def _payload(
        self,
        computed: _Computed,
        located: _Located,
        layer: str,
        inputs: torch.Tensor,
        outputs: torch.Tensor,
        project: Callable[[torch.Tensor], torch.Tensor],
    ) -> _Payload:
        """Compute K', V' and K_p, V_p of rows that this layer meets for the first time, all of a change at once."""
        keys = [(id(injected), row) for injected, row in located.values()]
        concepts = [injected.rows[row] for injected, row in located.values()]
        met: dict[WeightChange | None, dict[_Key, tuple[int, int]]] = {}
        alone: dict[_Key, torch.Tensor] = {}
        for key, concept, (place, (injected, row)) in zip(keys, concepts, located.items(), strict=True):
            if key not in computed.values:
                met.setdefault(self._changes.get(concept), {})[key] = place
            if key not in computed.bases and not self._whole(layer, concept):
                alone[key] = injected.base[row]
        for change, places in met.items():
            at = index_of(places.values(), inputs)
            values = outputs[at] if change is None else change.apply(layer, inputs[at], outputs[at])
            computed.values.update(zip(places, values, strict=True))
        if alone:
            bases = project(torch.stack(list(alone.values())).to(inputs))
            computed.bases.update(zip(alone, bases, strict=True))
        return _Payload(
            computed,
            [concept if self._controls[concept].chosen(layer, self._levels) else None for concept in concepts],
            torch.stack([computed.values[key] for key in keys]),
            torch.stack([computed.bases.get(key, computed.values[key]) for key in keys]),
        )

    def _whole(self, layer: str, concept: str) -> bool:
        """Say whether nothing of the base prompt is in what this layer gets, at any step."""
        controls = self._controls[concept]
        return controls.strength == 1 and controls.steady and controls.chosen(layer, self._levels)


@dataclass
class _Computed:
    """What was computed with a layer's weights as they were at the time.

    Attributes:
        weights: The weights.
        values: Of the dummy prompts' rows.
        bases: Of the base prompts'.
    """

    weights: Weights
    values: dict[_Key, torch.Tensor] = field(default_factory=dict)
    bases: dict[_Key, torch.Tensor] = field(default_factory=dict)


@dataclass
class _Places:
    """Where the concepts stand in rows that projections are given, and what goes there.

    Attributes:
        located: As `alignit.algorithm.rows.locate` returns it.
        at: The same as an index of the rows' first two dimensions.
        concepts: The names of the concepts.
        payloads: What each layer gets there, by the layer and by whether it is given prepared rows.
    """

    located: _Located
    at: tuple[torch.Tensor, ...]
    concepts: frozenset[str]
    payloads: dict[tuple[str, bool], _Payload] = field(default_factory=dict)


class _Payload:
    """What a layer gets at the places of some rows, n of them: kept while rows, weights and strengths are the same.

    Attributes:
        source: What it was taken from.
    """

    def __init__(
        self, source: _Computed, concepts: Sequence[str | None], values: torch.Tensor, bases: torch.Tensor
    ) -> None:
        """Take the rows of the dummy prompts and of the base prompts, [n, width] each.

        Args:
            source: What they are taken from.
            concepts: Whose a row is; None where the layer gets the base prompt's.
            values: K' or V'.
            bases: K_p or V_p.
        """
        self.source = source
        self._concepts = concepts
        self._values = values
        self._bases = bases
        self._strengths: list[float] = []
        self._blended = values

    def blended(self, of_concepts: Mapping[str, float]) -> torch.Tensor:
        """Return the rows [n, width] as they are at concepts' strengths."""
        strengths = [of_concepts[concept] if concept is not None else 0.0 for concept in self._concepts]
        if strengths != self._strengths:
            self._strengths = strengths
            if set(strengths) == {1.0}:
                self._blended = self._values
            else:
                # In float32, so that a strength is not rounded to the model's type.
                weights = torch.tensor(strengths, device=self._values.device)
                blended = torch.lerp(self._bases.float(), self._values.float(), weights[:, None])
                self._blended = blended.to(self._values)
        return self._blended
