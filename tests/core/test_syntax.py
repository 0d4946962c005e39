"""Class words in the prompt, and lists of them."""

from __future__ import annotations

import json
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignit.prompt.class_words import (
    ClassWordError,
    ClassWords,
    format_class_words,
    place_in_list,
    remember,
    remembered,
    with_class_word,
)
from alignit.prompt.syntax import (
    Mark,
    class_word_error,
    marks_at,
    name_key,
    name_pattern,
    split,
    without_class_words,
)


@given(st.text(alphabet="<>=: ab,([|])\n", max_size=40))
def test_the_parts_of_a_prompt_make_the_prompt(text: str) -> None:
    assert "".join(part if isinstance(part, str) else part.text for part in split(text)) == text


@pytest.mark.parametrize(
    ("text", "marks"),
    [
        ("a <my-cat=cat> in snow", [("my-cat", "cat")]),
        ("<my-cat=golden retriever>,dog", [("my-cat", "golden retriever")]),
        ("a < my-cat = cat >", [("my-cat", "cat")]),
        ("(<my-cat=cat>:1.2) [<a=b>:c:0.5]", [("my-cat", "cat"), ("a", "b")]),
        ("a <my-cat>", [("my-cat", None)]),
        ("<<new1>=cat>", [("<new1>", "cat")]),
        ("<my-cat=>", [("my-cat", "")]),
        ("<lora:x:1> <hypernet:y> <delta:z:0.5>", []),
        ("1 < 2 and a > b", []),
        (r"<my-cat \(1\)=cat; 0.5>", [(r"my-cat \(1\)", "cat")]),
        ("no marks = none", []),
        ("<<<===>>>", []),
    ],
)
def test_marks(text: str, marks: list) -> None:
    assert [(part.name, part.class_word) for part in split(text) if isinstance(part, Mark)] == marks


def test_without_class_words_only_installed_concepts_change() -> None:
    def installed(mark: Mark) -> str | None:
        return "my-cat" if mark.name == "my-cat" and mark.class_word is not None else None

    text = "a <my-cat=cat>, <other=dog>, <my-cat>, <lora:my-cat:1>"
    assert without_class_words(text, installed) == "a my-cat, <other=dog>, <my-cat>, <lora:my-cat:1>"


@pytest.mark.parametrize("word", ["cat", "golden retriever", "t-shirt", "d'oh", "Кот", "ANDROID"])
def test_good_class_words(word: str) -> None:
    assert class_word_error(word) is None


@pytest.mark.parametrize(
    "word", ["", "  ", "cat (animal)", "[cat]", "a|b", "cat:1.2", "x AND y", "BREAK", "<cat>", "a=b"]
)
def test_bad_class_words(word: str) -> None:
    assert class_word_error(word)


def test_list_of_class_words() -> None:
    words = ClassWords("My-Cat = cat,\nmy dog=golden retriever, <new1>=toy\n, thing")
    assert words.get("my-cat") == "cat"
    assert words.get("MY DOG") == "golden retriever"
    assert words.get("new1") == words.get("<new1>") == "toy"
    assert words.get("anything else") == "thing"
    assert ClassWords("").get("my-cat") is None


@pytest.mark.parametrize("text", ["=cat", "my-cat=", "my-cat=(cat)", "cat, dog", "a=cat, A=dog", "a=BREAK"])
def test_malformed_lists_are_refused_with_the_entry(text: str) -> None:
    with pytest.raises(ClassWordError) as error:
        ClassWords(text)
    assert any(entry.strip() in str(error.value) for entry in text.replace("=", ",").split(",") if entry.strip())


names = (
    st.text(st.characters(categories=["Ll", "Nd"], include_characters="-_ "), min_size=1).map(str.strip).filter(bool)
)


@given(st.dictionaries(names, names, max_size=5))
def test_a_written_list_is_read_back(words: dict[str, str]) -> None:
    read = ClassWords(format_class_words(words))
    assert {name: read.get(name) for name in words} == words


