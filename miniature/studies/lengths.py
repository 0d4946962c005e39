"""Which row a word of another length belongs at: rules of alignment, compared on the miniature.

    python -m miniature.studies.lengths [--count 40] [--output docs/studies]

Phrases are put at words with fewer or more tokens than they have, by each of several rules. The classifier says how
often the picture shows what was put in, and how often the rest of the prompt. Base and dummy prompts are written out
here, row by row; only the rule that AlignIT has is also done by AlignIT itself, and has to come out the same.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch

from miniature.studies.bench import Bench, Surroundings, share, surroundings
from miniature.studies.pages import Page, percent, run_study, table
from miniature.words import split
from miniature.world import CLASSES, COLOURS

FIRST_SEED = 4_000_000
STAR = "*"


@dataclass(frozen=True)
class Case:
    """A phrase, and the class words that it is put at; both are words of one token each."""

    concept: tuple[str, ...]
    class_words: tuple[str, ...]

    @property
    def mark(self) -> str:
        """Return the form for the prompt."""
        return f"<{' '.join(self.concept)}={' '.join(self.class_words)}>"

    @property
    def is_longer(self) -> bool:
        """Whether the concept has more tokens than its class words."""
        return len(self.concept) > len(self.class_words)


LONGER = (
    Case(("red", "car"), ("cup",)),
    Case(("black", "robot"), ("house",)),
    Case(("blue", "striped", "cup"), ("robot",)),
    Case(("yellow", "spotted", "house"), ("car",)),
)
SHORTER = (
    Case(("car",), ("green", "cup")),
    Case(("robot",), ("purple", "house")),
    Case(("house",), ("white", "plain", "car")),
    Case(("cup",), ("purple", "plain", "robot")),
)


@dataclass(frozen=True)
class Placed:
    """A base and a dummy prompt of one length, as words, and which rows of the dummy prompt go where.

    Attributes:
        base: The words of the base prompt's object.
        dummy: The words of the dummy prompt at the same places.
        rows: The places, in the object, whose rows are put in.
        before: Places before the object that the dummy prompt's words reach back into.
    """

    base: tuple[str, ...]
    dummy: tuple[str, ...]
    rows: tuple[int, ...]
    before: tuple[str, ...] = ()


def repeated(case: Case) -> Placed:
    """Both end at the same row; the shorter class word is repeated. This is AlignIT's rule."""
    n, m = len(case.concept), len(case.class_words)
    if case.is_longer:
        base = tuple(case.class_words[(m - n + i) % m] for i in range(n))
        return Placed(base, case.concept, tuple(range(n)))
    return last(case)


def stars(case: Case) -> Placed:
    """Both end at the same row; what is missing is a star, in the base prompt or in the concept's place."""
    n, m = len(case.concept), len(case.class_words)
    if case.is_longer:
        return Placed((*[STAR] * (n - m), *case.class_words), case.concept, tuple(range(n)))
    return Placed(case.class_words, (*[STAR] * (m - n), *case.concept), tuple(range(m)))


def last(case: Case) -> Placed:
    """Both end at the same row; only as many rows are put in as both have."""
    n, m = len(case.concept), len(case.class_words)
    if case.is_longer:
        return Placed(case.class_words, case.concept[n - m :], tuple(range(m)), case.concept[: n - m])
    return Placed(case.class_words, (*[STAR] * (m - n), *case.concept), tuple(range(m - n, m)))


def first(case: Case) -> Placed:
    """Both begin at the same row; only as many rows are put in as both have."""
    n, m = len(case.concept), len(case.class_words)
    size = min(n, m)
    return Placed(case.class_words, (*case.concept[:m], *[STAR] * (m - size)), tuple(range(size)))


def concept_repeated(case: Case) -> Placed:
    """Both end at the same row; the shorter concept is repeated."""
    n, m = len(case.concept), len(case.class_words)
    return Placed(case.class_words, tuple(case.concept[(n - m + i) % n] for i in range(m)), tuple(range(m)))


RULES: dict[bool, dict[str, Callable[[Case], Placed]]] = {
    True: {"class word repeated": repeated, "padded with `*`": stars, "last rows alone": last, "first rows": first},
    False: {
        "last rows": repeated,
        "padded with `*`": stars,
        "concept repeated": concept_repeated,
        "first rows": first,
    },
}


@dataclass(frozen=True)
class Result:
    """Shares of pictures: that show all that the concept names, of the surroundings' attributes, and both."""

    concept: float
    rest: float
    both: float


