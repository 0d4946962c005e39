"""How a concept's keys and values are put in: the paper's way, and what a user can change of it.

For the concept at index i, with K_p and V_p of the base prompt and K', V' of the dummy prompt, a layer gets

    K[i] = K_p[i] + s (K'[i] - K_p[i]),    V[i] = V_p[i] + s (V'[i] - V_p[i])

where s is the strength at the step, and 0 in the steps, layers, keys or values that were not chosen. s = 1 everywhere
is line 4 of Algorithm 1 (arXiv 2406.18893).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from alignit.algorithm.steps import StepRange

MAX_STRENGTH = 2.0
FILLER = "*"
CLASS_WORD = "class word"

_NUMBER = r"(\d+(?:\.\d+)?|\.\d+)"
_STRENGTH = re.compile(rf"(?:strength\s+)?{_NUMBER}")
_STEPS = re.compile(rf"steps\s+{_NUMBER}\s*-\s*{_NUMBER}")
_LAYERS = re.compile(r"layers\s+(.+)")
_FILLER = re.compile(r"filler\s+(\S+)")
_FLAGS: dict[str, dict[str, Any]] = {
    "keys": {"keys": True, "values": False},
    "values": {"keys": False, "values": True},
    "keys and values": {"keys": True, "values": True},
    CLASS_WORD: {"class_word": True},
}
_LEVELS = {"/1": 0, "/2": 1, "/4": 2, "/8": 3}
_SIDES = {"down": "input", "mid": "middle", "up": "output"}
_BLOCK = re.compile(r"(in|out)(\d\d)|m00")
_LAYER = re.compile(r"(input|middle|output)_blocks?\.(\d+)\..*")

HELP = (
    f"strength 0.5, falling, rising, steps 0-0.5, keys, values, layers down mid up /2 in04, filler a, {CLASS_WORD}, "
    "with a semicolon between two"
)


class ControlsError(ValueError):
    """An option that cannot be used; the message says which and why."""


class Schedule(Enum):
    """How the strength goes over the steps in which a concept is injected."""

    CONSTANT = "constant"
    FALLING = "falling"
    RISING = "rising"


@dataclass(frozen=True)
class Place:
    """Where in the UNet a layer is.

    Attributes:
        side: ``input``, ``middle`` or ``output``, as in LDM.
        block: The block, ``in04``, ``m00``, ``out05``.
        level: Its resolution, as the number of times that the latent picture's size was halved.
    """

    side: str
    block: str
    level: int


def place_of(layer: str, levels: int) -> Place:
    """Return where a layer is.

    Args:
        layer: Its path (see `alignit.concepts.layer_names`).
        levels: How many resolutions the UNet works at: 4 in SD1 and SD2, 3 in SDXL.

    Raises:
        ValueError: This is no layer as `alignit.concepts.layer_names` names them.
    """
    match = _LAYER.fullmatch(layer)
    if match is None:
        raise ValueError(f"'{layer}' is no layer of a UNet")
    side, number = match[1], int(match[2])
    block, level = {
        "input": (f"in{number:02}", (number - 1) // 3),
        "middle": ("m00", levels - 1),
        "output": (f"out{number:02}", levels - 1 - number // 3),
    }[side]
    return Place(side, block, level)


@dataclass(frozen=True)
class Layers:
    """A choice of cross-attention layers.

    Attributes:
        places: Parts of the UNet, ``down``, ``mid``, ``up``, and blocks of it, ``in04``, ``m00``, ``out05``, numbered
            as in LDM. Empty: all.
        levels: Resolutions, as the number of times that the latent picture's size was halved. Empty: all.
    """

    places: frozenset[str] = frozenset()
    levels: frozenset[int] = frozenset()

    @classmethod
    def parse(cls, text: str) -> Layers:
        """Read a choice as users write it: ``down mid``, ``/2 /4`` for half and a quarter of the size, ``in04``.

        Raises:
            ControlsError: A word of it is none of these.
        """
        words = text.lower().replace(",", " ").split()
        if words == ["all"]:
            return cls()
        for word in words:
            if word not in _SIDES and word not in _LEVELS and not _BLOCK.fullmatch(word):
                raise ControlsError(
                    f"there are no layers '{word}': write down, mid, up, /1, /2, /4, /8, in04, m00, out05"
                )
        levels = frozenset(_LEVELS[word] for word in words if word in _LEVELS)
        return cls(frozenset(word for word in words if word not in _LEVELS), levels)

    @property
    def all(self) -> bool:
        """Whether no layer is left out."""
        return not self.places and not self.levels

    def include(self, layer: str, levels: int) -> bool:
        """Say whether a layer is chosen.

        Args:
            layer: Its path (see `alignit.concepts.layer_names`).
            levels: How many resolutions the UNet works at: 4 in SD1 and SD2, 3 in SDXL.
        """
        return self.include_place(place_of(layer, levels))

    def include_place(self, place: Place) -> bool:
        """Say whether the layers of a place are chosen."""
        sides = {_SIDES[name] for name in self.places if name in _SIDES}
        return (not self.places or place.side in sides or place.block in self.places) and (
            not self.levels or place.level in self.levels
        )


@dataclass(frozen=True)
class Controls:
    """What is put in of a concept, and where and when; the defaults are the paper's.

    Attributes:
        strength: s above, from 0 to 2: 0 is the base prompt, 1 the paper, above 1 extrapolates.
        schedule: How s goes over ``steps``: as it is, falling from it to 0, or rising from 0 to it, linearly.
        steps: The part of the sampling in which the concept is injected.
        keys: Whether keys are.
        values: Whether values are.
        layers: In which layers.
        filler: The word in the place of every other token of the dummy prompt; one token.
        class_word: Whether the class word alone is wanted: s is 0, whatever strength is named nearer to the concept.
    """

    strength: float = 1.0
    schedule: Schedule = Schedule.CONSTANT
    steps: StepRange = field(default=StepRange())
    keys: bool = True
    values: bool = True
    layers: Layers = field(default=Layers())
    filler: str = FILLER
    class_word: bool = False

    def with_options(self, text: str) -> Controls:
        """Return these controls with the options of a text changed, such as ``0.5; keys; steps 0-0.5``.

        Raises:
            ControlsError: One of the options cannot be used.
        """
        controls = self
        for option in (part.strip() for part in text.split(";")):
            if option:
                controls = controls._with_option(option)
        return replace(controls, strength=0.0) if controls.class_word else controls

    def _with_option(self, option: str) -> Controls:
        lower = " ".join(option.lower().split())
        if match := _STRENGTH.fullmatch(lower):
            if float(match[1]) > MAX_STRENGTH:
                raise ControlsError(f"the strength {match[1]} is not from 0 to {MAX_STRENGTH:g}")
            return replace(self, strength=float(match[1]))
        if match := _STEPS.fullmatch(lower):
            start, end = float(match[1]), float(match[2])
            if not start <= end <= 1:
                raise ControlsError(
                    f"'{option}' is no range of steps: write two fractions from 0 to 1, as in steps 0-0.5"
                )
            return replace(self, steps=StepRange(start, end))
        if match := _LAYERS.fullmatch(lower):
            return replace(self, layers=Layers.parse(match[1]))
        if match := _FILLER.fullmatch(option):
            return replace(self, filler=match[1])
        if lower in _FLAGS:
            return replace(self, **_FLAGS[lower])
        try:
            return replace(self, schedule=Schedule(lower))
        except ValueError:
            raise ControlsError(f"'{option}' is no option: there are {HELP}") from None

    @property
    def uniform(self) -> bool:
        """Whether s is the same in every layer, for keys and for values, in all steps that are not left out."""
        return self.schedule is Schedule.CONSTANT and self.keys and self.values and self.layers.all

    @property
    def steady(self) -> bool:
        """Whether s is the same at every step."""
        return self.schedule is Schedule.CONSTANT and self.steps.always

    def strength_at(self, fraction: float) -> float:
        """Return s at a step, given as the fraction of the sampling steps before it."""
        if not self.steps.is_active(fraction):
            return 0.0
        length = self.steps.end - self.steps.start
        part = (fraction - self.steps.start) / length if length > 0 else 0.0
        factor = {Schedule.CONSTANT: 1.0, Schedule.FALLING: 1.0 - part, Schedule.RISING: part}[self.schedule]
        return self.strength * factor

    def chosen(self, layer: str, levels: int) -> bool:
        """Say whether the concept is put into a layer's keys or values, at the steps in which it is put in at all.

        Args:
            layer: The projection's path (see `alignit.concepts.layer_names`), which ends in ``to_k`` or ``to_v``.
            levels: As in `Layers.include`.
        """
        return (self.keys if layer.endswith("to_k") else self.values) and self.layers.include(layer, levels)
