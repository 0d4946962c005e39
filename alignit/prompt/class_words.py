"""Class words: the ordinary word for what a concept is, and where a user may have said it.

The panel and the API take a list, ``my-cat=cat, my-dog=golden retriever``; a word on its own is for every concept that
the list does not name. Options may follow a word, ``my-cat=cat; 0.5``, with a meaning that is not known here. A comma
that is part of a name has a backslash before it, ``x\\,y-cat=cat``. A word can be remembered with a concept: in the
``.json`` file beside it, which WebUIs keep for the user's own metadata, under the key ``class word``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from alignit.prompt.sidecar import SidecarError, read_sidecar, sidecar_path, update_sidecar
from alignit.prompt.syntax import class_word_error, name_key, with_options

SIDECAR_KEY = "class word"

# Where a list is cut into entries: at commas, and where `str.splitlines` cuts.
_LINE_END = r"\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]"
_SEPARATOR = re.compile(rf"(?P<escaped>\\[\\,])|,|{_LINE_END}")


class ClassWordError(ValueError):
    """A class word, or a list of them, that cannot be used; the message names it and the mend."""


class ClassWords:
    """The class words of a list as users write it.

    Names are compared without regard to case, as the text encoder's tokens are.
    """

    def __init__(self, text: str, check_options: Callable[[str], object] | None = None) -> None:
        """Read a list.

        Args:
            text: The list.
            check_options: Raises a ValueError for options that cannot be used, as `Controls.with_options` does; None
                takes all as they are.

        Raises:
            ClassWordError: An entry is malformed; the message quotes it.
        """
        self._by_name: dict[str, str | None] = {}
        self._options: dict[str, str] = {}
        self._default: str | None = None
        self._names: dict[str, None] = {}
        for entry in (text[start:stop].strip() for start, stop in _entries(text)):
            if not entry:
                continue
            name, separator, given = (part.strip() for part in entry.rpartition("="))
            if separator and not name:
                raise ClassWordError(f"'{entry}' in the class words names no concept: write my-cat=cat")
            name = _unescaped(name)
            word, options = with_options(_unescaped(given))
            try:
                if check_options is not None:
                    check_options(options)
            except ValueError as error_in_options:
                raise ClassWordError(f"In '{entry}' in the class words, {error_in_options}") from None
            if options and not separator:
                raise ClassWordError(f"'{entry}' in the class words has options for no concept: write my-cat={entry}")
            error = class_word_error(word) if word is not None else None
            if error:
                raise ClassWordError(f"The class word in '{entry}' {error}: write ordinary words, as in my-cat=cat")
            if not separator:
                if self._default is not None:
                    raise ClassWordError(
                        f"'{self._default}' and '{word}' in the class words both name no concept: write my-cat=cat"
                    )
                self._default = word
                continue
            self._names[name] = None
            if (
                self._by_name.setdefault(name_key(name), word) != word
                or self._options.setdefault(name_key(name), options) != options
            ):
                raise ClassWordError(f"The class words give '{name}' twice: keep one of the entries")

    @property
    def names(self) -> tuple[str, ...]:
        """The concepts that the list names, as written."""
        return tuple(self._names)

    def get(self, name: str) -> str | None:
        """Return the class word for a concept, or None."""
        word = self._by_name.get(name_key(name))
        return self._default if word is None else word

    def gives(self, name: str) -> bool:
        """Say whether the list gives a class word to this concept and not to all."""
        return self._by_name.get(name_key(name)) is not None

    def options(self, name: str) -> str:
        """Return the options for a concept, as written."""
        return self._options.get(name_key(name), "")


@dataclass(frozen=True)
class EntryPlace:
    """Where the class word of one concept stands in a list, or would stand.

    Attributes:
        start: Offset in the list at which the class word begins.
        stop: Offset at which it ends.
        before: What has to be written before the class word; empty where the concept has an entry.
        entry_start: Offset at which that begins which goes where the concept shall have no class word in the list.
        entry_stop: Offset at which it ends.
    """

    start: int
    stop: int
    before: str
    entry_start: int
    entry_stop: int

    def put(self, text: str, word: str) -> str:
        """Return the list with the class word; an empty one takes it out. The rest of the list stays as it is."""
        if not word:
            return text[: self.entry_start] + text[self.entry_stop :]
        return text[: self.start] + self.before + word + text[self.stop :]


def place_in_list(text: str, name: str) -> EntryPlace:
    """Find the place of a concept's class word in a list, in its entry or after the last one.

    Raises:
        ClassWordError: The list is malformed, or the name cannot stand in one.
    """
    ClassWords(text)
    if re.search(_LINE_END, name) or not name_key(name) or name != name.strip():
        raise ClassWordError(f"'{name}' cannot stand in the list of class words: write <{name}=cat> in the prompt")
    entries = list(_entries(text))
    parts = [text[start:stop].rpartition("=") for start, stop in entries]
    key = name_key(name)
    mine = [index for index, (given, sign, _) in enumerate(parts) if sign and name_key(_unescaped(given)) == key]
    if len(mine) > 1:
        raise ClassWordError(f"The class words give '{name}' twice: keep one of the entries")
    for index in mine:
        start, stop = entries[index]
        given, semicolon, _ = parts[index][2].partition(";")
        begin = stop - len(parts[index][2]) + len(given) - len(given.lstrip())
        end = begin + len(given.strip())
        if semicolon:
            return EntryPlace(begin, end, "", begin, end)  # its options stay
        # With the separator after it, or the one before it where it is the last.
        last = index + 1 == len(entries)
        start = entries[index - 1][1] if last and index else start
        return EntryPlace(begin, end, "", start, stop if last else entries[index + 1][0])
    used = [stop for start, stop in entries if text[start:stop].strip()]
    end = len(text[: used[-1]].rstrip()) if used else 0
    return EntryPlace(end, len(text), f"{', ' if used else ''}{_escaped(name)}=", 0, 0)


def with_class_word(text: str, name: str, word: str) -> str:
    """Return a list of class words with the class word of one concept in it; an empty one takes it out.

    Raises:
        ClassWordError: The list is malformed, or the name or the class word cannot stand in one.
    """
    word = " ".join(word.split())
    if word:
        check_class_word(word)
    return place_in_list(text, name).put(text, word)


def _entries(text: str) -> Iterator[tuple[int, int]]:
    """Yield where the entries of a list begin and end, without the separators, empty ones included."""
    start = 0
    for separator in _SEPARATOR.finditer(text):
        if separator["escaped"]:
            continue
        yield start, separator.start()
        start = separator.end()
    yield start, len(text)


def _escaped(text: str) -> str:
    """Write text so that no list is cut in it."""
    # A single backslash is no escape but before a comma, so that a list made before there was one reads as it did.
    return re.sub(r"\\(?=\\|,|$)|,", r"\\\g<0>", text)


def _unescaped(text: str) -> str:
    return re.sub(r"\\([\\,])", r"\1", text)


def format_class_words(words: Mapping[str, str]) -> str:
    """Write class words by concept as a list that `ClassWords` reads."""
    return ", ".join(f"{_escaped(name)}={_escaped(word)}" for name, word in words.items())


def remembered(concept_file: str | os.PathLike[str]) -> str | None:
    """Return the class word remembered beside a concept's file, or None where there is none.

    Raises:
        ClassWordError: The file beside it cannot be read, or holds something that is no class word.
    """
    path = sidecar_path(concept_file)
    try:
        word = read_sidecar(concept_file).get(SIDECAR_KEY)
    except SidecarError as error:
        raise ClassWordError(f"{error}") from None
    if word is None:
        return None
    problem = class_word_error(word) if isinstance(word, str) else "is not text"
    if problem:
        raise ClassWordError(f"The class word in {path.name} {problem}: remember another, or edit the file")
    return str(word).strip()


def remembered_or_none(concept_file: str | os.PathLike[str] | None) -> str | None:
    """Return the class word remembered beside a concept's file; None also where that says none or cannot be used.

    For lists of concepts: what is wrong with a file is said where its concept is used.
    """
    try:
        return remembered(concept_file) if concept_file else None
    except ClassWordError:
        return None


def remember(concept_file: str | os.PathLike[str], word: str) -> None:
    """Write a class word beside a concept's file, and keep whatever else the user stored there.

    Raises:
        ClassWordError: The word cannot be used, or the file beside it is damaged or cannot be written.
    """
    check_class_word(word)
    try:
        update_sidecar(concept_file, {SIDECAR_KEY: word.strip()})
    except SidecarError as error:
        raise ClassWordError(f"{error}") from None


def check_class_word(word: str) -> None:
    """Refuse what cannot be a class word.

    Raises:
        ClassWordError: It cannot be used.
    """
    error = class_word_error(word)
    if error:
        raise ClassWordError(f"The class word '{word}' {error}: write ordinary words, such as cat")
