"""The paper's Table 1 in kind: its three methods with and without AlignIT, on the miniature.

    python -m miniature.studies.table [--work FOLDER] [--output docs/studies] [--part 1/2]

Protocol, fixed before the reported run. Concepts: those of `TEST`; rates and steps of training are chosen on
`VALIDATION`, with other prompts and other seeds. Each concept is trained by each method with three seeds, and by Custom
Diffusion once more with a mistake that users make: without other pictures of the class, at the rate at which the
validation concept began to lose the rest of the prompt. No training is chosen by its result. Each of these has pictures
of 20 prompts with 20 seeds, so a concept has 60 seeds, with the method alone and with AlignIT, and from the same noise
with the class word, the ceiling of text alignment. The classifier reads all pictures:

- text alignment: of background, companion and accessory, which every prompt names, the share that is shown;
- image alignment: the share of pictures with the concept's class, colours and pattern, all right;
- overall: their geometric mean.

Pictures have 8 steps of DDIM: on validation prompts the class word showed as much of what they name as with 20.

Intervals hold 95% of 2,000 bootstrap samples, drawn over trained concepts and, in each of them, over prompts.

What is made is kept in the work folder; the same command goes on from there. With `--part 1/2` a process does only the
first of two halves, to go on with the other on another core; the page is made by the command without it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from alignit.concepts.concept import ConceptFileError
from alignit.concepts.formats import load_concept
from evaluation.intervals import interval
from evaluation.lines import add_line, read_lines
from miniature.concepts import CONCEPTS, ConceptSpec, concept_file, train_concept
from miniature.customization import METHODS, OVERFITTED, OverfittedCustomDiffusion
from miniature.demo import Subject
from miniature.grids import draw_grid
from miniature.state import TrainingError, prepare_folder, progress
from miniature.studies.bench import Bench, Surroundings, share, surroundings, to_image
from miniature.studies.pages import OUTPUT, Page, table
from miniature.studies.plots import alignment_plot, concepts_plot
from miniature.weights import FOLDER, MODEL_FILE, WeightsError
from miniature.world import Look

VALIDATION = ("my-robot",)
TEST = ("my-cat", "my-fish", "my-car")
TRAINING_SEEDS = 3
PROMPTS, SEEDS = 20, 20  # seeds of each trained concept
FIRST_SEED = 6_000_000
SAMPLING_STEPS = 8
SAMPLES = 2_000  # of the bootstrap
WAYS = ("plain", "AlignIT")
CLASS_WORD = "class word"
_TRAINING = ("steps", "rate", "weight_rate", "prior")  # of a method
TRAINED = METHODS | {OVERFITTED: OverfittedCustomDiffusion}
TITLES = {
    "textual_inversion": "Textual Inversion",
    "custom_diffusion": "Custom Diffusion",
    OVERFITTED: "Custom Diffusion, overfitted",
    "catversion": "CatVersion",
}
# The paper's Table 1: how much AlignIT raises text alignment, relative to the method alone.
PAPER = {"textual_inversion": 0.164, "custom_diffusion": 0.052, "catversion": 0.082, OVERFITTED: 0.052}


@dataclass(frozen=True)
class Unit:
    """What a block of pictures is made of: one prompt, with all its seeds.

    Attributes:
        method: One of TRAINED, or CLASS_WORD.
        concept: The concept's name.
        training: Its training seed, which its noise depends on too.
        way: One of WAYS, or CLASS_WORD.
        prompt: The prompt's number.
    """

    method: str
    concept: str
    training: int
    way: str
    prompt: int

    @property
    def key(self) -> str:
        """Return a name for it, for the file of results."""
        return f"{self.method}/{self.concept}/{self.training}/{self.way}/{self.prompt}"


@dataclass(frozen=True)
class Scores:
    """How the pictures of a unit are aligned; shares from 0 to 1.

    Attributes:
        text: Text alignment.
        image: Image alignment.
        right: Of each attribute that the prompt or the concept asks for.
    """

    text: float
    image: float
    right: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Interval:
    """A number, and where 95% of its bootstrap samples are."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Write it for a table."""
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def reported_prompts() -> list[Surroundings]:
    """Return the surroundings of the reported prompts."""
    return surroundings(30, 2024)[:PROMPTS]


def validation_prompts() -> list[Surroundings]:
    """Return surroundings that no reported prompt has."""
    return surroundings(30, 2024)[PROMPTS:]


def score(shown: Sequence[dict[str, str]], around: Surroundings, look: Look) -> Scores:
    """Score pictures of one prompt."""
    text, identity = around.values(), look.values()
    right = {name: share([seen[name] == value for seen in shown]) for name, value in (text | identity).items()}
    return Scores(sum(right[name] for name in text) / len(text), right_looks(shown, look), right)


