"""The concepts that a diffusers pipeline has at hand, and what in their prompts is told to the caller as an error."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from alignit.concepts.concept import Concept, EncoderChange, TokenEmbedding
from alignit.concepts.weight_change import Change, WeightChange
from alignit.diffusers.errors import AlignITError
from alignit.prompt.problems import BadClassWord, NoClassWord, NoSuchConcept, Problem, TwoSetsOfOptions
from alignit.prompt.resolve import Candidate, Mention, PlainMention, Resolver, WordSources
from alignit.prompt.syntax import Mark, class_word_error, marks_at, name_key


@dataclass(frozen=True, eq=False)
class ConceptToken:
    """What stands for a concept in prompts: a token of its file, or its class word.

    Attributes:
        name: Its name, ``<new1>``; the concept's where it has no token, as in CatVersion.
        concept: The concept's file.
        embedding: The token's vectors, or None: the class word itself is the concept.
        change: The concept's change of W_k and W_v, or None.
    """

    name: str
    concept: Concept
    embedding: TokenEmbedding | None
    change: WeightChange | None

    @property
    def encoder_change(self) -> EncoderChange | None:
        """The concept's change of the text encoder, or None."""
        return self.concept.encoder_change


TokenMention: TypeAlias = "Mention[ConceptToken]"
"""A concept that is aligned; its ``item`` is None for words, "cat" in "<cat=dog>"."""

PlainTokenMention: TypeAlias = "PlainMention[ConceptToken]"
"""A concept as the customisation method itself has it."""

Parts: TypeAlias = "Sequence[str | TokenMention | PlainTokenMention]"
"""A prompt: plain text, and the concepts that it names."""


class ConceptPrompts:
    """Finds some concepts in prompts: the `Shelf` of their resolution."""

    def __init__(
        self,
        concepts: Sequence[Concept],
        class_words: Mapping[str, str],
        nearest: Callable[[ConceptToken], list[str]],
    ) -> None:
        """Take the concepts.

        Args:
            concepts: The concepts.
            class_words: Class words by token, where prompts give none.
            nearest: Gives the nearest nouns to a token, for the message where no class word is known.

        Raises:
            AlignITError: Two concepts share a token, or a class word cannot be used.
        """
        self._candidates: dict[str, Candidate[ConceptToken]] = {}
        self._nearest = nearest
        owners: dict[str, Concept] = {}
        for concept in concepts:
            change = Change(concept.weights) if concept.weights is not None else None
            tokens = [ConceptToken(embedding.name, concept, embedding, change) for embedding in concept.tokens]
            for token in tokens or [ConceptToken(concept.name, concept, None, change)]:
                key = name_key(token.name)
                other = owners.setdefault(key, concept)
                if key in self._candidates:
                    raise AlignITError(
                        f"'{other.path.name}' and '{concept.path.name}' both have the token '{token.name}': "
                        "load one of them under another name, load_concept(path, token_names=[...]), or rename its file"
                    )
                self._candidates[key] = _candidate(token)
        # Names in angle brackets are found as such.
        self._bare_names = {
            candidate.name: candidate.name
            for candidate in self._candidates.values()
            if candidate.has_token and not re.fullmatch("<.*>", candidate.name)
        }
        self._class_words: dict[str, str] = {}
        for name, word in class_words.items():
            if name_key(name) not in self._candidates:
                raise AlignITError(f"The class words name '{name}', and there is {self}: check the name")
            words = " ".join(word.split())
            error = class_word_error(words) or self.class_word_error(words)
            if error:
                self._tell(BadClassWord(name, words, error))
            self._class_words[name_key(name)] = words

    def __str__(self) -> str:
        """Say which tokens there are, for messages."""
        names = ", ".join(candidate.name for candidate in self._candidates.values())
        return names or "no concept"

    def parts(self, prompt: str, align: bool) -> Parts:
        """Return the parts of a prompt in order: plain text as strings, and the concepts that it names.

        Args:
            prompt: The prompt.
            align: Whether concepts are aligned, as `Mention`; else `PlainMention`: ``<my-cat=cat>`` means ``my-cat``.

        Raises:
            AlignITError: A concept has no class word, or one that cannot be used; or it is not there.
        """
        sources: WordSources[ConceptToken] = WordSources(
            lambda name: self._class_words.get(name_key(name)),
            lambda candidate: self._nearest(candidate.item) if candidate.item is not None else (),
        )
        resolver = Resolver(self, sources, self._tell)
        resolver.read(prompt)
        return list(resolver.parts(prompt, align))

    def find(self, name: str) -> Candidate[ConceptToken] | None:
        """See `alignit.prompt.resolve.Shelf`."""
        return self._candidates.get(name_key(name))

    def without_token(self) -> Iterable[Candidate[ConceptToken]]:
        """See `alignit.prompt.resolve.Shelf`."""
        return [candidate for candidate in self._candidates.values() if not candidate.has_token]

    def names_in(self, _text: str) -> Mapping[str, str]:
        """See `alignit.prompt.resolve.Shelf`."""
        return self._bare_names

    def other_names_in(self, _text: str) -> Iterable[str]:
        """See `alignit.prompt.resolve.Shelf`: a pipeline finds none by itself."""
        return ()

    def unfit_in(self, _text: str) -> Iterable[str]:
        """See `alignit.prompt.resolve.Shelf`: concepts are checked when they are taken."""
        return ()

    def is_unfit(self, _name: str) -> bool:
        """See `alignit.prompt.resolve.Shelf`."""
        return False

    def class_word_error(self, word: str) -> str | None:
        """See `alignit.prompt.resolve.Shelf`."""
        found = next((part for part in marks_at(word, self._bare_names) if isinstance(part, Mark)), None)
        return f"contains the concept '{found.text}', and must be an ordinary word" if found else None

    def _tell(self, problem: Problem) -> None:
        if isinstance(problem, TwoSetsOfOptions):
            return  # told of over all prompts of a call
        raise AlignITError(self._message(problem))

    def _message(self, problem: Problem) -> str:
        if isinstance(problem, NoClassWord):
            plain, nearest = problem.name.strip("<>"), ", ".join(problem.nearest)
            return (
                f"{problem.cause}: write <{plain}=cat> in the prompt, or give class_words={{'{problem.name}': 'cat'}}"
                + (f". Nearest to it: {nearest}" if nearest else "")
            )
        if isinstance(problem, BadClassWord):
            return f"{problem.cause}: write one such as cat"
        if isinstance(problem, NoSuchConcept):
            return f"{problem.cause}, but {self}: {problem.mend}"
        return str(problem)


def _candidate(token: ConceptToken) -> Candidate[ConceptToken]:
    has_token = token.embedding is not None
    files: tuple[os.PathLike[str], ...] = (token.concept.path,)
    class_words = () if has_token else token.concept.likely_class_words
    return Candidate(token.name, token, has_token, "", class_words, files, joins=token.change is not None)
