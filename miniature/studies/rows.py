"""Which rows of the conditioning carry a concept, on the miniature.

    python -m miniature.studies.rows [--count 20] [--output docs/studies]

AlignIT puts a concept in at its class word's rows. But the concept's token, or CatVersion's changed encoder, changes
what the text encoder makes of the tokens after it too, the padding included; Custom Diffusion's weights change the
keys and values of all rows; and nothing in training says in which rows the concept has to be. So rows of the customised
conditioning are put into that of the base prompt, some or all, with their customised keys and values, and the
classifier counts the pictures that show the concept.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from alignit.concepts.formats import load_concept
from alignit.concepts.weight_change import Change
from alignit.diffusers.unet import layer_modules
from miniature.concepts import CONCEPTS, CONCEPTS_FOLDER, concept_file
from miniature.customization import METHODS
from miniature.demo import Subject
from miniature.studies.bench import Bench, Surroundings, surroundings
from miniature.studies.pages import Page, percent, run_study, table
from miniature.studies.table import TITLES, Scores, score_each

FIRST_SEED = 9_000_000
AROUND = 77  # the surroundings' seed


@dataclass(frozen=True)
class Places:
    """Where things are in a prompt's conditioning: row numbers.

    Attributes:
        concept: The concept's.
        words: Those of all tokens of the prompt, the concept's too.
        padding: Those after them, up to the last.
    """

    concept: list[int]
    words: list[int]
    padding: list[int]


Rule = Callable[[Places], tuple[list[int], list[int]]]  # rows of the target prompt, and of the dummy prompt
START = [0]  # the start token's row; Textual Inversion does not change it, CatVersion does

NONE = "none: the base prompt"
ALONE = "all: the method alone"
ALIGNIT = "the concept's, of the dummy prompt: AlignIT"
RULES: dict[str, Rule] = {
    NONE: lambda _: ([], []),
    ALIGNIT: lambda at: ([], at.concept),
    "the concept's, of the target prompt": lambda at: (at.concept, []),
    "all words', of the target prompt": lambda at: (at.words, []),
    "the padding's, of the target prompt": lambda at: (at.padding, []),
    "the start token's": lambda _: (START, []),
    "AlignIT, and the start token's": lambda at: ([], at.concept + START),
    "AlignIT, and the padding's of the dummy prompt": lambda at: ([], at.concept + at.padding),
    "AlignIT, and the start token's and the padding's of the dummy prompt": lambda at: (
        [],
        START + at.concept + at.padding,
    ),
    "AlignIT, and the padding's of the target prompt": lambda at: (at.padding, at.concept),
    ALONE: lambda at: (START + at.words + at.padding, []),
}

# What AlignIT itself can be asked for (see docs/controls.md), in place of what is put together here; for two concepts.
WITH_OPTIONS = CONCEPTS[:2]
OPTIONS = ("reach difference", "reach difference 0.5", "context prompt", "context prompt; reach difference")


@dataclass(frozen=True)
class Mixture:
    """What stands in place of prompts.

    Attributes:
        conditioning: [n, 77, width].
        customised: [n, 77], true for rows of the customised conditioning.
        negative: Whether the negative prompt is customised too, as the method alone does it.
    """

    conditioning: torch.Tensor
    customised: torch.Tensor
    negative: bool


def places(before: int, concept: int, after: int, length: int = 77) -> Places:
    """Return the rows of a prompt from its numbers of tokens before the concept, of the concept, and after it."""
    first, end = 1 + before, 1 + before + concept + after
    return Places(list(range(first, first + concept)), list(range(1, end)), list(range(end, length)))


def mixed(base: torch.Tensor, target: torch.Tensor, dummy: torch.Tensor, rule: Rule, at: list[Places]) -> torch.Tensor:
    """Return the base prompts' conditioning [n, 77, width] with the rule's rows of the customised ones."""
    result = base.clone()
    for i, of_prompt in enumerate(at):
        for source, rows in zip((target, dummy), rule(of_prompt), strict=True):
            result[i, rows] = source[i, rows]
    return result


Found = dict[str, dict[str, Scores]]  # by the rows that are put in, and by concept


def study(bench: Bench, count: int) -> Page:
    """Make the pictures for all concepts, and the page."""
    found: dict[str, Found] = {method: defaultdict(dict) for method in METHODS}
    around = surroundings(count, AROUND)
    for number, spec in enumerate(CONCEPTS):
        seeds = [FIRST_SEED + 1000 * number + i for i in range(count)]
        for method in METHODS:
            subject = Subject(load_concept(concept_file(CONCEPTS_FOLDER, spec, method)), spec.look.kind)
            for name, mixture in ways(bench, subject, around).items():
                shown = bench.read(pictures(bench, subject, mixture, seeds))
                _note(found[method], name, spec.name, score_each(shown, around, spec.look))
            aligned = bench.aligned(subject.concept)
            marked = [where.around(subject.mark) for where in around]
            for options in OPTIONS if spec in WITH_OPTIONS else ():
                shown = bench.read(bench.pictures(marked, seeds, aligned, concept_controls=options))
                _note(found[method], asked(options), spec.name, score_each(shown, around, spec.look))
    numbers = {
        method: {
            name: {concept: [one.text, one.image] for concept, one in scores.items()}
            for name, scores in of_method.items()
        }
        for method, of_method in found.items()
    }
    return Page("rows", _text(found, count), {"pictures": count, "text, image": numbers})


def asked(options: str) -> str:
    """Return the name of the line of AlignIT with options."""
    return f"AlignIT with `{options}`"


def _note(found: dict[str, dict[str, Scores]], name: str, concept: str, mean: Scores) -> None:
    found[name][concept] = mean
    print(f"{concept}, {name}: {mean.text:.2f}, {mean.image:.2f}", file=sys.stderr, flush=True)


def ways(bench: Bench, subject: Subject, around: Sequence[Surroundings]) -> dict[str, Mixture]:
    """Return what stands in place of prompts in these surroundings for each of RULES."""
    aligned = bench.aligned(subject.concept)
    tokens = subject.concept.tokens
    # Custom Diffusion's concept is its token and the class word, CatVersion's the class word alone.
    size = (tokens[0].length if tokens else 1) + (subject.concept.weights is not None)
    marked = [where.around(subject.mark) for where in around]
    beside = [[len(part.split()) for part in prompt.split(subject.mark)] for prompt in marked]
    stars = [" ".join(["*"] * before + [subject.mark] + ["*"] * after) for before, after in beside]
    at = [places(before, size, after) for before, after in beside]
    base = bench.conditioning(marked, aligned, concept_strength=0.0)
    target, dummy = (bench.conditioning(texts, aligned, align=False) for texts in (marked, stars))
    no, yes = torch.zeros(*base.shape[:2], 1), torch.ones(*base.shape[:2], 1)
    return {
        name: Mixture(mixed(base, target, dummy, rule, at), mixed(no, yes, yes, rule, at)[..., 0].bool(), name == ALONE)
        for name, rule in RULES.items()
    }


def pictures(bench: Bench, subject: Subject, mixture: Mixture, seeds: Sequence[int]) -> torch.Tensor:
    """Make a picture for each conditioning and seed: [n, 3, SIZE, SIZE], bytes."""
    found = []
    weights = subject.concept.weights
    for start in range(0, len(seeds), bench.batch):
        part = slice(start, start + bench.batch)
        customised = mixture.customised[part]
        marks = torch.cat([torch.full_like(customised, mixture.negative), customised])
        with nullcontext() if weights is None else _customised(bench.pipe.unet, Change(weights), marks):
            found.append(bench.sample(mixture.conditioning[part], seeds[part]))
    return torch.cat(found)


@contextmanager
def _customised(unet: Any, change: Change, marks: torch.Tensor) -> Iterator[None]:
    """Let customised weights make the keys and values of the marked rows [batch, 77], and the model's the others."""

    def replaced(layer: str, inputs: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        return torch.where(marks[:, :, None], change.apply(layer, inputs, outputs), outputs)

    with ExitStack() as stack:
        for layer, module in layer_modules(unet).items():
            hook = module.register_forward_hook(lambda _, args, outputs, of=layer: replaced(of, args[0], outputs))
            stack.callback(hook.remove)
        yield


def _table(of_method: Found, head: str, lines: Sequence[str], names: Sequence[str]) -> str:
    rows = []
    for line in lines:
        scores = [of_method[line][name] for name in names]
        text, image = (sum(getattr(one, key) for one in scores) / len(scores) for key in ("text", "image"))
        rows.append([line, percent(text), percent(image), *(percent(one.image) for one in scores)])
    return table([head, "text alignment", "image alignment", *names], rows)


def _tables(of_method: Found) -> str:
    of_all, of_some = ([spec.name for spec in specs] for specs in (CONCEPTS, WITH_OPTIONS))
    lines = [ALIGNIT, *map(asked, OPTIONS), ALONE]
    return "\n\n".join(
        [
            _table(of_method, "rows of the customised conditioning", list(RULES), of_all),
            _table(of_method, "the same, and AlignIT with options", lines, of_some),
        ]
    )


def _text(found: dict[str, Found], count: int) -> str:
    tables = "\n\n".join(f"## {TITLES[method]}\n\n{_tables(of_method)}" for method, of_method in found.items())
    return f"""# Which rows carry a concept, on the miniature

AlignIT puts a concept in at its class word's rows. But the concept's token, or CatVersion's changed encoder, changes
what the text encoder makes of other tokens too, the padding included; Custom Diffusion's weights change the keys and
values of all rows; and nothing in training says in which rows the concept has to be. Here some rows of the customised
conditioning stand in the base prompt's, with their customised keys and values, and the others are the base model's:
{count} pictures for each concept and line. Text alignment is the share of background, companion and accessory that are
right, image alignment that of pictures with the concept's class, colours and pattern all right, the last columns by
concept. With Custom Diffusion, the method alone has its weights in the negative prompt as well, as it has them itself.
A second table has AlignIT with [options](../controls.md#beyond-the-concepts-own-rows), for {len(WITH_OPTIONS)} of the
concepts.

{tables}

This model cannot say what the options cost in Stable Diffusion: its text encoder was trained with the UNet, half of the
captions word by word, so that a concept costs the prompt nothing. Stable Diffusion's is CLIP, trained beforehand and
frozen.

The concepts are those that ship with the miniature.

`python -m miniature.studies.rows` made this page.
"""


def main(arguments: list[str] | None = None) -> int:
    return run_study(__doc__, study, 20, arguments)


if __name__ == "__main__":
    sys.exit(main())
