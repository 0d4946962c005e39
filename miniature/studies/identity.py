"""How well the shipped concepts are learned: their identity on prompts like those of training.

    python -m miniature.studies.identity [--count 60] [--output docs/studies]

For each concept and method it makes pictures of prompts such as "a photo of a <new1> cat", with the method alone and
with AlignIT, and the classifier counts those that show the class, both colours and the pattern. Beside them is what the
model makes of the look in words, which it was never trained on either.
"""

from __future__ import annotations

import sys

from PIL import Image

from alignit.concepts.formats import load_concept
from miniature.captions import article, describe
from miniature.concepts import CONCEPTS, CONCEPTS_FOLDER, PROMPTS, concept_file
from miniature.customization import METHODS
from miniature.demo import Subject
from miniature.grids import draw_grid
from miniature.studies.bench import Bench, to_image
from miniature.studies.pages import Page, run_study, table
from miniature.studies.table import TITLES, right_looks

FIRST_SEED = 8_000_000
IN_WORDS = "in words"


def study(bench: Bench, count: int) -> Page:
    """Make the pictures of all concepts by all methods, and the page."""
    rows, grid = [], []
    for number, spec in enumerate(CONCEPTS):
        seeds = [FIRST_SEED + 1000 * number + i for i in range(count)]
        leads = [PROMPTS[i % len(PROMPTS)] for i in range(count)]
        made = [bench.pictures([f"{lead} {article(describe(spec.look))}" for lead in leads], seeds)]
        for method in METHODS:
            subject = Subject(load_concept(concept_file(CONCEPTS_FOLDER, spec, method)), spec.look.kind)
            aligned = bench.aligned(subject.concept)
            prompts = [f"{lead} a {subject.mark}" for lead in leads]
            for align in (False, True):
                made.append(bench.pictures(prompts, seeds, aligned, align=align))
        rows.append([spec.name, *(f"{right_looks(bench.read(images), spec.look):.3f}" for images in made)])
        grid.append([_learned_from(spec.name), *(to_image(images[0]) for images in made)])
        print(rows[-1], file=sys.stderr, flush=True)
    ways = [IN_WORDS] + [f"{TITLES[method]}{more}" for method in METHODS for more in ("", " + AlignIT")]
    labels = [f"{spec.name}: {', '.join(spec.look.values().values())}" for spec in CONCEPTS]
    picture = draw_grid(["one of its pictures", *(way.replace(" + ", "\n+ ") for way in ways)], labels, grid)
    numbers = {row[0]: dict(zip(ways, map(float, row[1:]), strict=True)) for row in rows}
    text = f"""# How well the miniature's concepts are learned

The share of {count} pictures of prompts like those of training, "a photo of a <new1> cat", that show the concept's
class, both colours and pattern, all right. The files are those in `miniature/concept_files`, one training seed.
"In words" is without a concept: the model is told the look, such as "a photo of a purple cat with yellow checks". No
picture of its training had it: the number says how hard the look is for this model.

{table(["", *ways], rows)}

The first seed:

![One of each concept's pictures, and what each method makes of it, alone and with AlignIT](identity.png)

`python -m miniature.studies.identity` made this page.
"""
    return Page("identity", text, {"pictures": count, "identity": numbers}, {"": picture})


def _learned_from(name: str) -> Image.Image:
    return Image.open(CONCEPTS_FOLDER / "pictures" / name / "0.png").convert("RGB")


def main(arguments: list[str] | None = None) -> int:
    return run_study(__doc__, study, 60, arguments)


if __name__ == "__main__":
    sys.exit(main())