hard_names = st.text(alphabet="ab,\\\\ ()=;.'\u00e8e\u0300", min_size=1).map(str.strip).filter(name_key)


@given(
    st.dictionaries(
        hard_names,
        names.map(lambda word: " ".join(word.split())),  # spaces of any number are one in a class word
        max_size=4,
    ).filter(lambda words: len({*map(name_key, words)}) == len(words))
)
def test_a_written_list_is_read_back_whatever_its_names_hold(words: dict[str, str]) -> None:
    read = ClassWords(format_class_words(words))
    assert {name: read.get(name) for name in words} == words
    text = ""
    for name, word in words.items():
        text = with_class_word(text, name, word)
    assert text == format_class_words(words)


def test_options_with_commas_stay_in_their_entry() -> None:
    read = ClassWords(format_class_words({"my-cat": "cat; layers down, mid", "my-toy": "toy"}))
    assert (read.get("my-cat"), read.options("my-cat"), read.get("my-toy")) == ("cat", "layers down, mid", "toy")


def test_a_list_of_before_commas_could_be_in_names_reads_as_it_did() -> None:
    read = ClassWords(r"C:\cats=cat, my-cat \(1\)=dog; keys")
    assert read.names == (r"C:\cats", r"my-cat \(1\)")
    assert (read.get(r"C:\cats"), read.get("my-cat (1)"), read.options("my-cat (1)")) == ("cat", "dog", "keys")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("cr\u00e8me-chat", "CRE\u0300ME-chat"),
        ("\ud55c\uad6d", unicodedata.normalize("NFD", "\ud55c\uad6d")),
        ("my-cat (1)", r"My-Cat \(1\)"),
        ("cat[2]", r"cat\[2\]"),
        ("d'oh", "d\u2019oh"),
        ("\uff4d\uff59-cat", "my-cat"),
        ("file", "\ufb01le"),
        ("<new1>", "new1"),
    ],
)
def test_names_that_are_the_same_to_a_tokenizer(one: str, other: str) -> None:
    assert name_key(one) == name_key(other)
    if "\ufb01" not in other and "<" not in one:
        for name, text in ((one, other), (other, one)):
            found = [part for part in marks_at(f"a {text}, b", {name: name}) if isinstance(part, Mark)]
            assert found == [Mark(name, None, text)]
    assert not name_pattern("cafe").search("a cafe\u0301")


def test_names_of_other_letters_are_others() -> None:
    assert (
        len({*map(name_key, ("creme", "cr\u00e8me", "cr\u00e9me", "my cat", "my-cat", "my-cat (1)", "my-cat 1"))}) == 7
    )


TAGS = [
    "my-cat, >_<, =_=, :>",
    "i <3 my-cat =D >:)",
    ">_< my-cat >_<",
    "<_< =3 >_>",
    "^_^ >:( :< =w= :>",
    "a < b, c > d",
    "<3 dogs =) and cats :>",
    ":< cats =DD dogs :>",
    "<= 3 >=",
    "->_<-",
    "<!-- my-cat -->",
    "<, my-cat =D, x>",
]


@pytest.mark.parametrize("text", TAGS)
def test_emoticons_and_tags_are_text(text: str) -> None:
    assert without_class_words(text, lambda mark: mark.class_word) == text
    assert not [part for part in split(text) if isinstance(part, Mark) and part.class_word is not None]


emoticons = st.lists(
    st.sampled_from(
        [":<", ":>", "<3", "</3", ">_<", "=_=", "=D", "=)", "=3", ">:)", "<_<", "^^", "=w=", "my-cat", ", "]
    ),
    max_size=8,
)


@given(emoticons, st.sampled_from([" ", "  ", ", "]))
def test_texts_without_a_mark_are_returned_unchanged(words: list[str], between: str) -> None:
    text = between.join(words)
    assert without_class_words(text, lambda mark: mark.class_word) == text


