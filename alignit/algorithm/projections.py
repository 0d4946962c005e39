"""Keys and values that a row of the conditioning cannot carry: lines 3 and 4 of Algorithm 1 in each layer.

That is those of concepts that change W_k and W_v (Custom Diffusion), and those of concepts that are put in differently
in different layers, in keys and in values, or at each step (see `alignit.algorithm.controls`).

The model's weights are never written to. Forward hooks on `to_k` and `to_v` of each `attn2` change what these modules
return: at the rows of a concept, which is the paper's injection, or at all rows, which is Custom Diffusion itself. LDM,
sgm and diffusers give these modules the same names, and every attention optimisation calls them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch

from alignit.algorithm.conditioning import Injected
from alignit.algorithm.controls import Controls
from alignit.algorithm.injection import context_name, locate
from alignit.concepts.layer_names import layer_of
from alignit.concepts.weight_change import Change

_Key = tuple[str, int, int]  # a layer, a prompt and a row of it

Prepare = Callable[[torch.nn.Module, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def unchanged(_attention: torch.nn.Module, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Give the rows of a context to `to_k` and `to_v` as they are, as a UNet without hypernetworks does."""
    return rows, rows


class ProjectionHooks:
    """Hooks on the key and value projections of a UNet. Use as a context manager: they are gone after the block."""

    def __init__(self) -> None:
        self._unet: torch.nn.Module | None = None
        self._handles: list[Any] = []
        self._waiting: set[str] = set()

    def __enter__(self) -> ProjectionHooks:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def watch(self, unet: torch.nn.Module) -> None:
        """Set the hooks on this UNet, and on no other."""
        if unet is self._unet:
            return
        self.release()
        self._unet = unet
        for name, attention in unet.named_modules():
            if name.endswith(".attn2"):
                self._hook(name, attention)

    @property
    def waiting(self) -> frozenset[str]:
        """The layers whose hooks were not called yet: something can compute keys and values without the modules."""
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


class ChangedEverywhere(ProjectionHooks):
    """Custom Diffusion itself: the changed weights for every token. Several changes add up.

    A sampler gives the same rows at most steps: what a layer makes of them is computed once, and kept till they change.
    """

    def __init__(self, changes: Sequence[Change]) -> None:
        super().__init__()
        self._changes = changes
        self._inputs = _Content()
        self._results: dict[str, torch.Tensor] = {}

    def release(self) -> None:
        """Remove the hooks, and forget what was computed with this UNet's weights."""
        super().release()
        self._forget()

    def _forget(self) -> None:
        self._inputs = _Content()
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


