"""LoRAs in the prompt: ``<lora:NAME:strength>`` is the host's, and becomes a concept where the user marks it.

A LoRA that is not marked acts as always. One is marked by ``<NAME=cat>`` in the prompt, by a class word for its name
in the panel, or by one that is remembered beside its file. It stands in prompts as words. These are, from the first
place that has any:

1. the activation text beside its file, which the host's editor of its card writes;
2. trigger and class in the training data's folder, as kohya's trainer notes it: ``10_sks cat`` is "sks cat";
3. its class word.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignit.concepts.concept import Family
from alignit.prompt.sidecar import SidecarError, read_sidecar
from alignit.prompt.syntax import class_word_error
from alignit.webui.host import host
from alignit.webui.networks.network import Kind, NetworkConcept, named

_KEYWORDS = ("lora", "lyco")  # the second is another word for the first
_FOLDER = re.compile(r"\d+_(?P<words>.+)")
_ACTIVATION_TEXT = "activation text"
_TAGS = "ss_tag_frequency"


@dataclass(frozen=True)
class Lora:
    """A LoRA that a prompt names.

    Attributes:
        name: As the prompt names it: its file's name, or its alias.
        path: Its file.
        words: Its words as far as they are known without a class word, or empty.
        class_words: Class words that its training data suggest.
    """

    name: str
    path: Path
    words: str = ""
    class_words: tuple[str, ...] = ()

    @property
    def concept(self) -> NetworkConcept:
        """The LoRA as a concept, of which nothing is at work yet."""
        words = self.words
        return NetworkConcept(
            LORA, self.name, str(self.path), words=words, class_words=self.class_words, plain_words=words
        )


def find_loras(extra_network_data: Mapping[str, Any] | None) -> list[Lora]:
    """Return the LoRAs that a prompt names, each once, as far as the host has them."""
    names = lora_names(extra_network_data)
    loras = host().loras if names else None
    found: dict[Path, Lora] = {}
    for name in names:
        file = loras.find(name) if loras is not None else None
        if file is not None and file.path not in found:
            words, class_words = _words(file.path, file.metadata)
            found[file.path] = Lora(name, file.path, words, class_words)
    return list(found.values())


def lora_names(extra_network_data: Mapping[str, Any] | None) -> list[str]:
    """Return what a prompt calls its LoRAs, whether the host has them or not."""
    return [entry[0] for keyword in _KEYWORDS for entry in named(extra_network_data, keyword)]


def _words(path: Path, metadata: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    noted: object = None
    with suppress(SidecarError):  # said where its class word is asked for
        noted = read_sidecar(path).get(_ACTIVATION_TEXT)
    trained = next(_trained_words(metadata), "")
    words = _tidy(noted) if isinstance(noted, str) else ""
    class_word = trained.split()[-1] if len(trained.split()) > 1 else ""
    return words or trained, (class_word,) if class_word and class_word_error(class_word) is None else ()


def _trained_words(metadata: Mapping[str, Any]) -> Iterator[str]:
    folders = metadata.get(_TAGS)
    if isinstance(folders, str):
        try:
            folders = json.loads(folders)
        except (ValueError, RecursionError):
            return
    for folder in folders if isinstance(folders, dict) else ():
        match = _FOLDER.fullmatch(str(folder))
        words = _tidy(match["words"].replace("_", " ")) if match else ""
        # Without a trigger, "5_cats" is what the pictures show, and no word that was trained.
        if len(words.split()) > 1 and class_word_error(words) is None:
            yield words


def _tidy(text: str) -> str:
    """Return words as a prompt has them between two commas."""
    return " ".join(text.split()).strip(" ,")


def _unused(concept: NetworkConcept, class_word: str | None) -> str:
    words = concept.words or class_word
    return (
        f"<lora:{concept.name}> is bound to its words, and {f'{words!r} is' if words else 'they are'} not in the "
        f"prompt: write <{concept.name}={class_word or 'cat'}> where the concept stands. Nothing of the LoRA is used."
    )


LORA = Kind(keyword="lora", family=Family.LORA, has_tokens=False, unused=_unused, of_host=True)
