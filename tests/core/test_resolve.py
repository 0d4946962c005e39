"""From prompts to concepts with their class words: what is found, which word counts, and what is told."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignit.prompt import problems
from alignit.prompt.class_words import remember
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
from alignit.prompt.resolve import Candidate, Mention, PlainMention, Resolver, WordSource, WordSources
from alignit.prompt.syntax import Mark, name_key, split

CAT = Candidate("my-cat", "embedding")
NEW = Candidate("<new1>", "delta", joins=True)
BEAR = Candidate("teddy_bear", "adapter", has_token=False, class_words=("teddy bear", "bear"))
STYLE = Candidate("my-style", "words of its own", has_token=False, words="sks inkdrop")


class Shelf:
    """Concepts at hand; names of embeddings are found in plain text."""

    def __init__(self, *candidates: Candidate[str], unfit: Iterable[str] = ()) -> None:
        self.candidates = candidates
        self.unfit = set(unfit)

    def find(self, name: str) -> Candidate[str] | None:
        return next((one for one in self.candidates if name_key(one.name) == name_key(name)), None)

    def without_token(self) -> list[Candidate[str]]:
        return [one for one in self.candidates if not one.has_token]

    def names_in(self, _text: str) -> Mapping[str, str]:
        return {one.name: one.name for one in self.candidates if one.has_token and not one.name.startswith("<")}

    def other_names_in(self, _text: str) -> list[str]:
        return ["grizzly bear"]

    def unfit_in(self, text: str) -> list[str]:
        return [name for name in self.unfit if name in text]

    def is_unfit(self, name: str) -> bool:
        return name in self.unfit

    def class_word_error(self, word: str) -> str | None:
        return "contains 'my-cat'" if "my-cat" in word else None


class Case:
    """A resolver, and what it told."""

    def __init__(
        self,
        *candidates: Candidate[str],
        words: Mapping[str, str] | None = None,
        nearest: Iterable[str] = ("cat", "dog"),
        use_nearest: bool = False,
        unfit: Iterable[str] = (),
    ) -> None:
        self.told: list[Problem] = []
        sources: WordSources[str] = WordSources((words or {}).get, lambda _: list(nearest), use_nearest)
        self.resolver = Resolver(Shelf(*candidates, unfit=unfit), sources, self.told.append)

    def parts(self, text: str, *earlier: str, align: bool = True) -> list:
        for prompt in (*earlier, text):
            self.resolver.read(prompt)
        return list(self.resolver.parts(text, align))

    def mentions(self, text: str, *earlier: str) -> list[tuple[str, str, str]]:
        parts = self.parts(text, *earlier)
        return [(part.name, part.class_word, part.words) for part in parts if isinstance(part, Mention)]


@pytest.mark.parametrize(
    ("text", "mentions"),
    [
        ("a <my-cat=cat> in snow", [("my-cat", "cat", "")]),
        ("a my-cat and a <MY-CAT=big cat>", [("my-cat", "big cat", "")] * 2),
        ("<my-cat=dog> <my-cat=cat> my-cat", [("my-cat", "dog", ""), ("my-cat", "cat", ""), ("my-cat", "dog", "")]),
        ("<new1> cat", [("<new1>", "cat", "cat")]),
        ("<new1=cat> cat", [("<new1>", "cat", "")]),
        ("<new1> qwertz and <<new1>=cat>", [("<new1>", "cat", ""), ("<new1>", "cat", "")]),
        ("a Teddy  Bear", [("teddy_bear", "teddy bear", "teddy bear")]),
        ("a bear", [("teddy_bear", "bear", "bear")]),
        ("a grizzly bear", []),
        ("a bearskin", []),
        ("a <teddy_bear=toy> and a toy", [("teddy_bear", "toy", "toy")] * 2),
        ("<teddy_bear> in snow", [("teddy_bear", "teddy bear", "teddy bear")]),
        ("<cat=dog> and a cat", [("cat", "dog", "cat")]),
        ("<my-cat> <lora:my-cat:1>", []),
        ("<unknown>", []),
    ],
)
def test_what_a_prompt_names(text: str, mentions: list[tuple[str, str, str]]) -> None:
    case = Case(CAT, NEW, BEAR)
    assert case.mentions(text) == mentions
    assert not [problem for problem in case.told if not isinstance(problem, NoClassWord)]


def test_words_that_are_a_concept_and_have_another_class_word() -> None:
    """As a trigger of a LoRA has."""
    case = Case(STYLE, words={"my-style": "ink drawing"})
    assert case.mentions("sks INKDROP of an ink drawing") == [("my-style", "ink drawing", "sks inkdrop")]
    assert case.mentions("a <my-style=ink>") == [("my-style", "ink", "sks inkdrop")]


@given(st.text(alphabet="<>=;: ab1,(my-cat)newbear\n", max_size=40))
def test_the_parts_of_a_prompt_make_the_prompt(text: str) -> None:
    case = Case(CAT, NEW, BEAR)
    case.resolver.read(text)
    for join in (True, False):
        parts = case.resolver.split(text, join)
        assert "".join(part if isinstance(part, str) else part.text for part in parts) == text


marks = st.tuples(
    st.sampled_from(["my-cat", "<new1>", "teddy_bear", "cat", "no-such", "old-cat", "a b"]),
    st.sampled_from(["cat", "golden retriever", "", "a|b", "my-cat", "x AND y"]),
).map(lambda pair: f"<{pair[0]}={pair[1]}>")
texts = st.lists(marks | st.sampled_from(["my-cat", "bear", "snow,", "<new1> dog", "<my-cat>"]), max_size=6).map(
    " ".join
)


@given(texts)
def test_a_mark_with_a_class_word_is_a_concept_or_is_told_of(text: str) -> None:
    for part in split(text):
        if isinstance(part, Mark) and part.class_word is not None:
            case = Case(CAT, NEW, BEAR, unfit=["old-cat"])
            (outcome, *_) = [*case.parts(part.text), None]
            assert (isinstance(outcome, Mention) and not outcome.alone) or case.told, part.text


@given(texts)
def test_every_problem_names_its_cause_and_a_mend(text: str) -> None:
    case = Case(CAT, NEW, BEAR, unfit=["old-cat"])
    case.parts(text)
    for problem in case.told:
        assert problem.name in problem.cause
        assert problem.mend
        assert str(problem) == f"{problem.cause}: {problem.mend}"


@given(texts, texts)
def test_texts_that_were_read_before_change_no_class_word_but_those_they_give(first: str, second: str) -> None:
    alone, after = Case(CAT, NEW, words={"my-cat": "cat"}), Case(CAT, NEW, words={"my-cat": "cat"})
    given_before = {name_key(part.name) for part in split(first) if isinstance(part, Mark) and part.class_word}

    def others(mentions: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
        return [mention for mention in mentions if name_key(mention[0]) not in given_before]

    assert others(after.mentions(second, first)) == others(alone.mentions(second))


ORDER = [WordSource.PROMPT, WordSource.GIVEN, WordSource.REMEMBERED, WordSource.FILE, WordSource.NEAREST]
WORDS = {
    WordSource.PROMPT: "lion",
    WordSource.GIVEN: "tiger",
    WordSource.REMEMBERED: "lynx",
    WordSource.FILE: "puma",
    WordSource.NEAREST: "cat",
}


@pytest.mark.parametrize("known", [ORDER[index:] for index in range(5)] + [[source] for source in ORDER])
def test_the_first_source_of_a_class_word_counts(tmp_path: Path, known: list[WordSource]) -> None:
    file = tmp_path / "my-cat.pt"
    if WordSource.REMEMBERED in known:
        remember(file, WORDS[WordSource.REMEMBERED])
    class_words = (WORDS[WordSource.FILE],) if WordSource.FILE in known else ()
    case = Case(
        dataclasses.replace(CAT, files=(file,), class_words=class_words),
        words={"my-cat": WORDS[WordSource.GIVEN]} if WordSource.GIVEN in known else {},
        use_nearest=WordSource.NEAREST in known,
    )
    earlier = ["a <my-cat=lion>"] if WordSource.PROMPT in known else []
    _, mention = case.parts("a my-cat", *earlier)
    assert (mention.source, mention.class_word) == (known[0], WORDS[known[0]])
    assert case.told == []
    # The mark's own is before all of them.
    (mention,) = case.parts("<my-cat=ocelot>")
    assert (mention.source, mention.class_word) == (WordSource.PROMPT, "ocelot")


def test_the_first_file_with_a_class_word_counts_and_is_read_once(tmp_path: Path) -> None:
    files = tmp_path / "a.ckpt", tmp_path / "b.pt"
    remember(files[1], "lynx")
    case = Case(dataclasses.replace(CAT, files=files))
    assert case.mentions("my-cat") == [("my-cat", "lynx", "")]
    remember(files[0], "puma")
    assert case.mentions("<my-cat>") == [("my-cat", "lynx", "")]
    again = Case(dataclasses.replace(CAT, files=files))
    assert again.mentions("my-cat") == [("my-cat", "puma", "")]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("my-cat", [NoClassWord("my-cat", ("cat", "dog"))]),
        ("<my-cat=>", [BadClassWord("my-cat", "", "is empty")]),
        (
            "<my-cat=a:b> my-cat",
            [
                BadClassWord("my-cat", "a:b", "contains ':', which has a meaning of its own in a prompt"),
                NoClassWord("my-cat", ("cat", "dog")),
            ],
        ),
        ("<new1=my-cat>", [BadClassWord("<new1>", "my-cat", "contains 'my-cat'")]),
        ("<no-such=cat>", [NoSuchConcept("no-such", "<no-such=cat>"), ClassWordAlone("no-such", "cat")]),
        ("<old=cat>", [ForAnotherModel("old"), ForAnotherModel("old"), ClassWordAlone("old", "cat")]),
        ("a old", [ForAnotherModel("old")]),
        ("<cat=a|b>", [BadClassWord("cat", "a|b", "contains '|', which has a meaning of its own in a prompt")]),
        ("<my-cat=cat; 0.5> <my-cat=cat; keys> my-cat", [TwoSetsOfOptions("my-cat")]),
        ("<my-cat=cat; 0.5> <my-cat=cat; 0.5> my-cat", []),
    ],
)
def test_what_is_in_the_way_is_told(text: str, told: list[Problem]) -> None:
    case = Case(CAT, NEW, unfit=["old"])
    case.parts(text)
    assert case.told == told


@pytest.mark.parametrize(
    "text", ["my-cat, >_<, =_=, :>", "i <3 my-cat =D >:)", "<3 cats=cat> my-cat", "<3, a=D big> my-cat"]
)
@pytest.mark.parametrize("align", [True, False])
def test_emoticons_are_text_and_nothing_is_said_of_them(text: str, align: bool) -> None:
    case = Case(CAT, NEW, words={"my-cat": "cat"})
    before, after = text.split("my-cat", 1)
    found = case.parts(text, align=align)
    (at,) = (index for index, part in enumerate(found) if not isinstance(part, str))
    assert found[at].name == "my-cat"
    assert ("".join(found[:at]), "".join(found[at + 1 :])) == (before, after)
    assert case.told == []


PARENTHESES = Candidate("my-cat (1)", "embedding")


@pytest.mark.parametrize("form", [r"my-cat \(1\)", "my-cat (1)", r"My-Cat  \(1\)"])
def test_names_with_brackets_are_found_with_backslashes_and_without(form: str) -> None:
    case = Case(CAT, PARENTHESES)
    assert case.mentions(f"{form}, a <{form}=cat; keys>") == [("my-cat (1)", "cat", "")] * 2
    assert case.resolver.options("my-cat (1)") == "keys"
    assert case.told == []
    alone = Case(CAT, PARENTHESES)
    alone.parts(form)
    assert [f"{problem}" for problem in alone.told] == [
        r"'my-cat (1)' has no class word: write <my-cat \(1\)=cat> in the prompt"
    ]


def test_names_that_are_composed_otherwise_are_the_same() -> None:
    case = Case(Candidate("cre\u0300me-chat", "embedding"))
    text = "cr\u00e8me-chat, <cr\u00e8me-chat=cat>, cre\u0300me-chat"
    assert case.mentions(text) == [("cre\u0300me-chat", "cat", "")] * 3
    assert case.told == []


def test_two_concepts_without_a_token_and_one_class_word() -> None:
    other = Candidate("grizzly", "another adapter", has_token=False, class_words=("bear",))
    case = Case(BEAR, other)
    assert case.mentions("a bear") == [("grizzly", "bear", "bear")]
    assert case.told == [SharedClassWord("teddy_bear", "grizzly", "bear")]
    told = Case(BEAR, other)
    assert told.mentions("a teddy bear") == [("teddy_bear", "teddy bear", "teddy bear")]
    assert told.told == []


def test_a_concept_without_token_and_class_word_is_text_and_has_no_nearest_nouns() -> None:
    nameless = Candidate("___", "adapter", has_token=False)
    case = Case(nameless)
    assert case.parts("a <___> here") == ["a ", "<___>", " here"]
    assert case.told == [NoClassWord("___", (), has_token=False)]
    assert case.resolver.suggestions == {}
    assert case.resolver.refused == {"___": Mention(nameless, "", None)}


def test_what_is_refused_and_what_could_be_its_class_word() -> None:
    case = Case(CAT, NEW)
    assert case.parts("a my-cat, <new1=my-cat>") == ["a ", "my-cat", ", ", PlainMention(NEW)]
    assert case.resolver.suggestions == {"my-cat": ["cat", "dog"]}
    assert case.resolver.refused == {
        "my-cat": Mention(CAT, "", None),
        "<new1>": Mention(NEW, "my-cat", WordSource.PROMPT),
    }


def test_options_are_those_of_the_first_mention_that_has_some() -> None:
    case = Case(CAT)
    _, first, *_, second = case.parts("a <my-cat=cat> and <my-cat=cat; 0.5>")
    assert (first.options, second.options, case.resolver.options("MY-CAT")) == ("", "0.5", "0.5")
    assert case.resolver.options("another") == ""


def test_a_damaged_note_beside_a_file_is_told_of_once(tmp_path: Path) -> None:
    (tmp_path / "my-cat.json").write_text("{", encoding="utf8")
    case = Case(dataclasses.replace(CAT, files=(tmp_path / "my-cat.pt",)))
    case.parts("my-cat and <my-cat>")
    assert case.told == [
        NotRemembered("my-cat", "my-cat.json is not valid JSON", "mend or delete it"),
        NoClassWord("my-cat", ("cat", "dog")),
    ]
    assert str(case.told[0]) == "my-cat.json is not valid JSON: mend or delete it"


def test_where_nothing_is_aligned() -> None:
    case = Case(CAT, NEW, BEAR)
    parts = case.parts("<my-cat=cat>, <new1> cat, a bear, <teddy_bear=toy>, <cat>, <dog=cat>", align=False)
    assert parts == [
        PlainMention(CAT),
        ", ",
        PlainMention(NEW),
        " cat, a bear, ",
        PlainMention(BEAR, "toy"),
        ", ",
        "<cat>",
        ", ",
        "<dog=cat>",
    ]
    assert case.told == [NoSuchConcept("dog", "<dog=cat>")]


def test_every_kind_of_problem_can_be_written() -> None:
    kinds = [kind for kind in vars(problems).values() if isinstance(kind, type) and issubclass(kind, Problem)]
    assert len(kinds) > 10
    for kind in kinds:
        if kind is not Problem:
            fields = {field.name: f"[{field.name}]" for field in dataclasses.fields(kind)}
            problem = kind(**fields)
            assert "{" not in f"{problem}"
            assert len(problem.cause) > 10
            assert problem.mend
