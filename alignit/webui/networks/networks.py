"""The networks that AlignIT adds to prompts: ``<delta:...>`` and ``<catversion:...>``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from alignit.concepts.concept import ConceptFileError
from alignit.concepts.prefixes import prefixed
from alignit.concepts.weight_change import Change
from alignit.prompt.syntax import Mark, name_key
from alignit.webui.host.ports import Model
from alignit.webui.networks import catversion, deltas
from alignit.webui.networks.catversion import ADAPTERS, Adapter, find_adapter, load_adapter
from alignit.webui.networks.deltas import DELTAS, Delta, load_delta
from alignit.webui.networks.embeddings import embedding_names, find_embedding_name

NETWORKS = (deltas.NETWORK, catversion.NETWORK)

T = TypeVar("T")


@dataclass(frozen=True)
class Active:
    """What a prompt's networks name, as far as it fits the loaded model.

    Attributes:
        deltas: Custom Diffusion concepts, in the order of the prompt.
        adapters: CatVersion concepts, likewise.
    """

    deltas: tuple[Delta, ...] = ()
    adapters: tuple[Adapter, ...] = ()

    @property
    def changes(self) -> list[Change]:
        """The changes of W_k and W_v."""
        return [delta.change for delta in self.deltas]

    @contextmanager
    def changed_encoder(self, model: Model) -> Iterator[None]:
        """Let the model's text encoder be CatVersion's for the length of a block, for whole prompts."""
        with ExitStack() as block:
            for adapter in self.adapters:
                block.enter_context(prefixed(model.encoders[0].clip_layers, adapter.prefixes.layers))
            yield

    def plain_text(self, mark: Mark) -> str | None:
        """Return what a concept's mark in angle brackets means where AlignIT is off; None: it stays as typed."""
        adapter = find_adapter(self.adapters, mark.name)
        if adapter is not None:
            return mark.class_word or next(iter(adapter.class_words), None)
        return _plain_name(mark)


def installed_concepts() -> list[str]:
    """Return the names of all concepts that there are for the loaded model: embeddings, deltas and adapters."""
    return [*embedding_names(), *DELTAS.named(), *ADAPTERS.named()]


def has_networks(prompts: Iterable[str]) -> bool:
    """Say whether any of the prompts names one of AlignIT's networks."""
    return any(f"<{network}:" in prompt for prompt in prompts for network in NETWORKS)


def read_networks(extra_network_data: Mapping[str, Any] | None, say: Callable[[str], None]) -> Active:
    """Return what a prompt's networks name; say what is wrong with those that cannot be used."""

    def read(network: str, load: Callable[[str, list[str], Callable[[str], None]], T]) -> tuple[T, ...]:
        found = []
        for params in (extra_network_data or {}).get(network, []):
            name = params.positional[0] if params.positional else ""
            try:
                found.append(load(name, params.positional[1:], say))
            except ConceptFileError as error:
                say(f"{error} The picture is made without <{network}:{name}>.")
        return tuple(found)

    return Active(read(deltas.NETWORK, load_delta), read(catversion.NETWORK, load_adapter))


def plain_text(extra_network_data: Mapping[str, Any] | None) -> Callable[[Mark], str | None]:
    """Return `Active.plain_text` of a prompt's networks, by their names alone: no file is read."""
    named = (extra_network_data or {}).get(catversion.NETWORK, [])
    adapters = {name_key(params.positional[0]) for params in named if params.positional}

    def find(mark: Mark) -> str | None:
        return mark.class_word if name_key(mark.name) in adapters else _plain_name(mark)

    return find


def _plain_name(mark: Mark) -> str | None:
    return find_embedding_name(mark.name) if mark.class_word is not None or mark.options else None
