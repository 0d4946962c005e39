"""What AlignIT sees in a prompt, told before any picture is made."""

from __future__ import annotations

from modules import extra_networks, prompt_parser, sd_models, ui_extra_networks

from alignit.class_words import ClassWordError, ClassWords, format_class_words, remember
from alignit.controls import Controls
from alignit.webui.concepts import Concepts
from alignit.webui.encoders import Concept, UnsupportedEncoderError, find_concepts
from alignit.webui.networks import read_networks

_SOURCES = {
    "prompt": "from the prompt",
    "panel": "from the panel",
    "remembered": "remembered",
    "suggested": "suggested: the nearest noun",
    "file": "from the name of its file",
}


def inspect_prompt(prompt: str, class_words: str) -> tuple[list[str], list[str]]:
    """Say which concepts a prompt holds, with which class words and from where; and, second, what is in the way."""
    try:
        concepts, notes = _look(prompt, class_words)
    except (ClassWordError, UnsupportedEncoderError, _NoModelError) as error:
        return [], [f"{error}"]
    lines = []
    for name, found in concepts.found.items():
        lines.append(f"{name} ({_content(found.concept)}): {found.concept.class_word}, {_SOURCES[found.source]}.")
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
            if concept.filename:
                remember(concept.filename, concept.class_word)
                _tell_metadata_editor(concept.filename)
                lines.append(f"{name}: {concept.class_word}, remembered with the concept's file.")
    except (ClassWordError, UnsupportedEncoderError, _NoModelError) as error:
        return [], [f"{error}"]
    return _or_nothing(lines, notes)


def _or_nothing(lines: list[str], notes: list[str]) -> tuple[list[str], list[str]]:
    return (lines, notes) if lines or notes else (["No concept in the prompt."], [])


def _content(concept: Concept) -> str:
    vectors = int(concept.embedding.vectors) if concept.embedding is not None else 0
    parts = {
        f"{vectors} {'vector' if vectors == 1 else 'vectors'}": vectors,
        "keys and values": concept.change,
        "text encoder": concept.encoder_change,
        "words": concept.embedding is None and concept.encoder_change is None,
    }
    return ", ".join(part for part, there in parts.items() if there)


def _tell_metadata_editor(filename: str) -> None:
    # The host's editor of a file's metadata writes back what it read when its tab was last filled.
    for page in ui_extra_networks.extra_pages:
        for item in page.items.values():
            if item.get("filename") == filename:
                page.read_user_metadata(item, use_cache=False)


class _NoModelError(Exception):
    """No model is loaded, and looking at a prompt is no reason to load one."""


def _look(prompt: str, class_words: str) -> tuple[Concepts, list[str]]:
    sd_model = sd_models.model_data.sd_model
    if sd_model is None:
        raise _NoModelError("No model is loaded yet; make a picture first.")
    notes: list[str] = []
    concepts = Concepts(ClassWords(class_words), Controls(), notes.append)
    (prompt,), networks = extra_networks.parse_prompts([prompt])
    concepts.networks = read_networks(networks, notes.append)
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
