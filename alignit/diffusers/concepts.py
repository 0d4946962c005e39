"""From the text of a prompt to the concepts in it, with their class words."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from alignit.concepts.concept import Concept, EncoderPrefixes, TokenEmbedding
from alignit.concepts.weight_change import Change
from alignit.diffusers.errors import AlignITError
from alignit.prompt.class_words import ClassWordError, remembered
from alignit.prompt.suggestions import class_word_after
from alignit.prompt.syntax import (
    Mark,
    class_word_error,
    is_words,
    join_class_words,
    marks_at,
    name_key,
    name_pattern,
    spaced,
    split,
)


@dataclass(frozen=True, eq=False)
class Token:
    """What stands for a concept in prompts.

    Attributes:
        name: Its name, ``<new1>``; the concept's where it has no token, as in CatVersion.
        concept: The concept's file; None for words, "cat" in "<cat=dog>".
        embedding: The token's vectors, or None: the class word itself is the concept, or words are.
        change: The concept's change of W_k and W_v, or None.
    """

    name: str
    concept: Concept | None
    embedding: TokenEmbedding | None = None
    change: Change | None = None

    @property
    def prefixes(self) -> EncoderPrefixes | None:
        """The concept's change of the text encoder, or None."""
        return self.concept.prefixes if self.concept is not None else None


@dataclass(frozen=True)
class Mention:
    """A concept where a prompt names it.

    Attributes:
        token: The concept's token.
        class_word: The class word's text.
        words: Text that is a part of the concept and follows its vectors: the class word in "<new1> cat" and, without
            vectors, in CatVersion; the concept itself where it is words.
        options: How it is put in, as written (see `alignit.algorithm.controls`).
    """

    token: Token
    class_word: str
    words: str = ""
    options: str = ""


@dataclass(frozen=True)
class PlainMention:
    """A concept where a prompt names it, as the customisation method itself has it.

    Attributes:
        token: The concept's token.
        text: What is written there for a token without vectors: the class word.
    """

    token: Token
    text: str = ""


Parts: TypeAlias = "Sequence[str | Mention | PlainMention]"
"""A prompt: plain text, and the concepts that it names."""


