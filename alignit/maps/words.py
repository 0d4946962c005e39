"""Of which words, in which layers and steps, attention maps are wanted; and where words stand among tokens.

A choice is written ``cat, ball; down mid; steps 0-0.5``: words with commas between them, or none for all words of the
prompt, and then layers and steps as in `alignit.algorithm.controls`.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from alignit.algorithm.controls import Controls
from alignit.algorithm.layers import Layers
from alignit.algorithm.options import ControlsError
from alignit.algorithm.prompts import E, Span, TargetChunk, base_chunk
from alignit.algorithm.steps import StepRange
from alignit.maps.result import MappedToken, MappedWord
from alignit.prompt.syntax import name_key

MAX_WORDS = 32  # of a picture
MAX_TOKENS = 96  # of a picture: with one latent pixel to a float, this bounds the memory


@dataclass(frozen=True)
class MapChoice:
    """A choice of maps.

    Attributes:
        words: The words; none for all of the prompt.
        layers: In which layers.
        steps: In which part of the sampling.
    """

    words: tuple[str, ...] = ()
    layers: Layers = field(default=Layers())
    steps: StepRange = field(default=StepRange())

    @classmethod
    def parse(cls, text: str) -> MapChoice:
        """Read a choice as users write it.

        Raises:
            ControlsError: It has an option that there is not, or too many words.
        """
        first, *options = (part.strip() for part in text.split(";"))
        words = tuple({name_key(word): word.strip() for word in first.split(",") if name_key(word)}.values())
        if len(words) > MAX_WORDS:
            raise ControlsError(f"maps of {len(words)} words are too many: {MAX_WORDS} at most")
        layers, steps = Layers(), StepRange()
        for option in filter(None, options):
            kind, *rest = option.lower().split(maxsplit=1)
            if kind == "steps":
                steps = Controls().with_options(option).steps
            else:
                try:
                    layers = Layers.parse(rest[0] if kind == "layers" and rest else option)
                except ControlsError as error:
                    raise ControlsError(f"{error}, or steps 0-0.5, after the words of which to make maps") from None
        return cls(words, layers, steps)


class TokenTexts(Protocol):
    """What a text encoder's tokens mean."""

    def tokens(self, text: str) -> Sequence[int]:
        """Return the tokens of a text."""

    def text(self, tokens: Sequence[int]) -> str:
        """Return the text of some tokens."""

    def ends_word(self, token: int) -> bool:
        """Say whether a word ends with this token; the next one is then the first of another."""


def words_of(
    chunks: Sequence[TargetChunk[E]],
    names: Sequence[Mapping[int, str]],
    vocabulary: TokenTexts,
    wanted: Sequence[str] = (),
) -> list[MappedWord]:
    """Find words in a prompt.

    A concept is a word, by its name; so is its class word, which the base prompt has in its place, where asked for.

    Args:
        chunks: The chunks of the target prompt.
        names: For each of them, the name of the concept or embedding at each row that is one's.
        vocabulary: The text encoder's.
        wanted: The words, or several words together; none for each word of the prompt but punctuation.

    Returns:
        The words that are there, in the order asked for, or else of the prompt.
    """
    found: dict[str, MappedWord] = {}
    first_row = 0
    for chunk, of_rows in zip(chunks, names, strict=True):
        tokens = base_chunk(chunk).tokens
        mentions = (
            [(word, rows) for word in wanted for rows in _occurrences(word, tokens, chunk, of_rows, vocabulary)]
            if wanted
            else _all_words(tokens, chunk, of_rows, vocabulary)
        )
        for word, rows in mentions:
            texts = {row: of_rows.get(row) or vocabulary.text([tokens[row]]).strip() for row in rows}
            known = found.get(name_key(word))
            added = tuple(MappedToken(text, first_row + row) for row, text in texts.items())
            found[name_key(word)] = MappedWord(known.text, known.tokens + added) if known else MappedWord(word, added)
        first_row += len(tokens)
    order = [name_key(word) for word in wanted] or list(found)
    return [MappedWord(found[key].text, tuple(dict.fromkeys(found[key].tokens))) for key in order if key in found]


def bounded(words: Sequence[MappedWord], used_words: int = 0, used_tokens: int = 0) -> tuple[MappedWord, ...]:
    """Return the first words, as many as a picture may have.

    Args:
        words: The words of a text.
        used_words: How many words other texts of the picture have.
        used_tokens: How many tokens these have.
    """
    taken: list[MappedWord] = []
    for word in words:
        used_words, used_tokens = used_words + 1, used_tokens + len(word.tokens)
        if used_words > MAX_WORDS or used_tokens > MAX_TOKENS:
            break
        taken.append(word)
    return tuple(taken)


def names_of(
    chunk: TargetChunk[E], embeddings: Mapping[int, str], alone: Mapping[str, str] | None = None
) -> dict[int, str]:
    """Return the name of the concept or embedding at each row of a chunk that is one's.

    Args:
        chunk: The chunk.
        embeddings: Names of plain embeddings at their rows.
        alone: What stands for concepts of which nothing is put in, by their names: their class words.
    """
    names = dict(embeddings)
    for span in chunk.spans:
        names |= dict.fromkeys(_rows_of(span), (alone or {}).get(span.concept, span.concept))
    return names


def _rows_of(span: Span[E]) -> range:
    return span.concept_rows or range(span.start, span.stop)


def _all_words(
    tokens: Sequence[int], chunk: TargetChunk[E], names: Mapping[int, str], vocabulary: TokenTexts
) -> list[tuple[str, list[int]]]:
    words: list[tuple[str, list[int]]] = []
    rows: list[int] = []
    for row in range(1, chunk.text_stop):
        if row in names:
            words.append((names[row], [row]))
            continue
        rows.append(row)
        if vocabulary.ends_word(tokens[row]) or row + 1 == chunk.text_stop or row + 1 in names:
            words.append((vocabulary.text([tokens[at] for at in rows]).strip(), rows))
            rows = []
    return [(text, at) for text, at in words if text.strip(string.punctuation)]


def _occurrences(
    word: str, tokens: Sequence[int], chunk: TargetChunk[E], names: Mapping[int, str], vocabulary: TokenTexts
) -> list[list[int]]:
    """Return the rows of each mention of a word in a chunk."""
    named = {row for row, name in names.items() if name_key(name) == name_key(word)}
    named |= {row for span in chunk.spans if name_key(span.concept) == name_key(word) for row in _rows_of(span)}
    if named:
        return [sorted(named)]
    wanted = list(vocabulary.tokens(word))
    return [
        list(range(row, row + len(wanted)))
        for row in range(1, chunk.text_stop - len(wanted) + 1)
        if wanted
        and list(tokens[row : row + len(wanted)]) == wanted
        and (row == 1 or row - 1 in names or vocabulary.ends_word(tokens[row - 1]))
    ]