def score_each(shown: Sequence[dict[str, str]], around: Sequence[Surroundings], look: Look) -> Scores:
    """Score pictures that have surroundings of their own each: the means of text and image alignment."""
    each = [score([seen], where, look) for seen, where in zip(shown, around, strict=True)]
    return Scores(sum(one.text for one in each) / len(each), sum(one.image for one in each) / len(each))


def right_looks(shown: Sequence[dict[str, str]], look: Look) -> float:
    """Return the share of pictures that show all of a look."""
    return share([look.shown_in(seen) for seen in shown])


def settings_of(weights: Path, seeds: int) -> dict[str, Any]:
    """Return what results depend on: the model, how concepts are trained, and how pictures are made."""
    model = hashlib.sha256((weights / MODEL_FILE).read_bytes()).hexdigest()
    how = {name: {key: getattr(method, key, None) for key in _TRAINING} for name, method in TRAINED.items()}
    return {"model": model, "training": how, "seeds": seeds, "steps": SAMPLING_STEPS}


def keep_settings(work: Path, settings: Mapping[str, Any]) -> None:
    """Write the settings into a new work folder, or compare them with those of what is in it.

    Raises:
        TrainingError: It has results of other settings.
    """
    path = work / "settings.json"
    if not path.exists():
        path.write_text(json.dumps(settings, indent=1), encoding="utf-8")
    elif json.loads(path.read_text(encoding="utf-8")) != settings:
        raise TrainingError(f"{work} has results of another model or of other settings: choose another --work")


class Results:
    """What was made so far, in a file with a line for each unit; a line that was cut off does not count."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.scores: dict[str, Scores] = {}
        for entry in read_lines(path):
            try:
                right = {name: float(value) for name, value in entry["right"].items()}
                self.scores[entry["unit"]] = Scores(float(entry["text"]), float(entry["image"]), right)
            except (ValueError, KeyError, TypeError, AttributeError):
                continue

    def add(self, unit: Unit, scores: Scores) -> None:
        """Keep the scores of a unit."""
        add_line(self.path, {"unit": unit.key} | asdict(scores))
        self.scores[unit.key] = scores


def units(concepts: Sequence[str], trainings: int, prompts: int) -> Iterator[Unit]:
    """Yield all units of a run, those that share a trained concept one after the other."""
    for concept in concepts:
        for training in range(trainings):
            for prompt in range(prompts):
                yield Unit(CLASS_WORD, concept, training, CLASS_WORD, prompt)
        for method in TRAINED:
            for training in range(trainings):
                for way in WAYS:
                    for prompt in range(prompts):
                        yield Unit(method, concept, training, way, prompt)


def part_of(every: Sequence[Unit], number: int, parts: int) -> list[Unit]:
    """Return a part's share of the units: no two parts need the same trained concept."""
    trained = sorted({(unit.concept, unit.training, unit.method) for unit in every})
    return [u for u in every if trained.index((u.concept, u.training, u.method)) % parts == number - 1]


class Run:
    """A run of the protocol, with its work folder."""

    def __init__(self, bench: Bench, work: Path, seeds: int) -> None:
        self.bench = bench
        self.work = work
        self.seeds = seeds
        self.results = Results(work / "results.jsonl")
        self._subject: tuple[tuple[str, str, int], Subject] | None = None

    def make(self, every: Sequence[Unit], around: Sequence[Surroundings]) -> None:
        """Train concepts, make pictures and score them, for all units that are not done yet."""
        waiting = [unit for unit in every if unit.key not in self.results.scores]
        for index in progress("Pictures", 0, len(waiting)):
            unit = waiting[index]
            look = _spec(unit.concept).look
            shown = self.bench.read(self._pictures(unit, around[unit.prompt], look, self.seeds))
            self.results.add(unit, score(shown, around[unit.prompt], look))

    def _pictures(self, unit: Unit, around: Surroundings, look: Look, count: int) -> torch.Tensor:
        # The same noise for all methods and ways: differences are of what is compared.
        first = FIRST_SEED + 1000 * unit.prompt + self.seeds * unit.training
        seeds = list(range(first, first + count))
        if unit.way == CLASS_WORD:
            return self.bench.pictures([around.around(look.kind)] * count, seeds)
        subject = self._trained(unit)
        aligned = self.bench.aligned(subject.concept)
        prompts = [around.around(subject.mark)] * count
        return self.bench.pictures(prompts, seeds, aligned, align=unit.way == "AlignIT")

    def examples(self, concepts: Sequence[str], around: Sequence[Surroundings]) -> Image.Image:
        """Draw a grid: each method on each concept, the class word, the method alone and with AlignIT."""
        labels, rows = [], []
        for prompt, concept in enumerate(concepts):
            for method in TRAINED:
                units = [Unit(CLASS_WORD, concept, 0, CLASS_WORD, prompt)]
                units += [Unit(method, concept, 0, way, prompt) for way in WAYS]
                made = [self._pictures(unit, around[prompt], _spec(concept).look, 2) for unit in units]
                labels.append(f"{TITLES[method]}: {around[prompt].around(concept)}")
                rows.append([to_image(pictures[i]) for i in range(2) for pictures in made])
        return draw_grid(["class word", "alone", "with AlignIT"] * 2, labels, rows)

    def _trained(self, unit: Unit) -> Subject:
        key = unit.method, unit.concept, unit.training
        if self._subject is None or self._subject[0] != key:
            spec, folder = _spec(unit.concept), self.work / f"trained-{unit.training}"
            path = concept_file(folder, spec, unit.method)
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                trained = train_concept(self.bench.miniature, spec, TRAINED[unit.method], unit.training)
                trained.save(folder / unit.method, spec.name)
            self._subject = key, Subject(load_concept(path), spec.look.kind)
        return self._subject[1]


