"""The prompt syntax of AlignIT: a concept with its class word, ``<my-cat=cat>``, and in angle brackets, ``<my-cat>``.

After a semicolon stand options, ``<my-cat=cat; 0.5; keys>`` (see `alignit.algorithm.controls`).

The form is chosen so that a WebUI's own syntaxes pass it by: extra networks need a colon, ``<lora:...>``;
emphasis and prompt editing need round or square brackets; ``AND`` and ``BREAK`` are words of their own.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

# A name may itself be in angle brackets, as the token of a diffusers embedding is: <<new1>=cat>.
_MARK = re.compile(r"<(?P<name><[^<>=:]+>|[^<>=:]+)(?:=(?P<class_word>[^<>]*))?>")

# In emoticons: a name ends with the space before "=D", and begins with "<3".
_MOUTH = re.compile(r"(?:([A-Za-z])\1*|[\W\d_])(?!\w)")
_SIGNS = {*string.punctuation, *string.whitespace}
_HEART = re.compile(r"/?3+(?![\w-])")

_WORDS = re.compile(r"[^\W\d_]+(?:[ '][^\W\d_]+)*")

_ESCAPE = re.compile(r"\\(\\?)")
_BRACKETS = re.compile(r"[()\[\]]")

# What the text encoders' tokenizers take for the same, beside letters that are composed or not and are large or small.
_WIDE = (0x3000, *range(0xFF01, 0xFFF0))
_LIGATURES = (0x132, 0x133, *range(0x1C4, 0x1CD), *range(0x1F1, 0x1F4), *range(0xFB00, 0xFB05), 0xFB06)
_SAME = {code: unicodedata.normalize("NFKC", chr(code)) for code in (*_WIDE, *_LIGATURES)}
_SAME |= dict.fromkeys((0x2BC, *range(0x2018, 0x201C)), "'") | dict.fromkeys(range(0x201C, 0x2020), '"')
_FORMS: dict[str, list[str]] = {}
for _code, _text in _SAME.items():
    _FORMS.setdefault(_text.lower(), []).append(chr(_code))

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
    hold a colon and stay text, and so do emoticons and whatever else has no name, or nothing that could be a class
    word.
    """
    end = position = 0
    while match := _MARK.search(text, position):
        if not _could_be_mark(match["name"], match["class_word"]):
            position = match.start() + 1
            continue
        if match.start() > end:
            yield text[end : match.start()]
        class_word, options = (None, "") if match["class_word"] is None else with_options(match["class_word"])
        yield Mark(match["name"].strip(), class_word, match[0], options=options)
        end = position = match.end()
    if end < len(text):
        yield text[end:]


def _could_be_mark(name: str, given: str | None) -> bool:
    """Say whether this is a concept in angle brackets; else it is text, such as ``>_<, =_=, :>`` or ``2 < 3 > 1``."""
    if re.search(r"\w", name) is None or re.match(r"\s*[,!]|.*[,!]\s*$", name, re.DOTALL):
        return False
    if given is None:
        return not name[0].isspace() and not name[-1].isspace()
    if name[-1].isspace() and _MOUTH.match(given):
        return False
    word = given.partition(";")[0].strip()
    return not word or not set(word) <= _SIGNS


def could_be_name(name: str) -> bool:
    """Say whether what stands as a name in a mark, and names no concept at hand, could name one that is missing."""
    return _HEART.match(name) is None and ", " not in name


def compared(text: str) -> str:
    """Return what text is compared by: two that are the same to a text encoder's tokenizer are the same here.

    Letters are composed (NFC: a file's name from macOS is not) and small, quotation marks straight, wide characters
    narrow, ligatures letters, and space between words is one; and the backslashes are out with which a prompt has
    brackets as text, ``\\(``.
    """
    return _name_compared(text) if len(text) < 200 else _compared(text)


def _compared(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", _ESCAPE.sub(r"\1", text).translate(_SAME)).lower().split())


_name_compared = lru_cache(maxsize=2**14)(_compared)  # a collection's thousands of names, again and again


def name_key(name: str) -> str:
    """Return what a concept's name is compared by: see `compared`; with angle brackets or without."""
    return compared(name).strip("<>")


def in_prompt(name: str) -> str:
    """Return how a name is written in a prompt whose brackets mean emphasis."""
    return re.sub(r"[()\[\]\\]", r"\\\g<0>", name)


def has_open_brackets(name: str) -> bool:
    """Say whether a name, as written in a prompt, has brackets that mean emphasis there."""
    return _BRACKETS.search(re.sub(r"\\.", "", name)) is not None


def is_words(name: str) -> bool:
    """Say whether a name can be ordinary words; else it is the name of a concept."""
    return _WORDS.fullmatch(unicodedata.normalize("NFC", name)) is not None


def name_pattern(name: str) -> re.Pattern[str]:
    """Return a pattern that finds a name, of one word or several, in a prompt where it stands alone.

    It finds all spellings that are compared as the same, but for ligatures.
    """
    return re.compile(rf"(?<![\w-]){spellings(name)}(?![\w\u0300-\u036f-])", re.IGNORECASE)


def spellings(text: str) -> str:
    """Return a pattern for text and what is compared as the same, but for ligatures; without regard to case."""
    return r"\s+".join("".join(map(_spellings, word)) for word in compared(text).split())


@lru_cache(maxsize=2**12)
def _spellings(character: str) -> str:
    forms = dict.fromkeys((character, unicodedata.normalize("NFD", character), *_FORMS.get(character, ())))
    pattern = "|".join(map(re.escape, forms))
    pattern = f"(?:{pattern})" if len(forms) > 1 else pattern
    return pattern if character.isalnum() else rf"\\?{pattern}"


def marks_at(text: str, names: Mapping[str, str]) -> Iterator[str | Mark]:
    """Split plain text at names that stand in it alone, and make marks of them.

    Args:
        text: The text.
        names: The concept that each name, of one word or several, means; empty for text that only must not be split.
    """
    if not names:
        yield text
        return
    concepts = {compared(name): concept for name, concept in names.items()}
    pattern = "|".join(name_pattern(name).pattern for name in sorted(names, key=len, reverse=True))
    for index, piece in enumerate(re.split(f"({pattern})", text, flags=re.IGNORECASE)):
        concept = concepts[compared(piece)] if index % 2 else ""
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
