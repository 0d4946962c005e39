"""Suggested class words."""

from __future__ import annotations

import torch

from alignit.prompt.suggestions import class_nouns, noun_tokens, suggest_class_words


def tokenize(texts):
    return [[number] if len(text) < 8 else [0, number] for number, text in enumerate(texts)]


TOKENS = noun_tokens(tokenize)


def test_the_noun_that_a_vector_was_started_from_comes_first() -> None:
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(len(class_nouns()), 64, generator=generator)
    cat, dog = class_nouns().index("cat"), class_nouns().index("dog")
    near_cat = 30 * table[cat] + 3 * torch.randn(64, generator=generator)
    assert suggest_class_words({"clip_l": near_cat[None]}, {"clip_l": table}, TOKENS)[0] == "cat"
    both = torch.stack([near_cat, torch.randn(64, generator=generator), table[dog]])
    assert set(suggest_class_words({"clip_l": both}, {"clip_l": table}, TOKENS, 2)) == {"cat", "dog"}


def test_two_text_encoders_count_together() -> None:
    generator = torch.Generator().manual_seed(0)
    tables = {key: torch.randn(len(class_nouns()), 64, generator=generator) for key in ("clip_l", "clip_g")}
    cat, dog, car = (class_nouns().index(word) for word in ("cat", "dog", "car"))
    vectors = {
        "clip_l": (tables["clip_l"][cat] + 1.1 * tables["clip_l"][dog])[None],
        "clip_g": (tables["clip_g"][cat] + 1.1 * tables["clip_g"][car])[None],
    }
    assert suggest_class_words(vectors, tables, TOKENS)[0] == "cat"


def test_words_are_real_and_of_one_token() -> None:
    table = torch.randn(len(class_nouns()), 8, generator=torch.Generator().manual_seed(0))
    suggested = suggest_class_words({"clip_l": table[:3]}, {"clip_l": table}, TOKENS)
    assert len(suggested) == 5
    assert all(len(word) < 8 for word in suggested)
    assert len(class_nouns()) > 3000
    assert {"cat", "dog", "teapot", "backpack", "robot"} <= set(class_nouns())
    assert not {"lol", "btw", "diana"} & set(class_nouns())
