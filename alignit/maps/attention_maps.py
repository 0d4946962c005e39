"""Attention maps: where in the picture the cross-attention looked at a word of the prompt (Figure 5 of the paper).

A cross-attention layer l gives each place x of the picture and each token t of the prompt, at a step s, the probability

    A[l, s, x, t] = 1/H sum over the H heads h of softmax over t of (Q_h[x] . K_h[t] / sqrt(d))

with d the width of a head. K are the keys with which the picture is made: where concepts are injected, K'[i] of
Algorithm 1 (arXiv 2406.18893) is among them. The map of a token is the mean of A over layers and steps, and that of a
word the mean over its tokens.

Nothing is taken from the attention itself, which every optimisation computes in another way, and which seldom has A at
hand: forward hooks on `to_q` and `to_k` see what all of them call, and A is computed once more from that.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from alignit.algorithm.controls import Layers, Place, place_of
from alignit.concepts.layer_names import layer_of
from alignit.prompt.syntax import name_key

if TYPE_CHECKING:
    from PIL import Image

_CHUNK = 1 << 22  # probabilities that are computed at once: 16 MiB of them


class NoMapError(ValueError):
    """There is no such map; the message says which, and which there are."""


@dataclass(frozen=True)
class Token:
    """A token of a text.

    Attributes:
        text: What it stands for.
        row: Its row of the text's conditioning; row 0 is the first chunk's start token.
    """

    text: str
    row: int


@dataclass(frozen=True)
class Word:
    """A word of a text, with the tokens of all its mentions there."""

    text: str
    tokens: tuple[Token, ...]


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
    words: tuple[Word, ...]

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


def token_probabilities(
    queries: torch.Tensor, keys: torch.Tensor, heads: int, rows: torch.Tensor, chunk: int = _CHUNK
) -> torch.Tensor:
    """Return A above for some tokens, [rows, places], float32.

    Args:
        queries: What `to_q` returned for one picture, [places, heads * d].
        keys: What `to_k` returned for it, [tokens, heads * d].
        heads: The number of heads.
        rows: The tokens, [rows].
        chunk: How many probabilities, over heads, places and all tokens, are computed at once.
    """
    width = queries.shape[-1] // heads
    by_head = keys.float().unflatten(-1, (heads, width)).permute(1, 2, 0)  # [heads, d, tokens]
    length = max(1, chunk // (heads * keys.shape[0]))
    maps = []
    for part in queries.split(length):
        logits = (part.float() / math.sqrt(width)).unflatten(-1, (heads, width)).transpose(0, 1) @ by_head
        maps.append(logits.softmax(-1).mean(0)[:, rows].T)
    return torch.cat(maps, dim=1)


class Recorder:
    """Records the attention maps of sampling passes: hooks on a UNet, and the sums that they fill.

    Before each step, `watch` the UNet and say with `begin_step` what its batch will hold. Use as a context manager, or
    call `release`: the hooks are gone then, and what was recorded stays until `take`. Memory is that of the sums, one
    for each of a UNet's blocks, however many steps and layers there are; they lie where the model runs.

    Attributes:
        error: What went wrong in a hook, or None. The picture goes on; nothing more is recorded.
    """

    def __init__(self, layers: Layers | None = None) -> None:
        """Record in all layers, or in these."""
        self.error: Exception | None = None
        self._layers = layers or Layers()
        self._unet: torch.nn.Module | None = None
        self._attentions: list[tuple[str, Any, Place]] = []
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._expected: list[MappedText | None] = []
        self._expected_size: tuple[int, int] | None = None
        self._call: list[tuple[int, MappedText]] = []
        self._batch = 0
        self._size = (0, 0)
        self._halves: dict[str, tuple[int, torch.Tensor]] = {}
        self._indices: dict[tuple[tuple[int, ...], torch.device], torch.Tensor] = {}
        self._recorded: dict[MappedText, Recorded] = {}
        self._unread: set[str] = set()
        self._watched = 0

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def watch(self, unet: torch.nn.Module, levels: int = 4) -> None:
        """Set the hooks on this UNet, and on no other.

        They are set anew each time, so that they come after all others, whose keys they have to see.

        Args:
            unet: The UNet; its forward takes the latent pictures [rows, channels, height, width] first.
            levels: How many resolutions it works at: 4 in SD1 and SD2, 3 in SDXL.
        """
        attentions = self._attentions if unet is self._unet else list(_cross_attentions(unet, levels, self._layers))
        self.release()
        self._unet, self._attentions, self._watched = unet, attentions, len(attentions)
        self._handles.append(unet.register_forward_pre_hook(self._on_unet, with_kwargs=True))
        for layer, attention, place in attentions:
            for index, projection in enumerate((attention.to_q, attention.to_k)):
                self._handles.append(projection.register_forward_hook(self._hook(layer, attention, place, index)))

    def begin_step(self, rows: Sequence[MappedText | None], size: tuple[int, int] | None = None) -> None:
        """Say what the UNet is given next.

        Args:
            rows: Whose the rows of the batch are, in order; None is for a row that is not to be recorded. A host can
                split the batch into several calls of the UNet. Rows beyond those named are not recorded.
            size: Height and width of the latent pictures. Calls with others are not recorded, such as those of an
                extension that makes a picture of tiles; None for any size.
        """
        self._expected = list(rows)
        self._expected_size = size

    def release(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._halves.clear()
        self._call = []
        self._expected = []
        self._unet = None
        self._attentions = []

    @property
    def watched(self) -> int:
        """How many layers have, or had, hooks."""
        return self._watched

    @property
    def unread(self) -> frozenset[str]:
        """The layers that could not be read, as something gave them another batch or another size than the UNet's."""
        return frozenset(self._unread)

    @property
    def nbytes(self) -> int:
        """How much memory the sums take, in bytes."""
        return sum(item.total.nbytes for recorded in self._recorded.values() for item in recorded.sums.values())

    def take(self) -> dict[int, AttentionMaps]:
        """Return what was recorded, by picture, in the computer's own memory, and forget it."""
        pictures: dict[int, dict[MappedText, Recorded]] = {}
        for text, recorded in self._recorded.items():
            for item in recorded.sums.values():
                item.total = item.total.cpu()
            pictures.setdefault(text.picture, {})[text] = recorded
        self.forget()
        return {picture: AttentionMaps(texts) for picture, texts in pictures.items()}

    def forget(self) -> None:
        """Forget what was recorded."""
        self._recorded = {}
        self._indices.clear()
        self._unread.clear()
        self._watched = 0

    def _on_unet(self, _unet: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        latents = args[0] if args else kwargs.get("x", kwargs.get("sample"))
        self._halves.clear()
        if not isinstance(latents, torch.Tensor) or latents.dim() != 4:
            self._call = []
            return
        self._batch, self._size = len(latents), (latents.shape[-2], latents.shape[-1])
        if self._expected_size not in (None, self._size):
            self._call = []
            return
        of_call, self._expected = self._expected[: self._batch], self._expected[self._batch :]
        self._call = [(row, text) for row, text in enumerate(of_call) if text is not None and text.words]

    def _hook(self, layer: str, attention: Any, place: Place, index: int) -> Any:
        def hook(_module: torch.nn.Module, _args: tuple[Any, ...], output: Any) -> None:
            if not self._call or self.error is not None:
                return
            known = self._halves.pop(layer, None)
            if known is None or known[0] == index:  # the other one of the two is still to come
                self._halves[layer] = index, output
                return
            queries, keys = (known[1], output) if index else (output, known[1])
            try:
                with torch.no_grad(), _full_precision(output.device):
                    self._record(layer, place, queries, keys, int(attention.heads))
            except Exception as error:  # a map is no reason to lose the picture
                self.error = error
                self.forget()

        return hook

    def _record(self, layer: str, place: Place, queries: torch.Tensor, keys: torch.Tensor, heads: int) -> None:
        size = _size_at(self._size, queries.shape[1])
        if len(queries) != self._batch or len(keys) != self._batch or size is None:
            self._unread.add(layer)
            return
        for row, text in self._call:
            rows = text.rows
            if rows[-1] >= keys.shape[1]:
                self._unread.add(layer)
                continue
            at = rows, keys.device
            if at not in self._indices:
                self._indices[at] = torch.tensor(rows, device=keys.device)
            maps = token_probabilities(queries[row], keys[row], heads, self._indices[at])
            recorded = self._recorded.setdefault(text, Recorded(self._size))
            key = (place, *size)
            known = recorded.sums.get(key)
            if known is None:
                known = recorded.sums[key] = Sum(torch.zeros(len(rows), *size, device=keys.device))
            known.total += maps.to(known.total.device).unflatten(1, size)
            known.count += 1


def newest_within(maps: Mapping[int, AttentionMaps], limit: int) -> list[int]:
    """Return the numbers of the last pictures whose maps take so many bytes together at most; at least one."""
    kept: list[int] = []
    for number in sorted(maps, reverse=True):
        limit -= maps[number].nbytes
        if limit < 0 and kept:
            break
        kept.append(number)
    return sorted(kept)


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

    def tokens(self, word: str) -> tuple[Token, ...]:
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

    def _mentions(self, word: str) -> list[tuple[MappedText, Word]]:
        found = [
            (text, item) for text in self._recorded for item in text.words if name_key(item.text) == name_key(word)
        ]
        if not found:
            raise NoMapError(f"there is no map of '{word}': there are those of {', '.join(self.words)}")
        return found

    def _mean(
        self,
        word: str,
        tokens: tuple[Token, ...],
        by_text: Mapping[MappedText, Iterable[Token]],
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
    tokens: tuple[Token, ...]
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


def _cross_attentions(unet: torch.nn.Module, levels: int, layers: Layers) -> Iterator[tuple[str, Any, Place]]:
    """Yield the chosen cross-attention layers of a UNet, with their names and places."""
    for name, attention in unet.named_modules():
        layer = layer_of(f"{name}.to_k") if name.endswith(".attn2") else None
        if layer is not None:
            place = place_of(layer, levels)
            if layers.include_place(place):
                yield layer, attention, place


def _size_at(size: tuple[int, int], places: int) -> tuple[int, int] | None:
    """Return height and width of a layer's picture from the latent picture's and the number of places in it.

    A UNet halves the picture and rounds up. Extensions that shrink it in another way keep its proportions.
    """
    height, width = size
    while height * width > max(places, 1):
        height, width = (height + 1) // 2, (width + 1) // 2
    if height * width == places:
        return height, width
    height = round(math.sqrt(places * size[0] / size[1]))
    return (height, places // height) if height and places % height == 0 else None


def _resized(values: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    if tuple(values.shape) == size:
        return values
    return torch.nn.functional.interpolate(values[None, None], size, mode="bilinear", align_corners=False)[0, 0]


def _full_precision(device: torch.device) -> AbstractContextManager[Any]:
    try:
        return torch.autocast(device.type, enabled=False)
    except Exception:  # by the version of torch, another one where a kind of device has no autocast
        return nullcontext()
