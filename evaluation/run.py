"""A run: makes what is not made yet, scores it, keeps it, and writes the report."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from evaluation.clip import Scorer
from evaluation.makers import Maker
from evaluation.plan import ALIGNED, Shot, Subject
from evaluation.record import Entry, Record
from evaluation.report import write_report


def run(maker: Maker, scorer: Scorer, subject: Subject, every: Sequence[Shot], record: Record) -> Path:
    """Make and score all pictures that are not there yet; return the report's page.

    The report is written in any case, of what there is.

    Raises:
        EvaluationError: A picture cannot be made or kept.
    """
    waiting = [shot for shot in every if shot.key not in record.entries]
    if len(waiting) < len(every):
        print(f"{len(every) - len(waiting)} of {len(every)} pictures are there already", file=sys.stderr)
    said: set[str] = set()
    begin = time.monotonic()
    try:
        for count, shot in enumerate(waiting, 1):
            picture, note = maker.make(shot, subject)
            text = shot.text(subject)
            scores = scorer.score(picture, text)
            record.add(shot, picture, Entry(
                shot.key, shot.number, shot.seed, shot.way, shot.prompt(subject), scores.text, scores.image, note
            ))  # fmt: skip
            if note and note not in said and shot.way == ALIGNED:
                said.add(note)
                print(f"\nAlignIT: {note}", file=sys.stderr)
            left = (time.monotonic() - begin) / count * (len(waiting) - count)
            print(
                f"\r{count} of {len(waiting)} pictures, {left / 60:.0f} min left ", end="", file=sys.stderr, flush=True
            )
        print(file=sys.stderr)
    finally:
        if record.entries:
            page = write_report(record, {**maker.facts(), **scorer.facts(), "concept": subject.mark})
    return page
