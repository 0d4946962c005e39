"""The paper's Figures 3, 6 and 7 in kind: keys and values of one word at another, on the miniature.

    python -m miniature.studies.manipulation [--count 60] [--output docs/studies]

For each swap it makes the base prompt's pictures, those with the other word's keys and values at the word, and, to
compare with, those of a prompt in which the other word is simply typed; same seeds. The classifier says what changed.
It writes a picture and a table.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from miniature.captions import PLACES, article
from miniature.grids import draw_grid
from miniature.studies.bench import Bench, Shown, Surroundings, share, surroundings, to_image
from miniature.studies.pages import Page, percent, run_study, table

SHOWN = 2  # seeds in the picture, for each swap
FIRST_SEED = 3_000_000


@dataclass(frozen=True)
class Swap:
    """A word's keys and values at another word.

    Attributes:
        figure: The figure of the paper that it is like.
        attribute: What is to change, as the classifier names it.
        at: The word in the base prompt.
        concept: The word whose keys and values are put in.
        prompt: Makes the prompt of what stands at the word's place, in surroundings.
    """

    figure: str
    attribute: str
    at: str
    concept: str
    prompt: Callable[[str, Surroundings], str]

    @property
    def mark(self) -> str:
        """Return what stands in a prompt of AlignIT."""
        return f"<{self.concept}={self.at}>"


def _object(colour: str) -> Callable[[str, Surroundings], str]:
    return lambda word, around: around.around(f"{colour} {word}")


def _coloured(kind: str) -> Callable[[str, Surroundings], str]:
    return lambda word, around: around.around(f"{word} {kind}")


def _companion(kind: str) -> Callable[[str, Surroundings], str]:
    return lambda word, around: (
        f"a photo of {article(kind)} wearing {article(around.accessory)} with a {word} {PLACES[around.background]}"
    )


def _accessory(kind: str) -> Callable[[str, Surroundings], str]:
    return lambda word, around: (
        f"a photo of {article(kind)} wearing a {word} with {article(around.companion)} {PLACES[around.background]}"
    )


SWAPS = (
    Swap("3", "class", "car", "cat", _object("red")),
    Swap("3", "class", "cat", "robot", _object("blue")),
    Swap("6", "colour", "white", "black", _coloured("cup")),
    Swap("6", "colour", "green", "red", _coloured("house")),
    Swap("6", "class", "cup", "fish", _object("yellow")),
    Swap("7", "class", "house", "car", _object("orange")),
    Swap("7", "companion", "ball", "tree", _companion("cat")),
    Swap("7", "accessory", "hat", "crown", _accessory("robot")),
)


@dataclass(frozen=True)
class Outcome:
    """What a swap did.

    Attributes:
        changed: Share of pictures in which the aspect is the other word's.
        kept: Share in which it is still the base word's.
        rest: Of all other attributes, the share that is as in the base prompt's picture of the same seed.
    """

    changed: float
    kept: float
    rest: float


def outcome(swap: Swap, base: Shown, pictures: Shown) -> Outcome:
    """Compare pictures with those of the base prompt."""
    others = [name for name in base[0] if name != swap.attribute]
    return Outcome(
        share([seen[swap.attribute] == swap.concept for seen in pictures]),
        share([seen[swap.attribute] == swap.at for seen in pictures]),
        share([seen[name] == was[name] for was, seen in zip(base, pictures, strict=True) for name in others]),
    )


def study(bench: Bench, count: int) -> Page:
    """Make the pictures of all swaps, and the page."""
    aligned = bench.aligned()
    found: list[tuple[Swap, dict[str, Outcome]]] = []
    labels, strips = [], []
    for number, swap in enumerate(SWAPS):
        around = surroundings(count, number)
        seeds = [FIRST_SEED + 1000 * number + i for i in range(count)]
        ways = {
            "base prompt": bench.pictures([swap.prompt(swap.at, where) for where in around], seeds),
            "AlignIT": bench.pictures([swap.prompt(swap.mark, where) for where in around], seeds, aligned),
            "typed": bench.pictures([swap.prompt(swap.concept, where) for where in around], seeds),
        }
        base = bench.read(ways["base prompt"])
        found.append((swap, {way: outcome(swap, base, bench.read(images)) for way, images in ways.items()}))
        labels.append(swap.prompt(swap.mark, around[0]))
        strips.append([to_image(images[i]) for i in range(min(SHOWN, count)) for images in ways.values()])
        print(f"{swap.mark}: {found[-1][1]}", file=sys.stderr, flush=True)
    columns = [way if i == 0 else "" for i in range(min(SHOWN, count)) for way in ways]
    picture = draw_grid(columns, labels, strips)
    return Page("manipulation", _text(found, count), _numbers(found, count), {"": picture})


def _text(found: list[tuple[Swap, dict[str, Outcome]]], count: int) -> str:
    rows = [
        [
            f"`{swap.mark}`",
            swap.figure,
            swap.attribute,
            *(percent(ways[way].changed) for way in ("base prompt", "AlignIT", "typed")),
            *(percent(ways[way].rest) for way in ("AlignIT", "typed")),
        ]
        for swap, ways in found
    ]
    head = ["swap", "like figure", "aspect", "base", "AlignIT", "typed", "rest, AlignIT", "rest, typed"]
    return f"""# Semantic manipulation, on the miniature

The paper's section 3.3 says that keys and values at a word govern what the word stands for, and leave the rest. Here is
how far that holds in the small trained model, by its classifier: {count} pictures for each number.

*base*, *AlignIT* and *typed* are the shares of pictures in which the aspect is that of the word put in: in the base
prompt's pictures, with the other word's keys and values at the word, and with the other word simply typed in its place.
*rest* is the share of all other attributes that are as in the base prompt's picture of the same seed.

{table(head, rows)}

![For each swap, pictures of the base prompt, of AlignIT, and of the prompt with the other word typed](manipulation.png)

In the picture each row has {min(SHOWN, count)} seeds: for each, the base prompt, AlignIT, and the word typed.

`python -m miniature.studies.manipulation` made this page. In the WebUI the same is done by typing the prompt, with
AlignIT on: `a photo of a red <cat=car> in the snow`.
"""


def _numbers(found: list[tuple[Swap, dict[str, Outcome]]], count: int) -> dict[str, Any]:
    swaps = [
        {"swap": swap.mark, "attribute": swap.attribute, "figure": swap.figure}
        | {way: asdict(result) for way, result in ways.items()}
        for swap, ways in found
    ]
    return {"pictures": count, "swaps": swaps}


if __name__ == "__main__":
    sys.exit(run_study(__doc__, study, 60))
