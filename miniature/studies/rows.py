"""Which rows of the conditioning carry a CatVersion concept, on the miniature.

    python -m miniature.studies.rows [--count 60] [--output docs/studies]

AlignIT puts a concept in at its class word's row. An adapter of CatVersion changes what the text encoder makes of every
token, and nothing in its training says in which rows the concept has to be. So rows of the changed encoder are put into
the conditioning of the base prompt, some or all, and the classifier counts the pictures that show the concept. Then an
adapter is trained through AlignIT: only its class word's row, of a dummy prompt, reaches the UNet.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch

from alignit.formats import load_concept
from miniature.concepts import CONCEPTS, CONCEPTS_FOLDER, ConceptSpec, concept_file, train_concept
from miniature.customization import CatVersion
from miniature.demo import Subject
from miniature.studies.bench import Bench, Surroundings, surroundings
from miniature.studies.pages import Page, percent, run_study, table
from miniature.studies.table import Scores, score

FIRST_SEED = 9_000_000
AROUND = 77  # the surroundings' seed

Rows = Callable[[int, int], list[int]]  # of the class word's row and the number of the prompt's rows

RULES: dict[str, Rows] = {
    "none: the base prompt": lambda _word, _length: [],
    "the class word's": lambda word, _length: [word],
    "all words'": lambda _word, length: list(range(1, length)),
    "those after the words": lambda _word, length: list(range(length, 77)),
    "the class word's and those after the words": lambda word, length: [word, *range(length, 77)],
    "all: CatVersion itself": lambda _word, _length: list(range(77)),
}
ALIGNIT = "the class word's, of the dummy prompt: AlignIT"
TRAINED = "the same, with an adapter that was trained so"
TRAINED_ALONE = "all, with that adapter"


class AlignedCatVersion(CatVersion):
    """CatVersion trained through AlignIT: line 4 of Algorithm 1 is part of what the adapter learns in."""

    def encode(self, prompts: list[str]) -> torch.Tensor:
        """Return the base prompts' encodings [n, 77, width] with the class word's row of the dummy prompts."""
        encoded = self.miniature.encode(prompts)
        split = [prompt.replace(",", " ,").split() for prompt in prompts]
        dummy = [" ".join(word if word == self.class_word else "*" for word in words) for words in split]
        changed = self.encode_all(dummy)
        word = torch.zeros(encoded.shape[:2], dtype=torch.bool)
        for prompt, words in enumerate(split):
            word[prompt, [1 + i for i, text in enumerate(words) if text == self.class_word]] = True
        return torch.where(word[:, :, None], changed, encoded)

    def encode_all(self, prompts: list[str]) -> torch.Tensor:
        """Return CatVersion's own encodings [n, 77, width]."""
        return super().encode(prompts)


def mixed(base: torch.Tensor, changed: torch.Tensor, rule: Rows, prompts: list[str], class_word: str) -> torch.Tensor:
    """Return the base prompts' conditioning [n, 77, width] with the rule's rows of the changed encoder's."""
    result = base.clone()
    for i, prompt in enumerate(prompts):
        words = prompt.replace(",", " ,").split()
        chosen = rule(1 + words.index(class_word), 1 + len(words))
        result[i, chosen] = changed[i, chosen]
    return result


@dataclass
class _Total:
    scores: list[Scores]

    def row(self) -> list[str]:
        text, image = (sum(getattr(s, name) for s in self.scores) / len(self.scores) for name in ("text", "image"))
        return [percent(text), percent(image), *(percent(s.image) for s in self.scores)]


def study(bench: Bench, count: int) -> Page:
    """Make the pictures for all concepts, and the page."""
    totals: dict[str, _Total] = {}
    for number, spec in enumerate(CONCEPTS):
        around = surroundings(count, AROUND)
        seeds = [FIRST_SEED + 1000 * number + i for i in range(count)]
        for name, conditioning in _ways(bench, spec, around).items():
            shown = bench.read(bench.sample(conditioning, seeds))
            # Each picture has surroundings of its own.
            each = [score([seen], where, spec.look) for seen, where in zip(shown, around, strict=True)]
            mean = Scores(sum(s.text for s in each) / count, sum(s.image for s in each) / count)
            totals.setdefault(name, _Total([])).scores.append(mean)
            print(f"{spec.name}, {name}: text {mean.text:.2f}, image {mean.image:.2f}", file=sys.stderr, flush=True)
    numbers = {name: [[s.text, s.image] for s in total.scores] for name, total in totals.items()}
    return Page("rows", _text(totals, count), {"pictures": count, "concepts": _names(), "text, image": numbers})


def _ways(bench: Bench, spec: ConceptSpec, around: list[Surroundings]) -> dict[str, torch.Tensor]:
    subject = Subject(load_concept(concept_file(CONCEPTS_FOLDER, spec, "catversion")), spec.look.kind)
    aligned = bench.aligned(subject.concept)
    marked = [where.around(subject.mark) for where in around]
    prompts = [where.around(subject.class_word) for where in around]
    base = bench.miniature.encode(prompts)
    changed = bench.conditioning(marked, aligned, align=False)
    ways = {name: mixed(base, changed, rule, prompts, subject.class_word) for name, rule in RULES.items()}
    ways[ALIGNIT] = bench.conditioning(marked, aligned)
    trained = train_concept(bench.miniature, spec, AlignedCatVersion)
    assert isinstance(trained, AlignedCatVersion)
    with torch.no_grad():
        ways[TRAINED], ways[TRAINED_ALONE] = trained.encode(prompts), trained.encode_all(prompts)
    return ways


def _names() -> list[str]:
    return [spec.name for spec in CONCEPTS]


def _text(totals: dict[str, _Total], count: int) -> str:
    head = ["rows of the changed encoder", "text alignment", "image alignment", *_names()]
    return f"""# Which rows carry a CatVersion concept, on the miniature

AlignIT puts a concept in at its class word's row. An adapter of CatVersion changes what the text encoder makes of every
token, and nothing in its training says which rows have to hold the concept. Here rows of the changed encoder stand in
the base prompt's conditioning, and the others are the base model's: {count} pictures for each concept and line. Text
alignment is the share of background, companion and accessory that are right, image alignment that of pictures with the
concept's class, colours and pattern all right, the last columns by concept.

{table(head, [[name, *total.row()] for name, total in totals.items()])}

The concepts are those that ship with the miniature; in the last two lines they are trained anew, with the class word's
row of a dummy prompt as all that the UNet gets from the adapter, with the same rate and steps.

`python -m miniature.studies.rows` made this page.
"""


def main(arguments: list[str] | None = None) -> int:
    return run_study(__doc__, study, 60, arguments)


if __name__ == "__main__":
    sys.exit(main())
