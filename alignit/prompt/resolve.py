"""From the text of prompts to the concepts in them, each with its class word: one resolution for every host.

A host says which concepts are at hand (`Shelf`) and what else is known of their class words (`WordSources`). The class
word of a mention is the first of these that there is:

1. in the mark, ``<my-cat=cat>``; else the first that can be used in another mark of the concept, in any of the texts
   that were read;
2. given beside the prompt: a panel's list, an argument;
3. remembered beside the concept's file;
4. suggested by the place of its file: of several words, the first that stands in the texts;
5. the nearest noun to its vectors, where the user lets that count.

What is in the way is told as a `alignit.prompt.problems.Problem`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Generic, Protocol, TypeVar

from alignit.prompt.class_words import ClassWordError, remembered
from alignit.prompt.problems import (
    BadClassWord,
    ClassWordAlone,
    ForAnotherModel,
    NoClassWord,
    NoSuchConcept,
    NotRemembered,
    Problem,
    SharedClassWord,
    TwoSetsOfOptions,
)
from alignit.prompt.suggestions import class_word_after
from alignit.prompt.syntax import (
    Mark,
    class_word_error,
    compared,
    could_be_name,
    is_words,
    join_class_words,
    marks_at,
    name_key,
    name_pattern,
    split,
)

T = TypeVar("T")


class WordSource(str, Enum):
    """Where a class word is from."""

    PROMPT = "prompt"
    GIVEN = "panel"
    REMEMBERED = "remembered"
    FILE = "file"
    NEAREST = "suggested"


@dataclass(frozen=True)
class Candidate(Generic[T]):
    """A concept at hand, as far as finding it in a prompt has to know it.

    Attributes:
        name: How prompts name it.
        item: What the host knows it by, opaque to this module; None for words, "cat" in "<cat=dog>".
        has_token: Whether it stands in prompts as a token of its own, with vectors; else as words.
        words: The words that it is, where it has no token; empty: its class word.
        class_words: Class words that the place of its file suggests, the likeliest first.
        files: The files beside which its class word may be remembered; the first that has one counts.
        joins: Whether a class word behind its token is a part of it, as in Custom Diffusion's ``<new1> cat``.
    """

    name: str
    item: T | None
    has_token: bool = True
    words: str = ""
    class_words: tuple[str, ...] = ()
    files: tuple[str | os.PathLike[str], ...] = ()
    joins: bool = False


@dataclass(frozen=True)
class Mention(Generic[T]):
    """A concept where a prompt names it, to be aligned.

    Attributes:
        candidate: The concept.
        class_word: Its class word.
        source: Where that is from, or None where there is none.
        words: Text that is a part of the concept and follows its vectors: the class word in ``<new1> cat``; all that it
            is where it has no token.
        options: How it is put in, as written at this mention (see `alignit.algorithm.controls`).
        alone: Whether nothing of the concept can be put in, and the class word alone stands for it.
    """

    candidate: Candidate[T]
    class_word: str
    source: WordSource | None = WordSource.PROMPT
    words: str = ""
    options: str = ""
    alone: bool = False

    @property
    def name(self) -> str:
        """The concept's name."""
        return self.candidate.name

    @property
    def item(self) -> T | None:
        """What the host knows the concept by."""
        return self.candidate.item


@dataclass(frozen=True)
class PlainMention(Generic[T]):
    """A concept where a prompt names it, as the customisation method itself has it.

    Attributes:
        candidate: The concept.
        text: What is written there for one without a token: its words.
    """

    candidate: Candidate[T]
    text: str = ""

    @property
    def name(self) -> str:
        """The concept's name."""
        return self.candidate.name

    @property
    def item(self) -> T | None:
        """What the host knows the concept by."""
        return self.candidate.item


class Shelf(Protocol[T]):
    """The concepts at hand."""

    def find(self, name: str) -> Candidate[T] | None:
        """Return the concept of this name, with angle brackets or without, or None."""

    def without_token(self) -> Iterable[Candidate[T]]:
        """Return the concepts that stand in prompts as words."""

    def names_in(self, text: str) -> Mapping[str, str]:
        """Return names that mean concepts where they stand in plain text, and the concepts' names.

        Those that the host finds by itself need not be among them.
        """

    def other_names_in(self, text: str) -> Iterable[str]:
        """Return names in plain text that the host finds by itself: no word inside of them is looked at."""

    def unfit_in(self, text: str) -> Iterable[str]:
        """Return names in plain text of concepts that do not fit the model."""

    def is_unfit(self, name: str) -> bool:
        """Say whether this names a concept that does not fit the model."""

    def class_word_error(self, word: str) -> str | None:
        """Say what is wrong with a class word that has no character with a meaning of its own, or return None."""