def _spec(name: str) -> ConceptSpec:
    return next(spec for spec in CONCEPTS if spec.name == name)


Blocks = dict[tuple[str, int], list[Scores]]  # of a method and a way: a trained concept's scores by prompt


def blocks(results: Results, every: Sequence[Unit]) -> dict[tuple[str, str], Blocks]:
    """Return the scores by method and way, and in these by trained concept."""
    found: dict[tuple[str, str], Blocks] = defaultdict(lambda: defaultdict(list))
    for unit in every:
        found[unit.method, unit.way][unit.concept, unit.training].append(results.scores[unit.key])
    return found


def means(scores: Sequence[Sequence[Scores]]) -> tuple[float, float, float]:
    """Return text and image alignment of scores by trained concept and prompt, and their geometric mean."""
    flat = [one for of_concept in scores for one in of_concept]
    text, image = (sum(getattr(one, name) for one in flat) / len(flat) for name in ("text", "image"))
    return text, image, (text * image) ** 0.5


def bootstrap(groups: Sequence[Blocks], samples: int = SAMPLES) -> list[list[tuple[float, float, float]]]:
    """Return the means of bootstrap samples, for each group.

    The groups have the same trained concepts and prompts, and each sample draws the same of them for all: so that
    groups can be compared in each sample.
    """
    rng = random.Random(0)
    keys = list(groups[0])
    prompts = len(next(iter(groups[0].values())))
    found: list[list[tuple[float, float, float]]] = [[] for _ in groups]
    for _ in range(samples):
        drawn = [(rng.choice(keys), [rng.randrange(prompts) for _ in range(prompts)]) for _ in keys]
        for group, of_group in zip(groups, found, strict=True):
            of_group.append(means([[group[key][i] for i in chosen] for key, chosen in drawn]))
    return found


def with_interval(value: float, samples: Sequence[float]) -> Interval:
    """Return a number with its interval."""
    return Interval(value, *interval(samples))


def make_page(results: Results, every: Sequence[Unit], seeds: int, examples: Image.Image | None = None) -> Page:
    """Make the page of a run that is complete."""
    by_way = blocks(results, every)
    rows, gains, numbers, attributes = [], [], {}, []
    for method in (CLASS_WORD, *TRAINED):
        ways = (CLASS_WORD,) if method == CLASS_WORD else WAYS
        groups = [by_way[method, way] for way in ways]
        samples = bootstrap(groups)
        for way, group, of_group in zip(ways, groups, samples, strict=True):
            values = means(list(group.values()))
            three = [with_interval(value, [one[i] for one in of_group]) for i, value in enumerate(values)]
            title = TITLES.get(method, "Class word") + (" + AlignIT" if way == "AlignIT" else "")
            rows.append([title, *map(str, three)])
            names = ("text", "image", "overall")
            numbers[title] = {n: [x.value, x.low, x.high] for n, x in zip(names, three, strict=True)}
            attributes.append([title, *(f"{value:.3f}" for value in _right(group).values())])
        if method != CLASS_WORD:
            gains.append(_gains(method, groups, samples))
    made = len(every) * seeds
    head = ["", "text alignment", "image alignment", "overall"]
    compared = ["", "text, relative", "the paper's", "image, difference", "overall, relative"]
    text = f"""# Table 1 in kind, on the miniature

{table(head, rows)}

What AlignIT changes, against the method alone:

{table(compared, gains)}

{made:,} pictures: {len(TEST)} concepts ({", ".join(TEST)}), {TRAINING_SEEDS} training seeds for each method, {PROMPTS}
prompts, {seeds} seeds for each of them. In brackets: 95% of the bootstrap's samples. Trainings of one
concept are drawn like different concepts, so other concepts can differ by more.

![Text against image alignment, each method alone and with AlignIT](table-alignment.png)

Each line is a trained concept:

![Text and image alignment of each trained concept, alone and with AlignIT](table-concepts.png)

The share of pictures that show each attribute right:

{table(["", *_right(by_way[CLASS_WORD, CLASS_WORD])], attributes)}

The first two seeds of one prompt for each concept, the first training seed:

![The class word, each method alone and with AlignIT](table-examples.png)

{_protocol()}

`python -m miniature.studies.table` made this page.
"""
    pairs = {TITLES[m]: (numbers[TITLES[m]], numbers[f"{TITLES[m]} + AlignIT"]) for m in TRAINED}
    pictures = {
        "-alignment": alignment_plot(pairs, numbers["Class word"]["text"][0]),
        "-concepts": concepts_plot({name: _of_concepts(by_way, name) for name in ("text", "image")}),
    }
    if examples:
        pictures["-examples"] = examples
    return Page("table", text, {"pictures": made, "rows": numbers}, pictures)


