"""What a study writes: a page with its tables, its numbers as JSON, its pictures; and the command that writes them."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from alignit.concepts.concept import ConceptFileError
from miniature.studies.bench import Bench
from miniature.weights import FOLDER, WeightsError

OUTPUT = Path("docs/studies")


@dataclass
class Page:
    """A study's results.

    Attributes:
        name: Of its files.
        text: The page, in Markdown.
        numbers: What the page was made of.
        pictures: By the end of their names.
    """

    name: str
    text: str
    numbers: Mapping[str, Any]
    pictures: Mapping[str, Image.Image] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write the files into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        for end, picture in self.pictures.items():
            picture.save(folder / f"{self.name}{end}.png", optimize=True)
        numbers = json.dumps(self.numbers, indent=1, ensure_ascii=False)
        (folder / f"{self.name}.json").write_text(f"{numbers}\n", encoding="utf-8")
        (folder / f"{self.name}.md").write_text(f"{self.text.strip()}\n", encoding="utf-8")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown; the first column holds words, the others numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def percent(value: float) -> str:
    """Write a share."""
    return f"{100 * value:.0f} %"


def run_study(
    description: str | None, study: Callable[[Bench, int], Page], count: int, arguments: list[str] | None = None
) -> int:
    """Be the command of a study; return its exit status.

    Args:
        description: The module's docstring.
        study: Makes the page, with so many pictures for each number.
        count: The number of pictures that the page in the repository has.
        arguments: The command's, by default those of the process.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=count, help=f"pictures for each number (default {count})")
    parser.add_argument("--weights", type=Path, default=FOLDER, help="folder of the miniature's weights")
    parser.add_argument("--output", type=Path, default=OUTPUT, help=f"folder of the page (default {OUTPUT})")
    parser.add_argument("--threads", type=int, help="of the computation")
    options = parser.parse_args(arguments)
    if options.count < 1:
        parser.error("--count must be at least 1")
    if options.threads:
        torch.set_num_threads(options.threads)
    begin = time.monotonic()
    try:
        options.output.mkdir(parents=True, exist_ok=True)  # before the work
        page = study(Bench(options.weights), options.count)
        page.write(options.output)
    except (WeightsError, ConceptFileError) as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{options.output} can't be written ({error}): choose another with --output", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(f"{options.output / page.name}.md ({time.monotonic() - begin:.0f} s)")
    return 0
