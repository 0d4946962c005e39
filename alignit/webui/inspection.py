"""What AlignIT sees in a prompt, told before any picture is made."""

from __future__ import annotations

from typing import Any

from modules import extra_networks, prompt_parser, sd_models, ui_extra_networks

from alignit.class_words import ClassWordError, ClassWords, format_class_words, remember
from alignit.webui.concepts import Concepts
from alignit.webui.deltas import active_deltas
from alignit.webui.encoders import UnsupportedEncoderError, find_concepts

_SOURCES = {
    "prompt": "from the prompt",
    "panel": "from the panel",
    "remembered": "remembered",
    "suggested": "suggested: the nearest noun",
}


def inspect_prompt(prompt: str, class_words: str) -> tuple[list[str], list[str]]:
    """Say which concepts a prompt holds, with which class words and from where; and, second, what is in the way."""
    try:
        concepts, notes = _look(prompt, class_words)
    except (ClassWordError, UnsupportedEncoderError, _NoModelError) as error:
        return [], [f"{error}"]
    lines = []
    for name, found in concepts.found.items():
        vectors = int(found.concept.embedding.vectors)
        weights = ", keys and values" if found.concept.change else ""
        lines.append(
            f"{name} ({vectors} {'vector' if vectors == 1 else 'vectors'}{weights}): "
            f"{found.concept.class_word}, {_SOURCES[found.source]}."
        )
    return _or_nothing(lines, notes)


def suggested_class_words(prompt: str, class_words: str) -> str:
    """Return the list of class words, with the nearest noun added for each concept of the prompt that has none."""
    try:
        concepts, _ = _look(prompt, class_words)
    except (ClassWordError, UnsupportedEncoderError, _NoModelError):
        return class_words  # looking for concepts says why
    added = format_class_words({name: nearest[0] for name, nearest in concepts.suggestions.items() if nearest})
    return ", ".join(part for part in (class_words.strip().rstrip(","), added) if part)


def remember_class_words(prompt: str, class_words: str) -> tuple[list[str], list[str]]:
    """Write the class words of a prompt's concepts beside their embeddings' files, and say the same as above."""
    try:
        concepts, notes = _look(prompt, class_words)
        lines = []
        for name, found in concepts.found.items():
            concept = found.concept
            if concept.embedding.filename:
                remember(concept.embedding.filename, concept.class_word)
                _tell_metadata_editor(concept.embedding)
                lines.append(f"{name}: {concept.class_word}, remembered with the embedding.")
    except (ClassWordError, UnsupportedEncoderError, _NoModelError) as error:
        return [], [f"{error}"]
    return _or_nothing(lines, notes)


def _or_nothing(lines: list[str], notes: list[str]) -> tuple[list[str], list[str]]:
    return (lines, notes) if lines or notes else (["No embedding in the prompt."], [])


def _tell_metadata_editor(embedding: Any) -> None:
    # The host's editor of an embedding's metadata writes back what it read when its tab was last filled.
    for page in ui_extra_networks.extra_pages:
        item = page.items.get(embedding.name, {})
        if item.get("filename") == embedding.filename:
            page.read_user_metadata(item, use_cache=False)


class _NoModelError(Exception):
    """No model is loaded, and looking at a prompt is no reason to load one."""


def _look(prompt: str, class_words: str) -> tuple[Concepts, list[str]]:
    sd_model = sd_models.model_data.sd_model
    if sd_model is None:
        raise _NoModelError("No model is loaded yet; make a picture first.")
    notes: list[str] = []
    concepts = Concepts(ClassWords(class_words), notes.append)
    (prompt,), networks = extra_networks.parse_prompts([prompt])
    concepts.deltas = active_deltas(networks, notes.append)
    texts = _texts(prompt)
    for text in texts:
        concepts.read(text)
    for text in texts:
        find_concepts(sd_model, concepts, text)
    return concepts, notes


def _texts(prompt: str) -> list[str]:
    """Return the texts that the host would encode for a prompt: over ``AND`` and prompt editing."""
    _, parts, _ = prompt_parser.get_multicond_prompt_list([prompt])
    schedules = prompt_parser.get_learned_conditioning_prompt_schedules(list(parts), 20)
    return list(dict.fromkeys(text for schedule in schedules for _, text in schedule))
