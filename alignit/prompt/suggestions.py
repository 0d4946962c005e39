"""Suggested class words: the nouns nearest to a concept's token vectors in a text encoder's own vocabulary.

A trained token vector often stays near the word that it was started from, or near what it came to mean. The words are
nouns for things one can show, each a single token of CLIP (see ``tools/make_class_nouns.py``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files

import torch

from alignit.prompt.syntax import begins_with


@cache
def class_nouns() -> tuple[str, ...]:
    """Return the nouns that can be suggested."""
    return tuple((files("alignit") / "data" / "class_nouns.txt").read_text(encoding="utf8").split())


def class_word_after(text: str, known: Iterable[str | None]) -> str | None:
    """Return the class word with which the text after a concept's token begins, as in "<new1> cat", or None.

    Args:
        text: The text.
        known: Class words that are known for the concept, the best first; without one, a noun that can be suggested.
    """
    first = re.match(r"[^\W\d_]+", text)
    words = *known, first[0] if first and first[0].lower() in class_nouns() else None
    return next((text[: len(word)] for word in words if word and begins_with(text, word)), None)


def noun_tokens(tokenize: Callable[[Sequence[str]], Sequence[Sequence[int]]]) -> dict[str, int]:
    """Return the token id of each noun; nouns that are more than one token to a tokenizer are passed over.

    Args:
        tokenize: Gives the token ids of each text, without start and end.
    """
    return {noun: ids[0] for noun, ids in zip(class_nouns(), tokenize(class_nouns()), strict=True) if len(ids) == 1}


def suggest_class_words(
    vectors: Mapping[str, torch.Tensor],
    tables: Mapping[str, torch.Tensor],
    tokens: Mapping[str, int],
    count: int = 5,
) -> list[str]:
    """Return the nouns nearest to a concept by the cosine of token vectors, nearest first.

    The nearest of a concept's vectors counts for a noun; over several text encoders the cosines are added.

    Args:
        vectors: The concept's vectors for each text encoder, [n, width].
        tables: The token embedding table of each text encoder, [vocabulary, width], under the same keys.
        tokens: The nouns and their token ids, as `noun_tokens` gives them.
        count: How many nouns at the most.
    """
    words, ids = list(tokens), torch.tensor(list(tokens.values()), dtype=torch.long)
    similarity = torch.zeros(len(words))
    for encoder, table in tables.items():
        nouns = torch.nn.functional.normalize(table[ids.to(table.device)].float().cpu(), dim=-1)
        concept = torch.nn.functional.normalize(vectors[encoder].detach().float().cpu(), dim=-1)
        similarity += (nouns @ concept.T).amax(1)
    return [words[index] for index in similarity.topk(min(count, len(words))).indices.tolist()]
