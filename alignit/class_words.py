"""Class words: the ordinary word for what a concept is, and where a user may have said it.

The panel and the API take a list, ``my-cat=cat, my-dog=golden retriever``; a word on its own is for every concept that
the list does not name. Options may follow a word, ``my-cat=cat; 0.5`` (see `alignit.controls`). A word can be
remembered with a concept: in the ``.json`` file beside it, which WebUIs keep for the user's own metadata, under the key
``class word``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from alignit.controls import Controls, ControlsError
from alignit.sidecar import SidecarError, read_sidecar, sidecar_path, update_sidecar
from alignit.syntax import class_word_error, name_key, with_options

SIDECAR_KEY = "class word"


class ClassWordError(ValueError):
    """A class word, or a list of them, that cannot be used; the message names it and the mend."""


class ClassWords:
    """The class words of a list as users write it.

    Names are compared without regard to case, as the text encoder's tokens are.
    """

    def __init__(self, text: str) -> None:
        """Read a list.

        Raises:
            ClassWordError: An entry is malformed; the message quotes it.
        """
        self._by_name: dict[str, str | None] = {}
        self._options: dict[str, str] = {}
        self._default: str | None = None
        for entry in (part.strip() for line in text.splitlines() for part in line.split(",")):
            if not entry:
                continue
            name, separator, given = (part.strip() for part in entry.rpartition("="))
            if separator and not name:
                raise ClassWordError(f"'{entry}' in the class words names no concept: write my-cat=cat")
            word, options = with_options(given)
            try:
                Controls().with_options(options)
            except ControlsError as error_in_options:
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
            elif (
                self._by_name.setdefault(name_key(name), word) != word
                or self._options.setdefault(name_key(name), options) != options
            ):
                raise ClassWordError(f"The class words give '{name}' twice: keep one of the entries")

    def get(self, name: str) -> str | None:
        """Return the class word for a concept, or None."""
        word = self._by_name.get(name_key(name))
        return self._default if word is None else word

    def options(self, name: str) -> str:
        """Return the options for a concept, as written."""
        return self._options.get(name_key(name), "")


def format_class_words(words: Mapping[str, str]) -> str:
    """Write class words by concept as a list that `ClassWords` reads."""
    return ", ".join(f"{name}={word}" for name, word in words.items())


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
