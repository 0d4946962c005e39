"""What is in which row of a text encoder.

Each encoder reads the same prompts, "a photo of a red striped cat wearing a hat with a ball on the beach": the places
have the same length, so that each row is the same word's in all of them. Whether a word can be told from a row is found
with a linear map (ridge regression) fitted on two thirds of the prompts and tried on the others.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional
from transformers import CLIPTextModel

from miniature.autoencoder import stacked
from miniature.captions import PLACES, article
from miniature.second.pretraining import Towers, halved, tokens
from miniature.second.world import Scene, paint
from miniature.words import rows
from miniature.world import ACCESSORIES, CLASSES, COLOURS, COMPANIONS, PATTERNS, Look

COUNT = 600  # prompts
_PLACES = ("beach", "garden", "snow", "city")
_CHOICES = {
    "colour": COLOURS,
    "pattern": PATTERNS,
    "class": CLASSES,
    "accessory": ACCESSORIES[1:],
    "companion": COMPANIONS[1:],
    "place": _PLACES,
}
# Where each word is: 0 is the start token's row.
OWN_ROW = {"colour": 5, "pattern": 6, "class": 7, "accessory": 10, "companion": 13, "place": 16}
END_ROW, LAST_ROW = 17, 76
ROWS_PROBED = {"its own": None, "class": 7, "last word": 16, "end": END_ROW, "last padding": LAST_ROW}
_RIDGE = 1e-2

Values = dict[str, str]
Encode = Callable[[Sequence[str]], torch.Tensor]


def sentence(values: Values) -> str:
    """Return the prompt of these words, one for each of `OWN_ROW`."""
    look = f"{values['colour']} {values['pattern']} {values['class']}"
    around = f"wearing a {values['accessory']} with a {values['companion']} {PLACES[values['place']]}"
    return f"a photo of {article(look)} {around}"


def draw(count: int, seed: int) -> list[Values]:
    """Return the words of so many prompts, each drawn by itself."""
    rng = random.Random(seed)
    return [{name: rng.choice(choices) for name, choices in _CHOICES.items()} for _ in range(count)]


def encoder(text: CLIPTextModel) -> Encode:
    """Return what encodes prompts with a text encoder: [n, 77, width]."""

    @torch.no_grad()
    def encode(prompts: Sequence[str]) -> torch.Tensor:
        parts = [text(torch.tensor([rows(p) for p in prompts[i : i + 64]]))[0] for i in range(0, len(prompts), 64)]
        return torch.cat(parts)

    return encode


def spread(found: torch.Tensor) -> torch.Tensor:
    """Return how far vectors [n, width] are from their mean: the root of the mean square of the distance."""
    return (found - found.mean(dim=0)).square().sum(dim=-1).mean().sqrt()


def swap_change(before: torch.Tensor, after: torch.Tensor) -> float:
    """Return how far rows [n, width] move, in the spread that they have over prompts."""
    moved = (after - before).square().sum(dim=-1).mean().sqrt()
    return moved.item() / spread(before).item()


def explained(found: torch.Tensor, labels: Sequence[str]) -> float:
    """Return the share of the variance of rows [n, width] that is between labels."""
    total = (found - found.mean(dim=0)).square().sum()
    within = torch.zeros(())
    for label in sorted(set(labels)):
        part = found[[i for i, other in enumerate(labels) if other == label]]
        within = within + (part - part.mean(dim=0)).square().sum()
    return 1 - within.item() / total.item()


def told(found: torch.Tensor, labels: Sequence[str]) -> float:
    """Return how often a linear map tells the label from a row [n, width], on the third it was not fitted on."""
    names = sorted(set(labels))
    wanted = torch.tensor([names.index(label) for label in labels])
    x = ((found - found.mean(dim=0)) / (found.std(dim=0) + 1e-6)).double()
    x = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], dim=1)
    y = functional.one_hot(wanted, len(names)).double()
    fitted = 2 * len(x) // 3
    a = x[:fitted]
    gram = a.T @ a + _RIDGE * fitted * torch.eye(a.shape[1], dtype=a.dtype)
    guessed = (x[fitted:] @ torch.linalg.solve(gram, a.T @ y[:fitted])).argmax(dim=1)
    return int((guessed == wanted[fitted:]).sum()) / len(guessed)


@dataclass(frozen=True)
class Probe:
    """What was measured of one encoder.

    Attributes:
        change: How far rows move when the class word is swapped, by the row's name.
        explained: Share of a row's variance that a word explains, by row and word.
        between_stars: Distance of the class word's row between stars from that in the prompt, in its spread.
        cosine: Of the end row and the last padding row.
        decoded: How often each word is told from a row, by row and word.
        bound: How often the colour of the first of two objects is told from a row.
        matched: How often a picture is nearer to its caption than to the one with its two colours swapped; None where
            there is no image encoder.
    """

    change: dict[str, float]
    explained: dict[str, dict[str, float]]
    between_stars: float
    cosine: float
    decoded: dict[str, dict[str, float]]
    bound: dict[str, float]
    matched: float | None


def probe(encode: Encode, matched: float | None = None, count: int = COUNT) -> Probe:
    """Measure an encoder."""
    drawn = draw(count, 1)
    found = encode([sentence(values) for values in drawn])
    rng = random.Random(2)
    swapped = [v | {"class": rng.choice([k for k in CLASSES if k != v["class"]])} for v in drawn]
    moved = encode([sentence(values) for values in swapped])
    at = {"class": 7, "accessory": 10, "companion": 13, "last word": 16, "end": END_ROW, "last padding": LAST_ROW}
    change = {name: swap_change(found[:, row], moved[:, row]) for name, row in at.items()}
    kinds = [values["class"] for values in drawn]
    stars = encode([" ".join(["*"] * 6 + [kind] + ["*"] * 9) for kind in CLASSES])[:, 7]
    starred = stars[[CLASSES.index(kind) for kind in kinds]]
    between = ((starred - found[:, 7]).square().sum(dim=-1).mean().sqrt() / spread(found[:, 7])).item()
    cosine = functional.cosine_similarity(found[:, END_ROW], found[:, LAST_ROW], dim=-1).mean().item()

    def of_each_word(measure: Callable[[torch.Tensor, Sequence[str]], float], row: int | None) -> dict[str, float]:
        return {
            name: measure(found[:, own if row is None else row], [values[name] for values in drawn])
            for name, own in OWN_ROW.items()
        }

    decoded, shares = ({name: of_each_word(m, row) for name, row in ROWS_PROBED.items()} for m in (told, explained))
    return Probe(change, shares, between, cosine, decoded, _bound(encode, count), matched)


def _two(count: int) -> list[tuple[Look, Look, str]]:
    rng = random.Random(3)
    found = []
    for _ in range(count):
        colours, kinds = rng.sample(COLOURS, 2), rng.sample(CLASSES, 2)
        first, second = (Look(k, c, "plain", "none") for k, c in zip(kinds, colours, strict=True))
        found.append((first, second, rng.choice(_PLACES)))
    return found


def _two_sentence(first: Look, second: Look, place: str) -> str:
    return f"{article(f'{first.colour} {first.kind}')} and {article(f'{second.colour} {second.kind}')} {PLACES[place]}"


def _bound(encode: Encode, count: int) -> dict[str, float]:
    pairs = _two(count)
    found = encode([_two_sentence(*pair) for pair in pairs])
    colours = [first.colour for first, _, _ in pairs]
    at = {"second class": 7, "end": 11, "last padding": LAST_ROW}
    return {name: told(found[:, row], colours) for name, row in at.items()}


@torch.no_grad()
def match_pictures(towers: Towers, count: int = 200) -> float:
    """Return how often a picture of two objects is nearer to its caption than to the one with the colours swapped."""
    pairs = _two(count)
    images = stacked(
        paint(Scene((first, second), place, "none", "none"), random.Random(i))
        for i, (first, second, place) in enumerate(pairs)
    )
    right = tokens([_two_sentence(*pair) for pair in pairs])
    wrong = tokens(
        [
            _two_sentence(Look(a.kind, b.colour, "plain", "none"), Look(b.kind, a.colour, "plain", "none"), place)
            for a, b, place in pairs
        ]
    )
    seen = functional.normalize(towers.image(halved(images)), dim=-1)
    scores = [(functional.normalize(towers.encode_text(ids)[1], dim=-1) * seen).sum(dim=-1) for ids in (right, wrong)]
    return int((scores[0] > scores[1]).sum()) / count
