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
from alignit.algorithm.hooks import LayerHooks
from alignit.algorithm.rows import Content, context_name, index_of, locate
from alignit.concepts.weight_change import WeightChange

_Key = tuple[str, int, int]  # a layer, a prompt and a row of it
_Located = Mapping[tuple[int, int], tuple[Injected, int]]

Prepare = Callable[[torch.nn.Module, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def unchanged(_attention: torch.nn.Module, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Give the rows of a context to `to_k` and `to_v` as they are, as a UNet without hypernetworks does."""
    return rows, rows


class ChangedAtConcepts(LayerHooks):
    """The paper's injection: K'[i] = W'_k C'[i] and V'[i] = W'_v C'[i] at a concept's rows, the base model elsewhere.

    What is injected is computed once for a UNet's weights, when a layer first meets the row.
    """

    def __init__(
        self,
        injected: Sequence[Injected],
        controls: Mapping[str, Controls],
        changes: Mapping[str, WeightChange],
        levels: int = 4,
        prepare: Prepare = unchanged,
    ) -> None:
        """Take what to inject.

        Args:
            injected: The prompts whose rows to look for.
            controls: How each concept is put in. Rows of one that is not named stay as they are.
            changes: The changes of W_k and W_v, by concept.
            levels: How many resolutions the UNet works at: 4 in SD1 and SD2.
            prepare: Gives the inputs of `to_k` and `to_v` for rows of the context, [n, width] each: hypernetworks.
        """
        super().__init__()
        self._injected = injected
        self._controls = controls
        self._changes = changes
        self._levels = levels
        self._prepare = prepare
        self._fraction = 0.0
        self._running: torch.nn.Module | None = None
        self._forget()

    def step(self, unet: torch.nn.Module, fraction: float) -> None:
        """See `alignit.algorithm.hooks.Part`."""
        super().step(unet, fraction)
        self._fraction = fraction

    def release(self) -> None:
        """Remove the hooks, and forget what was computed with this UNet's weights."""
        super().release()
        self._forget()

    def _forget(self) -> None:
        self._running = None
        self._context = Content()
        self._places = _Places({}, ())
        # Each concept's strength, and the fraction of the steps for which that is so.
        self._strengths: tuple[float | None, dict[str, float]] = None, {}
        # Of the dummy prompts' rows, and of the base prompts'.
        self._values: dict[_Key, torch.Tensor] = {}
        self._bases: dict[_Key, torch.Tensor] = {}

    def _hook(self, name: str, attention: Any) -> None:
        self._handles.append(attention.register_forward_pre_hook(self._find_rows, with_kwargs=True))
        self._handles.append(attention.register_forward_hook(self._end))
        self._hook_projections(name, attention, lambda layer, index: self._changed(layer, attention, index))

    def _find_rows(self, attention: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._running = attention
        name = context_name(kwargs)
        context = kwargs[name] if name else args[1] if len(args) > 1 else None
        if isinstance(context, tuple):
            context = context[0]  # in diffusers with an IP-Adapter, whose pictures come after the text
        if not isinstance(context, torch.Tensor):
            self._context = Content()
            self._places = _Places({}, ())
        else:
            self._look_at(context, attention)

    def _end(self, *_: Any) -> None:
        self._running = None

    def _look_at(self, rows: torch.Tensor, given_to: torch.nn.Module) -> None:
        if self._context.is_new(rows, given_to):
            self._strengths = None, {}
            self._places = self._places_in(rows)

    def _places_in(self, rows: torch.Tensor) -> _Places:
        located = {
            place: (injected, row)
            for place, (injected, row) in locate(rows, self._injected).items()
            if injected.rows[row] in self._controls
        }
        return _Places(located, index_of(located, rows))

    def _changed(self, layer: str, attention: Any, index: int) -> Callable[..., torch.Tensor | None]:
        def hook(module: torch.nn.Module, args: tuple[torch.Tensor, ...], outputs: torch.Tensor) -> torch.Tensor | None:
            if self._running is not attention:
                # Something else attends in the layer's place, as an IP-Adapter does in Forge, and calls this alone.
                self._look_at(args[0], module)
            places = self._places
            if not places.located:
                return None
            payload = places.payloads.get(layer)
            if payload is None:
                located = places.located
                payload = self._compute(located, layer, attention, module, index, args[0], outputs)
                places.payloads[layer] = payload
            values = payload.blended(self._strengths_now()).to(outputs)
            return outputs.index_put(places.at, values)

        return hook

    def _strengths_now(self) -> dict[str, float]:
        fraction, strengths = self._strengths
        if fraction != self._fraction:
            named = {injected.rows[row] for injected, row in self._places.located.values()}
            strengths = {concept: self._controls[concept].strength_at(self._fraction) for concept in named}
            self._strengths = self._fraction, strengths
        return strengths

    def _compute(
        self,
        located: _Located,
        layer: str,
        attention: Any,
        module: Any,
        index: int,
        inputs: torch.Tensor,
        outputs: torch.Tensor,
    ) -> _Payload:
        """Compute K', V' and K_p, V_p of rows that this layer meets for the first time, all of a change at once."""
        keys = [(layer, id(injected), row) for injected, row in located.values()]
        concepts = [injected.rows[row] for injected, row in located.values()]
        met: dict[WeightChange | None, dict[_Key, tuple[int, int]]] = {}
        alone: dict[_Key, torch.Tensor] = {}
        for key, concept, (place, (injected, row)) in zip(keys, concepts, located.items(), strict=True):
            if key not in self._values:
                met.setdefault(self._changes.get(concept), {})[key] = place
            if key not in self._bases and not self._whole(layer, concept):
                alone[key] = injected.base[row]
        for change, places in met.items():
            at = index_of(places.values(), inputs)
            values = outputs[at] if change is None else change.apply(layer, inputs[at], outputs[at])
            self._values.update(zip(places, values, strict=True))
        if alone:
            rows = torch.stack(list(alone.values())).to(inputs)
            # Not by calling the module, which would come back here; LoRA's changes are in its forward.
            bases = module.forward(self._prepare(attention, rows)[index])
            self._bases.update(zip(alone, bases, strict=True))
        return _Payload(
            [concept if self._controls[concept].chosen(layer, self._levels) else None for concept in concepts],
            torch.stack([self._values[key] for key in keys]),
            torch.stack([self._bases.get(key, self._values[key]) for key in keys]),
        )

    def _whole(self, layer: str, concept: str) -> bool:
        """Say whether nothing of the base prompt is in what this layer gets, at any step."""
        controls = self._controls[concept]
        return controls.strength == 1 and controls.steady and controls.chosen(layer, self._levels)


@dataclass
class _Places:
    """Where the concepts stand in the rows that projections are given, and what goes there, by layer.

    Attributes:
        located: As `alignit.algorithm.rows.locate` returns it.
        at: The same as an index of the rows' first two dimensions.
        payloads: What each layer gets there.
    """

    located: _Located
    at: tuple[torch.Tensor, ...]
    payloads: dict[str, _Payload] = field(default_factory=dict)


class _Payload:
    """What a layer gets at the places of a context, n rows: kept while the context and the strengths are the same."""

    def __init__(self, concepts: Sequence[str | None], values: torch.Tensor, bases: torch.Tensor) -> None:
        """Take the rows of the dummy prompts and of the base prompts, [n, width] each.

        Args:
            concepts: Whose a row is; None where the layer gets the base prompt's.
            values: K' or V'.
            bases: K_p or V_p.
        """
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
