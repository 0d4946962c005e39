"""The files that people send back: anybody can have written them, so that each is checked against the survey's key."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.errors import EvaluationError
from evaluation.survey.pairs import QUESTIONS, Key

_FORMAT = "AlignIT survey answers, 1"
_MAX_SIZE = 4_000_000  # bytes; the page writes about 150 for an answer
_PERSON = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Answer:
    """What a person said to a question about a pair.

    Attributes:
        pair: The pair's name.
        question: One of `QUESTIONS`.
        left: The name of the picture that was at the left.
        chosen: The name of the picture that is better; None: no difference.
    """

    pair: str
    question: str
    left: str
    chosen: str | None


@dataclass(frozen=True)
class Person:
    """The answers of one person.

    Attributes:
        name: A random name that the page made up.
        answers: At most one to each question about each pair.
    """

    name: str
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Refused:
    """A file that is not counted, and why."""

    path: Path
    why: str


class _RefusedError(Exception):
    """A file cannot be counted; the message says why."""


def find_files(paths: Iterable[Path]) -> list[Path]:
    """Return the files, and for each folder its ``.json`` files."""
    found: dict[Path, None] = {}
    for path in paths:
        found.update(dict.fromkeys(sorted(path.glob("*.json")) if path.is_dir() else [path]))
    return list(found)


def read_answers(paths: Sequence[Path], key: Key) -> tuple[list[Person], list[Refused]]:
    """Read files of answers to a survey; return the people, and the files that cannot be counted.

    A person who sent several files, as the page offers one at any time, counts with the fullest.

    Raises:
        EvaluationError: None can be counted.
    """
    read: list[tuple[Path, Person]] = []
    refused: list[Refused] = []
    for path in paths:
        try:
            read.append((path, _read(path, key)))
        except _RefusedError as error:
            refused.append(Refused(path, str(error)))
    people: dict[str, Person] = {}
    for path, person in sorted(read, key=lambda one: -len(one[1].answers)):
        if person.name in people:
            refused.append(Refused(path, "the same person's answers are in another file, which has as many or more"))
        else:
            people[person.name] = person
    if not people:
        reasons = "".join(f"\n{one.path}: {one.why}" for one in refused)
        raise EvaluationError(f"There are no answers to count: give the files that people sent back{reasons}")
    return list(people.values()), refused


def _read(path: Path, key: Key) -> Person:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_SIZE + 1)
    except OSError as error:
        raise _RefusedError(f"it can't be read ({error.strerror})") from None
    if len(content) > _MAX_SIZE:
        raise _RefusedError("it is too large for a file of answers")
    try:
        data = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict) or data.get("format") != _FORMAT:
        raise _RefusedError("it is no file that a survey's page wrote")
    if data.get("survey") != key.survey:
        raise _RefusedError("it is of another survey: tally it with that one's run")
    name, answers = data.get("person"), data.get("answers")
    if not isinstance(name, str) or not _PERSON.fullmatch(name) or not isinstance(answers, list):
        raise _RefusedError("it is damaged: ask for it again")
    if not answers:
        raise _RefusedError("it has no answers")
    pairs = {pair.name: set(pair.pictures) for pair in key.pairs}
    found: dict[tuple[str, str], Answer] = {}
    for number, answer in enumerate(answers, 1):
        checked = _answer(answer, pairs)
        if checked is None or (checked.pair, checked.question) in found:
            raise _RefusedError(f"its answer {number} is none that the page gives: ask for it again")
        found[checked.pair, checked.question] = checked
    return Person(name, tuple(found.values()))


def _answer(answer: Any, pairs: dict[str, set[str]]) -> Answer | None:
    if not isinstance(answer, dict) or set(answer) != {"pair", "question", "left", "chosen"}:
        return None
    pair, question, left, chosen = (answer[name] for name in ("pair", "question", "left", "chosen"))
    texts = all(isinstance(one, str) for one in (pair, question, left)) and isinstance(chosen, str | None)
    if not texts or pair not in pairs or question not in QUESTIONS:
        return None
    if left not in pairs[pair] or (chosen is not None and chosen not in pairs[pair]):
        return None
    return Answer(pair, question, left, chosen)
