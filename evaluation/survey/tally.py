"""The tally of a survey: the paper's Table 2 in kind, what people prefer, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluation.intervals import clustered, wilson
from evaluation.plan import TITLES
from evaluation.survey.answers import Answer, Person, Refused
from evaluation.survey.pairs import CONCEPT, PROMPT, QUESTIONS, Key

NO_DIFFERENCE = "no difference"
_ASKED = {PROMPT: "Which follows the prompt better?", CONCEPT: "Which shows the concept better?"}


@dataclass(frozen=True)
class Share:
    """A share of answers, and the bounds of its 95 % interval; all None where there are no answers."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Result:
    """What people said to one question.

    Attributes:
        counts: Answers by way, and ``no difference``.
        shares: The share of each in all answers.
        chosen: The share of the second way in the answers that chose one of the two.
    """

    counts: dict[str, int]
    shares: dict[str, Share]
    chosen: Share


@dataclass(frozen=True)
class Tally:
    """What people said to a survey.

    Attributes:
        people: How many answered.
        unfinished: How many of them did not answer all.
        results: By question.
        left: The share of the left picture in the answers that chose one; about a half, if people look at both.
    """

    people: int
    unfinished: int
    results: dict[str, Result]
    left: Share


def tally(people: Sequence[Person], key: Key) -> Tally:
    """Count what people said; which picture stood at which side, and in what order, is not looked at but for `left`."""
    said = [(person.name, answer) for person in people for answer in person.answers]
    chose = [(name, answer) for name, answer in said if answer.chosen is not None]
    return Tally(
        len(people),
        sum(len(person.answers) < len(QUESTIONS) * len(key.pairs) for person in people),
        {question: _result([one for one in said if one[1].question == question], key) for question in QUESTIONS},
        _share(chose, [answer.chosen == answer.left for _, answer in chose], key),
    )


def _result(said: Sequence[tuple[str, Answer]], key: Key) -> Result:
    ways = {name: way for pair in key.pairs for name, way in pair.pictures.items()}
    preferred = [NO_DIFFERENCE if answer.chosen is None else ways[answer.chosen] for _, answer in said]
    kinds = (*key.ways, NO_DIFFERENCE)
    chose = [(one, way) for one, way in zip(said, preferred, strict=True) if way != NO_DIFFERENCE]
    return Result(
        {kind: preferred.count(kind) for kind in kinds},
        {kind: _share(said, [way == kind for way in preferred], key) for kind in kinds},
        _share([one for one, _ in chose], [way == key.ways[1] for _, way in chose], key),
    )


def _share(said: Sequence[tuple[str, Answer]], is_so: Sequence[bool], key: Key) -> Share:
    """Return the share of the answers that are so, with the wider of two intervals on each side.

    Wilson's takes each answer for one of its own, which is too narrow where a person's answers are alike; the bootstrap
    over people and prompts is too narrow where there are few of them, and has no width where all say the same.
    """
    if not said:
        return Share(None, None, None)
    prompt_of = {pair.name: pair.prompt for pair in key.pairs}
    rows = {name: i for i, name in enumerate(sorted({name for name, _ in said}))}
    columns = {prompt: i for i, prompt in enumerate(sorted({prompt_of[answer.pair] for _, answer in said}))}
    counts = np.zeros((len(rows), len(columns)), int)
    hits = np.zeros_like(counts)
    for (name, answer), one in zip(said, is_so, strict=True):
        place = rows[name], columns[prompt_of[answer.pair]]
        counts[place] += 1
        hits[place] += one
    low, high = zip(wilson(sum(is_so), len(said)), clustered(hits, counts), strict=True)
    return Share(sum(is_so) / len(said), min(low), max(high))


def make_table(counted: Tally, key: Key, refused: Sequence[Refused]) -> str:
    """Return the table in Markdown."""
    before, after = (TITLES.get(way, way) for way in key.ways)
    lines = [
        f"|  | {after} | {before} | No difference | {after}, of those who chose | answers |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for question, result in counted.results.items():
        kinds = (key.ways[1], key.ways[0], NO_DIFFERENCE)
        cells = [
            *(_cell(result.shares[kind]) for kind in kinds),
            _cell(result.chosen),
            str(sum(result.counts.values())),
        ]
        lines.append(f"| {_ASKED[question]} | {' | '.join(cells)} |")
    prompts = len({pair.prompt for pair in key.pairs})
    lines += [
        "",
        f"People: {counted.people}, of whom {counted.unfinished} did not answer all. Pairs: {len(key.pairs)}, of "
        f"{prompts} prompts. In brackets: 95 % intervals, on each side the wider of Wilson's and of a bootstrap over "
        "people and prompts.",
        "",
        f"Of those who chose, the left picture: {_cell(counted.left)}.",
    ]
    if refused:
        lines += ["", f"Files that are not counted: {len(refused)}."]
    return "\n".join(lines) + "\n"


def to_data(counted: Tally, key: Key, refused: Sequence[Refused]) -> dict[str, Any]:
    """Return all of it for a JSON file; each share as its value and the bounds of its interval."""

    def numbers(share: Share) -> list[float | None]:
        return [share.value, share.low, share.high]

    return {
        "survey": key.survey,
        "ways": list(key.ways),
        "people": counted.people,
        "unfinished": counted.unfinished,
        "pairs": len(key.pairs),
        "questions": {
            question: {
                "counts": result.counts,
                "shares": {kind: numbers(share) for kind, share in result.shares.items()},
                f"{key.ways[1]} of those who chose": numbers(result.chosen),
            }
            for question, result in counted.results.items()
        },
        "left of those who chose": numbers(counted.left),
        "not counted": [{"file": one.path.name, "why": one.why} for one in refused],
    }


def _cell(share: Share) -> str:
    if share.value is None or share.low is None or share.high is None:
        return "-"
    return f"{100 * share.value:.1f} % ({100 * share.low:.1f} to {100 * share.high:.1f})"