def spliced(bench: Bench, placed: Placed, where: Sequence[Surroundings]) -> torch.Tensor:
    """Return the conditioning [n, 77, width] of prompts with the object so placed."""
    found = []
    for around in where:
        base = split(around.around(" ".join(placed.base)))
        at = _index(base, placed.base)
        dummy = [STAR] * len(base)
        dummy[at : at + len(placed.dummy)] = placed.dummy
        if placed.before:
            dummy[at - len(placed.before) : at] = placed.before
        rows, put = bench.miniature.encode([" ".join(base), " ".join(dummy)])
        rows = rows.clone()
        for place in placed.rows:
            rows[1 + at + place] = put[1 + at + place]
        found.append(rows)
    return torch.stack(found)


def _index(words: Sequence[str], part: Sequence[str]) -> int:
    return next(i for i in range(len(words)) if tuple(words[i : i + len(part)]) == tuple(part))


def wanted(words: Sequence[str]) -> dict[str, str]:
    """Return what a picture of a phrase shows, by attribute."""
    found = {}
    for word in words:
        name = "class" if word in CLASSES else "colour" if word in COLOURS else "pattern"
        found[name] = word
    return found


def result(bench: Bench, images: torch.Tensor, case: Case, where: Sequence[Surroundings]) -> Result:
    """Say what pictures show of the concept and of the rest."""
    shown = bench.read(images)
    named = wanted(case.concept)
    concept = [all(seen[name] == value for name, value in named.items()) for seen in shown]
    rest = [[seen[k] == v for k, v in around.values().items()] for seen, around in zip(shown, where, strict=True)]
    return Result(
        share(concept),
        share([right for of_one in rest for right in of_one]),
        share([is_shown and all(of_one) for is_shown, of_one in zip(concept, rest, strict=True)]),
    )


def study(bench: Bench, count: int) -> Page:
    """Try all rules on all cases, and make the page."""
    found: list[tuple[Case, str, Result]] = []
    for number, case in enumerate((*LONGER, *SHORTER)):
        where = surroundings(count, number)
        seeds = [FIRST_SEED + 1000 * number + i for i in range(count)]
        for rule, place in RULES[case.is_longer].items():
            rows = spliced(bench, place(case), where)
            if place is repeated:
                _check_same(bench, rows, case, where)
            found.append((case, rule, result(bench, bench.sample(rows, seeds), case, where)))
            print(f"{case.mark} {rule}: {found[-1][2]}", file=sys.stderr, flush=True)
    return Page("lengths", _text(found, count), {"pictures": count, "results": _numbers(found)})


def _check_same(bench: Bench, rows: torch.Tensor, case: Case, where: Sequence[Surroundings]) -> None:
    prompts = [around.around(case.mark) for around in where]
    difference = (bench.conditioning(prompts, bench.aligned()) - rows).abs().max().item()
    if difference > 1e-4:
        raise AssertionError(f"AlignIT's rows for {case.mark} are not those of its rule: they differ by {difference}")


def _numbers(found: Sequence[tuple[Case, str, Result]]) -> list[dict[str, object]]:
    return [{"case": case.mark, "rule": rule} | asdict(result) for case, rule, result in found]


def _table(found: Sequence[tuple[Case, str, Result]], longer: bool) -> str:
    cases = LONGER if longer else SHORTER
    rows = []
    for rule in RULES[longer]:
        of_rule = {case: result for case, name, result in found if name == rule and case.is_longer == longer}
        results = [of_rule[case] for case in cases]
        means = [sum(getattr(r, name) for r in results) / len(results) for name in ("concept", "rest", "both")]
        rows.append([rule, *(percent(r.both) for r in results), *map(percent, means)])
    head = ["rule", *(f"`{case.mark}`" for case in cases), "concept", "rest", "both"]
    return table(head, rows)


def _text(found: Sequence[tuple[Case, str, Result]], count: int) -> str:
    return f"""# Words of different lengths, on the miniature

Which rows belong together, where a concept and its class words have different numbers of tokens? {count} pictures for
each number. *concept* is the share of pictures that show everything that the phrase put in names, *rest* the share of
background, companion and accessory that are as the prompt says, *both* the share of pictures in which all of it is
right. The columns of single cases show *both*; the last three are means over the cases.

**The concept has more tokens than its class word.** AlignIT repeats the class word.

{_table(found, True)}

**The concept has fewer.** AlignIT puts it at the last rows of the class words; the others keep their own.

{_table(found, False)}

`python -m miniature.studies.lengths` made this page.
"""


if __name__ == "__main__":
    sys.exit(run_study(__doc__, study, 40))
