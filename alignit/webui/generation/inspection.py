"""What AlignIT sees in a prompt, told before any picture is made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from alignit.algorithm.controls import Controls
from alignit.algorithm.prompts import Chunk, TargetChunk, base_chunk, dummy_chunk
from alignit.algorithm.reach import Context
from alignit.prompt.class_words import ClassWordError, ClassWords, remember
from alignit.webui.generation.concepts import Concepts, Found
from alignit.webui.generation.encoding import embedding_names, find_concepts, single_token, token_texts
from alignit.webui.generation.loras import bound_loras, cannot_be_bound
from alignit.webui.host import host
from alignit.webui.host.ports import UnknownHostError, UnsupportedEncoderError
from alignit.webui.networks.networks import read_networks


class InspectionError(Exception):
    """A prompt cannot be looked at; the message says why, and what to do."""


def check_brackets(prompt: str, limit: int, where: str) -> None:
    """Refuse a prompt that the host's parser of prompt editing would take long for.

    Its time grows with more than the square of the brackets.

    Args:
        prompt: The prompt.
        limit: How many brackets it can have.
        where: Where the limit is, for the message.

    Raises:
        InspectionError: It has too many.
    """
    brackets = prompt.count("(") + prompt.count("[")
    if "[" in prompt and brackets > limit:
        raise InspectionError(
            f"{brackets} brackets with prompt editing among them are too many to look at{where}: the prompt can have "
            f"{limit} here. Nothing of it is lost, and pictures are made with all of it."
        )


@dataclass(frozen=True)
class SeenConcept:
    """A concept that a prompt holds.

    Attributes:
        name: Its name.
        method: ``textual inversion``, ``Custom Diffusion``, ``CatVersion``, or ``words`` for "<cat=dog>".
        class_word: Its class word.
        source: Where that is from, as in `alignit.webui.generation.concepts.Found`.
        vectors: How many token vectors it has.
        options: Its options, as written.
    """

    name: str
    method: str
    class_word: str
    source: str
    vectors: int
    options: str


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


@dataclass(frozen=True)
class Look:
    """What was found in a prompt.

    Attributes:
        concepts: The concepts.
        chunks: The chunks of each text that the host encodes for the prompt.
        notes: What is in the way.
    """

    concepts: Concepts
    chunks: dict[str, list[TargetChunk[Any]]]
    notes: list[str]


def inspect_prompt(prompt: str, class_words: str, controls: str = "") -> Inspection:
    """Look at a prompt.

    Raises:
        InspectionError: The class words are malformed, no model is loaded, or one that AlignIT does not work with.
        ControlsError: The controls are malformed.
    """
    look = look_at(prompt, class_words, controls)
    concepts = [seen_concept(found) for found in look.concepts.found.values()]
    texts = {text: [seen_chunk(look.concepts, chunk) for chunk in chunks] for text, chunks in look.chunks.items()}
    return Inspection(concepts, texts, look.concepts.suggestions, look.notes)


def has_concepts(prompts: Iterable[str], class_words: str) -> bool:
    """Say whether any of the prompts holds a concept with a class word.

    Raises:
        InspectionError: As `inspect_prompt`.
    """
    return any(look_at(prompt, class_words).concepts.found for prompt in dict.fromkeys(prompts))


def remember_class_words(look: Look, only: str | None = None) -> dict[str, str]:
    """Write the class words of a prompt's concepts beside their files; return which were written, by concept.

    Args:
        look: What was found in the prompt.
        only: The name of the one concept to do this for; None: for all of them.

    Raises:
        InspectionError: A file cannot be written.
    """
    written = {}
    for name, found in look.concepts.found.items():
        concept = found.concept
        if concept.filename and only in (None, name):
            try:
                remember(concept.filename, concept.class_word)
            except ClassWordError as error:
                raise InspectionError(f"{error}") from None
            # The host's editor of a file's metadata writes back what it read when its tab was last filled.
            host().networks.reread(concept.filename)
            written[name] = concept.class_word
    return written


def seen_concept(found: Found) -> SeenConcept:
    """Say what a concept is."""
    concept = found.concept
    vectors = int(concept.embedding.vectors) if concept.embedding is not None else 0
    return SeenConcept(concept.name, concept.method, concept.class_word, found.source, vectors, found.options)


def seen_chunk(concepts: Concepts, target: TargetChunk[Any], only: str | None = None) -> SeenChunk:
    """Write a chunk as tokens, with the dummy prompts of all its concepts, or of one of them only.

    Raises:
        InspectionError: The host does not say what the tokens mean.
    """
    encoder = host().model().encoders[0]

    def texts(chunk: Chunk[Any], names: dict[int, str]) -> list[str]:
        try:
            return [names.get(row, text) for row, text in enumerate(token_texts(encoder, chunk.tokens))]
        except UnsupportedEncoderError as error:
            raise InspectionError(f"{error}: a prompt cannot be shown as tokens.") from None

    dummies, rows = {}, {}
    for name in target.concepts() if only is None else (only,):
        vectors = {
            row: name for span in target.spans if span.concept == name for row in span.concept_rows[: span.vectors]
        }
        controls = concepts.found[name].concept.controls
        if controls.context is Context.PROMPT:
            dummies[name] = texts(dummy_chunk(target, name, None), embedding_names(target.chunk) | vectors)
        else:
            filler = single_token(encoder, controls.filler)
            dummies[name] = texts(dummy_chunk(target, name, filler or 0), vectors)
        rows[name] = target.concept_rows(name)
    return SeenChunk(texts(base_chunk(target), embedding_names(target.chunk)), dummies, rows)


def look_at(prompt: str, class_words: str, controls: str = "") -> Look:
    """Find the concepts of a prompt.

    Raises:
        InspectionError: As `inspect_prompt`.
        ControlsError: The controls are malformed.
    """
    notes: list[str] = []
    try:
        model = host().loaded_model()
        if model is None:
            # Looking at a prompt is no reason to load one.
            raise InspectionError("No model is loaded yet; make a picture first.")
        words = ClassWords(class_words, Controls().with_options)
        concepts = Concepts(words, Controls().with_options(controls), notes.append)
        prompt, networks = host().prompts.networks(host().prompts.without_comments(prompt))
        concepts.networks = read_networks(networks, notes.append)
        texts = list(_texts(prompt))
        for text in texts:
            concepts.read(text)
        loras = [lora.concept for lora in bound_loras(networks, concepts.binds)]
        concepts.networks = concepts.networks.joined(loras)
        notes += cannot_be_bound(networks, concepts.binds)
        chunks = {text: find_concepts(model, concepts, text) for text in texts}
    except (ClassWordError, UnknownHostError, UnsupportedEncoderError) as error:
        raise InspectionError(f"{error}") from None
    used = {name for of_text in chunks.values() for chunk in of_text for name in chunk.concepts()}
    notes += concepts.unused(concepts.networks, used)
    concepts.say_where_the_list_names_nothing()
    return Look(concepts, chunks, notes)


def _texts(prompt: str) -> Iterator[str]:
    """Yield the texts that the host would encode for a prompt: over ``AND`` and prompt editing."""
    _, parts = host().prompts.parts([prompt])
    texts: dict[str, None] = {}
    for part in parts:
        if "[" in part:
            (schedule,) = host().prompts.schedules([part], 20)
            texts |= dict.fromkeys(text for _, text in schedule)
        else:
            texts[part] = None  # no prompt editing; the host's parser would take a minute for 200 emphasised words
    yield from texts