@given(
    emoticons, emoticons, st.sampled_from(["<my-cat=cat>", r"<my-cat \(1\)=big cat; 0.5>", "<<new1>=cat>", "<new1>"])
)
def test_a_mark_is_found_in_all_surroundings(before: list[str], after: list[str], mark: str) -> None:
    text = f"{' '.join(before)} {mark} {' '.join(after)}"
    assert mark in [part.text for part in split(text) if isinstance(part, Mark)]


@given(st.text(alphabet="<>=:;,_3D() a\n", max_size=30))
def test_a_mark_has_a_name_and_what_could_be_a_class_word(text: str) -> None:
    for part in split(text):
        if isinstance(part, Mark):
            assert any(character.isalnum() or character == "_" for character in part.name)
            if part.class_word:
                assert any(character.isalnum() for character in part.class_word)


@pytest.mark.parametrize("word", ["cat", "\u732b", "\U0001f431", "d'oh", "\x01", "a (big) cat", ""])
def test_what_could_be_a_class_word_is_in_a_mark(word: str) -> None:
    assert list(split(f"<my-cat={word}>")) == [Mark("my-cat", word, f"<my-cat={word}>")]


@pytest.mark.parametrize(
    ("text", "name", "word", "wanted"),
    [
        ("", "my-cat", "cat", "my-cat=cat"),
        ("my-dog=dog", "my-cat", "cat", "my-dog=dog, my-cat=cat"),
        ("my-dog=dog, ", "my-cat", "golden  cat", "my-dog=dog, my-cat=golden cat"),
        ("my-cat=dog", "MY-CAT", "cat", "my-cat=cat"),
        ("animal", "my-cat", "cat", "animal, my-cat=cat"),
        (" a=b,\n My-Cat = dog ,c=d", "my-cat", "cat", " a=b,\n My-Cat = cat ,c=d"),
        ("my-cat=dog; 0.5; keys, a=b", "my-cat", "cat", "my-cat=cat; 0.5; keys, a=b"),
        ("my-cat=; 0.5", "my-cat", "cat", "my-cat=cat; 0.5"),
        ("new1=dog", "<new1>", "cat", "new1=cat"),
        ("a=b", "my cat = 1", "cat", "a=b, my cat = 1=cat"),
        ("my-cat=dog", "my-cat", "", ""),
        ("my-cat=dog, a=b", "my-cat", "", " a=b"),
        ("a=b, my-cat=dog, c=d", "my-cat", "", "a=b, c=d"),
        ("a=b, my-cat=dog", "my-cat", "", "a=b"),
        ("a=b, my-cat=dog; keys", "my-cat", "", "a=b, my-cat=; keys"),
        ("a=b", "my-cat", "", "a=b"),
        ("a=b", "cat, white", "cat", r"a=b, cat\, white=cat"),
        (r"cat\, white=dog, a=b", "cat, white", "cat", r"cat\, white=cat, a=b"),
        (r"cat\, white=dog, a=b", "Cat, white", "", " a=b"),
        ("my-cat (1)=dog", r"my-cat \(1\)", "cat", "my-cat (1)=cat"),
        ("cre\u0300me=dog", "crème", "cat", "cre\u0300me=cat"),
    ],
)
def test_a_class_word_put_into_a_list(text: str, name: str, word: str, wanted: str) -> None:
    assert with_class_word(text, name, word) == wanted


@given(
    st.dictionaries(names, names, max_size=4),
    st.sampled_from([", ", "\n", ",\r\n", " ,, "]),
    names | st.sampled_from(["<new1>", "a;b", "x=y", "\U0001f600"]),
    names,
)
def test_a_class_word_put_into_a_list_changes_no_other(
    words: dict[str, str], separator: str, name: str, word: str
) -> None:
    text = separator.join(f"{key}={value}" for key, value in words.items())
    for put, wanted in ((word, word), ("", None)):
        text = with_class_word(text, name, put)
        read = ClassWords(text)
        assert read.get(name) == wanted
        others = {key: value for key, value in words.items() if key != name}
        assert {key: read.get(key) for key in others} == others


