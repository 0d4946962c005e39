"""What AlignIT sees in a prompt, told before any picture is made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from modules import extra_networks, prompt_parser, sd_models, ui_extra_networks

from alignit.class_words import ClassWordError, ClassWords, format_class_words, remember
from alignit.controls import Controls
from alignit.prompts import Chunk, TargetChunk, base_chunk, dummy_chunk
from alignit.webui.concepts import Concepts
from alignit.webui.encoders import (
    Concept,
    UnsupportedEncoderError,
    find_concepts,
    single_token,
    text_encoders,
    token_texts,
)
from alignit.webui.networks import read_networks

_SOURCES = {
    "prompt": "from the prompt",
    "panel": "from the panel",
    "remembered": "remembered",
    "suggested": "suggested: the nearest noun",
    "file": "from the name of its file",
}


class InspectionError(Exception):
    """A prompt cannot be looked at; the message says why, and what to do."""


@dataclass(frozen=True)
class SeenConcept:
    """A concept that a prompt holds.

    Attributes:
        name: Its name.
        method: ``textual inversion``, ``Custom Diffusion``, ``CatVersion``, or ``words`` for "<cat=dog>".
        class_word: Its class word.
        source: Where that is from, as in `alignit.webui.concepts.Found`.
        vectors: How many token vectors it has.
        options: Its options, as written.
    """

    name: str
    method: str
    class_word: str
    source: str
    vectors: int
    options: str

    def __str__(self) -> str:
        """Say it in a line of the panel."""
        vectors = f", {self.vectors} {'vector' if self.vectors == 1 else 'vectors'}" if self.vectors else ""
        options = f" ({self.options})" if self.options else ""
        return f"{self.name} ({self.method}{vectors}): {self.class_word}, {_SOURCES[self.source]}{options}."


@dataclass(frozen=True)
class SeenChunk:
    """A chunk of a text, as tokens in the order of their rows; the start token is row 0.

    Attributes:
        base: The base prompt, [T].
        dummies: The dummy prompt of each concept in the chunk, [T].
        rows: The rows at which each of them is put in.
    """

    base: list[str]
    dummies: dict[str, list[str]]
    rows: dict[str, list[int]]


@dataclass(frozen=True)
class Inspection:
    """What a prompt holds.

    Attributes:
        concepts: The concepts.
        texts: For each text that the host encodes for the prompt, over ``AND`` and prompt editing, its chunks.
        suggestions: For each concept without a class word, the nearest nouns.
        notes: What is in the way.
    """

    concepts: list[SeenConcept]
    texts: dict[str, list[SeenChunk]]
    suggestions: dict[str, list[str]]
    notes: list[str]


def inspect_prompt(prompt: str, class_words: str, controls: str = "") -> Inspection:
    """Look at a prompt.

    Raises:
        InspectionError: The class words are malformed, no model is loaded, or one that AlignIT does not work with.
        ControlsError: The controls are malformed.
    """
    concepts, chunks, notes = _look(prompt, class_words, controls)
    seen = [
        SeenConcept(
            name,
            _method(found.concept),
            found.concept.class_word,
            found.source,
            int(found.concept.embedding.vectors) if found.concept.embedding is not None else 0,
            found.options,
        )
        for name, found in concepts.found.items()
    ]
    texts = {text: [_seen_chunk(concepts, chunk) for chunk in of_text] for text, of_text in chunks.items()}
    return Inspection(seen, texts, concepts.suggestions, notes)


def has_concepts(prompts: Iterable[str], class_words: str) -> bool:
    """Say whether any of the prompts holds a concept with a class word.

    Raises:
        InspectionError: As `inspect_prompt`.
    """
    return any(_look(prompt, class_words)[0].found for prompt in dict.fromkeys(prompts))


def suggested_class_words(prompt: str, class_words: str) -> str:
    """Return the list of class words, with the nearest noun added for each concept of the prompt that has none."""
    try:
        concepts, _, _ = _look(prompt, class_words)
    except InspectionError:
        return class_words  # looking for concepts says why
    added = format_class_words({name: nearest[0] for name, nearest in concepts.suggestions.items() if nearest})
    return ", ".join(part for part in (class_words.strip().rstrip(","), added) if part)


def remember_class_words(prompt: str, class_words: str) -> tuple[list[str], list[str]]:
    """Write the class words of a prompt's concepts beside their files; say which, and second what is in the way.

    Raises:
        InspectionError: As `inspect_prompt`; or a file cannot be written.
    """
    concepts, _, notes = _look(prompt, class_words)
    lines = []
    for name, found in concepts.found.items():
        concept = found.concept
        if concept.filename:
            try:
                remember(concept.filename, concept.class_word)
            except ClassWordError as error:
                raise InspectionError(f"{error}") from None
            _tell_metadata_editor(concept.filename)
            lines.append(f"{name}: {concept.class_word}, remembered with the concept's file.")
    return lines, notes


def _method(concept: Concept) -> str:
    if concept.change is not None:
        return "Custom Diffusion"
    if concept.encoder_change is not None:
        return "CatVersion"
    return "words" if concept.embedding is None else "textual inversion"


def _seen_chunk(concepts: Concepts, target: TargetChunk[Any]) -> SeenChunk:
    encoder = text_encoders(sd_models.model_data.sd_model)[0]

    def texts(chunk: Chunk[Any], names: dict[int, str]) -> list[str]:
        return [names.get(row, text) for row, text in enumerate(token_texts(encoder, chunk.tokens))]

    plain = {
        row: embedding.name
        for start, embedding in target.chunk.embeddings
        for row in range(start, start + int(embedding.vectors))
    }
    dummies, rows = {}, {}
    for name in target.concepts():
        filler = single_token(encoder, concepts.found[name].concept.controls.filler)
        vectors = {
            row: name for span in target.spans if span.concept == name for row in span.concept_rows[: span.vectors]
        }
        dummies[name] = texts(dummy_chunk(target, name, filler or 0), vectors)
        rows[name] = target.concept_rows(name)
    return SeenChunk(texts(base_chunk(target), plain), dummies, rows)


def _tell_metadata_editor(filename: str) -> None:
    # The host's editor of a file's metadata writes back what it read when its tab was last filled.
    for page in ui_extra_networks.extra_pages:
        for item in page.items.values():
            if item.get("filename") == filename:
                page.read_user_metadata(item, use_cache=False)


def _look(
    prompt: str, class_words: str, controls: str = ""
) -> tuple[Concepts, dict[str, list[TargetChunk[Any]]], list[str]]:
    sd_model = sd_models.model_data.sd_model
    if sd_model is None:
        # Looking at a prompt is no reason to load one.
        raise InspectionError("No model is loaded yet; make a picture first.")
    notes: list[str] = []
    try:
        concepts = Concepts(ClassWords(class_words), Controls().with_options(controls), notes.append)
        (prompt,), networks = extra_networks.parse_prompts([prompt])
        concepts.networks = read_networks(networks, notes.append)
        texts = list(_texts(prompt))
        for text in texts:
            concepts.read(text)
        chunks = {text: find_concepts(sd_model, concepts, text) for text in texts}
    except (ClassWordError, UnsupportedEncoderError) as error:
        raise InspectionError(f"{error}") from None
    return concepts, chunks, notes


def _texts(prompt: str) -> Iterator[str]:
    """Yield the texts that the host would encode for a prompt: over ``AND`` and prompt editing."""
    _, parts, _ = prompt_parser.get_multicond_prompt_list([prompt])
    schedules = prompt_parser.get_learned_conditioning_prompt_schedules(list(parts), 20)
    yield from dict.fromkeys(text for schedule in schedules for _, text in schedule)
