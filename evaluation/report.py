"""The report of a run: a table in Markdown, and a page with the pictures side by side."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from evaluation.errors import EvaluationError
from evaluation.intervals import interval
from evaluation.pages import render
from evaluation.plan import ALIGNED, PLAIN, TITLES, WAYS
from evaluation.record import Entry, Record

_SAMPLES = 2_000


def write_report(record: Record, facts: Mapping[str, str]) -> Path:
    """Write ``table.md`` and ``index.html`` into the run's folder; return the page.

    Raises:
        EvaluationError: They cannot be written.
    """
    entries = list(record.entries.values())
    try:
        (record.folder / "table.md").write_text(make_table(entries, facts), encoding="utf-8")
        page = record.folder / "index.html"
        page.write_text(make_page(entries, facts), encoding="utf-8")
    except OSError as error:
        raise EvaluationError(f"{record.folder} can't be written ({error})") from None
    return page


def means(entries: Sequence[Entry]) -> tuple[float, float, float]:
    """Return text and image alignment, and their geometric mean (a negative mean cosine counts as 0 there)."""
    text = sum(entry.text for entry in entries) / len(entries)
    image = sum(entry.image for entry in entries) / len(entries)
    return text, image, (max(0.0, text) * max(0.0, image)) ** 0.5


def rows(entries: Sequence[Entry], samples: int = _SAMPLES) -> dict[str, list[tuple[float, float, float]]]:
    """Return for each way its three numbers, each with the bounds of its 95% interval over prompts.

    Only prompts and seeds that are there in all ways count, so that the same is compared.
    """
    by_shot: dict[tuple[int, int], dict[str, Entry]] = {}
    for entry in entries:
        by_shot.setdefault((entry.number, entry.seed), {})[entry.way] = entry
    by_prompt: dict[int, list[dict[str, Entry]]] = {}
    for (number, _), ways in by_shot.items():
        if len(ways) == len(WAYS):
            by_prompt.setdefault(number, []).append(ways)
    if not by_prompt:
        return {}
    rng = random.Random(0)
    numbers = sorted(by_prompt)
    drawn = [[rng.choice(numbers) for _ in numbers] for _ in range(samples)]
    found = {}
    for way in WAYS:
        of_prompt = {number: [ways[way] for ways in of_one] for number, of_one in by_prompt.items()}
        values = means([entry for of_one in of_prompt.values() for entry in of_one])
        sampled = [means([entry for number in chosen for entry in of_prompt[number]]) for chosen in drawn]
        found[way] = [(value, *interval([one[i] for one in sampled])) for i, value in enumerate(values)]
    return found


def table_lines(entries: Sequence[Entry]) -> list[str]:
    """Return the lines of the table with the numbers, in Markdown."""
    lines = ["|  | text alignment | image alignment | overall |", "| --- | ---: | ---: | ---: |"]
    found = rows(entries)
    for way, numbers in found.items():
        cells = [f"{value:.4f} ({low:.4f} to {high:.4f})" for value, low, high in numbers]
        lines.append(f"| {TITLES[way]} | {' | '.join(cells)} |")
    if found:
        before, after = found[PLAIN], found[ALIGNED]
        changes = [
            f"{100 * (new[0] / old[0] - 1):+.1f} %" if old[0] else "-" for old, new in zip(before, after, strict=True)
        ]
        lines.append(f"| AlignIT against the concept alone | {' | '.join(changes)} |")
    return lines


def make_table(entries: Sequence[Entry], facts: Mapping[str, str]) -> str:
    """Return the table in Markdown, with what there is to say about it."""
    lines = table_lines(entries)
    counted = len({(entry.number, entry.seed) for entry in entries})
    lines += ["", f"{len(entries)} pictures of {counted} prompts and seeds. In brackets: 95 % intervals over prompts."]
    lines += ["", *(f"- {name}: {value}" for name, value in facts.items())]
    notes = sorted({entry.note for entry in entries if entry.note})
    if notes:
        lines += ["", "AlignIT said:", "", *(f"- {note}" for note in notes)]
    return "\n".join(lines) + "\n"


def make_page(entries: Sequence[Entry], facts: Mapping[str, str]) -> str:
    """Return the page; its pictures are those beside it."""
    by_key = {(entry.number, entry.seed, entry.way): entry for entry in entries}
    shots = []
    for number, seed in sorted({(entry.number, entry.seed) for entry in entries}):
        of_shot = [by_key.get((number, seed, way)) for way in WAYS]
        prompt = next(entry.prompt for entry in reversed(of_shot) if entry is not None)
        shots.append((prompt, seed, of_shot))
    titles = [TITLES[way] for way in WAYS]
    return render("report.html.j2", table=make_table(entries, facts), titles=titles, shots=shots)
