"""A test-only extension of the WebUI: a kind of concept that AlignIT does not have, as one reader and one record.

Its concepts are words, as a LoRA's trigger is, and change W_k and W_v: ``<sparkle:NAME:strength>``, with NAME in the
prompt. Beside these two objects and their two lines in AlignIT's tables nothing is told of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Any

from modules import scripts

from alignit.concepts.concept import Concept, Dense, KeyValueWeights
from alignit.concepts.formats import READERS, Reader
from alignit.concepts.formats.contents import Contents
from alignit.concepts.formats.source import read_floats
from alignit.concepts.weight_change import Change
from alignit.webui.networks.library import load_fitting
from alignit.webui.networks.network import CardField, Folder, Network, NetworkConcept, Reference, Say
from alignit.webui.networks.table import NETWORKS


class Family(Enum):
    SPARKLE = "Sparkle"


def is_sparkle(contents: Contents) -> bool:
    return any(path[0].startswith("sparkle:") for path in contents.tensors)


def read_sparkle(contents: Contents, _names: Sequence[str], _files: Sequence[Path]) -> Concept:
    source = contents.source
    matrices = {
        ".".join(path).removeprefix("sparkle:"): Dense(read_floats(source, tensor, "the weights"))
        for path, tensor in contents.tensors.items()
    }
    family: Any = Family.SPARKLE
    return Concept(source.path, contents.stem, family, weights=KeyValueWeights(False, matrices))


def load(reference: Reference, say: Say) -> NetworkConcept:
    concept = load_fitting(reference.path, say)
    assert concept.weights is not None
    change = Change(concept.weights, SPARKLE.strength(reference))
    return NetworkConcept(SPARKLE, reference.name, str(reference.path), change=change, words=concept.name)


SPARKLE_FAMILY: Any = Family.SPARKLE
SPARKLE = Network(
    keyword="sparkle",
    family=SPARKLE_FAMILY,
    folder=Folder("alignit_sparkle_folder", "Folder with sparkles", "sparkles"),
    file_names=lambda path: (path.stem,) if path.suffix == ".safetensors" else (),
    load=load,
    has_tokens=False,
    has_strength=True,
    unused=lambda concept, word: f"Nothing sparkles: write {concept.words}, which is a {word}.",
    card_words=lambda name, _token, class_word: [name, *([class_word] if class_word else [])],
    card_fields=(CardField.STRENGTH,),
)

if not any(network.keyword == SPARKLE.keyword for network in NETWORKS):
    READERS.insert(0, Reader(SPARKLE_FAMILY, is_sparkle, is_sparkle, read_sparkle))
    NETWORKS.append(SPARKLE)


class NewKind(scripts.Script):
    def title(self) -> str:
        return "New kind"

    def show(self, is_img2img: bool) -> Any:  # noqa: ARG002
        return scripts.AlwaysVisible