class Vocabulary:
    """The tokens of some concepts, and their class words."""

    def __init__(
        self,
        concepts: Sequence[Concept],
        class_words: Mapping[str, str],
        suggest: Callable[[Token], list[str]],
    ) -> None:
        """Take the concepts.

        Args:
            concepts: The concepts.
            class_words: Class words by token, where prompts give none.
            suggest: Suggests class words, for the message where none is known.

        Raises:
            AlignITError: Two concepts share a token, or a class word cannot be used.
        """
        self._tokens: dict[str, Token] = {}
        self._suggest = suggest
        owners: dict[str, Concept] = {}
        for concept in concepts:
            change = Change(concept.weights) if concept.weights is not None else None
            tokens = [Token(embedding.name, concept, embedding, change) for embedding in concept.tokens]
            for token in tokens or [Token(concept.name, concept, None, change)]:
                other = owners.setdefault(name_key(token.name), concept)
                if self._tokens.setdefault(name_key(token.name), token) is not token:
                    raise AlignITError(
                        f"'{other.path.name}' and '{concept.path.name}' both have the token '{token.name}': "
                        "load one of them under another name, load_concept(path, token_names=[...]), or rename its file"
                    )
        # Names in angle brackets are found as such.
        self._bare_names = {
            token.name: token.name
            for token in self._tokens.values()
            if token.embedding is not None and not re.fullmatch("<.*>", token.name)
        }
        self._class_words: dict[str, str] = {}
        for name, word in class_words.items():
            if name_key(name) not in self._tokens:
                raise AlignITError(f"The class words name '{name}', and there is {self}: check the name")
            self._class_words[name_key(name)] = self._checked(name, word)

    def __str__(self) -> str:
        """Say which tokens there are, for messages."""
        names = ", ".join(token.name for token in self._tokens.values())
        return names or "no concept"

    def parts(self, prompt: str, align: bool) -> Parts:
        """Return the parts of a prompt in order: plain text as strings, and the concepts that it names.

        Args:
            prompt: The prompt.
            align: Whether concepts are aligned, as `Mention`; else `PlainMention`: ``<my-cat=cat>`` means ``my-cat``.

        Raises:
            AlignITError: A concept has no class word, or one that cannot be used; or it is not there.
        """
        marks = list(split(prompt))
        in_prompt = {
            name_key(mark.name): mark.class_word
            for mark in reversed(marks)
            if isinstance(mark, Mark) and mark.class_word is not None
        }
        plain = " ".join(part for part in marks if isinstance(part, str))
        by_word = self._concepts_by_word(in_prompt, plain)
        names = self._bare_names | {word: token.name for word, token in by_word.items()}
        joined = join_class_words(marks, self._class_word_after) if align else marks
        parts: list[str | Mention | PlainMention] = []
        for part in joined:
            for piece in marks_at(part, names) if isinstance(part, str) else [part]:
                parts.append(piece if isinstance(piece, str) else self._mention(piece, in_prompt, plain, align))
        return parts

    def _word(self, token: Token, in_prompt: Mapping[str, str], text: str) -> str | None:
        """Return a concept's class word in a prompt, whose text outside of angle brackets is given, or None."""
        word = in_prompt.get(name_key(token.name))
        if word is None:
            word = self._known(token)
        if word is not None or token.embedding is not None or token.concept is None:
            return word
        likely = token.concept.likely_class_words
        return next((word for word in likely if name_pattern(word).search(text)), next(iter(likely), None))

    def _concepts_by_word(self, in_prompt: Mapping[str, str], text: str) -> dict[str, Token]:
        """Return the concepts that have no token of their own, and are their class word where that stands."""
        found: dict[str, Token] = {}
        for token in self._tokens.values():
            word = self._word(token, in_prompt, text) if token.embedding is None else None
            if word is not None and class_word_error(word) is None and name_pattern(word).search(text):
                other = found.setdefault(spaced(word), token)
                if other is not token:
                    raise AlignITError(
                        f"'{word}' is the class word of both '{other.name}' and '{token.name}': write "
                        f"<{other.name}={word}> or <{token.name}={word}>, and give the other one another word"
                    )
        return found

    def _mention(
        self, mark: Mark, in_prompt: Mapping[str, str], text: str, align: bool
    ) -> str | Mention | PlainMention:
        token = self._tokens.get(name_key(mark.name))
        if token is None:
            if mark.class_word is None:
                return mark.text
            if align and is_words(mark.name):
                checked = self._checked(mark.name, mark.class_word)
                return Mention(Token(mark.name, None), checked, mark.name, mark.options)
            raise AlignITError(f"There is no concept '{mark.name}' (written {mark.text}), but {self}: check its name")
        if not align and token.embedding is not None:
            return PlainMention(token)
        word = mark.class_word
        if word is None:
            word = self._word(token, in_prompt, text)
        if word is None:
            nearest = ", ".join(self._suggest(token))
            plain = token.name.strip("<>")
            raise AlignITError(
                f"'{token.name}' has no class word: write <{plain}=cat> in the prompt, or give "
                f"class_words={{'{token.name}': 'cat'}}" + (f". Nearest to it: {nearest}" if nearest else "")
            )
        word = self._checked(token.name, word)
        if not align:
            return PlainMention(token, word)
        return Mention(token, word, word if mark.trailing or token.embedding is None else "", mark.options)

    def _known(self, token: Token) -> str | None:
        word = self._class_words.get(name_key(token.name))
        if word is not None or token.concept is None:
            return word
        try:
            return remembered(token.concept.path)
        except ClassWordError as error:
            raise AlignITError(str(error)) from None

    def _class_word_after(self, name: str, text: str) -> str | None:
        token = self._tokens.get(name_key(name))
        if token is None or token.change is None:
            return None
        return class_word_after(text, [self._known(token)])

    def _checked(self, name: str, word: str) -> str:
        word = " ".join(word.split())
        error = class_word_error(word)
        if error is None:
            found = next((part for part in marks_at(word, self._bare_names) if isinstance(part, Mark)), None)
            error = f"contains the concept '{found.text}', and must be an ordinary word" if found else None
        if error:
            raise AlignITError(f"The class word '{word}' of '{name}' {error}: write one such as cat")
        return word
