"""CatVersion in the prompt: ``<catversion:NAME>``, with the adapters in ``models/catversion``.

The concept has no token of its own: it is its class word, where that stands in the text. Where AlignIT is off it does
what CatVersion itself does: the changed text encoder for the whole of a positive prompt, and not for a negative one.
"""

from __future__ import annotations

from pathlib import Path

from alignit.concepts.concept import ConceptFileError, Family
from alignit.concepts.formats.catversion import adapter_name, suggested_class_word
from alignit.webui.networks.library import load_fitting
from alignit.webui.networks.network import Folder, Network, NetworkConcept, Reference, Say


def _file_names(path: Path) -> tuple[str, ...]:
    return (adapter_name(path),) if path.suffix.lower() == ".bin" else ()


def _load(reference: Reference, say: Say) -> NetworkConcept:
    path, arguments = reference.path, reference.arguments
    if arguments and arguments[0].strip() not in ("", "1", "1.0"):
        raise ConceptFileError(
            path,
            f"has the strength '{arguments[0]}' in the prompt, and CatVersion knows none",
            f"Write {CATVERSION.mark(reference.name)}, and set AlignIT's strength in the panel",
        )
    concept = load_fitting(path, say)
    if concept.encoder_change is None:
        raise ConceptFileError(path, "changes no text encoder", "Put it into the folder of its own kind")
    return NetworkConcept(
        CATVERSION,
        reference.name,
        str(path),
        encoder_change=concept.encoder_change,
        class_words=concept.likely_class_words,
    )


def _unused(concept: NetworkConcept, class_word: str | None) -> str:
    return (
        f"<catversion:{concept.name}> is in the prompt, but its class word "
        f"{f'{class_word!r} is not' if class_word else 'is not known'}: write <{concept.name}=cat> where the concept "
        "stands, with the class word that it was trained for. Nothing of it is used."
    )


def _card_words(name: str, _token: str | None, class_word: str | None) -> list[str]:
    word = class_word or suggested_class_word(name)
    return [word] if word else []


CATVERSION = Network(
    keyword="catversion",
    family=Family.CATVERSION,
    folder=Folder("alignit_catversion_folder", "Folder with CatVersion adapters", "catversion"),
    file_names=_file_names,
    load=_load,
    has_tokens=False,
    has_strength=False,
    unused=_unused,
    card_words=_card_words,
)
