"""From a name in a prompt to a concept with its class word, or to a note that says why there is none.

The resolution is that of `alignit.prompt.resolve`; here are the concepts that the host has, and how problems are told.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from alignit.algorithm.controls import FILLER, Controls
from alignit.algorithm.options import ControlsError
from alignit.prompt.class_words import ClassWordError, ClassWords, remembered
from alignit.prompt.problems import (
    ClassWordAlone,
    ForAnotherModel,
    ListNamesNothing,
    NoClassWord,
    NoSuchConcept,
    NotRemembered,
    OpenBrackets,
    Problem,
    ReadAsLetters,
    SharedClassWord,
    TooManyTokens,
    TooManyVectors,
    TwoSetsOfOptions,
)
from alignit.prompt.resolve import Candidate, Mention, PlainMention, Resolver, WordSources
from alignit.prompt.syntax import Mark, has_open_brackets, name_key, split
from alignit.webui.generation.encoding import ResolvedConcept
from alignit.webui.host import host
from alignit.webui.networks.embeddings import (
    embedding_in_tokens,
    embeddings_in,
    find_embedding,
    is_for_another_model,
    nearest_class_words,
    passed_over_in,
)
from alignit.webui.networks.network import NetworkConcept
from alignit.webui.networks.networks import Active
from alignit.webui.settings import use_suggestions

CHUNK_LENGTH = 75  # tokens of text that the host puts into a chunk


@dataclass(frozen=True)
class Found:
    """A concept of the prompt, and where its class word comes from.

    Attributes:
        concept: The concept.
        source: ``prompt``, ``panel``, ``remembered``, ``suggested``, or ``file`` for the name of its file or folder;
            empty where there is none.
        options: The options that were given for this concept, as written.
    """

    concept: ResolvedConcept
    source: str
    options: str = ""


class HostShelf:
    """The concepts that the host has at hand: a `alignit.prompt.resolve.Shelf`.

    A candidate's item is its `ResolvedConcept` without a class word.

    Attributes:
        networks: What the networks of the prompt at hand name.
    """

    def __init__(self) -> None:
        """Start without networks."""
        self.networks = Active()

    def find(self, name: str) -> Candidate[ResolvedConcept] | None:
        """See `alignit.prompt.resolve.Shelf`."""
        as_words = self.networks.find(name)
        if as_words is not None:
            return self.of_words(as_words)
        token = self.networks.find_token(name)
        embedding = token[1] if token else find_embedding(name)
        return None if embedding is None else self.of_embedding(embedding)

    def of_words(self, concept: NetworkConcept) -> Candidate[ResolvedConcept]:
        """Return a concept that stands in the prompt as words."""
        item = _resolved(concept.name, None, concept, concept.filename)
        return Candidate(
            concept.name, item, False, concept.words, class_words=concept.class_words, files=(concept.filename,)
        )

    def of_embedding(self, embedding: Any) -> Candidate[ResolvedConcept]:
        """Return the concept of an embedding that stands in the prompt, be it the host's or a network's token."""
        token = self.networks.find_token(embedding.name)
        network = token[0] if token else None
        files = [network.filename if network else None, embedding.filename]
        item = _resolved(embedding.name, embedding, network, files[0] if network else embedding.filename)
        return Candidate(embedding.name, item, files=tuple(file for file in files if file), joins=network is not None)

    def without_token(self) -> Iterable[Candidate[ResolvedConcept]]:
        """See `alignit.prompt.resolve.Shelf`."""
        return map(self.of_words, self.networks.as_words)

    def names_in(self, text: str) -> Mapping[str, str]:
        """See `alignit.prompt.resolve.Shelf`: embeddings that the host passes over and that fit all the same."""
        return {name: name for name in passed_over_in(text) if find_embedding(name)}

    def other_names_in(self, text: str) -> Iterable[str]:
        """See `alignit.prompt.resolve.Shelf`."""
        return embeddings_in(text)

    def unfit_in(self, text: str) -> Iterable[str]:
        """See `alignit.prompt.resolve.Shelf`."""
        return filter(is_for_another_model, passed_over_in(text))

    def is_unfit(self, name: str) -> bool:
        """See `alignit.prompt.resolve.Shelf`."""
        return is_for_another_model(name)

    def class_word_error(self, word: str) -> str | None:
        """See `alignit.prompt.resolve.Shelf`."""
        tokens = _tokens(word)
        itself = embedding_in_tokens(tokens)
        if itself is not None:
            return f"contains the embedding '{itself.name}', and must be an ordinary word"
        if not tokens:
            return "has no letters that the text encoder knows"
        if len(tokens) > CHUNK_LENGTH:
            return f"has {len(tokens)} tokens, and a prompt chunk holds {CHUNK_LENGTH}"
        return None


class Concepts:
    """Resolves the concepts of one generation: the `Lookup` of its `Encoding`.

    Attributes:
        found: The concepts in use, by name.
        suggestions: For each concept that has no class word, the nearest nouns, nearest first.
        notes: What was said, by the concept that it is about.
    """

    def __init__(self, words: ClassWords, controls: Controls, say: Callable[[str], None]) -> None:
        """Take what the panel says.

        Args:
            words: Its class words.
            controls: How concepts are put in that have no options of their own.
            say: Tells the user what cannot be done.
        """
        self.found: dict[str, Found] = {}
        self.notes: dict[str, list[str]] = {}
        self._panel = words
        self._controls = controls
        self._say = say
        self._shelf = HostShelf()
        self._resolver = Resolver(self._shelf, WordSources(words.get, _nearest, use_suggestions()), self._tell)
        self.suggestions = self._resolver.suggestions
        self._refused: dict[str, Found] = {}
        self._used: dict[Mention[ResolvedConcept], ResolvedConcept | None] = {}

    @property
    def networks(self) -> Active:
        """What the networks of the prompt at hand name."""
        return self._shelf.networks

    @networks.setter
    def networks(self, networks: Active) -> None:
        self._shelf.networks = networks

    @property
    def refused(self) -> dict[str, Found]:
        """The concepts that stay as they are in the prompt, with the class word that cannot be used, or none."""
        refused = {name: _refused(mention) for name, mention in self._resolver.refused.items()}
        return refused | self._refused

    def read(self, text: str) -> None:
        """Take the class words that a prompt text gives, for all mentions of their concepts in this generation."""
        for mark in split(text):
            if isinstance(mark, Mark) and has_open_brackets(mark.name) and host().options.emphasis:
                candidate = self._shelf.find(mark.name)
                if candidate is not None:
                    self._tell(OpenBrackets(candidate.name, mark.text))
        self._resolver.read(text)

    def binds(self, name: str, filename: str) -> bool:
        """Say whether the user made a concept of a LoRA: by a mark, in the panel's list, or beside its file.

        Args:
            name: Its name in the prompt.
            filename: Its file, or empty.
        """
        if self._resolver.marks(name) or self._panel.gives(name):
            return True
        try:
            return bool(filename) and remembered(filename) is not None
        except ClassWordError as error:
            self._say_of(name, f"{error}. <lora:{name}> acts on the whole picture, as without AlignIT.")
            return False

    def split(self, text: str) -> Iterator[str | Mark]:
        """See `alignit.webui.generation.encoding.Lookup`."""
        return self._resolver.split(text)

    def mark(self, mark: Mark) -> Any | None:
        """See `alignit.webui.generation.encoding.Lookup`."""
        found = self._resolver.mark(mark)
        if isinstance(found, PlainMention):
            return found.item.embedding if found.item is not None else None
        return None if found is None else self._concept(found)

    def embedding(self, embedding: Any) -> ResolvedConcept | None:
        """See `alignit.webui.generation.encoding.Lookup`."""
        mention = self._resolver.mention(self._shelf.of_embedding(embedding))
        return None if mention is None else self._concept(mention)

    def unused(self, networks: Active, used: Collection[str]) -> list[str]:
        """Say which networks have no concept in the prompt, and why; note their concepts as refused.

        Args:
            networks: Those of the prompt.
            used: The concepts that are put in.
        """
        notes = []
        for concept in networks.as_words:
            if concept.name not in used:
                candidate = self._shelf.of_words(concept)
                word, source = self._resolver.class_word(candidate)
                self._refused.setdefault(concept.name, _refused(Mention(candidate, word or "", source, word or "")))
                notes.append(concept.network.unused(concept, word))
                self.notes.setdefault(concept.name, []).append(notes[-1])
        for concept in networks.with_tokens:
            names = [token.name for token in concept.tokens if token.name in used]
            if not any(self.found[name].concept.method == concept.network.method for name in names):
                notes.append(concept.network.unused(concept, None))
        return notes

    def say_where_the_list_names_nothing(self) -> None:
        """Say so where a concept has no class word, and the list has entries for others alone."""
        listed = {name_key(name) for name in self._panel.names}
        alone = next((name for name, found in self.refused.items() if not found.concept.class_word), None)
        if listed and alone is not None and not listed & {name_key(name) for name in (*self.found, *self.refused)}:
            self._tell(ListNamesNothing(alone, self._panel.names))

    def _concept(self, mention: Mention[ResolvedConcept]) -> ResolvedConcept | None:
        item = mention.item
        if item is None:
            word = mention.class_word
            return ResolvedConcept(mention.name, word, None) if mention.alone else self._words(mention)
        if not mention.candidate.has_token:
            return self._use(mention, replace(item, class_word=mention.class_word, words=mention.words))
        every = replace(mention, words="", options="")  # one concept for all of its mentions
        if every not in self._used:
            self._used[every] = self._of_embedding(every, item)
        concept = self._used[every]
        return replace(concept, words=mention.words) if concept and concept.embedding is not None else concept

    def _of_embedding(self, mention: Mention[ResolvedConcept], item: ResolvedConcept) -> ResolvedConcept:
        vectors, word = int(item.embedding.vectors), mention.class_word
        if vectors > CHUNK_LENGTH:
            self._refused[mention.name] = _refused(mention)
            self._tell(TooManyVectors(mention.name, vectors, CHUNK_LENGTH, word))
            return ResolvedConcept(mention.name, word, None)
        return self._use(mention, replace(item, class_word=word))

    def _words(self, mention: Mention[ResolvedConcept]) -> ResolvedConcept | None:
        """Resolve "<cat=dog>": the keys and values of words at other words (the paper's section 3.3)."""
        name, tokens = mention.name, _tokens(mention.name)
        if len(tokens) > CHUNK_LENGTH:
            self._tell(TooManyTokens(name, len(tokens), CHUNK_LENGTH))
            return None
        if len(tokens) > len(name.split()):
            self._tell(ReadAsLetters(name))
        return self._use(mention, ResolvedConcept(name, mention.class_word, None, words=mention.words))

    def _use(self, mention: Mention[ResolvedConcept], concept: ResolvedConcept) -> ResolvedConcept:
        """Note a concept that is in use, with its controls."""
        name, given = concept.name, []
        controls = self._controls
        for where, options in (
            ("class words", self._panel.options(name)),
            ("prompt", self._resolver.options(name)),
        ):
            try:
                controls = controls.with_options(options)
                given += [options] if options and options not in given else []
            except ControlsError as error:
                self._say_of(name, f"Of the options of '{name}' in the {where}, {error}. They are not used.")
        if len(_tokens(controls.filler)) != 1:
            self._say_of(
                name, f"The filler '{controls.filler}' of '{name}' is not one token: '{FILLER}' is used instead."
            )
            controls = replace(controls, filler=FILLER)
        concept = replace(concept, controls=controls)
        self.found[name] = Found(concept, _source(mention), "; ".join(given))
        return concept

    def _tell(self, problem: Problem) -> None:
        if isinstance(problem, NoClassWord) and not problem.has_token:
            return  # said of the networks that are not used
        text = note(problem)
        if problem.of_concept:
            self._say_of(problem.name, text)
        else:
            self._say(text)

    def _say_of(self, name: str, text: str) -> None:
        if text not in self.notes.setdefault(name, []):
            self.notes[name].append(text)
        self._say(text)


def note(problem: Problem) -> str:
    """Write a problem as a note: its cause, and its mend in words of the page where these say more."""
    write: Callable[[Any], str] | None = _NOTES.get(type(problem))
    if write is not None:
        return write(problem)
    return f"{problem.cause}. {problem.mend[:1].upper()}{problem.mend[1:]}."


def no_class_word(name: str, nearest: Sequence[str]) -> str:
    """Say that a concept has no class word, and what the nearest nouns to it are."""
    return note(NoClassWord(name, tuple(nearest)))


_NOTES: dict[type[Problem], Callable[[Any], str]] = {
    NoClassWord: lambda it: (
        f"{it.cause}, so it is used as a plain embedding. Write <{it.written}=cat> in the prompt, or set one in the "
        f"panel. Nearest to it: {', '.join(it.nearest)}."
    ),
    NoSuchConcept: lambda it: f"There is no embedding '{it.name}' (written {it.text}): check its name and folder.",
    ForAnotherModel: lambda it: f"The embedding {it.cause}.",
    ClassWordAlone: lambda it: f"{it.cause}.",
    SharedClassWord: lambda it: (
        f"{it.cause}, and is taken for the latter. Write <{it.written}={it.word}> where the other one stands."
    ),
    TwoSetsOfOptions: lambda it: f"{it.cause} in the prompt, and the first counts for all its mentions.",
    NotRemembered: lambda it: f"{it}.",
    TooManyTokens: lambda it: f"{it.cause}.",
    TooManyVectors: lambda it: f"{it}.",
    ReadAsLetters: lambda it: f"There is no embedding '{it.name}', so its letters are read as words.",
}


def _resolved(name: str, embedding: Any, network: NetworkConcept | None, filename: str | None) -> ResolvedConcept:
    if network is None:
        return ResolvedConcept(name, "", embedding, filename=filename, method="textual inversion")
    return ResolvedConcept(
        name,
        "",
        embedding,
        network.change,
        network.encoder_change,
        filename=filename,
        method=network.network.method,
        others=network.others,
    )


def _refused(mention: Mention[ResolvedConcept]) -> Found:
    concept = mention.item or ResolvedConcept(mention.name, "", None)
    return Found(replace(concept, class_word=mention.class_word, words=mention.words), _source(mention))


def _source(mention: Mention[ResolvedConcept]) -> str:
    return mention.source.value if mention.source is not None else ""


def _nearest(candidate: Candidate[ResolvedConcept]) -> list[str]:
    embedding = candidate.item.embedding if candidate.item is not None else None
    return nearest_class_words(host().model(), embedding) if embedding is not None else []


def _tokens(text: str) -> list[int]:
    return host().model().encoders[0].tokens(text)


class PlainTokens:
    """The `Lookup` where AlignIT is off: tokens of the networks are plain embeddings, and nothing is a concept."""

    def __init__(self, networks: Active) -> None:
        self._networks = networks

    def split(self, text: str) -> Iterator[str | Mark]:
        """See `alignit.webui.generation.encoding.Lookup`."""
        return split(text)

    def mark(self, mark: Mark) -> Any | None:
        """See `alignit.webui.generation.encoding.Lookup`."""
        token = self._networks.find_token(mark.name)
        return None if token is None else token[1]

    def embedding(self, _embedding: Any) -> ResolvedConcept | None:
        """See `alignit.webui.generation.encoding.Lookup`."""
        return None