@pytest.mark.parametrize(
    ("text", "name", "word", "said"),
    [
        ("a=", "my-cat", "cat", "'a='"),
        ("", "a\nb", "cat", "cannot stand in the list"),
        ("", "<>", "cat", "cannot stand in the list"),
        ("", "my-cat", "a|b", "contains '|'"),
        ("my-cat=dog, my-cat=dog", "my-cat", "cat", "twice"),
    ],
)
def test_what_cannot_be_put_into_a_list_is_refused(text: str, name: str, word: str, said: str) -> None:
    with pytest.raises(ClassWordError, match=re.escape(said)):
        with_class_word(text, name, word)


def test_lists_are_cut_where_class_words_are_read() -> None:
    every = [chr(code) for code in range(0x3000) if len(f"a{chr(code)}b".splitlines()) == 2]
    for separator in [*every, ",", "\r\n"]:
        text = f"a=b{separator}my-cat=dog"
        assert text[: place_in_list(text, "my-cat").start].endswith(f"{separator}my-cat=")


def test_remembered_beside_the_file_and_the_users_notes_stay(tmp_path) -> None:
    concept = tmp_path / "my-cat.pt"
    sidecar = tmp_path / "my-cat.json"
    sidecar.write_text(json.dumps({"description": "my cat", "notes": "fluffy"}), encoding="utf8")
    assert remembered(concept) is None
    remember(concept, " cat ")
    assert remembered(concept) == "cat"
    assert json.loads(sidecar.read_text(encoding="utf8")) == {
        "description": "my cat",
        "notes": "fluffy",
        "class word": "cat",
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my-cat.json"]


@pytest.mark.parametrize("content", ["{", "[]", '"cat"', '{"class word": 5}', '{"class word": "a|b"}', "[" * 100_000])
def test_a_damaged_sidecar_is_named_and_never_overwritten(tmp_path, content: str) -> None:
    sidecar = tmp_path / "my-cat.json"
    sidecar.write_text(content, encoding="utf8")
    with pytest.raises(ClassWordError, match=r"my-cat\.json"):
        remembered(tmp_path / "my-cat.pt")
    if not content.startswith("{") or content == "{":
        with pytest.raises(ClassWordError, match=r"my-cat\.json"):
            remember(tmp_path / "my-cat.pt", "cat")
        assert sidecar.read_text(encoding="utf8") == content


def test_a_sidecar_from_an_editor_that_marks_utf8_is_read(tmp_path) -> None:
    (tmp_path / "my-cat.json").write_bytes(b'\xef\xbb\xbf{"class word": "cat"}')
    assert remembered(tmp_path / "my-cat.pt") == "cat"


def test_remembering_a_bad_word_or_in_a_missing_folder_is_refused(tmp_path) -> None:
    with pytest.raises(ClassWordError, match="empty"):
        remember(tmp_path / "my-cat.pt", " ")
    with pytest.raises(ClassWordError, match="cannot be written"):
        remember(tmp_path / "missing" / "my-cat.pt", "cat")


def test_white_space_in_a_class_word_is_one_space_each() -> None:
    (mark,) = split("<my-cat= golden\n\t retriever >")
    assert mark.class_word == "golden retriever"


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("a<my-cat=cat>b", "a my-cat b"),
        ("<my-cat=cat><my-cat=dog>", "my-cat my-cat"),
        ("<my-cat=cat>BREAK<my-cat=cat>", "my-cat BREAK my-cat"),
        ("(<my-cat=cat>:1.2), <my-cat=cat>.", "(my-cat:1.2), my-cat."),
        ("a <new1=cat>, b", "a <new1> , b"),
    ],
)
def test_a_name_without_its_brackets_stays_apart_from_what_stands_beside_it(text: str, plain: str) -> None:
    names = {"my-cat": "my-cat", "new1": "<new1>"}
    assert without_class_words(text, lambda mark: names.get(mark.name)) == plain
