"""A LoRA's other layers, where the cross-attention looks at its concept. This is beyond the paper (arXiv 2406.18893).

Algorithm 1 puts in keys and values at a concept's rows. A LoRA changes other layers too, and in many the look is in
these. Such a layer, which makes y of its inputs, and y + D_c of them with the LoRA of a concept c, gets

    y + sum over c of  o_c s_c m_c D_c

with o_c the strength of the other layers, s_c that of the concept at the step, and m_c by the mode: 0 where they are
**off**; 1 where they are **on**; and where they are **masked** a mask over the places of the picture. That is made from
the step before, in the picture's conditioned rows:

    a_c(x) = mean over cross-attention layers, heads and the concept's rows i of  softmax(Q(x) K^T / sqrt d)[i]

where the softmax goes over all tokens; brought to the size of the finest of these layers; with top_c the `COVERED` part
of the places, those where a_c is largest; and

    m_c(x) = a_c(x) / sum over c' with x in top_c' of a_c'(x)   for x in top_c,   else 0

so that concepts share the places that both of them are seen at. A fixed part of the places, and no threshold: rows of
the background attend to a concept too. A layer of another size gets the mean of m_c over each of its places. At the
first step of a pass there is no mask, and the layers are off. The unconditioned half of a picture, known by its equal
latents, gets what the conditioned one gets. In masked mode, modules without places, such as those of the time
embedding, are off. A concept with no row in the prompt at a step has no effect at it.

The idea to confine a LoRA by the attention to its words is also that of FreeFuse (arXiv 2510.23515).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.functional import interpolate

from alignit.algorithm.attention import full_precision, halved_to, token_probabilities
from alignit.algorithm.conditioning import Injected
from alignit.algorithm.context import PromptsOverSteps
from alignit.algorithm.controls import Controls, Others
from alignit.algorithm.hooks import eager
from alignit.algorithm.rows import Contents, context_name, locate
from alignit.concepts.layer_change import LayerChange
from alignit.concepts.layer_names import layer_of

COVERED = 0.39
"""The part of a picture's places that a mask covers: 14 of 36 on the miniature, of whose places an object has 9."""

_LATENT_CHANNELS = 4  # a model for inpainting has others behind them

_Size = tuple[int, int]


@dataclass
class _Seen:
    """Where a picture was attended to for a concept, in one step: sums of maps [height, width] by their size."""

    sums: dict[_Size, torch.Tensor] = field(default_factory=dict)
    layers: int = 0

    def add(self, size: _Size, seen: torch.Tensor) -> None:
        self.sums[size] = self.sums[size] + seen if size in self.sums else seen
        self.layers += 1


@dataclass
class _Call:
    """A call of the UNet.

    Attributes:
        size: Height and width of the latent pictures.
        pictures: The number of the picture that each row of the batch is of.
        rows: By the row of the batch, the concepts' rows of the conditioning.
        weights: o s m by concept and shape, as far as they were asked for.
    """

    size: _Size
    pictures: list[int]
    rows: Mapping[int, Mapping[str, list[int]]]
    weights: dict[tuple[Any, ...], torch.Tensor | None] = field(default_factory=dict)


