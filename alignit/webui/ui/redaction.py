"""What is left out of a text that will be posted: a user's folder, names, prompts and what quotes them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from alignit.prompt.syntax import Mark, compared, spellings, split

LEFT_OUT = "…"
# An apostrophe within a word opens and closes nothing.
_QUOTED = re.compile(r"(?<!\w)'.+?'(?!\w)|\".+?\"|<[^<>]+>", re.DOTALL)
_USER = re.compile(r"(?P<root>[/\\](?:home|Users)[/\\])[^/\\:]+", re.IGNORECASE)


def without_user(text: str) -> str:
    """Return a text with the user's own folder written ``~``, and the name of any user left out of a path."""
    home = str(Path.home())
    for folder in {home, os.path.realpath(home)}:
        if len(folder) > 1:
            text = re.sub(rf"{re.escape(folder)}(?![\w.-])", "~", text)
    return _USER.sub(rf"\g<root>{LEFT_OUT}", text)


def without_quoted(text: str) -> str:
    """Return a text with nothing between its quotation marks and angle brackets."""
    return _QUOTED.sub(lambda match: f"{match[0][0]}{LEFT_OUT}{match[0][-1]}", text)


def without_words(words: Iterable[str]) -> Callable[[str], str]:
    """Return what leaves words, or whole prompts, out of a text where they stand alone, in whatever spelling."""
    longest_first = sorted({word for word in words if compared(word)}, key=len, reverse=True)
    patterns = [
        re.compile(rf"(?<!\w)(?:{re.escape(word)}|{spellings(word)})(?!\w)", re.IGNORECASE) for word in longest_first
    ]

    def without(text: str) -> str:
        known = compared(text)
        for word, pattern in zip(longest_first, patterns, strict=True):
            if compared(word) in known:
                text = pattern.sub(LEFT_OUT, text)
        return text

    return without


def words_of(prompts: Iterable[str]) -> Iterator[str]:
    """Yield prompts, and what stands in their marks: notes repeat both."""
    for prompt in prompts:
        yield prompt
        for part in split(prompt):
            if isinstance(part, Mark):
                yield from (part.name, part.class_word or "", part.options)
