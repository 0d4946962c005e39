"""A grid of pictures: the class word, the plain concept, and AlignIT, for a few prompts.

    python -m miniature.demo [--concept my-robot] [--prompt "a photo of a {} in the garden"] [--output a.png]

uses the miniature and the concepts that were trained on it. With a real model:

    python -m miniature.demo --model CHECKPOINT --file my-cat.pt --class-word cat --prompt "a photo of a {} on the moon"

CHECKPOINT is a .safetensors file or a folder for diffusers. {} is where the concept stands.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from alignit.concepts.concept import Concept, ConceptFileError, Family
from alignit.concepts.formats import load_concept
from alignit.diffusers import AlignIT, AlignITError
from evaluation.errors import EvaluationError
from evaluation.pipelines import load_pipeline
from miniature.concepts import CONCEPTS, CONCEPTS_FOLDER, concept_file
from miniature.customization import METHODS
from miniature.grids import draw_grid
from miniature.model import LATENT
from miniature.pipeline import make_pipeline
from miniature.sampling import GUIDANCE, SAMPLING_STEPS
from miniature.state import progress
from miniature.weights import FOLDER, WeightsError, load_miniature
from miniature.words import rows

PROMPTS = (
    "a photo of a {} in the snow with a ball",
    "a picture of a {} wearing a hat at night",
    "a photo of a {} in the garden beside a box",
    "a drawing of a {} wearing a crown on the beach",
)


class DemoError(Exception):
    """The grid can't be made; the message says why and what to do."""


@dataclass(frozen=True)
class Subject:
    """A concept from a file, and what it is.

    Attributes:
        concept: What the file holds.
        class_word: Its class word.
    """

    concept: Concept
    class_word: str

    @property
    def mark(self) -> str:
        """What stands for it in a prompt."""
        if self.concept.family is Family.CUSTOM_DIFFUSION and self.concept.tokens:
            return f"{self.concept.tokens[0].name} {self.class_word}"
        name = self.concept.tokens[0].name.strip("<>") if self.concept.tokens else self.concept.name
        return f"<{name}={self.class_word}>"


@dataclass(frozen=True)
class Settings:
    """How pictures are made.

    Attributes:
        size: Their side in pixels.
        steps: Sampling steps.
        guidance: Scale of the guidance.
        seed: The first prompt's; each next prompt has the next.
    """

    size: int
    steps: int
    guidance: float
    seed: int

    def arguments(self, row: int = 0) -> dict[str, Any]:
        """Return them as a pipeline's arguments, for the prompt of a row."""
        return {
            "num_inference_steps": self.steps,
            "guidance_scale": self.guidance,
            "height": self.size,
            "width": self.size,
            "generator": torch.Generator().manual_seed(self.seed + row),
        }


def make_grid(
    pipe: Any, subjects: Sequence[Subject], prompts: Sequence[str], settings: Settings
) -> tuple[list[str], list[list[Image.Image]]]:
    """Make the pictures: a row for each prompt, and columns for the class word and each subject, plain and aligned.

    Returns:
        The columns' labels, and the rows.

    Raises:
        AlignITError, ConceptFileError: A concept cannot be used with this model.
    """
    columns = ["class word"]
    makers: list[Any] = [lambda text, arguments: pipe(with_concept(text, subjects[0].class_word), **arguments)]
    for subject in subjects:
        aligned = AlignIT(pipe, subject.concept)
        for align in (False, True):
            columns.append(f"{subject.concept.family.value}\n{'with AlignIT' if align else 'plain'}")
            makers.append(_maker(aligned, subject.mark, align))
    grid: list[list[Image.Image]] = [[] for _ in prompts]
    for index in progress("Pictures", 0, len(prompts) * len(makers)):
        row, column = divmod(index, len(makers))
        grid[row].append(makers[column](prompts[row], settings.arguments(row)).images[0])
    return columns, grid


def with_concept(prompt: str, concept: str) -> str:
    """Return a prompt with what stands for the concept in the place of {}."""
    return prompt.replace("{}", concept)  # and no other braces: it is the user's text


def _maker(aligned: AlignIT, mark: str, align: bool) -> Any:
    return lambda text, arguments: aligned(with_concept(text, mark), align=align, **arguments)


def miniature_subjects(name: str) -> list[Subject]:
    """Return a concept of the miniature as each method has learned it.

    Raises:
        DemoError: There is none of this name.
        ConceptFileError: A file is missing or damaged.
    """
    spec = next((spec for spec in CONCEPTS if spec.name == name), None)
    if spec is None:
        raise DemoError(f"There is no concept {name}: choose of {', '.join(spec.name for spec in CONCEPTS)}")
    files = [concept_file(CONCEPTS_FOLDER, spec, method) for method in METHODS]
    return [Subject(load_concept(file), spec.look.kind) for file in files if file.exists()]


def check_words(prompts: Sequence[str]) -> None:
    """Refuse prompts that the miniature does not understand.

    Raises:
        DemoError: One has no place for the concept, or a word that was not in training.
    """
    for prompt in prompts:
        try:
            rows(with_concept(prompt, "cat"))
        except ValueError as error:
            raise DemoError(f"{error}. (In the prompt '{prompt}'.)") from None


def run(options: argparse.Namespace) -> Path:
    """Make the grid that the options ask for; return where it is.

    Raises:
        DemoError, EvaluationError, WeightsError, ConceptFileError, AlignITError: What is missing or cannot be used.
    """
    prompts = options.prompt or list(PROMPTS)
    if any("{}" not in prompt for prompt in prompts):
        raise DemoError("A prompt has no {} where the concept shall stand")
    if options.model is not None:
        if options.file is None or options.class_word is None:
            raise DemoError("A real model needs --file with a concept trained on it, and --class-word")
        pipe, subjects = (
            load_pipeline(options.model, "cuda" if torch.cuda.is_available() else "cpu"),
            [Subject(load_concept(options.file), options.class_word)],
        )
        settings = Settings(options.size or pipe.unet.config.sample_size * 8, 30, 7.5, options.seed)
    else:
        check_words(prompts)
        pipe, subjects = make_pipeline(load_miniature(options.weights)), miniature_subjects(options.concept)
        settings = Settings(8 * LATENT, SAMPLING_STEPS, GUIDANCE, options.seed)
    if not subjects:
        raise DemoError(f"{CONCEPTS_FOLDER} has no files of {options.concept}: python -m miniature.concepts makes them")
    path: Path = options.output
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)  # before the work
    columns, grid = make_grid(pipe, subjects, prompts, settings)
    with _writing(path):
        draw_grid(columns, [prompt.replace("{}", "[concept]") for prompt in prompts], grid).save(path)
    return path.resolve()


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise DemoError(f"{path} can't be written ({error}): choose another with --output") from None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concept", default="my-fish", help="one of the miniature's")
    parser.add_argument("--prompt", action="append", help="with {} where the concept stands; can be repeated")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--weights", type=Path, default=FOLDER, help="folder of the miniature's weights")
    parser.add_argument("--output", type=Path, default=Path("alignit-demo.png"))
    parser.add_argument("--model", type=Path, help="a real checkpoint instead of the miniature")
    parser.add_argument("--file", type=Path, help="a concept's file, trained on that model")
    parser.add_argument("--class-word", help="what that concept is")
    parser.add_argument("--size", type=int, help="the pictures' side in pixels; by default what the model is made for")
    options = parser.parse_args(arguments)
    begin = time.monotonic()
    try:
        path = run(options)
    except (DemoError, EvaluationError, WeightsError, ConceptFileError, AlignITError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(f"{path} ({time.monotonic() - begin:.0f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
