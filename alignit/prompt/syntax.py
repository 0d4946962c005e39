"""The prompt syntax of AlignIT: a concept with its class word, ``<my-cat=cat>``, and in angle brackets, ``<my-cat>``.

After a semicolon stand options, ``<my-cat=cat; 0.5; keys>`` (see `alignit.algorithm.controls`).

The form is chosen so that a WebUI's own syntaxes pass it by: extra networks need a colon, ``<lora:...>``;
emphasis and prompt editing need round or square brackets; ``AND`` and ``BREAK`` are words of their own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

# A name may itself be in angle brackets, as the token of a diffusers embedding is: <<new1>=cat>.
_MARK = re.compile(r"<(?P<name><[^<>=:]+>|[^<>=:]+)(?:=(?P<class_word>[^<>]*))?>")

_WORDS = re.compile(r"[^\W\d_]+(?:[ '][^\W\d_]+)*")

# What a class word cannot hold. The page checks with it too, so it is written in what Python and JavaScript share.
FORBIDDEN = re.compile(r"[()\[\]{}<>|:;\\=,]|\b(?:AND|BREAK)\b")


@dataclass(frozen=True)
class Mark:
    """A concept as it is written in angle brackets.

    Attributes:
        name: The concept's name, without the outer brackets.
        class_word: What stands after ``=``; empty for ``<my-cat=>``, None where there is no ``=``, and in
            ``<my-cat=; 0.5>``.
        text: The mark as typed.
        trailing: Whether the class word follows the brackets, as in Custom Diffusion's ``<new1> cat``.
        options: What stands after the first semicolon.
    """

    name: str
    class_word: str | None
    text: str
    trailing: bool = False
    options: str = ""


def with_options(text: str) -> tuple[str | None, str]:
    """Cut what stands after ``=`` into the class word, None where there are options alone, and the options."""
    word, _, options = text.partition(";")
    # Spaces and line ends of any number are one to the text encoder, and a list of class words is cut at line ends.
    word, options = " ".join(word.split()), options.strip()
    return word or (None if options else ""), options


def split(text: str) -> Iterator[str | Mark]:
    """Yield the parts of a prompt in order: plain text as strings, what stands in angle brackets as marks.

    Joining the strings and the marks' ``text`` gives the prompt back. A WebUI's extra networks (``<lora:x:1>``)
    hold a colon and stay text.
    """
    end = 0
    for match in _MARK.finditer(text):
        if match.start() > end:
            yield text[end : match.start()]
        class_word, options = (None, "") if match["class_word"] is None else with_options(match["class_word"])
        yield Mark(match["name"].strip(), class_word, match[0], options=options)
        end = match.end()
    if end < len(text):
        yield text[end:]


def name_key(name: str) -> str:
    """Return what a concept's name is compared by: its text, without regard to case, with angle brackets or without."""
    return name.strip().strip("<>").lower()


def is_words(name: str) -> bool:
    """Say whether a name can be ordinary words; else it is the name of a concept."""
    return _WORDS.fullmatch(name) is not None


def name_pattern(name: str) -> re.Pattern[str]:
    """Return a pattern that finds a name, of one word or several, in a prompt where it stands alone."""
    words = r"\s+".join(map(re.escape, name.split()))
    return re.compile(rf"(?<![\w-]){words}(?![\w-])", re.IGNORECASE)


def spaced(text: str) -> str:
    """Return what text of several words is compared by: without regard to case, and to how much space is between."""
    return " ".join(text.lower().split())


def marks_at(text: str, names: Mapping[str, str]) -> Iterator[str | Mark]:
    """Split plain text at names that stand in it alone, and make marks of them.

    Args:
        text: The text.
        names: The concept that each name, of one word or several, means; empty for text that only must not be split.
    """
    if not names:
        yield text
        return
    concepts = {spaced(name): concept for name, concept in names.items()}
    pattern = "|".join(name_pattern(name).pattern for name in sorted(names, key=len, reverse=True))
    for index, piece in enumerate(re.split(f"({pattern})", text, flags=re.IGNORECASE)):
        concept = concepts[spaced(piece)] if index % 2 else ""
        if piece:
            yield Mark(concept, None, piece) if concept else piece


def begins_with(text: str, word: str) -> bool:
    """Say whether a text begins with a word, without regard to case."""
    return re.match(rf"{re.escape(word)}(?!\w)", text, re.IGNORECASE) is not None


def join_class_words(parts: Iterable[str | Mark], class_word: Callable[[str, str], str | None]) -> Iterator[str | Mark]:
    """Join marks with the class words that follow them: ``<new1> cat`` is one concept with its class word.

    Args:
        parts: The parts of a prompt, as `split` yields them.
        class_word: Gives the class word with which the text after a concept's mark begins, from the concept's name and
            that text, or None where there is none.
    """
    before: str | Mark | None = None
    for part in parts:
        if isinstance(before, Mark) and before.class_word is None and isinstance(part, str):
            text = part.lstrip()
            word = class_word(before.name, text) if text != part else None
            if word:
                end = len(part) - len(text) + len(word)
                yield Mark(before.name, word, before.text + part[:end], trailing=True, options=before.options)
                before = part[end:] or None
                continue
        if before is not None:
            yield before
        before = part
    if before is not None:
        yield before


def without_class_words(text: str, find: Callable[[Mark], str | None]) -> str:
    """Return the prompt with ``<my-cat=cat>`` written as ``my-cat``: what it means where AlignIT is off.

    Args:
        text: The prompt.
        find: Gives the plain text that a mark means, or None; such a mark stays as typed.
    """
    result = ""
    separate = False  # whether a name that was put in ends the text so far
    for part in split(text):
        name = find(part) if isinstance(part, Mark) else None
        piece = name or (part if isinstance(part, str) else part.text)
        if (name or separate) and result and _merge(result[-1], piece[0]):
            result += " "
        result += piece
        separate = bool(name)
    return result


def _merge(left: str, right: str) -> bool:
    """Say whether a tokenizer of text can make one token of two characters that stand side by side."""
    return not left.isspace() and not right.isspace() and left.isalnum() == right.isalnum()


def class_word_error(class_word: str) -> str | None:
    """Say what is wrong with a class word, or None for a good one.

    A class word is text for the text encoder and nothing else: characters with a meaning in a prompt are refused
    rather than guessed at.
    """
    if not class_word.strip():
        return "is empty"
    found = FORBIDDEN.search(class_word)
    if found:
        return f"contains '{found[0]}', which has a meaning of its own in a prompt"
    return None
