"""Concepts for the miniature: looks that it has never seen, learned from a handful of pictures by three methods.

    python -m miniature.concepts [FOLDER] [--only my-cat] [--method textual_inversion]

writes, for each concept, its pictures and the files that users of the real methods have:

- ``textual_inversion/my-cat.pt``, an embedding as the WebUI saves it;
- ``custom_diffusion/my-cat.ckpt``, a "delta" checkpoint of Custom Diffusion's authors, token ``<new1>``;
- ``catversion/cat/pytorch_adapter.bin`` with ``adapter_config.json``, as CatVersion's authors' code saves it.

What is there already is kept: delete a file to train it again.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from miniature.autoencoder import pictures, to_input
from miniature.captions import caption
from miniature.classifier import Classifier, read_attributes
from miniature.customization import METHODS, OVERFITTED, Customized
from miniature.diffusion import noised
from miniature.model import STEPS
from miniature.state import progress
from miniature.weights import FOLDER, Miniature, WeightsError, load_classifier, load_miniature
from miniature.world import BACKGROUNDS, HELD_OUT, Look, Scene, paint, random_look, random_scene

PICTURES = 5  # of each concept
REPEATS = 3  # of each picture in a batch, under different noise
LEARNED, TRIES = 0.6, 6  # the identity that is wanted, and how many seeds it may take
CONCEPTS_FOLDER = Path(__file__).with_name("concept_files")
PROMPTS = ("a photo of", "a picture of", "a drawing of")  # before the concept, in training


@dataclass(frozen=True)
class ConceptSpec:
    """A concept to learn."""

    name: str
    look: Look

    def scenes(self) -> list[Scene]:
        """Return the scenes of its pictures: the object alone, at different places."""
        return [Scene(self.look, background, "none", "none") for background in BACKGROUNDS[:PICTURES]]

    def seeds(self) -> list[int]:
        """Return the painter's seeds of its pictures."""
        return [500_000 + 100 * HELD_OUT.index(self.look) + i for i in range(PICTURES)]


# One of a class, so that CatVersion's files, which are called by the class word, are told apart.
CONCEPTS = tuple(ConceptSpec(f"my-{HELD_OUT[i].kind}", HELD_OUT[i]) for i in (1, 2, 6, 10))


def train_concept(
    miniature: Miniature, spec: ConceptSpec, method: type[Customized], seed: int = 0, steps: int | None = None
) -> Customized:
    """Train one concept with one method, on prompts such as "a photo of a <new1>".

    Args:
        method: Such as one of `customization.METHODS`.
        seed: Of the noise and of what the method initialises at random.
        steps: The method's own number if None.
    """
    torch.manual_seed(seed)
    customized = method(miniature, spec.look.kind)
    with torch.no_grad():
        latents = _latents(miniature, spec.scenes(), spec.seeds()).repeat(REPEATS, 1, 1, 1)
    optimizer = torch.optim.AdamW(customized.groups(), weight_decay=0.0)
    count = steps or customized.steps
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / count)
    rng = random.Random(seed)
    others = _others(miniature, spec, rng) if customized.prior else iter(())
    for step in progress(f"{spec.name} by {method.__name__}", 0, count):
        generator = torch.Generator().manual_seed(100_000 * seed + step)
        texts = [f"{rng.choice(PROMPTS)} {customized.phrase}" for _ in latents]
        batch = latents
        if customized.prior:
            other_latents, other_texts = next(others)
            batch, texts = torch.cat([batch, other_latents]), texts + other_texts
        places = (torch.randperm(len(batch), generator=generator) + torch.rand(1, generator=generator)) / len(batch)
        t = (places * STEPS).long()
        x, v = noised(batch, t, torch.randn(batch.shape, generator=generator))
        with torch.autocast("cpu", torch.bfloat16):
            out = customized.denoise(x, t, texts)
        loss = (out.float() - v).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rates.step()
    return customized


def _latents(miniature: Miniature, scenes: list[Scene], seeds: list[int]) -> torch.Tensor:
    latents: torch.Tensor = miniature.vae.encode(to_input(pictures(scenes, seeds))).latent_dist.mean
    return latents * miniature.scale


def _others(
    miniature: Miniature, spec: ConceptSpec, rng: random.Random, count: int = 48, batch: int = 8
) -> Iterator[tuple[torch.Tensor, list[str]]]:
    """Yield batches of other pictures of the class with captions, which keep the class what it is."""
    scenes: list[Scene] = []
    while len(scenes) < count:
        look = random_look(rng)
        if look.kind == spec.look.kind:
            scenes.append(random_scene(rng, look))
    with torch.no_grad():
        latents = _latents(miniature, scenes, [rng.getrandbits(31) for _ in scenes])
    while True:
        chosen = rng.sample(range(count), batch)
        yield latents[chosen], [caption(scenes[i], rng) for i in chosen]


def identity(customized: Customized, look: Look, classifier: Classifier, count: int = 32, seed: int = 0) -> float:
    """Return the share of pictures of training's prompts that show the class, both colours and the pattern right."""
    prompts = [f"{PROMPTS[i % len(PROMPTS)]} {customized.phrase}" for i in range(count)]
    images = customized.generate(prompts, [8_000_000 + 10_000 * seed + i for i in range(count)])
    return sum(look.shown_in(seen) for seen in read_attributes(classifier, images)) / count


def write_pictures(spec: ConceptSpec, folder: Path) -> None:
    """Write a concept's pictures as PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, (scene, seed) in enumerate(zip(spec.scenes(), spec.seeds(), strict=True)):
        paint(scene, random.Random(seed)).save(folder / f"{i}.png")


def concept_file(folder: Path, spec: ConceptSpec, method: str) -> Path:
    """Return where the file of a concept by a method is."""
    names = {
        "textual_inversion": f"{spec.name}.pt",
        "custom_diffusion": f"{spec.name}.ckpt",
        OVERFITTED: f"{spec.name}.ckpt",
        "catversion": f"{spec.look.kind}/pytorch_adapter.bin",
    }
    return folder / method / names[method]


def _well_trained(
    miniature: Miniature, classifier: Classifier, spec: ConceptSpec, method: type[Customized], seed: int
) -> tuple[Customized, float, int]:
    """Train with one seed after the other until the concept is learned; return the best, its identity and its seed."""
    tried = []
    for number in range(seed, seed + TRIES):
        customized = train_concept(miniature, spec, method, number)
        tried.append((customized, identity(customized, spec.look, classifier), number))
        if tried[-1][1] >= LEARNED:
            break
    return max(tried, key=lambda one: one[1])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=CONCEPTS_FOLDER)
    parser.add_argument("--only", choices=[spec.name for spec in CONCEPTS], action="append")
    parser.add_argument("--method", choices=list(METHODS), action="append")
    parser.add_argument("--weights", type=Path, default=FOLDER)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    torch.set_num_threads(min(2, torch.get_num_threads()))
    try:
        miniature, classifier = load_miniature(options.weights), load_classifier(options.weights)
        for spec in CONCEPTS:
            if options.only and spec.name not in options.only:
                continue
            write_pictures(spec, options.folder / "pictures" / spec.name)
            for method in options.method or METHODS:
                path = concept_file(options.folder, spec, method)
                if path.exists():
                    print(f"{path} is there already")
                    continue
                path.parent.mkdir(parents=True, exist_ok=True)
                customized, learned, seed = _well_trained(miniature, classifier, spec, METHODS[method], options.seed)
                customized.save(options.folder / method, spec.name)
                print(f"{path}: identity {learned:.3f}, seed {seed}", flush=True)
    except (WeightsError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped. The files written so far are complete.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
