"""The panel's list of concepts: what the page asks while a prompt is typed, and what it is answered.

Question and answer are JSON. The page makes its elements of them, with names and words as text and never as HTML
(``javascript/alignit_concepts.js``).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from alignit.algorithm.controls import Controls
from alignit.algorithm.options import ControlsError
from alignit.prompt.class_words import ClassWordError, ClassWords, place_in_list, remembered_or_none, with_class_word
from alignit.prompt.resolve import WordSource
from alignit.prompt.syntax import FORBIDDEN
from alignit.webui.generation.concepts import Found, no_class_word
from alignit.webui.generation.inspection import (
    InspectionError,
    Look,
    check_brackets,
    look_at,
    remember_class_words,
    seen_chunk,
    seen_concept,
)
from alignit.webui.host import host
from alignit.webui.networks.networks import methods

MAX_TEXT = 20_000
"""Characters of a prompt, or of a list, that are looked at while they are typed."""

SOURCES = {
    WordSource.PROMPT: "from the prompt",
    WordSource.GIVEN: "from the panel",
    WordSource.REMEMBERED: "remembered",
    WordSource.NEAREST: "suggested: the nearest noun",
    WordSource.FILE: "from the name of its file",
}
"""What the page says of where a class word is from."""

_MAX_BRACKETS = 40  # with prompt editing
_MAX_CONCEPTS = 50
_MAX_NOTES = 20
_MAX_PLACES = 2  # chunks of which a concept's tokens are shown


@dataclass(frozen=True)
class Question:
    """What the page asks.

    Attributes:
        number: Comes back with the answer.
        action: ``look``; ``remember``, the class word of ``name`` or of all concepts; ``suggest``, for all concepts
            without a class word.
        name: A concept, or None.
        lengths: How long the texts are; the page does not send one that is too long.
    """

    number: int
    action: str
    name: str | None
    lengths: dict[str, int]

    @classmethod
    def read(cls, text: str) -> Question:
        """Read a question as the page writes it.

        Raises:
            ValueError: It is none.
            KeyError: Something is missing.
        """
        asked = json.loads(text)
        lengths = {str(what): int(length) for what, length in asked["lengths"].items()}
        return cls(int(asked["number"]), str(asked["action"]), asked.get("name"), lengths)


def page_constants() -> dict[str, str]:
    """Return what the page's script has to know beside the answers, by the names of data attributes."""
    return {
        "limit": str(MAX_TEXT),
        "forbidden": FORBIDDEN.pattern,
        "methods": json.dumps(methods()),
        "sources": json.dumps({source.value: text for source, text in SOURCES.items()}),
    }


def answer(question: str, prompt: str, class_words: str, controls: str, styles: Iterable[str] = ()) -> str:
    """Answer the page.

    Args:
        question: See `Question`.
        prompt: The tab's prompt.
        class_words: The panel's list.
        controls: The panel's controls.
        styles: The names of the styles that are chosen in the tab.

    Returns:
        JSON with ``number``; ``concepts``, ``notes`` and how many more there are of each; ``said``, the class words
        that were remembered; ``class_words``, the list where it is a new one; ``failed``, why that could not be done;
        ``error``, why nothing was looked at, and with it ``keep``, whether the list as it was still says something.
    """
    asked = Question.read(question)
    answered: dict[str, Any] = {"number": asked.number, "error": None, "keep": False}
    answered |= {"class_words": None, "said": None, "failed": None}
    try:
        answered |= _answered(asked, prompt, class_words, controls, styles)
    except (InspectionError, ClassWordError, ControlsError) as error:
        answered |= {"error": f"{error}", "keep": _is_malformed(class_words, controls)}
    except Exception:
        host().life.report("AlignIT: error while looking at the prompt")
        answered["error"] = "An error while looking at the prompt; the console has the details."
    return json.dumps(answered)


def _answered(asked: Question, prompt: str, class_words: str, controls: str, styles: Iterable[str]) -> dict[str, Any]:
    for what, text in (("prompt", prompt), ("class words", class_words), ("controls", controls)):
        length = max(len(text), asked.lengths.get(what, 0))
        if length > MAX_TEXT:
            raise InspectionError(
                f"{length:,} characters are too many to look at while you type: the {what} can have {MAX_TEXT:,} here. "
                "Nothing of it is lost, and pictures are made with all of it."
            )
    # The host puts the styles into the prompt before anything else of it is read.
    prompt = host().prompts.with_styles(prompt, list(styles or ()))
    check_brackets(prompt, _MAX_BRACKETS, " while you type")
    look = look_at(prompt, class_words, controls)
    changed: dict[str, Any] = {}
    try:
        if asked.action == "remember":
            changed["said"] = remember_class_words(look, asked.name)
        elif asked.action == "suggest":
            for name, nearest in look.concepts.suggestions.items():
                if nearest:
                    class_words = changed["class_words"] = with_class_word(class_words, name, nearest[0])
    except (InspectionError, ClassWordError) as error:
        changed["failed"] = f"{error}"
    if asked.action != "look":
        look = look_at(prompt, class_words, controls)
    return _list(look, class_words) | changed


