"""What is to be made: prompts, seeds and ways."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from evaluation.errors import EvaluationError

CLASS_WORD, PLAIN, ALIGNED = "class word", "plain", "AlignIT"
WAYS = (CLASS_WORD, PLAIN, ALIGNED)
TITLES = {CLASS_WORD: "Class word", PLAIN: "Concept alone", ALIGNED: "AlignIT"}
_PLACE = "{}"
# Of --quick: the concept with other things, places and colours in each, for animals and for objects.
QUICK_PROMPTS = (
    "a photo of a {} in the snow beside a red ball",
    "a {} on a wooden table in front of a window",
    "an oil painting of a {} in a garden with sunflowers",
    "a {} on the beach under a blue umbrella",
    "a photo of a {} in a city street at night with neon signs",
)
QUICK_SEEDS = 4


@dataclass(frozen=True)
class Subject:
    """The concept that is evaluated.

    Attributes:
        mark: What stands for it in a prompt: ``<my-cat=cat>``, or ``<new1> cat`` for Custom Diffusion.
        class_word: What it is, in ordinary words.
        extra: What stands at the end of each prompt that holds it, such as ``<delta:my-run:1>``.
    """

    mark: str
    class_word: str
    extra: str = ""


@dataclass(frozen=True)
class Shot:
    """One picture to make.

    Attributes:
        number: The prompt's number, from 0.
        template: The prompt, with ``{}`` where the concept stands.
        seed: Of the noise; the same for all ways.
        way: One of `WAYS`.
    """

    number: int
    template: str
    seed: int
    way: str

    @property
    def key(self) -> str:
        """Return a name for it, also of its file."""
        return f"{self.number:03}-{self.seed}-{self.way.replace(' ', '-').lower()}"

    def prompt(self, subject: Subject) -> str:
        """Return the prompt to make it with."""
        if self.way == CLASS_WORD:
            return self.text(subject)
        return " ".join(part for part in (self.template.replace(_PLACE, subject.mark), subject.extra) if part)

    def text(self, subject: Subject) -> str:
        """Return what the picture is to show, in ordinary words: text alignment is measured against it."""
        return self.template.replace(_PLACE, subject.class_word)


def read_prompts(path: Path, class_word: str) -> list[str]:
    """Read a list of prompts, one on a line, with ``{}`` where the concept stands, as CustomConcept101 has them.

    Some of its lists have the class word itself in that place; that is the place then.

    Raises:
        EvaluationError: The file cannot be read, or a line has no such place, or more than one.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationError(f"The prompt list {path} can't be read ({error}): give another with --prompts") from None
    prompts = []
    for number, line in enumerate(lines, 1):
        prompt = line.strip()
        if not prompt:
            continue
        if "{0}" in prompt or "{1}" in prompt:
            raise EvaluationError(
                f"{path.name}, line {number}: it is for several concepts ({{0}}, {{1}}); choose a list for one concept"
            )
        if _PLACE not in prompt:
            prompt = re.sub(rf"\b{re.escape(class_word)}\b", _PLACE, prompt)
        if prompt.count(_PLACE) != 1:
            raise EvaluationError(
                f"{path.name}, line {number}: write {{}} once, where the concept stands. It is: {line.strip()[:80]!r}"
            )
        prompts.append(prompt)
    if not prompts:
        raise EvaluationError(f"The prompt list {path} is empty: write one prompt on a line, with {{}} for the concept")
    return prompts


def shots(prompts: Sequence[str], seeds: int, first_seed: int = 1) -> Iterator[Shot]:
    """Yield all pictures, those to compare one after the other: a run that is stopped has whole comparisons."""
    for seed in range(first_seed, first_seed + seeds):
        for number, template in enumerate(prompts):
            for way in WAYS:
                yield Shot(number, template, seed, way)