class OtherLayers:
    """The other layers of concepts that change them; a `alignit.algorithm.hooks.Part`.

    Its hooks on `to_k` have to come after those that put in the concepts' keys.
    """

    def __init__(
        self, prompts: PromptsOverSteps, controls: Mapping[str, Controls], changes: Mapping[str, LayerChange]
    ) -> None:
        """Take what is changed.

        Args:
            prompts: The prompts whose injected rows to look for.
            controls: How each concept is put in.
            changes: The changes of the other layers, by concept.
        """
        self._prompts = prompts
        self._controls = controls
        self._changes = changes
        self._masked = {name for name in changes if controls[name].others is Others.MASKED}
        self._unet: torch.nn.Module | None = None
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._unplaced: set[str] = set()
        self._forget()

    def _forget(self) -> None:
        self._fraction = 0.0
        self._now: tuple[Injected, ...] = ()
        self._rows = Contents(self._locate)
        self._call: _Call | None = None
        self._halves: dict[str, tuple[int, torch.Tensor]] = {}
        self._masks: dict[tuple[int, str], torch.Tensor] = {}
        self._begin_step()

    def _begin_step(self) -> None:
        self._latents: list[torch.Tensor] = []
        self._standing: dict[int, set[str]] = {}
        self._seen: dict[int, dict[str, _Seen]] = {}

    def step(self, unet: torch.nn.Module, fraction: float) -> None:
        """See `alignit.algorithm.hooks.Part`."""
        unet = eager(unet)
        if unet is not self._unet:
            self.release()
            self._watch(unet)
        for picture, seen in self._seen.items():
            for concept, mask in masks(seen).items():
                self._masks[picture, concept] = mask
        self._begin_step()
        self._fraction = fraction
        now = self._prompts.at(fraction)
        if now is not self._now:
            self._now, self._rows = now, Contents(self._locate)
        self._call = None

    @property
    def waiting(self) -> frozenset[str]:
        """See `alignit.algorithm.hooks.Part`; a LoRA need not change the layers that a UNet calls at each step."""
        return frozenset()

    @property
    def missing(self) -> Mapping[str, Collection[str]]:
        """See `alignit.algorithm.hooks.Part`; it is the keys' and values' part that knows."""
        return {}

    def begin_pass(self) -> None:
        """See `alignit.algorithm.hooks.Part`: masks are made anew."""
        self._masks.clear()
        self._begin_step()

    @property
    def unplaced(self) -> frozenset[str]:
        """The layers whose places are not those of the picture, as something merges or tiles them: they were off."""
        return frozenset(self._unplaced)

    def release(self) -> None:
        """Remove the hooks, and forget the masks."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._unet = None
        self._forget()

    def _watch(self, unet: torch.nn.Module) -> None:
        self._unet = unet
        self._handles.append(unet.register_forward_pre_hook(self._on_unet, with_kwargs=True))
        concepts: dict[str, list[str]] = {}
        for concept, change in self._changes.items():
            for layer in change.layers(unet):
                concepts.setdefault(layer, []).append(concept)
        modules = dict(unet.named_modules())
        for layer, changed_by in concepts.items():
            self._handles.append(modules[layer].register_forward_hook(self._changed(layer, changed_by)))
        # After these, as queries are changed too.
        for name, attention in modules.items() if self._masked else ():
            if name.endswith(".attn2") and layer_of(f"{name}.to_k") is not None:
                for index, projection in enumerate((attention.to_q, attention.to_k)):
                    self._handles.append(projection.register_forward_hook(self._attended(name, attention, index)))

    def _on_unet(self, _unet: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        name = context_name(kwargs)
        context = kwargs[name] if name else args[2] if len(args) > 2 else None
        latents = args[0] if args else kwargs.get("x", kwargs.get("sample"))
        self._halves.clear()
        self._call = None
        if not isinstance(context, torch.Tensor) or not isinstance(latents, torch.Tensor) or latents.dim() != 4:
            return
        rows = self._rows.of(context, self)
        pictures = [self._picture(row) for row in latents[:, :_LATENT_CHANNELS]]
        for batch, concepts in rows.items():
            self._standing.setdefault(pictures[batch], set()).update(concepts)
        self._call = _Call((latents.shape[-2], latents.shape[-1]), pictures, rows)

    def _locate(self, context: torch.Tensor) -> dict[int, dict[str, list[int]]]:
        """Return the concepts' rows by the row of the batch and the concept."""
        rows: dict[int, dict[str, list[int]]] = {}
        for (batch, token), (injected, row) in locate(context, self._now).items():
            rows.setdefault(batch, {}).setdefault(injected.rows[row], []).append(token)
        return rows

    def _picture(self, latent: torch.Tensor) -> int:
        """Return the number of a picture: a sampler gives its latents to the UNet once for each of its prompts."""
        for number, known in enumerate(self._latents):
            if known.shape == latent.shape and torch.equal(known, latent):
                return number
        self._latents.append(latent.clone())
        return len(self._latents) - 1

    def _changed(self, layer: str, concepts: Sequence[str]) -> Callable[..., torch.Tensor | None]:
        def hook(
            _module: torch.nn.Module, args: tuple[torch.Tensor, ...], outputs: torch.Tensor
        ) -> torch.Tensor | None:
            result = None
            for concept in concepts:
                weight = self._weight(layer, concept, outputs)
                if weight is not None:
                    added = weight * self._changes[concept].difference(layer, args[0]).to(outputs)
                    result = (outputs if result is None else result) + added
            return result

        return hook

    def _weight(self, layer: str, concept: str, outputs: torch.Tensor) -> torch.Tensor | None:
        """Return o s m of a concept for a module's outputs, [rows, 1, height, width] or [rows, places, 1]; None: 0."""
        call = self._call
        if call is None:
            return None
        size: _Size | None = None
        if outputs.dim() == 4:
            size = outputs.shape[-2], outputs.shape[-1]
        elif outputs.dim() == 3:
            size = halved_to(call.size, outputs.shape[1])
        if len(outputs) != len(call.pictures) or (size is None and outputs.dim() == 3):
            self._unplaced.add(layer)
            return None
        key = concept, outputs.dim(), size, outputs.dtype, outputs.device
        if key not in call.weights:
            weights = self._weights(concept, call, size)
            if weights is not None and outputs.dim() == 4:
                weights = weights[:, None]
            elif weights is not None and outputs.dim() == 3:
                weights = weights.flatten(1)[..., None]
            elif weights is not None:
                weights = weights.flatten(1)
            call.weights[key] = None if weights is None else weights.to(outputs)
        return call.weights[key]

    def _weights(self, concept: str, call: _Call, size: _Size | None) -> torch.Tensor | None:
        """Return o s m of a concept, [rows, height, width]; [rows, 1, 1] where it is the same at all places."""
        controls = self._controls[concept]
        strength = controls.others_strength * controls.strength_at(self._fraction)
        standing = [concept in self._standing.get(picture, ()) for picture in call.pictures]
        if strength == 0 or not any(standing):
            return None
        if concept not in self._masked:
            return strength * torch.tensor(standing, dtype=torch.float32)[:, None, None]
        found = [self._masks.get((picture, concept)) for picture in call.pictures]
        known = next((mask for mask in found if mask is not None), None)
        if size is None or known is None:
            return None
        of_rows = [
            _resized(mask, size) if mask is not None and stands else known.new_zeros(size)
            for mask, stands in zip(found, standing, strict=True)
        ]
        return strength * torch.stack(of_rows)

    def _attended(self, name: str, attention: Any, index: int) -> Callable[..., None]:
        def hook(_module: torch.nn.Module, _args: tuple[Any, ...], output: torch.Tensor) -> None:
            call = self._call
            if call is None or not call.rows:
                return
            known = self._halves.pop(name, None)
            if known is None or known[0] == index:  # the other one of the two is still to come
                self._halves[name] = index, output
                return
            queries, keys = (known[1], output) if index else (output, known[1])
            with torch.no_grad(), full_precision(output.device):
                self._look(call, queries, keys, int(attention.heads))

        return hook

    def _look(self, call: _Call, queries: torch.Tensor, keys: torch.Tensor, heads: int) -> None:
        size = halved_to(call.size, queries.shape[1])
        if size is None or len(queries) != len(call.pictures) or len(keys) != len(call.pictures):
            return
        for batch, concepts in call.rows.items():
            wanted = {name: rows for name, rows in concepts.items() if name in self._masked}
            at = torch.tensor([row for rows in wanted.values() for row in rows], dtype=torch.long, device=keys.device)
            if not len(at):
                continue
            seen = token_probabilities(queries[batch], keys[batch], heads, at).unflatten(1, size)
            of_picture = self._seen.setdefault(call.pictures[batch], {})
            for (name, rows), maps in zip(wanted.items(), seen.split([*map(len, wanted.values())]), strict=True):
                of_picture.setdefault(name, _Seen()).add(size, maps.sum(0) / len(rows))


def masks(seen: Mapping[str, _Seen], covered: float = COVERED) -> dict[str, torch.Tensor]:
    """Return m of each concept of a picture, [height, width], from where it was attended to."""
    size = max((size for of_concept in seen.values() for size in of_concept.sums), key=lambda size: size[0] * size[1])
    attended, shared = {}, {}
    for name, of_concept in seen.items():
        maps = (
            interpolate(total[None, None], size, mode="bilinear", align_corners=False)[0, 0]
            for total in of_concept.sums.values()
        )
        attended[name] = torch.stack(list(maps)).sum(0) / of_concept.layers
        flat = attended[name].flatten()
        top = flat.topk(max(1, round(covered * len(flat)))).indices
        shared[name] = torch.zeros_like(flat).scatter(0, top, flat[top]).reshape(size)
    total = torch.stack(list(shared.values())).sum(0)
    return {name: part / total.clamp_min(torch.finfo(total.dtype).tiny) for name, part in shared.items()}


def _resized(mask: torch.Tensor, size: _Size) -> torch.Tensor:
    return mask if mask.shape == size else interpolate(mask[None, None], size, mode="area")[0, 0]
