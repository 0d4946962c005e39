"""What happens to a prompt when Custom Diffusion is put on too strongly, on the miniature.

    python -m miniature.studies.strong [--count 20] [--output docs/studies]

Users turn a concept up that does not look like itself, and lose the rest of the prompt. Here the weights of the
concepts that ship with the miniature are put on at W + s (W' - W), as `<delta:my-cat:s>` does it in the WebUI, with the
method alone and with AlignIT, from the same noise.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import torch

from alignit.concepts.concept import Concept, Dense, KeyValueWeights
from alignit.concepts.formats import load_concept
from alignit.concepts.weight_change import Change
from alignit.diffusers.unet import layer_modules
from miniature.concepts import CONCEPTS, CONCEPTS_FOLDER, concept_file
from miniature.demo import Subject
from miniature.studies.bench import Bench, surroundings
from miniature.studies.pages import Page, percent, run_study, table
from miniature.studies.table import score_each

STRENGTHS = (1.0, 1.5, 2.0, 2.5, 3.0, 3.5)
FIRST_SEED = 10_000_000
AROUND = 78  # the surroundings' seed


def at_strength(concept: Concept, unet: Any, strength: float) -> Concept:
    """Return a concept whose weights are W + s (W' - W) of this UNet's W."""
    if concept.weights is None:
        raise ValueError(f"{concept.name} has no weights")
    change = Change(concept.weights, strength)
    matrices = {}
    for layer, module in layer_modules(unet).items():
        unit = torch.eye(module.in_features)
        matrices[layer] = Dense(change.apply(layer, unit, unit @ module.weight.detach().T).T)
    return replace(concept, weights=KeyValueWeights(True, matrices))


def study(bench: Bench, count: int) -> Page:
    """Make the pictures of all concepts at all strengths, and the page."""
    found: dict[float, dict[str, list[float]]] = {strength: {} for strength in STRENGTHS}
    around = surroundings(count, AROUND)
    for number, spec in enumerate(CONCEPTS):
        seeds = [FIRST_SEED + 1000 * number + i for i in range(count)]
        concept = load_concept(concept_file(CONCEPTS_FOLDER, spec, "custom_diffusion"))
        for strength, of_strength in found.items():
            subject = Subject(at_strength(concept, bench.pipe.unet, strength), spec.look.kind)
            aligned, prompts = bench.aligned(subject.concept), [where.around(subject.mark) for where in around]
            pictures = [bench.pictures(prompts, seeds, aligned, align=align) for align in (False, True)]
            alone, with_alignit = (score_each(bench.read(made), around, spec.look) for made in pictures)
            of_strength[spec.name] = [alone.text, alone.image, with_alignit.text, with_alignit.image]
            print(f"{spec.name} at {strength}: {of_strength[spec.name]}", file=sys.stderr, flush=True)
    names = [spec.name for spec in CONCEPTS]
    rows = []
    for strength, of_strength in found.items():
        mean = [sum(column) / len(names) for column in zip(*of_strength.values(), strict=True)]
        of_each = [f"{percent(alone)}, {percent(with_alignit)}" for _, alone, _, with_alignit in of_strength.values()]
        rows.append([f"{strength:g}", *map(percent, mean), *of_each])
    head = ["strength", "text, alone", "image, alone", "text, AlignIT", "image, AlignIT", *names]
    text = f"""# Custom Diffusion put on too strongly, on the miniature

The weights of a concept at W + s (W' - W), as `<delta:my-cat:s>` puts them on in the WebUI; 1 is as it was trained.
{count} pictures for each concept, line and way, of prompts that name background, companion and accessory, from the same
noise. Text alignment is the share of these that are right, image alignment that of pictures with the concept's class,
colours and pattern all right; the last columns are image alignment by concept, alone and with AlignIT.

{table(head, rows)}

`python -m miniature.studies.strong` made this page.
"""
    by_name = {f"{strength:g}": of_strength for strength, of_strength in found.items()}
    return Page("strong", text, {"pictures": count, "text, image alone; text, image with AlignIT": by_name})


def main(arguments: list[str] | None = None) -> int:
    return run_study(__doc__, study, 20, arguments)


if __name__ == "__main__":
    sys.exit(main())
