"""The miniature with AlignIT on it, in batches, and its pictures read by the classifier."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from alignit.concepts.concept import Concept
from alignit.diffusers import AlignIT, AlignITWarning
from miniature.captions import PLACES, article
from miniature.classifier import read_attributes
from miniature.pipeline import make_pipeline
from miniature.sampling import SAMPLING_STEPS, sample
from miniature.weights import FOLDER, load_classifier, load_miniature
from miniature.world import ACCESSORIES, BACKGROUNDS, COMPANIONS

Shown = list[dict[str, str]]


@dataclass(frozen=True)
class Surroundings:
    """What a prompt asks for beside its object: the part of a prompt that customised models lose."""

    background: str
    companion: str
    accessory: str

    def around(self, mark: str) -> str:
        """Return the prompt with the object, as it is written, in these surroundings."""
        return (
            f"a photo of {article(mark) if mark[0].isalpha() else f'a {mark}'} wearing {article(self.accessory)} "
            f"with {article(self.companion)} {PLACES[self.background]}"
        )

    def values(self) -> dict[str, str]:
        """Return what a picture has to show, by attribute."""
        return {"background": self.background, "companion": self.companion, "accessory": self.accessory}


def surroundings(count: int, seed: int) -> list[Surroundings]:
    """Return different surroundings, in an order that the seed fixes."""
    every = [Surroundings(b, c, a) for b in BACKGROUNDS for c in COMPANIONS[1:] for a in ACCESSORIES[1:]]
    random.Random(seed).shuffle(every)
    return [every[i % len(every)] for i in range(count)]


class Bench:
    """The miniature, its classifier, and AlignIT on its pipeline."""

    def __init__(self, folder: Path = FOLDER, batch: int = 32, steps: int = SAMPLING_STEPS) -> None:
        """Load the weights of a folder.

        Args:
            batch: Pictures that are made at once.
            steps: Of sampling.

        Raises:
            WeightsError: They are missing or damaged.
        """
        self.miniature = load_miniature(folder)
        self.classifier = load_classifier(folder)
        self.pipe = make_pipeline(self.miniature)
        self.batch = batch
        self.steps = steps

    def aligned(self, *concepts: Concept) -> AlignIT:
        """Return AlignIT with concepts, or with none: for words at words."""
        return AlignIT(self.pipe, list(concepts))

    def pictures(
        self, prompts: Sequence[str], seeds: Sequence[int], aligned: AlignIT | None = None, **arguments: Any
    ) -> torch.Tensor:
        """Make a picture for each prompt and seed: [n, 3, SIZE, SIZE], bytes.

        Args:
            prompts: With concepts' marks where `aligned` is given.
            seeds: One for each prompt.
            aligned: What puts concepts in; without it the prompts are plain.
            arguments: Those of `AlignIT.prepared`: align, concept_controls, and so on.
        """
        if aligned is None:
            return self.sample(self.miniature.encode(list(prompts)), seeds)
        found = []
        for start in range(0, len(prompts), self.batch):
            part = slice(start, start + self.batch)
            with _quiet(), aligned.prepared(list(prompts[part]), **arguments) as embeddings:
                found.append(self.sample(embeddings["prompt_embeds"].detach(), seeds[part]))
        return torch.cat(found)

    def read(self, images: torch.Tensor) -> Shown:
        """Return what pictures show."""
        return read_attributes(self.classifier, images)

    def conditioning(self, prompts: Sequence[str], aligned: AlignIT, **arguments: Any) -> torch.Tensor:
        """Return the conditioning of prompts with concepts in their rows: [n, 77, width]."""
        with _quiet(), aligned.prepared(list(prompts), **arguments) as embeddings:
            rows: torch.Tensor = embeddings["prompt_embeds"].detach()
        return rows

    def sample(self, positive: torch.Tensor, seeds: Sequence[int]) -> torch.Tensor:
        """Make a picture for each conditioning [n, 77, width] and seed: [n, 3, SIZE, SIZE], bytes."""
        model, negative = self.miniature, self.miniature.encode([""])[0]
        # The pipeline's own scheduler, as AlignIT counts the steps by it.
        return sample(
            self.pipe.unet, model.vae, model.scale, positive, negative, list(seeds), batch=self.batch,
            steps=self.steps, scheduler=self.pipe.scheduler,
        )  # fmt: skip


@contextmanager
def _quiet() -> Iterator[None]:
    # A sweep goes over places where AlignIT warns, as it should, that nothing is injected.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AlignITWarning)
        yield


def to_image(picture: torch.Tensor) -> Image.Image:
    """Return one picture [3, SIZE, SIZE], in bytes, as an image."""
    return Image.fromarray(picture.permute(1, 2, 0).numpy())


def share(flags: Sequence[bool]) -> float:
    """Return the share of those that are true."""
    return sum(flags) / len(flags)
