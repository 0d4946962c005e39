"""The paper's protocol on a model of yours, and its user study: see docs/evaluation.md.

    python -m evaluation ...            makes pictures with and without AlignIT, and scores them with CLIP
    python -m evaluation survey RUN     makes a page of such a run that asks people which pictures are better
    python -m evaluation tally RUN ...  counts their answers

Each says more with --help.
"""

from __future__ import annotations

import sys

from evaluation.errors import EvaluationError


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return its exit status."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        return _run(words)
    except EvaluationError as error:
        print(f"\n{error}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on from what is made.", file=sys.stderr)
        return 130


def _run(words: list[str]) -> int:
    # Each command imports what it needs itself: who tallies answers needs no torch.
    if words[:1] == ["survey"]:
        from evaluation.commands import survey  # noqa: PLC0415

        return survey.command(words[1:])
    if words[:1] == ["tally"]:
        from evaluation.commands import tally  # noqa: PLC0415

        return tally.command(words[1:])
    from evaluation.commands import measure  # noqa: PLC0415

    return measure.command(words)


if __name__ == "__main__":
    sys.exit(main())