class ChangedAtConcepts(ProjectionHooks):
    """The paper's injection: K'[i] = W'_k C'[i] and V'[i] = W'_v C'[i] at a concept's rows, the base model elsewhere.

    What is injected is computed once for a UNet's weights, when a layer first meets the row.

    Attributes:
        fraction: The fraction of the sampling steps before this one.
    """

    def __init__(
        self,
        injected: Sequence[Injected],
        changes: Mapping[str, Change],
        controls: Mapping[str, Controls] | None = None,
        levels: int = 4,
        prepare: Prepare = unchanged,
    ) -> None:
        """Take what to inject.

        Args:
            injected: The prompts whose rows to look for. Rows of concepts that need nothing here stay as they are.
            changes: The changes of W_k and W_v, by concept.
            controls: How each concept is put in; one that is not named, as in the paper.
            levels: How many resolutions the UNet works at: 4 in SD1 and SD2.
            prepare: Gives the inputs of `to_k` and `to_v` for rows of the context, [n, width] each: hypernetworks.
        """
        super().__init__()
        self.fraction = 0.0
        self._injected = injected
        self._changes = changes
        self._controls = controls or {}
        self._levels = levels
        self._prepare = prepare
        self._forget()

    def release(self) -> None:
        """Remove the hooks, and forget what was computed with this UNet's weights."""
        super().release()
        self._forget()

    def _forget(self) -> None:
        self._context = _Content()
        self._located: dict[tuple[int, int], tuple[Injected, int]] = {}
        self._at: tuple[torch.Tensor, ...] = ()
        # Each concept's strength, and the fraction of the steps for which that is so.
        self._strengths: tuple[float | None, dict[str, float]] = None, {}
        # Of the dummy prompts' rows, and of the base prompts'.
        self._values: dict[_Key, torch.Tensor] = {}
        self._bases: dict[_Key, torch.Tensor] = {}
        # What goes to all places of the context, by layer.
        self._payloads: dict[str, _Payload] = {}

    def _hook(self, name: str, attention: Any) -> None:
        self._handles.append(attention.register_forward_pre_hook(self._find_rows, with_kwargs=True))
        self._hook_projections(name, attention, lambda layer, index: self._changed(layer, attention, index))

    def _find_rows(self, attention: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        name = context_name(kwargs)
        context = kwargs[name] if name else args[1] if len(args) > 1 else None
        if isinstance(context, tuple):
            context = context[0]  # in diffusers with an IP-Adapter, whose pictures come after the text
        if not isinstance(context, torch.Tensor):
            self._context = _Content()
            self._located = {}
        elif self._context.is_new(context, attention):
            self._payloads.clear()
            self._strengths = None, {}
            self._located = {
                place: (injected, row)
                for place, (injected, row) in locate(context, self._injected).items()
                if needs_projections(self._controls_of(injected.rows[row]), injected.rows[row] in self._changes)
            }
            self._at = _index(self._located, context)

    def _controls_of(self, concept: str) -> Controls:
        return self._controls.get(concept, Controls())

    def _changed(self, layer: str, attention: Any, index: int) -> Callable[..., torch.Tensor | None]:
        def hook(module: torch.nn.Module, args: tuple[torch.Tensor, ...], outputs: torch.Tensor) -> torch.Tensor | None:
            if not self._located:
                return None
            payload = self._payloads.get(layer)
            if payload is None:
                payload = self._payloads[layer] = self._compute(layer, attention, module, index, args[0], outputs)
            values = payload.blended(self._strengths_now()).to(outputs)
            return outputs.index_put(self._at, values)

        return hook

    def _strengths_now(self) -> dict[str, float]:
        fraction, strengths = self._strengths
        if fraction != self.fraction:
            named = {injected.rows[row] for injected, row in self._located.values()}
            strengths = {concept: self._controls_of(concept).strength_at(self.fraction) for concept in named}
            self._strengths = self.fraction, strengths
        return strengths

    def _compute(
        self, layer: str, attention: Any, module: Any, index: int, inputs: torch.Tensor, outputs: torch.Tensor
    ) -> _Payload:
        """Compute K', V' and K_p, V_p of rows that this layer meets for the first time, all of a change at once."""
        keys = [(layer, id(injected), row) for injected, row in self._located.values()]
        concepts = [injected.rows[row] for injected, row in self._located.values()]
        met: dict[Change | None, dict[_Key, tuple[int, int]]] = {}
        alone: dict[_Key, torch.Tensor] = {}
        for key, concept, (place, (injected, row)) in zip(keys, concepts, self._located.items(), strict=True):
            if key not in self._values:
                met.setdefault(self._changes.get(concept), {})[key] = place
            if key not in self._bases and not self._whole(layer, concept):
                alone[key] = injected.base[row]
        for change, places in met.items():
            at = _index(places.values(), inputs)
            values = outputs[at] if change is None else change.apply(layer, inputs[at], outputs[at])
            self._values.update(zip(places, values, strict=True))
        if alone:
            rows = torch.stack(list(alone.values())).to(inputs)
            # Not by calling the module, which would come back here; LoRA's changes are in its forward.
            bases = module.forward(self._prepare(attention, rows)[index])
            self._bases.update(zip(alone, bases, strict=True))
        return _Payload(
            [concept if self._controls_of(concept).chosen(layer, self._levels) else None for concept in concepts],
            torch.stack([self._values[key] for key in keys]),
            torch.stack([self._bases.get(key, self._values[key]) for key in keys]),
        )

    def _whole(self, layer: str, concept: str) -> bool:
        """Say whether nothing of the base prompt is in what this layer gets, at any step."""
        controls = self._controls_of(concept)
        return controls.strength == 1 and controls.steady and controls.chosen(layer, self._levels)


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


class _Content:
    """Knows whether the rows that modules are given are still the same, and compares once for a call of the UNet."""

    def __init__(self) -> None:
        self._rows: torch.Tensor | None = None
        self._given_to: set[object] = set()
        self._content: torch.Tensor | None = None

    def is_new(self, rows: torch.Tensor, module: object) -> bool:
        """Say whether rows differ from those of the last time, for whichever module that was."""
        # A UNet hands one context to all of its layers; some extensions slice it on the way. Where a module comes
        # again, it is another call, and something may have written to the rows.
        if rows is self._rows and module not in self._given_to:
            self._given_to.add(module)
            return False
        self._rows, self._given_to = rows, {module}
        known = self._content
        if (
            known is not None
            and (known.shape, known.dtype, known.device) == (rows.shape, rows.dtype, rows.device)
            and torch.equal(known, rows)
        ):
            return False
        self._content = rows.detach().clone()
        return True


def _index(places: Collection[tuple[int, int]], batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return places as an index of a batch's first two dimensions, on its device."""
    return torch.tensor(list(places), device=batch.device).reshape(-1, 2).unbind(1)