def _right(group: Blocks) -> dict[str, float]:
    flat = [one.right for of_concept in group.values() for one in of_concept]
    return {name: sum(one[name] for one in flat) / len(flat) for name in flat[0]}


def _of_concepts(
    by_way: Mapping[tuple[str, str], Blocks], name: str
) -> dict[str, tuple[Sequence[float], Sequence[float]]]:
    def of(method: str, way: str) -> list[float]:
        return [sum(getattr(one, name) for one in scores) / len(scores) for scores in by_way[method, way].values()]

    return {TITLES[method]: (of(method, WAYS[0]), of(method, WAYS[1])) for method in TRAINED}


def _gains(method: str, groups: Sequence[Blocks], samples: Sequence[Sequence[tuple[float, ...]]]) -> list[str]:
    plain, aligned = (means(list(group.values())) for group in groups)
    pairs = list(zip(*samples, strict=True))
    text = with_interval(_relative(plain[0], aligned[0]), [_relative(p[0], a[0]) for p, a in pairs])
    image = with_interval(aligned[1] - plain[1], [a[1] - p[1] for p, a in pairs])
    overall = with_interval(_relative(plain[2], aligned[2]), [_relative(p[2], a[2]) for p, a in pairs])
    signed = [f"{x.value:+.3f} ({x.low:+.3f} to {x.high:+.3f})" for x in (text, image, overall)]
    return [TITLES[method], signed[0], f"{PAPER[method]:+.3f}", *signed[1:]]


def _relative(before: float, after: float) -> float:
    return after / before - 1 if before else 0.0


def _protocol() -> str:
    return (__doc__ or "").split("\n\n", 2)[2].split("What is made")[0].strip()


def _part(text: str) -> tuple[int, int]:
    number, _, parts = text.partition("/")
    try:
        part = int(number), int(parts)
    except ValueError:
        part = 0, 0
    if not 1 <= part[0] <= part[1]:
        raise argparse.ArgumentTypeError(f"{text!r} is no part: write 1/2 for the first of two")
    return part


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("table-work"), help="folder of what is made on the way")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder of the page")
    parser.add_argument("--weights", type=Path, default=FOLDER, help="folder of the miniature's weights")
    parser.add_argument("--validation", action="store_true", help="try it on the concepts and prompts for validation")
    parser.add_argument("--part", type=_part, help="do only a part, such as 1/2, and make no page")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="pictures of each prompt")
    options = parser.parse_args(arguments)
    around = validation_prompts() if options.validation else reported_prompts()
    trainings = 1 if options.validation else TRAINING_SEEDS
    every = list(units(VALIDATION if options.validation else TEST, trainings, len(around)))
    try:
        prepare_folder(options.work)
        bench = Bench(options.weights, batch=50, steps=SAMPLING_STEPS)
        keep_settings(options.work, settings_of(options.weights, options.seeds))
        run = Run(bench, options.work, options.seeds)
        if options.part:
            run.make(part_of(every, *options.part), around)
            return 0
        run.make(every, around)
        concepts = list(dict.fromkeys(unit.concept for unit in every))
        page = make_page(run.results, every, options.seeds, run.examples(concepts, around))
        if options.validation:
            print(page.text)
        else:
            page.write(options.output)
            print(f"{options.output / page.name}.md")
    except (WeightsError, TrainingError, ConceptFileError, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped. The same command goes on from what is made.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
