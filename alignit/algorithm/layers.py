"""A choice of cross-attention layers: by the part of the UNet, by block, by resolution."""

from __future__ import annotations

import re
from dataclasses import dataclass

from alignit.algorithm.options import ControlsError

_LEVELS = {"/1": 0, "/2": 1, "/4": 2, "/8": 3}
_SIDES = {"down": "input", "mid": "middle", "up": "output"}
_BLOCK = re.compile(r"(in|out)(\d\d)|m00")
_LAYER = re.compile(r"(input|middle|output)_blocks?\.(\d+)\..*")


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
