"""What the networks of a prompt name, ``<delta:...>`` and the like, and what they do where AlignIT is off."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from alignit.concepts.concept import ConceptFileError, Family
from alignit.concepts.weight_change import WeightChange
from alignit.prompt.syntax import Mark, name_key
from alignit.webui.host.ports import Model
from alignit.webui.networks.embeddings import embedding_names, find_embedding_name, written_name
from alignit.webui.networks.loras import LORA, find_loras
from alignit.webui.networks.network import NetworkConcept, named
from alignit.webui.networks.table import NETWORKS


@dataclass(frozen=True)
class Active:
    """What a prompt's networks name, as far as it fits the loaded model.

    Attributes:
        concepts: The concepts, kind by kind, each kind in the order of the prompt.
    """

    concepts: tuple[NetworkConcept, ...] = ()

    def joined(self, concepts: Iterable[NetworkConcept]) -> Active:
        """Return these with others."""
        return Active((*self.concepts, *concepts))

    @property
    def changes(self) -> list[WeightChange]:
        """The changes of W_k and W_v."""
        return [concept.change for concept in self._own if concept.change is not None]

    @property
    def _own(self) -> list[NetworkConcept]:
        return [concept for concept in self.concepts if not concept.network.of_host]

    @property
    def with_tokens(self) -> list[NetworkConcept]:
        """The concepts that stand in the prompt as tokens."""
        return [concept for concept in self.concepts if concept.network.has_tokens]

    @property
    def keywords(self) -> str:
        """What stands for those with tokens in prompts, to read."""
        return " and ".join(dict.fromkeys(f"<{concept.network.keyword}:...>" for concept in self.with_tokens))

    @property
    def as_words(self) -> list[NetworkConcept]:
        """The concepts that stand in the prompt as words."""
        return [concept for concept in self.concepts if not concept.network.has_tokens]

    def find(self, name: str) -> NetworkConcept | None:
        """Return the concept of this name that stands in the prompt as words, or None."""
        return next((concept for concept in self.as_words if name_key(concept.name) == name_key(name)), None)

    def find_token(self, name: str) -> tuple[NetworkConcept, Any] | None:
        """Return the concept that has a token of this name, and the token; the last one where several have it."""
        for concept in reversed(self.with_tokens):
            for token in concept.tokens:
                if name_key(token.name) == name_key(name):
                    return concept, token
        return None

    @contextmanager
    def changed_encoder(self, model: Model) -> Iterator[None]:
        """Let the model's text encoder be the customised one for the length of a block, for whole prompts."""
        changes = [concept.encoder_change for concept in self._own if concept.encoder_change is not None]
        with ExitStack() as block:
            for change in changes:
                block.enter_context(change.applied(model.encoders[0].clip_layers))
            yield

    def plain_text(self, mark: Mark) -> str | None:
        """Return what a concept's mark in angle brackets means where AlignIT is off; None: it stays as typed."""
        concept = self.find(mark.name)
        if concept is not None:
            return concept.plain_words or mark.class_word or next(iter(concept.class_words), None)
        return _plain_name(mark)


def methods() -> list[str]:
    """Return what a concept of a prompt can be: textual inversion, the networks' methods, words."""
    methods = [network.method for network in (*NETWORKS, LORA)]
    return [Family.TEXTUAL_INVERSION.value, *methods, "words"]


def installed_concepts() -> list[str]:
    """Return the names of all concepts that there are for the loaded model: embeddings, and the networks' files."""
    return [*embedding_names(), *(name for network in NETWORKS for name in network.library.named())]


def names_networks(extra_network_data: Mapping[str, Any] | None) -> bool:
    """Say whether any of AlignIT's networks is among those that the host took out of a prompt."""
    return any((extra_network_data or {}).get(network.keyword) for network in NETWORKS)


def read_networks(extra_network_data: Mapping[str, Any] | None, say: Callable[[str], None]) -> Active:
    """Return what a prompt's networks name; say what is wrong with those that cannot be used."""
    found = []
    for network in NETWORKS:
        for name, *arguments in named(extra_network_data, network.keyword):
            try:
                found.append(network.read(name, arguments, say))
            except ConceptFileError as error:
                say(f"{error} The picture is made without <{network.keyword}:{name}>.")
    return Active(tuple(found))


def plain_text(extra_network_data: Mapping[str, Any] | None) -> Callable[[Mark], str | None]:
    """Return `Active.plain_text` of a prompt's networks, by their names, and what is noted beside LoRAs alone."""
    as_words = {
        name_key(name)
        for network in NETWORKS
        if not network.has_tokens
        for name, *_ in named(extra_network_data, network.keyword)
    }
    loras = {name_key(lora.name): lora for lora in find_loras(extra_network_data)}

    def find(mark: Mark) -> str | None:
        lora = loras.get(name_key(mark.name))
        if lora is not None:
            return lora.words or mark.class_word
        return mark.class_word if name_key(mark.name) in as_words else _plain_name(mark)

    return find


def _plain_name(mark: Mark) -> str | None:
    name = find_embedding_name(mark.name) if mark.class_word is not None or mark.options else None
    return None if name is None else written_name(name)
