"""How a concept's keys and values are put in: the paper's way, and what a user can change of it.

For the concept at index i, with K_p and V_p of the base prompt and K', V' of the dummy prompt, a layer gets

    K[i] = K_p[i] + s (K'[i] - K_p[i]),    V[i] = V_p[i] + s (V'[i] - V_p[i])

where s is the strength at the step, and 0 in the steps, layers, keys or values that were not chosen. s = 1 everywhere
is line 4 of Algorithm 1 (arXiv 2406.18893). What a concept does beyond index i is in `alignit.algorithm.reach`.

A control is a field of `Controls`, declared with the option that sets it (see `alignit.algorithm.options`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from alignit.algorithm.layers import Layers
from alignit.algorithm.options import ControlsError, Documented, Option, read_option
from alignit.algorithm.reach import Context, Reach
from alignit.algorithm.steps import StepRange

MAX_STRENGTH = 2.0
FILLER = "*"
CLASS_WORD = "class word"

_NUMBER = r"(\d+(?:\.\d+)?|\.\d+)"


class Schedule(Enum):
    """How the strength goes over the steps in which a concept is injected."""

    CONSTANT = "constant"
    FALLING = "falling"
    RISING = "rising"


class Others(Enum):
    """Where a LoRA's layers beside keys, values and text encoder act: see `alignit.algorithm.others`."""

    OFF = "off"
    ON = "on"
    MASKED = "masked"


def _others(match: re.Match[str], _text: str) -> dict[str, Any]:
    strength = match[2] or "1"
    if float(strength) > MAX_STRENGTH:
        raise ControlsError(f"the strength {strength} of the other layers is not from 0 to {MAX_STRENGTH:g}")
    return {"others": Others(match[1]), "others_strength": float(strength)}


def _strength(match: re.Match[str], _text: str) -> dict[str, Any]:
    if float(match[1]) > MAX_STRENGTH:
        raise ControlsError(f"the strength {match[1]} is not from 0 to {MAX_STRENGTH:g}")
    return {"strength": float(match[1])}


