"""What is kept for the report, and what is left out of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from alignit.webui.host.recent import KEPT, Recent
from alignit.webui.ui.redaction import without_quoted, without_user, without_words, words_of


def test_notes_and_failures_are_few_and_short() -> None:
    recent = Recent()
    recent.failure("while nothing is raised")
    assert recent.failures == []
    for number in range(100):
        recent.note(f"note {number}", (f"prompt {at} {'x' * 10_000}" for at in range(1000)))
        try:
            raise ValueError(f"{number} " * 10_000)
        except ValueError:
            recent.failure("counting")
    assert [note.text for note in recent.notes] == [f"note {number}" for number in range(100 - KEPT, 100)]
    assert [failure.error.split()[1] for failure in recent.failures] == [f"{n}" for n in range(100 - KEPT, 100)]
    assert sum(len(prompt) for note in recent.notes for prompt in note.prompts) <= KEPT * 4 * 2000
    assert all(len(failure.error) <= 2000 for failure in recent.failures)
    assert recent.failures[0].frames[-1].endswith("in test_notes_and_failures_are_few_and_short")


def test_a_note_is_kept_once() -> None:
    recent = Recent()
    for prompts in (["a"], ["a"], ["b"], ["a"]):
        recent.note("the same", prompts)
    assert [note.prompts for note in recent.notes] == [("a",), ("b",)]


def test_an_endless_recursion_is_kept_short() -> None:
    def deeper() -> None:
        deeper()

    recent = Recent()
    try:
        deeper()
    except RecursionError:
        recent.failure("going deeper")
    assert 1 < len(recent.failures[0].frames) <= 30


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("'my-cat' has no class word", "'…' has no class word"),
        ("'it's mine' and 'a': AlignIT's", "'…' and '…': AlignIT's"),
        ("KeyError: 'a\nb'", "KeyError: '…'"),
        ('named "my cat"', 'named "…"'),
        ("Write <my-cat=cat>", "Write <…>"),
        ("the users' own", "the users' own"),
    ],
)
def test_what_is_quoted_is_left_out(text: str, wanted: str) -> None:
    assert without_quoted(text) == wanted


def test_prompts_names_and_what_stands_in_marks_are_left_out() -> None:
    hidden = without_words([*words_of(["a <My-Cat=tabby; 0.5> in snow"]), "<new1>", "cat"])
    assert hidden("my-cat, tabby, <new1> and cats reached it") == "…, …, … and cats reached it"
    assert hidden("in 'a <my-cat=tabby; 0.5> in snow'") == "in '…'"
    assert hidden("") == ""
    named = without_words(["my-cat (1)", "cre\u0300me", r"a\b \(c\)"])
    assert named("'my-cat \\(1\\)', my-cat (1), cr\u00e8me") == "'…', …, …"
    assert named(r"a\b \(c\), and") == "…, and"
    assert without_words([""])("as it is") == "as it is"


def test_the_users_folder_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", classmethod(lambda _cls: Path("/data/ann")))
    assert without_user("/data/ann/webui and '/data/ann'") == "~/webui and '~'"
    assert without_user("/data/anna/webui") == "/data/anna/webui"
    assert without_user("/home/bob/x, /Users/bob/x") == "/home/…/x, /Users/…/x"
    assert without_user(r"C:\Users\Bob Smith\webui") == r"C:\Users\…\webui"
    monkeypatch.setattr(Path, "home", classmethod(lambda _cls: Path("/")))
    assert without_user("/opt/webui") == "/opt/webui"
