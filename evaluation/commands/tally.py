"""The paper's Table 2 in kind, of the answers to a survey.

    python -m evaluation tally evaluation-my-cat answers/*.json

reads the files that people sent back (a folder stands for the files in it), and leaves survey-table.md and
survey-table.json beside the survey's key.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from evaluation.errors import EvaluationError
from evaluation.survey.answers import find_files, read_answers
from evaluation.survey.pairs import read_key
from evaluation.survey.tally import make_table, tally, to_data


def command(arguments: list[str]) -> int:
    """Run the command; return its exit status.

    Raises:
        EvaluationError: It cannot go on.
    """
    parser = argparse.ArgumentParser(
        prog="python -m evaluation tally", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder with the survey's key: the run's")
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="the files that people sent back")
    options = parser.parse_args(arguments)
    key = read_key(options.run)
    people, refused = read_answers(find_files(options.files), key)
    for one in refused:
        print(f"Not counted: {one.path}: {one.why}.", file=sys.stderr)
    counted = tally(people, key)
    table = make_table(counted, key, refused)
    data = json.dumps(to_data(counted, key, refused), indent=1, ensure_ascii=False) + "\n"
    try:
        (options.run / "survey-table.md").write_text(table, encoding="utf-8")
        (options.run / "survey-table.json").write_text(data, encoding="utf-8")
    except OSError as error:
        raise EvaluationError(f"{options.run} can't be written ({error})") from None
    print(table)
    return 0
