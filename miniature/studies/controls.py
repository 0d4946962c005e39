"""What each control does, on the miniature: a grid of pictures for each, and what the classifier reads.

python -m miniature.studies.controls [--count 20] [--output docs/studies]
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Any

from PIL import Image

from miniature.grids import draw_grid
from miniature.studies.bench import Bench, surroundings, to_image
from miniature.studies.manipulation import SWAPS, outcome
from miniature.studies.pages import Page, percent, run_study, table

FIRST_SEED = 5_000_000
PLAIN = "as in the paper"  # no option at all
CONTROLS: dict[str, tuple[str, tuple[str, ...]]] = {
    "strength": ("Strength", ("0", "0.25", "0.5", "0.75", "1", "1.5", "2")),
    "parts": ("Keys or values alone", ("keys", "values", "keys and values")),
    "steps": (
        "Steps",
        ("steps 0-0.2", "steps 0-0.4", "steps 0-0.7", "steps 0-1", "steps 0.2-1", "steps 0.4-1", "steps 0.7-1"),
    ),
    "schedule": ("Schedules", (PLAIN, "falling", "rising")),
    "layers": ("Layers", ("layers down", "layers mid", "layers up", "layers down mid", "layers mid up", PLAIN)),
    "filler": ("Filler of the dummy prompt", ("filler *", "filler a", "filler the", "filler of", "filler and")),
}


def study(bench: Bench, count: int) -> Page:
    """Make pictures with each value of each control, and the page."""
    swaps = [next(swap for swap in SWAPS if swap.attribute == name) for name in ("class", "colour", "companion")]
    aligned = bench.aligned()
    places = [surroundings(count, number) for number in range(len(swaps))]
    seeds = [[FIRST_SEED + 1000 * number + i for i in range(count)] for number in range(len(swaps))]
    prompts = [[swap.prompt(swap.mark, place) for place in where] for swap, where in zip(swaps, places, strict=True)]
    bases = [
        bench.read(bench.pictures([swap.prompt(swap.at, place) for place in where], of_swap))
        for swap, where, of_swap in zip(swaps, places, seeds, strict=True)
    ]
    numbers: list[dict[str, Any]] = []
    pictures: dict[str, Image.Image] = {}
    sections = []
    for key, (title, values) in CONTROLS.items():
        rows: list[list[str]] = []
        strips: list[list[Image.Image]] = [[] for _ in swaps]
        for value in values:
            row = [value if value == PLAIN else f"`{value}`"]
            for number, swap in enumerate(swaps):
                options = "" if value == PLAIN else value
                images = bench.pictures(prompts[number], seeds[number], aligned, concept_controls=options)
                did = outcome(swap, bases[number], bench.read(images))
                numbers.append({"control": key, "value": value, "swap": swap.mark, **asdict(did)})
                row += [percent(did.changed), percent(did.rest)]
                strips[number].append(to_image(images[0]))
            rows.append(row)
            print(f"{title}: {row}", file=sys.stderr, flush=True)
        pictures[f"-{key}"] = draw_grid(values, [of_swap[0] for of_swap in prompts], strips)
        head = ["", *(text for swap in swaps for text in (f"`{swap.mark}`", "rest"))]
        sections.append(f"## {title}\n\n![{title}](controls-{key}.png)\n\n{table(head, rows)}")
    return Page("controls", _text(sections, count), {"pictures": count, "results": numbers}, pictures)


def _text(sections: list[str], count: int) -> str:
    joined = "\n\n".join(sections)
    return f"""# What the controls do, on the miniature

[Controls](../controls.md) says what each of them is. Here are pictures of the small trained model, one seed for each
row, and how often the classifier sees the word that was put in, and how much of the rest is as in the base prompt's
picture of the same seed ({count} pictures for each number).

{joined}

`python -m miniature.studies.controls` made this page.
"""


if __name__ == "__main__":
    sys.exit(run_study(__doc__, study, 20))
