"""Which pairs of pictures people see, and the key that says which picture is which: it stays with who asks."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evaluation.errors import EvaluationError
from evaluation.plan import CLASS_WORD, WAYS
from evaluation.record import Entry

PROMPT, CONCEPT = "prompt", "concept"
QUESTIONS = (PROMPT, CONCEPT)  # of the paper's user study, Table 2
KEY_NAME = "survey-key.json"
_FORMAT = "AlignIT survey key, 1"


@dataclass(frozen=True)
class Pair:
    """Two pictures of one prompt and seed.

    Attributes:
        name: What the page and the answers call it; it says nothing about the pictures.
        prompt: The number of its prompt.
        seed: Of the noise, the same for both.
        pictures: The way in which each of the two was made, by the name that the page and the answers have for it.
    """

    name: str
    prompt: int
    seed: int
    pictures: Mapping[str, str]


@dataclass(frozen=True)
class Key:
    """What the tally has to know of a survey.

    Attributes:
        survey: Its name: another survey, also one of the same pairs with other pictures, has another.
        ways: The two ways that are compared; the second is the one that is expected to be better.
        pairs: The pairs, in the order of the page.
    """

    survey: str
    ways: tuple[str, str]
    pairs: tuple[Pair, ...]

    def to_json(self) -> str:
        """Return the file's content."""
        return json.dumps({"format": _FORMAT, **asdict(self)}, indent=1) + "\n"


def texts(entries: Sequence[Entry]) -> dict[int, str]:
    """Return what each prompt says in ordinary words, by its number."""
    return {entry.number: entry.prompt for entry in entries if entry.way == CLASS_WORD}


def choose(entries: Sequence[Entry], ways: tuple[str, str], count: int, seed: int) -> tuple[Pair, ...]:
    """Choose pairs of a run at random, as many of each prompt, in a random order, under random names.

    Only prompts and seeds that are there in all ways count, as in the run's table.

    Args:
        entries: What the run has made.
        ways: The two to compare.
        count: How many pairs; fewer if the run has no more.
        seed: Of all that is random here.

    Raises:
        EvaluationError: The run has no such pair.
    """
    rng = random.Random(seed)
    made: dict[tuple[int, int], set[str]] = {}
    for entry in entries:
        made.setdefault((entry.number, entry.seed), set()).add(entry.way)
    seeds: dict[int, list[int]] = {}
    for (number, shot_seed), ways_made in sorted(made.items()):
        if ways_made >= set(WAYS):
            seeds.setdefault(number, []).append(shot_seed)
    if not seeds:
        raise EvaluationError("The run has no prompt and seed in all ways yet: let it make more pictures first")
    for of_prompt in seeds.values():
        rng.shuffle(of_prompt)
    order = rng.sample(sorted(seeds), len(seeds))
    turns = max(map(len, seeds.values()))
    every = [(number, seeds[number][turn]) for turn in range(turns) for number in order if turn < len(seeds[number])]
    chosen = every[:count]
    rng.shuffle(chosen)
    names = iter(_names(rng, 3 * len(chosen)))
    pairs = []
    for number, shot_seed in chosen:
        sides = rng.sample(ways, 2)
        pairs.append(Pair(next(names), number, shot_seed, {next(names): way for way in sides}))
    return tuple(pairs)


def read_key(folder: Path) -> Key:
    """Read the key of a survey in a run's folder.

    Raises:
        EvaluationError: There is none, or it is damaged.
    """
    path = folder / KEY_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise EvaluationError(
            f"There is no key of a survey in {folder} ({error}): python -m evaluation survey makes one with its page"
        ) from None
    except ValueError:
        content = None
    key = _key(content)
    if key is None:
        raise EvaluationError(f"{path} is damaged: delete it, and the same survey command makes it again")
    return key


def _key(content: Any) -> Key | None:
    try:
        if content.pop("format") != _FORMAT:
            return None
        pairs = tuple(Pair(**pair) for pair in content.pop("pairs"))
        key = Key(ways=tuple(content.pop("ways")), pairs=pairs, **content)
        good = all(set(pair.pictures.values()) == set(key.ways) and len(pair.pictures) == 2 for pair in pairs)
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    return key if good and pairs else None


def _names(rng: random.Random, count: int) -> list[str]:
    found: dict[str, None] = {}
    while len(found) < count:
        found[f"{rng.getrandbits(48):012x}"] = None
    return list(found)
