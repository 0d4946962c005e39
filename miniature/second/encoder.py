"""The study of the text encoder: what is in which row, beside what is published of the real one.

    python -m miniature.second.encoder [--towers NAME=FILE ...]

By default it is of the first edition's encoder and the second's; others can be given, as a state of pretraining too.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from transformers import CLIPTextModel

from miniature import second
from miniature.second.pretraining import Towers, load_towers
from miniature.second.probes import COUNT, OWN_ROW, Probe, encoder, match_pictures, probe
from miniature.state import TrainingError
from miniature.studies.pages import OUTPUT, Page, table
from miniature.weights import FOLDER, WeightsError, load_miniature

# What others found of CLIP's text encoder in Stable Diffusion, where, and what to hold against it.
_PUBLISHED = (
    ("A word's own keys and values suffice to swap it; a concept changes the attention maps of other words",
     "AlignIT, 2406.18893, Figures 3, 5 and 6",
     "the share of its own row that a word explains; how far the other words' rows move"),
    ('Meaning is in one or two tokens of an expression; in "a green dog", "dog" shows no green',
     "Kaplan, Toker et al., 2504.01137", "the shares of the class word's row that class and colour explain"),
    ("The end tokens decide the layout, early in sampling",
     "Yi et al., 2405.15330", "what can be told from the end row"),
    ("The end and padding rows repeat the whole prompt: taking something out of a picture means changing them too",
     "Li et al., 2402.05375", "what can be told from the last padding row"),
    ("Padding rows mix the attributes of several objects",
     "Zhuang et al., 2409.19967", "the first object's colour, told from a padding row"),
    ("A linear map reads from CLIP's text features what belongs to which object, but their cosines with pictures' "
     "features hardly show it", "Koishigarina et al., 2502.03566",
     "the first object's colour, told from the end row; and the picture's caption against the swapped one"),
)  # fmt: skip


def study(probes: Mapping[str, Probe]) -> Page:
    """Return the study's page for encoders by name."""
    head, found = ["", *probes], list(probes.values())

    def line(name: str, value: Callable[[Probe], float | None]) -> list[str]:
        return [name, *("-" if (share := value(one)) is None else f"{share:.2f}" for one in found)]

    def lines(form: str, values: Callable[[Probe], Mapping[str, float]]) -> list[list[str]]:
        return [line(form.format(row), lambda one, row=row: values(one)[row]) for row in values(found[0])]  # type: ignore[misc]

    def by_encoder(values: Callable[[Probe], Mapping[str, Mapping[str, float]]]) -> str:
        tables = []
        for name, one in probes.items():
            cells = [[f"{row} row", *(f"{v:.2f}" for v in of.values())] for row, of in values(one).items()]
            tables.append(f"**{name}**\n\n{table(['', *OWN_ROW], cells)}")
        return "\n\n".join(tables)

    elsewhere = [
        line("class row between stars against in the prompt: distance / spread", lambda one: one.between_stars),
        line("cosine of the end row and the last padding row", lambda one: one.cosine),
    ]
    two = [
        *lines("told from the {} row", lambda one: one.bound),
        line("picture nearer to its caption than to the one with swapped colours", lambda one: one.matched),
    ]
    published = "\n".join(f"- {claim} ({source}). Here: {here}." for claim, source, here in _PUBLISHED)
    text = f"""# What is in which row of the text encoder

Stable Diffusion's text encoder is CLIP's: trained before, to match captions with pictures, and then frozen. The
miniature's first edition trained its own together with the UNet; the second edition's is pretrained as CLIP's is. Here
they read the same {COUNT} prompts. A number in a name is the weight of "words keep themselves" in pretraining: of the
distance between a word's row and that of the same word alone at the same place.

## When the class word is swapped

How far each row moves, as a share of its spread over all prompts. A concept in the class word's place moves the rows of
other words in the same way: this is what it can cost the prompt.

{table(head, lines("{} row", lambda one: one.change))}

## The class word's row elsewhere, and the padding

{table(head, elsewhere)}

## How much of a row a word explains

The share of a row's variance over the prompts that is between the choices of one word.

{by_encoder(lambda one: one.explained)}

## What can be told from a row

How often a linear map tells the word from the row, on prompts that it was not fitted on. A row knows only what stands
before it: what the class row seems to tell of accessory, companion and place is chance.

{by_encoder(lambda one: one.decoded)}

## Two objects

"A red cat and a blue car on the beach": how often the colour of the first object can be told. From the words alone,
without which belongs to which, it would be half of the cases.

{table(head, two)}

## What is published of the real encoder

Real weights were not at hand, so what others found has to stand beside these numbers. Most of it was seen in pictures,
not measured on rows, and cannot be matched to a decimal.

{published}

`python -m miniature.second.encoder` made this page.
"""
    return Page("encoder", text, {name: asdict(one) for name, one in probes.items()})


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", type=Path, default=FOLDER, help="folder of the first edition's weights")
    parser.add_argument(
        "--towers", action="append", metavar="NAME=FILE", help="pretrained encoders, or a folder of weights"
    )
    parser.add_argument("--output", type=Path, default=OUTPUT, help=f"folder of the page (default {OUTPUT})")
    parser.add_argument("--threads", type=int, help="of the computation")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        named = [given.partition("=") for given in options.towers or [f"second edition={second.TOWERS}"]]
        encoders: dict[str, CLIPTextModel | Towers] = {"first edition": load_miniature(options.first).text}
        encoders |= {name: _load(Path(path)) for name, _, path in named}
        study({name: _probe(found) for name, found in encoders.items()}).write(options.output)
    except (TrainingError, WeightsError) as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{options.output} can't be written ({error}): choose another with --output", file=sys.stderr)
        return 1
    print(options.output / "encoder.md")
    return 0


def _load(path: Path) -> CLIPTextModel | Towers:
    return load_miniature(path).text if path.is_dir() else load_towers(path)


def _probe(found: CLIPTextModel | Towers) -> Probe:
    if isinstance(found, Towers):
        return probe(encoder(found.text), match_pictures(found))
    return probe(encoder(found))


if __name__ == "__main__":
    sys.exit(main())