def _is_malformed(class_words: str, controls: str) -> bool:
    try:
        if max(len(class_words), len(controls)) > MAX_TEXT:
            return False
        ClassWords(class_words, Controls().with_options)
        Controls().with_options(controls)
    except (ClassWordError, ControlsError):
        return True
    return False


def _list(look: Look, class_words: str) -> dict[str, Any]:
    concepts = look.concepts
    seen = concepts.refused | concepts.found
    # In the order of the prompt, so that a concept keeps its place when it gets its class word.
    names = [name for name in dict.fromkeys([*_mentioned(look), *seen]) if name in seen]
    shown = [_concept(look, seen[name], class_words) for name in names[:_MAX_CONCEPTS]]
    in_rows = {note for concept in shown for note in concepts.notes.get(concept["name"], [])}
    notes = [note for note in dict.fromkeys(look.notes) if note not in in_rows]
    return {
        "concepts": shown,
        "missing": sum(name not in concepts.found for name in names),
        "more_concepts": len(names) - len(shown),
        "notes": notes[:_MAX_NOTES],
        "more_notes": max(0, len(notes) - _MAX_NOTES),
    }


def _mentioned(look: Look) -> Iterator[str]:
    for chunks in look.chunks.values():
        for chunk in chunks:
            at = [(span.start, span.concept) for span in chunk.spans]
            at += [(row, embedding.name) for row, embedding in chunk.chunk.embeddings]
            yield from (name for _, name in sorted(at))


def _concept(look: Look, found: Found, class_words: str) -> dict[str, Any]:
    concepts, concept = look.concepts, found.concept
    seen, used = seen_concept(found), concept.name in concepts.found
    nearest = concepts.suggestions.get(seen.name, [])
    notes = [note for note in concepts.notes.get(seen.name, []) if note != no_class_word(seen.name, nearest)]
    place = None
    if found.source != "prompt":
        try:
            place = _place(class_words, seen.name)
        except ClassWordError as error:
            notes.append(f"{error}.")
    return {
        "name": seen.name,
        "method": seen.method,
        "vectors": seen.vectors,
        "class_word": seen.class_word,
        "source": found.source,
        "options": seen.options,
        "place": place,
        "remember": used and bool(concept.filename) and remembered_or_none(concept.filename) != seen.class_word,
        "suggestions": [seen.class_word] if found.source == "suggested" else nearest,
        "notes": notes[:_MAX_NOTES],
        **_places(look, seen.name),
    }


def _place(class_words: str, name: str) -> dict[str, Any]:
    place = place_in_list(class_words, name)

    def offset(index: int) -> int:
        return len(class_words[:index].encode("utf-16-le", "surrogatepass")) // 2  # as the page counts

    return {
        "start": offset(place.start),
        "stop": offset(place.stop),
        "before": place.before,
        "entry_start": offset(place.entry_start),
        "entry_stop": offset(place.entry_stop),
    }


def _places(look: Look, name: str) -> dict[str, Any]:
    """Return where a concept stands: rows and tokens of the first chunks that it is in, and how many more there are."""
    at = [
        (text, number, chunk)
        for text, chunks in look.chunks.items()
        for number, chunk in enumerate(chunks, 1)
        if name in chunk.concepts()
    ]
    many = len(look.chunks) > 1
    places = []
    for text, number, chunk in at[:_MAX_PLACES]:
        tokens = seen_chunk(look.concepts, chunk, name)
        length = max(_without_padding(tokens.base), _without_padding(tokens.dummies[name]))
        places.append(
            {
                "text": text[:200] if many else None,
                "chunk": number,
                "rows": tokens.rows[name],
                "base": tokens.base[:length],
                "dummy": tokens.dummies[name][:length],
            }
        )
    return {"places": places, "more_places": len(at) - len(places)}


def _without_padding(tokens: list[str]) -> int:
    length = len(tokens)
    while length > 1 and tokens[length - 1] == tokens[length - 2]:
        length -= 1
    return length
