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
from alignit.algorithm.hooks import LayerHooks
from alignit.algorithm.rows import Content, context_name, index_of, locate
from alignit.concepts.weight_change import WeightChange

_Key = tuple[str, int, int]  # a layer, a prompt and a row of it
_Located = tuple[Injected, int, tuple[int, int]]  # a prompt, a row of it, and where it is in a batch

Prepare = Callable[[torch.nn.Module, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def unchanged(_attention: torch.nn.Module, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Give the rows of a context to `to_k` and `to_v` as they are, as a UNet without hypernetworks does."""
    return rows, rows


class ChangedAtConcepts(LayerHooks):
    """The paper's injection: K'[i] = W'_k C'[i] and V'[i] = W'_v C'[i] at a concept's rows, the base model elsewhere.

    Rows that concepts reach beyond their own get K_p[r] and the sum of s d (K'[r] - K_o[r]): see
    `alignit.algorithm.reach`. What is injected is computed once for a UNet's weights, when a layer first meets the row.
    """

    def __init__(
        self,
        prompts: PromptsOverSteps,
        controls: Mapping[str, Controls],
        concepts: Set[str],
        changes: Mapping[str, WeightChange],
        levels: int = 4,
        prepare: Prepare = unchanged,
    ) -> None:
        """Take what to inject.

        Args:
            prompts: The prompts whose rows to look for.
            controls: How each of their concepts is put in.
            concepts: Those to put in here. Rows at which there is none of them stay as they are.
            changes: The changes of W_k and W_v, by concept.
            levels: How many resolutions the UNet works at: 4 in SD1 and SD2.
            prepare: Gives the inputs of `to_k` and `to_v` for rows of the context, [n, width] each: hypernetworks.
        """
        super().__init__()
        self._prompts = prompts
        self._now = prompts.whole
        self._controls = controls
        self._concepts = concepts
        self._changes = changes
        self._levels = levels
        self._prepare = prepare
        self._fraction = 0.0
        self._forget()

    def step(self, unet: torch.nn.Module, fraction: float) -> None:
        """See `alignit.algorithm.hooks.Part`."""
        super().step(unet, fraction)
        self._fraction = fraction
        self._now = self._prompts.at(fraction)

    def release(self) -> None:
        """Remove the hooks, and forget what was computed with this UNet's weights."""
        super().release()
        self._forget()

    def _forget(self) -> None:
        self._context = Content()
        self._places = _Places()
        # Each concept's strength, and the fraction of the steps for which that is so.
        self._strengths: tuple[float | None, dict[str, float]] = None, {}
        # Of the dummy prompts' rows, of the base prompts', and what concepts add to those that they reach.
        self._values: dict[_Key, torch.Tensor] = {}
        self._bases: dict[_Key, torch.Tensor] = {}
        self._additions: dict[tuple[_Key, int], torch.Tensor] = {}

    def _hook(self, name: str, attention: Any) -> None:
        self._handles.append(attention.register_forward_pre_hook(self._find_rows, with_kwargs=True))
        self._hook_projections(name, attention, lambda layer, index: self._changed(layer, attention, index))

    def _find_rows(self, attention: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        name = context_name(kwargs)
        context = kwargs[name] if name else args[1] if len(args) > 1 else None
        if isinstance(context, tuple):
            context = context[0]  # in diffusers with an IP-Adapter, whose pictures come after the text
        if not isinstance(context, torch.Tensor):
            self._context = Content()
            self._places = _Places()
        elif self._context.is_new(context, attention):
            self._strengths = None, {}
            self._places = _Places.of(
                {
                    place: (injected, row)
                    for place, (injected, row) in locate(context, self._now).items()
                    if not self._concepts.isdisjoint(injected.concepts_at(row))
                },
                context,
            )

    def _changed(self, layer: str, attention: Any, index: int) -> Callable[..., torch.Tensor | None]:
        def hook(module: torch.nn.Module, args: tuple[torch.Tensor, ...], outputs: torch.Tensor) -> torch.Tensor | None:
            places = self._places
            if not places.rows:
                return None
            payload = places.payloads.get(layer)
            if payload is None:
                payload = self._compute(places.rows, layer, attention, module, index, args[0], outputs)
                places.payloads[layer] = payload
            values = payload.blended(self._strengths_now()).to(outputs)
            return outputs.index_put(places.at, values[places.which])

        return hook

    def _strengths_now(self) -> dict[str, float]:
        fraction, strengths = self._strengths
        if fraction != self._fraction:
            named = {concept for injected, row, _place in self._places.rows for concept in injected.concepts_at(row)}
            strengths = {concept: self._controls[concept].strength_at(self._fraction) for concept in named}
            self._strengths = self._fraction, strengths
        return strengths

    def _compute(
        self,
        rows: Sequence[_Located],
        layer: str,
        attention: Any,
        module: Any,
        index: int,
        inputs: torch.Tensor,
        outputs: torch.Tensor,
    ) -> _Payload:
        """Compute K', V' and K_p, V_p of rows that this layer meets for the first time, all of a change at once."""

        def projected(context: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
            given = self._prepare(attention, torch.stack(list(context)).to(inputs))[index]
            # Not by calling the module, which would come back here; LoRA's changes are in its forward.
            return given, module.forward(given)

        keys = [(layer, id(injected), row) for injected, row, _ in rows]
        met: dict[WeightChange | None, dict[_Key, tuple[int, int]]] = {}
        alone: dict[_Key, torch.Tensor] = {}
        added: dict[WeightChange | None, dict[tuple[_Key, int], Addition]] = {}
        concepts: list[str | None] = []
        reached: list[tuple[int, str, tuple[_Key, int]]] = []
        for at, (key, (injected, row, place)) in enumerate(zip(keys, rows, strict=True)):
            concept = injected.rows.get(row)
            whole = concept is not None and self._whole(layer, concept)
            if key not in self._bases and not whole:
                alone[key] = injected.base[row]
            if concept is not None:
                concepts.append(concept if self._chosen(layer, concept) else None)
                if key not in self._values:
                    met.setdefault(self._changes.get(concept), {})[key] = place
                continue
            concepts.append(None)
            for number, addition in enumerate(injected.reached[row]):
                if self._chosen(layer, addition.concept):
                    reached.append((at, addition.concept, (key, number)))
                    if (key, number) not in self._additions:
                        added.setdefault(self._changes.get(addition.concept), {})[key, number] = addition
        for change, places in met.items():
            index_at = index_of(places.values(), inputs)
            values = outputs[index_at] if change is None else change.apply(layer, inputs[index_at], outputs[index_at])
            self._values.update(zip(places, values, strict=True))
        if alone:
            self._bases.update(zip(alone, projected(list(alone.values()))[1], strict=True))
        for change, of_change in added.items():
            given, customised = projected([one.row for one in of_change.values()])
            if change is not None:
                customised = change.apply(layer, given, customised)
            instead = projected([one.instead for one in of_change.values()])[1]
            factors = torch.tensor([one.factor for one in of_change.values()], device=customised.device)
            differences = factors[:, None] * (customised.float() - instead.float())
            self._additions.update(zip(of_change, differences.to(outputs), strict=True))
        return _Payload(
            concepts,
            torch.stack([self._values[key] if key in self._values else self._bases[key] for key in keys]),
            torch.stack([self._bases[key] if key in self._bases else self._values[key] for key in keys]),
            [(at, concept, self._additions[key]) for at, concept, key in reached],
        )

    def _chosen(self, layer: str, concept: str) -> bool:
        return self._controls[concept].chosen(layer, self._levels)

    def _whole(self, layer: str, concept: str) -> bool:
        """Say whether nothing of the base prompt is in what this layer gets, at any step."""
        controls = self._controls[concept]
        return controls.strength == 1 and controls.steady and self._chosen(layer, concept)


@dataclass
class _Places:
    """Where the concepts stand in the rows that projections are given, and what goes there, by layer.

    Attributes:
        at: The places, as an index of the rows' first two dimensions.
        which: For each of them, which of ``rows`` is there.
        rows: The rows of prompts, each once, with a place of it.
        payloads: What each layer gets there.
    """

    at: tuple[torch.Tensor, ...] = ()
    which: torch.Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    rows: Sequence[_Located] = ()
    payloads: dict[str, _Payload] = field(default_factory=dict)

    @classmethod
    def of(cls, located: Mapping[tuple[int, int], tuple[Injected, int]], context: torch.Tensor) -> _Places:
        """Return what `alignit.algorithm.rows.locate` found in a context."""
        rows: dict[tuple[int, int], _Located] = {}
        for place, (injected, row) in located.items():
            rows.setdefault((id(injected), row), (injected, row, place))
        numbers = {key: number for number, key in enumerate(rows)}
        which = [numbers[id(injected), row] for injected, row in located.values()]
        return cls(index_of(located, context), torch.tensor(which, device=context.device), tuple(rows.values()))


class _Payload:
    """What a layer gets at n rows: kept while the context and the strengths are the same."""

    def __init__(
        self,
        concepts: Sequence[str | None],
        values: torch.Tensor,
        bases: torch.Tensor,
        additions: Sequence[tuple[int, str, torch.Tensor]],
    ) -> None:
        """Take the rows of the dummy prompts and of the base prompts, [n, width] each.

        Args:
            concepts: Whose a row is; None where the layer gets the base prompt's.
            values: K' or V'.
            bases: K_p or V_p.
            additions: Which row gets something of which concept beyond its own, and what, [width], at strength 1.
        """
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
