"""A page that asks people which pictures of a run are better: the paper's user study (Table 2), blind.

    python -m evaluation survey evaluation-my-cat --references my-cat-pictures

takes pairs of a run's pictures, of the same prompt and noise, and leaves two files in its folder: survey.html, one file
to send to people, and survey-key.json, which says which picture is which and stays with you. The page asks which
picture follows the prompt better, then which shows the concept better, and gives the answers as a file to send back;
python -m evaluation tally counts those.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from evaluation.errors import EvaluationError
from evaluation.pictures import read_pictures
from evaluation.plan import ALIGNED, PLAIN, WAYS
from evaluation.record import Record
from evaluation.survey.page import write_survey
from evaluation.survey.pairs import KEY_NAME


def command(arguments: list[str]) -> int:
    """Run the command; return its exit status.

    Raises:
        EvaluationError: It cannot go on.
    """
    parser = argparse.ArgumentParser(
        prog="python -m evaluation survey", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder of the run: what was its --output")
    parser.add_argument("--references", type=Path, required=True, help="folder with pictures of the concept")
    parser.add_argument("--pairs", type=int, default=40, help="pairs that each person sees (default 40)")
    parser.add_argument("--compare", nargs=2, choices=WAYS, default=[PLAIN, ALIGNED], help="the two ways to compare")
    parser.add_argument("--seed", type=int, default=1, help="of the choice of pairs")
    parser.add_argument("--output", type=Path, help="folder for page and key (default: the run's)")
    options = parser.parse_args(arguments)
    before, after = options.compare
    if options.pairs < 1:
        raise EvaluationError("--pairs must be at least 1")
    if before == after:
        raise EvaluationError("--compare needs two different ways")
    record = Record.of_run(options.run)
    references = read_pictures(options.references)
    folder = options.output or options.run
    page, key = write_survey(record, references, (before, after), options.pairs, options.seed, folder)
    print(f"{len(key.pairs)} pairs, {page.stat().st_size / 1e6:.1f} MB. Send this file to people:\n{page}")
    print(f"This one stays with you; it says which picture is which:\n{folder / KEY_NAME}")
    return 0
