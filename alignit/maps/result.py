"""What was recorded of a picture's attention, and the maps made of it: what `alignit.maps` says a map is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from alignit.algorithm.layers import Layers, Place
from alignit.prompt.syntax import name_key

if TYPE_CHECKING:
    from PIL import Image


class NoMapError(ValueError):
    """There is no such map; the message says which, and which there are."""


@dataclass(frozen=True)
class MappedToken:
    """A token of a text.

    Attributes:
        text: What it stands for.
        row: Its row of the text's conditioning; row 0 is the first chunk's start token.
    """

    text: str
    row: int


@dataclass(frozen=True)
class MappedWord:
    """A word of a text, with the tokens of all its mentions there."""

    text: str
    tokens: tuple[MappedToken, ...]


@dataclass(frozen=True, eq=False)
class MappedText:
    """A text of a picture's prompt, and its words of which maps are wanted; what is recorded belongs to this object.

    Attributes:
        picture: Which picture it belongs to, in the host's own count.
        part: Which part of its prompt it is; over ``AND`` a prompt has several.
        text: The text. Over prompt editing, a part has several.
        words: The words.
    """

    picture: int
    part: int
    text: str
    words: tuple[MappedWord, ...]

    @cached_property
    def rows(self) -> tuple[int, ...]:
        """The rows of the conditioning that are needed, each once, in order."""
        return tuple(sorted({token.row for word in self.words for token in word.tokens}))


@dataclass(eq=False)
class Sum:
    """Maps of a text's rows, added up over layers of one place in the UNet, and over steps.

    Attributes:
        total: The sums, [rows, height, width], float32.
        count: How many maps were added.
    """

    total: torch.Tensor
    count: int = 0


@dataclass(frozen=True, eq=False)
class Recorded:
    """What was recorded for a text.

    Attributes:
        size: Height and width of the latent picture.
        sums: By place in the UNet, with the height and width that the picture has there.
    """

    size: tuple[int, int]
    sums: dict[tuple[Place, int, int], Sum] = field(default_factory=dict)


class AttentionMaps:
    """The attention maps of one picture.

    Attributes:
        size: Height and width of the maps: those of the latent picture, an eighth of the picture's.
        words: The words that have a map, in the order of the prompt.
        places: The blocks of the UNet in which they were recorded.
        nbytes: How much memory they take, in bytes.
    """

    def __init__(self, recorded: Mapping[MappedText, Recorded]) -> None:
        """Take what was recorded for the picture's texts, at least one."""
        self._recorded = dict(recorded)
        self.size = next(iter(self._recorded.values())).size
        self.words = tuple(dict.fromkeys(word.text for text in self._recorded for word in text.words))
        self.places = tuple(
            sorted({key[0] for item in self._recorded.values() for key in item.sums}, key=lambda p: (p.side, p.block))
        )
        self.nbytes = sum(part.total.nbytes for item in self._recorded.values() for part in item.sums.values())

    def tokens(self, word: str) -> tuple[MappedToken, ...]:
        """Return the tokens of a word, over all its mentions.

        Raises:
            NoMapError: There is no map of it.
        """
        return tuple(dict.fromkeys(token for _, item in self._mentions(word) for token in item.tokens))

    def heat_map(self, word: str, layers: Layers | None = None) -> HeatMap:
        """Return the map of a word: the mean over its tokens, and over layers and steps.

        Args:
            word: The word, without regard to case.
            layers: Which layers, of those that were recorded; None for all.

        Raises:
            NoMapError: There is no map of this word, or none in these layers.
        """
        tokens = self.tokens(word)
        return self._mean(word, tokens, {text: item.tokens for text, item in self._mentions(word)}, layers)

    def token_maps(self, word: str, layers: Layers | None = None) -> list[HeatMap]:
        """Return a map for each token of a word.

        Raises:
            NoMapError: As `heat_map`.
        """
        mentions = self._mentions(word)
        return [
            self._mean(
                token.text, (token,), {text: (token,) for text, item in mentions if token in item.tokens}, layers
            )
            for token in self.tokens(word)
        ]

    def _mentions(self, word: str) -> list[tuple[MappedText, MappedWord]]:
        found = [
            (text, item) for text in self._recorded for item in text.words if name_key(item.text) == name_key(word)
        ]
        if not found:
            raise NoMapError(f"there is no map of '{word}': there are those of {', '.join(self.words)}")
        return found

    def _mean(
        self,
        word: str,
        tokens: tuple[MappedToken, ...],
        by_text: Mapping[MappedText, Iterable[MappedToken]],
        layers: Layers | None,
    ) -> HeatMap:
        total, count = torch.zeros(self.size), 0
        for text, of_text in by_text.items():
            at = [text.rows.index(token.row) for token in of_text]
            for (place, _, _), item in self._recorded[text].sums.items():
                if layers is None or layers.include_place(place):
                    total += _resized(item.total[at].sum(0), self.size)
                    count += item.count * len(at)
        if count == 0:
            blocks = ", ".join(place.block for place in self.places)
            raise NoMapError(f"there are no maps of these layers: there are those of {blocks}")
        return HeatMap(word, tokens, (total / count).numpy())


@dataclass(frozen=True, eq=False)
class HeatMap:
    """Where the cross-attention looked at a word.

    Attributes:
        word: The word.
        tokens: Its tokens.
        values: The probability at each place of the latent picture, [height, width], float32.
    """

    word: str
    tokens: tuple[MappedToken, ...]
    values: npt.NDArray[np.float32]

    @property
    def peak(self) -> float:
        """The greatest probability."""
        return float(self.values.max())

    @property
    def relative(self) -> npt.NDArray[np.float32]:
        """The map from 0, where its least is, to 1, where its peak is; 0 where it is the same everywhere."""
        low = self.values.min()
        span = self.values.max() - low
        return (self.values - low) / span if span > 0 else np.zeros_like(self.values)

    def overlay(self, picture: Image.Image) -> Image.Image:
        """Return the picture with the map, as in `relative`, in colours over it."""
        from alignit.maps.pictures import overlay  # noqa: PLC0415  # Pillow is for who wants a picture

        return overlay(picture, self.relative)


def newest_within(maps: Mapping[int, AttentionMaps], limit: int) -> list[int]:
    """Return the numbers of the last pictures whose maps take so many bytes together at most; at least one."""
    kept: list[int] = []
    for number in sorted(maps, reverse=True):
        limit -= maps[number].nbytes
        if limit < 0 and kept:
            break
        kept.append(number)
    return sorted(kept)


def _resized(values: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    if tuple(values.shape) == size:
        return values
    return torch.nn.functional.interpolate(values[None, None], size, mode="bilinear", align_corners=False)[0, 0]
