"""Records where the cross-attention looked: A of `alignit.maps`, in hooks on a UNet's layers.

Nothing is taken from the attention itself, which every optimisation computes in another way, and which seldom has A at
hand: forward hooks on `to_q` and `to_k` see what all of them call, and A is computed once more from that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from alignit.algorithm.attention import full_precision, halved_to, token_probabilities
from alignit.algorithm.layers import Layers, Place, place_of
from alignit.algorithm.rows import context_name
from alignit.concepts.layer_names import layer_of
from alignit.maps.result import AttentionMaps, MappedText, Recorded, Sum

Rows = Sequence[MappedText | None]
"""Whose the rows of a batch are, in order; None is for a row that is not to be recorded."""

RowOrder = Callable[[Rows, int, Mapping[str, Any]], tuple[Rows, Rows]]
"""How a host splits a step's rows over calls of the UNet: from the rows still to come, a call's batch size and its
keyword arguments, to the rows of the call, and those to come after it."""


def in_order(rows: Rows, batch: int, _call: Mapping[str, Any]) -> tuple[Rows, Rows]:
    """Give each call the next rows: a `RowOrder`."""
    return rows[:batch], rows[batch:]


class Recorder:
    """Records the attention maps of sampling passes: hooks on a UNet, and the sums that they fill.

    Before each step, `watch` the UNet and say with `begin_step` what its batch will hold. Use as a context manager, or
    call `release`: the hooks are gone then, and what was recorded stays until `take`. Memory is that of the sums, one
    for each of a UNet's blocks, however many steps and layers there are; they lie where the model runs.

    Attributes:
        error: What went wrong in a hook, or None. The picture goes on; nothing more is recorded.
    """

    def __init__(self, layers: Layers | None = None, order: RowOrder = in_order) -> None:
        """Record in all layers, or in these, of a host that has its rows in this order."""
        self.error: Exception | None = None
        self._layers = layers or Layers()
        self._unet: torch.nn.Module | None = None
        self._attentions: list[tuple[str, Any, Place]] = []
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._order = order
        self._expected: Rows = []
        self._expected_size: tuple[int, int] | None = None
        self._expected_tokens: int | None = None
        self._repeated = False
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

    def begin_step(self, rows: Rows, size: tuple[int, int] | None = None, tokens: int | None = None) -> None:
        """Say what the UNet is given next.

        Args:
            rows: Its rows. A host can split them over several calls of the UNet: see `RowOrder`. Rows beyond those
                named are not recorded.
            size: Height and width of the latent pictures. Calls with others are not recorded, such as those of an
                extension that makes a picture of tiles; None for any size.
            tokens: How many each of these rows has. A host can repeat a prompt to the length of a longer negative one;
                a token's map is then the sum over its copies. None: it has as many as the UNet is given.
        """
        self._expected = rows
        self._expected_size = size
        self._expected_tokens = tokens

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
        self._repeated = False
        latents = args[0] if args else kwargs.get("x", kwargs.get("sample"))
        self._halves.clear()
        if not isinstance(latents, torch.Tensor) or latents.dim() != 4:
            self._call = []
            return
        self._batch, self._size = len(latents), (latents.shape[-2], latents.shape[-1])
        if self._expected_size not in (None, self._size):
            self._call = []
            return
        of_call, self._expected = self._order(self._expected, self._batch, kwargs)
        self._call = [(row, text) for row, text in enumerate(of_call) if text is not None and text.words]
        if self._call and self._expected_tokens is not None:
            name = context_name(kwargs)
            context = kwargs[name] if name else args[2] if len(args) > 2 else None
            self._repeated = _repeats(context, [row for row, _ in self._call], self._expected_tokens)

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
                with torch.no_grad(), full_precision(output.device):
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
        if self._repeated:
            # Of equal keys each has an equal share of A: the softmax over one copy is the sum over all of them.
            keys = keys[:, : self._expected_tokens]
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


def _cross_attentions(unet: torch.nn.Module, levels: int, layers: Layers) -> Iterator[tuple[str, Any, Place]]:
    """Yield the chosen cross-attention layers of a UNet, with their names and places."""
    for name, attention in unet.named_modules():
        layer = layer_of(f"{name}.to_k") if name.endswith(".attn2") else None
        if layer is not None:
            place = place_of(layer, levels)
            if layers.include_place(place):
                yield layer, attention, place


def _repeats(context: Any, rows: list[int], tokens: int) -> bool:
    """Say whether these rows of a context [batch, tokens, width] are so many tokens, several times over."""
    if not isinstance(context, torch.Tensor) or context.shape[1] <= tokens or context.shape[1] % tokens:
        return False
    copies = context[rows].unflatten(1, (-1, tokens))
    return torch.equal(copies, copies[:, :1].expand_as(copies))


def _size_at(size: tuple[int, int], places: int) -> tuple[int, int] | None:
    """Return height and width of a layer's picture from the latent picture's and the number of places in it.

    Extensions that shrink it in another way than a UNet keep its proportions.
    """
    known = halved_to(size, places)
    if known is not None:
        return known
    height = round(math.sqrt(places * size[0] / size[1]))
    return (height, places // height) if height and places % height == 0 else None