def _steps(match: re.Match[str], text: str) -> dict[str, Any]:
    start, end = float(match[1]), float(match[2])
    if not start <= end <= 1:
        raise ControlsError(f"'{text}' is no range of steps: write two fractions from 0 to 1, as in steps 0-0.5")
    return {"steps": StepRange(start, end)}


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
        others: Where the other layers of a LoRA act that is bound to its word.
        others_strength: Their strength o, which s multiplies.
        context: What stands around the concept in its dummy prompt: the filler, or the prompt's own words.
        reach: What the concept does beyond its own rows.
        class_word: Whether the class word alone is wanted: s is 0, whatever strength is named nearer to the concept.
    """

    strength: float = field(
        default=1.0,
        metadata=Option(
            help="strength 0.5",
            pattern=re.compile(rf"(?:strength\s+)?{_NUMBER}"),
            read=_strength,
            documented=(
                Documented(
                    "`0.5` or `strength 0.5`",
                    "is 0.5",
                    "from 0, the class word alone, to 2; above 1 goes further than the paper",
                ),
            ),
        ).metadata,
    )
    schedule: Schedule = field(
        default=Schedule.CONSTANT,
        metadata=Option(
            help="falling, rising",
            pattern=re.compile("|".join(schedule.value for schedule in Schedule)),
            read=lambda match, _text: {"schedule": Schedule(match[0])},
            documented=(
                Documented(
                    "`falling`",
                    "is s (1 - (f - a) / (b - a))",
                    "f: the fraction of the steps before this one; a and b: where the chosen steps begin and end",
                ),
                Documented(
                    "`rising`",
                    "is s (f - a) / (b - a)",
                    "so it nears the strength, and the last step is just below it",
                ),
            ),
        ).metadata,
    )
    steps: StepRange = field(
        default=StepRange(),
        metadata=Option(
            help="steps 0-0.5",
            pattern=re.compile(rf"steps\s+{_NUMBER}\s*-\s*{_NUMBER}"),
            read=_steps,
            documented=(
                Documented(
                    "`steps 0-0.5`", "is 0 outside of these fractions of the steps", "hires fix is a pass of its own"
                ),
            ),
        ).metadata,
    )
    keys: bool = field(
        default=True,
        metadata=Option(
            help="keys, values",
            pattern=re.compile("keys and values|keys|values"),
            read=lambda match, _text: {"keys": match[0] != "values", "values": match[0] != "keys"},
            documented=(
                Documented("`keys`, `values`", "is 0 for the other of the two", "`keys and values` is both again"),
            ),
        ).metadata,
    )
    values: bool = True  # the option of keys sets both
    layers: Layers = field(
        default=Layers(),
        metadata=Option(
            help="layers down mid up /2 in04",
            pattern=re.compile(r"layers\s+(.+)"),
            read=lambda match, _text: {"layers": Layers.parse(match[1])},
            documented=(
                Documented(
                    "`layers down mid up`",
                    "is 0 in other layers",
                    "also by resolution, `/1` `/2` `/4` `/8` for the latent's size divided by that, and by block, "
                    "`in04`, `m00`, `out05`; `down /2` is what is both",
                ),
            ),
            axis="Layers",
        ).metadata,
    )
    filler: str = field(
        default=FILLER,
        metadata=Option(
            help="filler a",
            pattern=re.compile(r"filler\s+(\S+)"),
            read=lambda match, _text: {"filler": match[1]},
            documented=(Documented("`filler the`", "", "stands in the dummy prompt in the place of `*`; one token"),),
            case_matters=True,
        ).metadata,
    )
    others: Others = field(
        default=Others.MASKED,
        metadata=Option(
            help="others masked 0.8",
            pattern=re.compile(rf"others\s+(off|on|masked)(?:\s+{_NUMBER})?"),
            read=_others,
            documented=(
                Documented(
                    "`others off`, `others on`, `others masked 0.8`",
                    "",
                    "of a bound [LoRA](lora.md): whether its other layers act, everywhere or where the cross-attention "
                    "looks at it, and how strongly, from 0 to 2; `others masked 1` where nothing is said",
                ),
            ),
            axis="Others",
        ).metadata,
    )
    others_strength: float = 1.0  # the option of others sets both
    context: Context = field(
        default=Context.STARS,
        metadata=Option(
            help="context prompt",
            pattern=re.compile(rf"context\s+({'|'.join(context.value for context in Context)})"),
            read=lambda match, _text: {"context": Context(match[1])},
            documented=(
                Documented(
                    "`context prompt`",
                    "",
                    "the words of the prompt stay in the dummy prompt, other concepts as their class words; "
                    "`context stars` is the filler again",
                ),
            ),
            axis="Context",
        ).metadata,
    )
    reach: Reach = field(
        default=Reach(),
        metadata=Option(
            help="reach difference 0.5",
            pattern=re.compile(r"reach\s+(.+)"),
            read=lambda match, _text: {"reach": Reach.parse(match[1])},
            documented=(
                Documented(
                    "`reach difference 0.5`",
                    "",
                    "end token and padding get what the concept changes there, times a factor of 0 to 2; 1 without one",
                ),
                Documented(
                    "`reach target padding`, `reach padding`, `reach whole`",
                    "",
                    "they are the target prompt's; the dummy prompt's; the dummy prompt's, and the start token too; "
                    "`reach paper` is none of it again",
                ),
            ),
            axis="Reach",
        ).metadata,
    )
    class_word: bool = field(
        default=False,
        metadata=Option(
            help=CLASS_WORD,
            pattern=re.compile(CLASS_WORD),
            read=lambda _match, _text: {"class_word": True},
            documented=(
                Documented(
                    f"`{CLASS_WORD}`",
                    "is 0",
                    "whatever strength is named nearer to the concept: the class words alone",
                ),
            ),
        ).metadata,
    )

    def with_options(self, text: str) -> Controls:
        """Return these controls with the options of a text changed, such as ``0.5; keys; steps 0-0.5``.

        Raises:
            ControlsError: One of the options cannot be used.
        """
        controls = self
        for option in (part.strip() for part in text.split(";")):
            if option:
                controls = replace(controls, **read_option(type(self), option))
        return replace(controls, strength=0.0) if controls.class_word else controls

    @property
    def wants_others(self) -> bool:
        """Whether a LoRA's other layers act at any step."""
        return self.others is not Others.OFF and self.others_strength != 0 and self.strength != 0

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
