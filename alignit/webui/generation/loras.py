"""The LoRAs of a generation that are concepts: taken from the host for the length of a batch, and given back."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import replace
from typing import Any

from alignit.patches import Replaced
from alignit.webui.host import host
from alignit.webui.host.ports import BoundLoras, LoraParts
from alignit.webui.networks.loras import Lora, find_loras, lora_names
from alignit.webui.networks.network import NetworkConcept

Binds = Callable[[str, str], bool]
"""Says whether the user made a concept of a LoRA, from its name in the prompt and its file."""


def bound_loras(extra_network_data: Mapping[str, Any] | None, binds: Binds) -> list[Lora]:
    """Return the LoRAs of a prompt of which the user made concepts."""
    return [lora for lora in find_loras(extra_network_data) if binds(lora.name, str(lora.path))]


def cannot_be_bound(extra_network_data: Mapping[str, Any] | None, binds: Binds) -> list[str]:
    """Return a note for each LoRA of which the user made a concept, in a host where none can be."""
    if host().loras is not None:
        return []
    return [
        f"<lora:{name}> cannot be bound to its word in this WebUI, which applies LoRAs in a way of its own. It acts on "
        "the whole picture, as without AlignIT."
        for name in lora_names(extra_network_data)
        if binds(name, "")
    ]


class JobLoras:
    """The LoRAs that a job has taken from the host.

    The negative prompt is encoded without them too, and the host keeps it for all jobs under a key that says with: its
    caches are others, for as long as any LoRA is bound.
    """

    def __init__(self, p: Any) -> None:
        """Take the host's processing object; nothing is bound yet."""
        self._p = p
        self._bound: BoundLoras | None = None
        self._concepts: tuple[NetworkConcept, ...] = ()
        self._caches = {name: [None, None] for name in ("cached_uc", "cached_hr_uc") if hasattr(p, name)}
        self._taken: Replaced | None = None

    @property
    def concepts(self) -> tuple[NetworkConcept, ...]:
        """The LoRAs that are bound, as concepts."""
        return self._concepts

    @property
    def notes(self) -> list[str]:
        """What the user has to know of those that are bound."""
        parts = self._bound.parts if self._bound is not None else {}
        return [
            f"'{path.name}' has nothing that this WebUI can use with the loaded model: it is for another kind of model "
            "(SD1, SD2 or SDXL), or has the names of diffusers or PEFT. Load its kind of model, or convert it to "
            "kohya's names."
            for path, of_file in parts.items()
            if not of_file.modules
        ]

    @property
    def identity(self) -> Hashable:
        """Differs where others are bound."""
        return tuple(concept.filename for concept in self._concepts)

    def bind(self, extra_network_data: Mapping[str, Any] | None, binds: Binds) -> bool:
        """Take the LoRAs of a prompt that are concepts, of those that the host has just put to work.

        Returns:
            Whether others are bound now than the last time.
        """
        before = self.identity
        self.give_back()
        wanted = bound_loras(extra_network_data, binds)
        loras = host().loras
        if wanted and loras is not None:
            self._bound = loras.bind([lora.path for lora in wanted])
            parts = self._bound.parts
            self._concepts = tuple(_concept(lora, parts[lora.path]) for lora in wanted if lora.path in parts)
        else:
            self._concepts = ()
        changed = self.identity != before
        if changed:
            self.forget()
        if self._concepts:
            self._taken = Replaced(self._p, self._caches)
        return changed

    def give_back(self) -> None:
        """Have the host apply all of its LoRAs again. `concepts` still answers."""
        if self._bound is not None:
            self._bound.give_back()
            self._bound = None
        if self._taken is not None:
            self._taken.give_back()
            self._taken = None

    def give_back_copy(self, p: Any) -> None:
        """Give a copy of the processing object back as its original was; what is bound stays so."""
        if self._taken is not None:
            self._taken.give_back(p)

    def forget(self) -> None:
        """Let go of what was encoded."""
        for cache in self._caches.values():
            cache[:] = [None, None]


def _concept(lora: Lora, parts: LoraParts) -> NetworkConcept:
    return replace(lora.concept, change=parts.projections, encoder_change=parts.encoder, others=parts.others)