@dataclass(frozen=True)
class WordSources(Generic[T]):
    """What is known of class words beside prompts and files.

    Attributes:
        given: Gives the class word that the user gave a concept beside the prompt, by its name, or None.
        nearest: Gives the nearest nouns to a concept, nearest first.
        use_nearest: Whether the first of them counts where nothing else is known.
    """

    given: Callable[[str], str | None]
    nearest: Callable[[Candidate[T]], Sequence[str]]
    use_nearest: bool = False


class Resolver(Generic[T]):
    """Resolves the texts of one generation.

    Attributes:
        suggestions: The nearest nouns to each concept that has no class word, by its name.
        refused: The concepts that stay as they are in the prompt, by name, each with the class word that cannot be
            used, or none.
    """

    def __init__(self, shelf: Shelf[T], sources: WordSources[T], tell: Callable[[Problem], None]) -> None:
        """Take what is known beside the texts.

        Args:
            shelf: The concepts at hand; they can be others from one text to the next.
            sources: What is known of class words beside prompts and files.
            tell: Is told of each problem, some of them again.
        """
        self.suggestions: dict[str, list[str]] = {}
        self.refused: dict[str, Mention[T]] = {}
        self._shelf = shelf
        self._sources = sources
        self._tell = tell
        self._in_prompt: dict[str, str] = {}
        self._options: dict[str, str] = {}
        self._plain: dict[str, None] = {}  # the texts without their marks, each once
        self._resolved: dict[tuple[Candidate[T], str | None], Mention[T] | None] = {}
        self._kept: dict[tuple[str | os.PathLike[str], ...], str | None] = {}

    def read(self, text: str) -> None:
        """Take the class words and options that a text gives, for all mentions of their concepts."""
        parts = list(split(text))
        self._plain[" ".join(part for part in parts if isinstance(part, str))] = None
        for part in parts:
            # One that cannot be used is told of where its mark is resolved, and says nothing about other mentions. A
            # text can also still hold a WebUI's prompt editing here, as in <my-cat=[cat:dog:0.5]>.
            if not isinstance(part, Mark):
                continue
            if part.class_word is not None and class_word_error(part.class_word) is None:
                self._in_prompt.setdefault(name_key(part.name), part.class_word)
            if part.options and self._options.setdefault(name_key(part.name), part.options) != part.options:
                self._tell(TwoSetsOfOptions(part.name))
        for name in self._shelf.unfit_in(text):
            self._tell(ForAnotherModel(name))

    def marks(self, name: str) -> bool:
        """Say whether the texts give a concept its class word."""
        return name_key(name) in self._in_prompt

    def options(self, name: str) -> str:
        """Return the options that the texts give a concept, as written."""
        return self._options.get(name_key(name), "")

    def parts(self, text: str, align: bool = True) -> Iterator[str | Mention[T] | PlainMention[T]]:
        """Yield the parts of a text in order: plain text as strings, and the concepts that it names.

        Args:
            text: The text, which was read.
            align: Whether concepts are aligned, as `Mention`; else all are `PlainMention`.
        """
        for part in self.split(text, join=align):
            if isinstance(part, str):
                yield part
            else:
                yield (self.mark(part) if align else self.plain(part)) or part.text

    def split(self, text: str, join: bool = True) -> Iterator[str | Mark]:
        """Yield the parts of a text in order: plain text, marks, and names and words that count as marks.

        Args:
            text: The text.
            join: Whether a mark takes up the class word behind it where its concept does.
        """
        parts = split(text)
        for part in join_class_words(parts, self._class_word_after) if join else parts:
            if isinstance(part, Mark):
                yield part
            else:
                yield from marks_at(part, self._names_in(part))

    def mark(self, mark: Mark) -> Mention[T] | PlainMention[T] | None:
        """Return what a mark means: a concept that is aligned, one that cannot be, or None: it is text."""
        candidate = self._shelf.find(mark.name)
        if candidate is None:
            return self._unknown(mark) if mark.class_word is not None and could_be_name(mark.name) else None
        mention = self.mention(candidate, mark.class_word)
        if mention is None:
            return PlainMention(candidate) if mark.class_word is not None and candidate.has_token else None
        words = mention.class_word if mark.trailing and candidate.has_token else mention.words
        return replace(mention, words=words, options=mark.options)

    def mention(self, candidate: Candidate[T], in_mark: str | None = None) -> Mention[T] | None:
        """Return a concept with its class word, or None where it has none that can be used.

        Args:
            candidate: The concept.
            in_mark: The class word at this mention, or None.
        """
        if not candidate.has_token:
            return self._mention(candidate, in_mark)  # the texts that are read say which word is meant
        key = candidate, self._in_prompt.get(name_key(candidate.name)) if in_mark is None else in_mark
        if key not in self._resolved:
            self._resolved[key] = self._mention(*key)
        return self._resolved[key]

    def plain(self, mark: Mark) -> PlainMention[T] | None:
        """Return what a mark means where nothing is aligned, or None: it is text."""
        candidate = self._shelf.find(mark.name)
        if candidate is None:
            if mark.class_word is not None and could_be_name(mark.name):
                self._tell(NoSuchConcept(mark.name, mark.text))
            return None
        if candidate.has_token:
            return PlainMention(candidate)
        mention = self._mention(candidate, mark.class_word)
        return PlainMention(candidate, mention.words) if mention is not None else None

    def class_word(self, candidate: Candidate[T]) -> tuple[str | None, WordSource | None]:
        """Return the class word that the user, or the place of its file, gives a concept, and which of them does."""
        word = self._in_prompt.get(name_key(candidate.name))
        if word is not None:
            return word, WordSource.PROMPT
        word = self._sources.given(candidate.name)
        if word is not None:
            return word, WordSource.GIVEN
        word = self._remembered(candidate)
        if word is not None:
            return word, WordSource.REMEMBERED
        used = (word for word in candidate.class_words if self._stands(word))
        word = next(used, next(iter(candidate.class_words), None))
        return word, None if word is None else WordSource.FILE

    def _mention(self, candidate: Candidate[T], in_mark: str | None) -> Mention[T] | None:
        word, source = (in_mark, WordSource.PROMPT) if in_mark is not None else self.class_word(candidate)
        if word is None:
            nearest = self._sources.nearest(candidate) if candidate.has_token else ()
            if self._sources.use_nearest and nearest:
                word, source = nearest[0], WordSource.NEAREST
            else:
                if candidate.has_token:
                    self.suggestions[candidate.name] = list(nearest)
                self._tell(NoClassWord(candidate.name, tuple(nearest), candidate.has_token))
        words = "" if candidate.has_token else candidate.words or word or ""
        mention = Mention(candidate, word or "", source, words)
        if word is None or not self._is_good(candidate.name, word):
            self.refused[candidate.name] = mention
            return None
        return mention

    def _unknown(self, mark: Mark) -> Mention[T] | None:
        word, unfit = mark.class_word or "", self._shelf.is_unfit(mark.name)
        if is_words(mark.name) and not unfit:
            # The keys and values of words at other words (the paper's section 3.3).
            candidate: Candidate[T] = Candidate(mark.name, None, has_token=False, words=mark.name)
            good = self._is_good(mark.name, word)
            return Mention(candidate, word, words=mark.name, options=mark.options) if good else None
        self._tell(ForAnotherModel(mark.name) if unfit else NoSuchConcept(mark.name, mark.text))
        if not self._is_good(mark.name, word):
            return None
        self._tell(ClassWordAlone(mark.name, word))
        return Mention(Candidate(mark.name, None), word, alone=True)

    def _is_good(self, name: str, word: str) -> bool:
        error = class_word_error(word) or self._shelf.class_word_error(word)
        if error is not None:
            self._tell(BadClassWord(name, word, error))
        return error is None

    def _names_in(self, text: str) -> dict[str, str]:
        """Return the names and words that mean concepts where they stand in plain text; empty for others' names."""
        names = dict(self._shelf.names_in(text))
        words = self._by_words()
        if words:
            # The name of a concept can hold a class word: my cat.pt.
            names |= {name: "" for name in self._shelf.other_names_in(text) if compared(name) not in words}
            names |= {word: candidate.name for word, candidate in words.items()}
        return names

    def _by_words(self) -> dict[str, Candidate[T]]:
        """Return the concepts without a token by the words that they are."""
        found: dict[str, Candidate[T]] = {}
        for candidate in self._shelf.without_token():
            words = candidate.words or self.class_word(candidate)[0]
            if words is None or class_word_error(words) is not None:
                continue
            other = found.get(compared(words))
            if other is not None and self._stands(words):
                self._tell(SharedClassWord(other.name, candidate.name, words))
            found[compared(words)] = candidate
        return found

    def _stands(self, words: str) -> bool:
        return any(name_pattern(words).search(text) for text in self._plain)

    def _class_word_after(self, name: str, text: str) -> str | None:
        candidate = self._shelf.find(name)
        if candidate is None or not candidate.joins:
            return None
        return class_word_after(text, [self._sources.given(name), self._remembered(candidate)])

    def _remembered(self, candidate: Candidate[T]) -> str | None:
        # Asked for at each text and each mention, which is no reason to read the files again.
        if candidate.files not in self._kept:
            self._kept[candidate.files] = self._read_remembered(candidate)
        return self._kept[candidate.files]

    def _read_remembered(self, candidate: Candidate[T]) -> str | None:
        try:
            return next((word for file in candidate.files if (word := remembered(file))), None)
        except ClassWordError as error:
            problem, _, mend = str(error).rpartition(": ")
            self._tell(NotRemembered(candidate.name, problem, mend))
            return None
