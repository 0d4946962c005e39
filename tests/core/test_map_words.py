"""Words of which attention maps are wanted: as users write them, and where they stand among tokens."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from alignit.algorithm.layers import Layers
from alignit.algorithm.options import ControlsError
from alignit.algorithm.prompts import Chunk, Span, TargetChunk
from alignit.algorithm.steps import StepRange
from alignit.maps.result import MappedToken, MappedWord
from alignit.maps.words import MAX_TOKENS, MAX_WORDS, MapChoice, bounded, names_of, words_of

# Pieces of words as CLIP has them: </w> ends one.
PIECES = ["<start>", "<end>", "a</w>", "cat</w>", "ball</w>", ",</w>", "tab", "by</w>", "golden</w>", "retriever</w>"]


class Pieces:
    def tokens(self, text: str) -> Sequence[int]:
        ids: list[int] = []
        for word in text.lower().split():
            found = [piece for piece in PIECES if f"{word}</w>" == piece]
            ids += [PIECES.index(found[0])] if found else {"tabby": [6, 7]}.get(word, [])
        return ids

    def text(self, tokens: Sequence[int]) -> str:
        return "".join(PIECES[token] for token in tokens).replace("</w>", " ")

    def ends_word(self, token: int) -> bool:
        return PIECES[token].endswith("</w>")


def chunk(text: str, spans: Sequence[Span[str]] = (), length: int = 12) -> TargetChunk[str]:
    tokens = [0, *Pieces().tokens(text)]
    stop = len(tokens)
    tokens += [1] * (length - stop)
    return TargetChunk(Chunk(tuple(tokens), (1.0,) * length), tuple(spans), stop)


def find(*chunks: TargetChunk[str], wanted: Sequence[str] = (), names: dict[int, str] | None = None) -> dict:
    words = words_of(chunks, [names_of(each, names or {}) for each in chunks], Pieces(), wanted)
    return {word.text: [token.row for token in word.tokens] for word in words}


def test_each_word_of_the_prompt_but_punctuation() -> None:
    assert find(chunk("a tabby cat , a ball")) == {"a": [1, 6], "tabby": [2, 3], "cat": [4], "ball": [7]}
    assert find(chunk("")) == {}
    tokens = words_of([chunk("tabby")], [{}], Pieces())[0].tokens
    assert tokens == (MappedToken("tab", 1), MappedToken("by", 2))


def test_words_asked_for_in_their_order() -> None:
    prompt = chunk("a tabby cat a golden retriever")
    assert find(prompt, wanted=["Golden Retriever", "cat", "zebra"]) == {"Golden Retriever": [6, 7], "cat": [4]}
    assert find(prompt, wanted=["tabby"]) == {"tabby": [2, 3]}
    assert find(prompt, wanted=["by"]) == {}, "a piece of another word"


def test_rows_are_counted_over_chunks() -> None:
    assert find(chunk("a cat"), chunk("a ball a cat"), wanted=["cat", "ball"]) == {"cat": [2, 12 + 4], "ball": [12 + 2]}


def test_a_concept_is_a_word_by_its_name_and_by_its_class_word() -> None:
    golden, retriever = Pieces().tokens("golden retriever")
    span = Span("my-dog", 2, (golden, retriever), 1, "an embedding")
    prompt = chunk("a cat cat ball", [span])
    assert find(prompt) == {"a": [1], "golden": [2], "my-dog": [3], "ball": [4]}
    assert find(prompt, wanted=["<MY-DOG>"]) == {"<MY-DOG>": [3]}
    assert find(prompt, wanted=["golden retriever"]) == {"golden retriever": [2, 3]}
    three = Span("my-toy", 2, (golden,), 3, "an embedding")
    assert find(chunk("a cat cat cat ball", [three])) == {"a": [1], "my-toy": [2, 3, 4], "ball": [5]}
    alone = Span("my-cat", 2, (golden, retriever), 0, "")
    assert find(chunk("a cat cat ball", [alone]), wanted=["my-cat"]) == {"my-cat": [2, 3]}


def test_a_concept_of_which_nothing_is_put_in_has_its_class_words_name() -> None:
    cat = Span("my-cat", 2, tuple(Pieces().tokens("cat")), 1, "an embedding")
    prompt = chunk("a cat ball", [cat])
    names = [names_of(prompt, {}, {"my-cat": "cat"})]
    assert [word.text for word in words_of([prompt], names, Pieces())] == ["a", "cat", "ball"]
    for word in ("my-cat", "cat"):
        assert [item.tokens[0].row for item in words_of([prompt], names, Pieces(), [word])] == [2]


def test_an_embedding_is_a_word() -> None:
    assert find(chunk("a cat cat ball"), names={2: "my-cat", 3: "my-cat"}) == {"a": [1], "my-cat": [2, 3], "ball": [4]}


@pytest.mark.parametrize(
    ("written", "choice"),
    [
        ("", MapChoice()),
        ("cat, ball", MapChoice(("cat", "ball"))),
        (" cat , CAT,, golden retriever ", MapChoice(("CAT", "golden retriever"))),
        ("cat; down mid; steps 0-0.5", MapChoice(("cat",), Layers.parse("down mid"), StepRange(0, 0.5))),
        ("; layers /2 in04", MapChoice((), Layers.parse("/2 in04"))),
        (";steps 0.5-1;", MapChoice((), Layers(), StepRange(0.5, 1))),
    ],
)
def test_choices(written: str, choice: MapChoice) -> None:
    assert MapChoice.parse(written) == choice


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("cat; left", "there are no layers 'left': write down, mid, up.*or steps 0-0.5"),
        ("cat; layers", "there are no layers 'layers'"),
        ("cat; steps 1-0", "no range of steps"),
        ("cat; steps", "'steps' is no option"),
        (",".join(f"w{index}" for index in range(MAX_WORDS + 1)), f"{MAX_WORDS} at most"),
    ],
)
def test_choices_that_cannot_be_used(written: str, said: str) -> None:
    with pytest.raises(ControlsError, match=said):
        MapChoice.parse(written)


def test_a_picture_has_so_many_words_and_tokens_and_no_more() -> None:
    words = [MappedWord(f"w{index}", (MappedToken("", index),)) for index in range(2 * MAX_WORDS)]
    assert bounded(words) == tuple(words[:MAX_WORDS])
    assert bounded(words, used_words=MAX_WORDS - 2) == tuple(words[:2])
    long = [MappedWord(f"w{index}", (MappedToken("", 0),) * (MAX_TOKENS // 4)) for index in range(6)]
    assert bounded(long) == tuple(long[:4])
    assert bounded(long, used_tokens=1) == tuple(long[:3])
