"""Injected rows, found by their content: how line 4 of Algorithm 1 (arXiv 2406.18893) knows index i in a UNet's batch.

`alignit.algorithm.conditioning.splice` puts a concept's row into the conditioning; on its way to the UNet a host
copies, stacks, pads, reorders and splits conditionings. An injected row is found again by comparing: it carries its own
address. No record of batch rows is kept, so none can get out of step with what a host, or another extension, does on
the way.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import torch

from alignit.algorithm.conditioning import Injected

Made = TypeVar("Made")

_CONTEXT_NAMES = ("context", "encoder_hidden_states")  # in LDM and sgm, and in diffusers


def context_name(kwargs: Mapping[str, Any]) -> str | None:
    """Return the name under which a UNet or a cross-attention layer is given its context, or None: by position."""
    return next((name for name in _CONTEXT_NAMES if name in kwargs), None)


class Occurrence(NamedTuple):
    """An injected row in a context.

    Attributes:
        batch: Which of the context's prompts.
        token: The row there.
        row: The row of the prompt that it is.
        first: Where in the context the prompt begins, before its start where that is cut off.
    """

    batch: int
    token: int
    row: int
    first: int


def locate(context: torch.Tensor, prompts: Sequence[Injected]) -> dict[tuple[int, int], tuple[Injected, int]]:
    """Find injected rows in a context by their content.

    Args:
        context: Rows that a cross-attention layer attends to, [batch, tokens, width].
        prompts: The prompts whose injected rows to look for.

    Returns:
        For each injected row in the context, as (batch, token), the prompt that it belongs to and the row there.
    """
    found: dict[tuple[int, int], tuple[Injected, int]] = {}
    best: dict[tuple[int, int], int] = {}
    for injected in prompts:
        agreements: dict[tuple[int, int], int] = {}
        for batch, token, row, first in occurrences(context, injected):
            # Prompts that differ elsewhere ("a red <x>", "a blue <x>") can share an injected row, not a base row: the
            # one whose other rows stand around it is meant.
            if (batch, first) not in agreements:
                agreements[batch, first] = _agreement(context[batch], injected.conditioning.to(context), first)
            if agreements[batch, first] > best.get((batch, token), 0):
                best[batch, token] = agreements[batch, first]
                found[batch, token] = injected, row
    return found


def occurrences(context: torch.Tensor, injected: Injected) -> list[Occurrence]:
    """Find a prompt's injected rows in a context [R, T, width]."""
    if not injected.rows or injected.conditioning.shape[-1] != context.shape[-1]:
        return []  # no concept, or encoded for another model: hires fix can have one of its own
    # A host casts a conditioning to the UNet's type on the way; the same cast here keeps equality exact.
    conditioning = injected.conditioning.to(context)
    found = _own(context, injected, conditioning)
    return found + _reached(context, injected, conditioning, found) if injected.reached else found


def _own(context: torch.Tensor, injected: Injected, conditioning: torch.Tensor) -> list[Occurrence]:
    """Find the rows of concepts: index i of Algorithm 1."""
    rows = list(injected.rows)
    wanted = conditioning[rows]
    # By the first number at first: all of each pair at once would take gigabytes for many rows.
    batch, token, index = (context[:, :, None, 0] == wanted[:, 0]).nonzero(as_tuple=True)
    equal = (context[batch, token] == wanted[index]).all(-1)
    batch, token, index = batch[equal], token[equal], index[equal]
    row = torch.tensor(rows, device=context.device)[index]

    def stands(neighbours: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Say where each row's neighbour has a place in the context, and where it stands there."""
        neighbour = torch.tensor(neighbours, device=context.device)[index]
        at = token + neighbour - row
        has_place = (neighbour >= 0) & (at >= 0) & (at < context.shape[1])
        there = context[batch, at.clamp(0, context.shape[1] - 1)]
        return has_place, has_place & (there == conditioning[neighbour]).all(-1)

    # A text encoder's row depends on the tokens before it alone, so that a negative prompt that begins as the dummy
    # prompt does, with the concept, has the same row. It is the user's own there, and what follows it differs. Where
    # the base prompt's own words come first, its rows differ from the dummy prompt's, and no other prompt has both.
    before, after = _neighbours(injected)
    has_next, next_stands = stands(after)
    accepted = next_stands | ~has_next | stands(before)[1]
    chosen = torch.stack([batch, token, row, token - row], dim=1)[accepted]
    return [Occurrence(*numbers) for numbers in chosen.tolist()]


def _reached(
    context: torch.Tensor, injected: Injected, conditioning: torch.Tensor, own: Sequence[Occurrence]
) -> list[Occurrence]:
    """Find the rows that concepts reach beyond their own: where these are, as a start token's row is any prompt's."""
    places = {(one.batch, one.first, one.row) for one in own}
    last = len(conditioning) - 1
    found = []
    for batch, first in dict.fromkeys((one.batch, one.first) for one in own):
        rows = [
            row
            for row, additions in injected.reached.items()
            if 0 <= first + row < context.shape[1]
            and any((batch, first, addition.beside) in places for addition in additions)
        ]
        equal = (context[batch, [first + row for row in rows]] == conditioning[rows]).all(-1).tolist()
        for row in (row for row, is_equal in zip(rows, equal, strict=True) if is_equal):
            found.append(Occurrence(batch, first + row, row, first))
            if row == last:
                # Where another prompt is longer, a host repeats a conditioning's last row up to its length.
                repeated = (context[batch, first + row + 1 :] == conditioning[row]).all(-1).tolist()
                count = repeated.index(False) if False in repeated else len(repeated)
                found += [Occurrence(batch, first + row + 1 + i, row, first) for i in range(count)]
    return found


def _neighbours(injected: Injected) -> tuple[list[int], list[int]]:
    """Return, for each row of a concept, the rows before and after it in its chunk that are none of these, or -1.

    The row of the start token, which all prompts share, counts as none. So do the rows before a concept whose dummy
    prompt begins as the base prompt does.
    """
    starts = (injected.base == injected.base[0]).all(-1).tolist()

    def neighbours(order: Iterable[int]) -> dict[int, int]:
        found, nearest = {}, -1
        for row in order:
            if row in injected.rows:
                found[row] = nearest
            else:
                nearest = -1 if starts[row] else row
        return found

    before, after = neighbours(range(len(starts))), neighbours(reversed(range(len(starts))))
    return (
        [-1 if concept in injected.among_words else before[row] for row, concept in injected.rows.items()],
        [after[row] for row in injected.rows],
    )


def _agreement(context: torch.Tensor, conditioning: torch.Tensor, offset: int) -> int:
    """Count equal rows of a context [T, width] and a conditioning [T', width] that is laid over it at an offset."""
    start, stop = max(0, offset), min(len(context), len(conditioning) + offset)
    return int((context[start:stop] == conditioning[start - offset : stop - offset]).all(-1).sum())


class Contents(Generic[Made]):
    """What is made of the rows that modules are given, made once for rows of the same content.

    A UNet hands one context to all of its layers, at every step. An extension can hand a part of it to each, or more
    than it, and several of these by turns.
    """

    def __init__(self, make: Callable[[torch.Tensor], Made]) -> None:
        """Take what makes it of rows [batch, tokens, width]."""
        self._make = make
        self._known: list[_Known[Made]] = []
        self._at = 0
        self._rows: tuple[torch.Tensor, int | None] | None = None
        self._given_to: set[object] = set()

    def of(self, rows: torch.Tensor, module: object) -> Made:
        """Return what was made of rows of this content.

        Args:
            rows: The rows [batch, tokens, width] that a module is given.
            module: Stands for the module.
        """
        # Compared once for all modules: on a GPU each comparison waits for it. Where a module comes again, it is
        # another call, and something may have written to the rows.
        now = rows, version(rows)
        same = self._rows is not None and rows is self._rows[0] and now[1] == self._rows[1]
        if same and module not in self._given_to:
            self._given_to.add(module)
            return self._known[self._at].made
        self._rows, self._given_to = now, {module}
        self._at = self._find(rows)
        known = self._known[self._at]
        known.used = True
        return known.made

    def step(self) -> None:
        """A sampling step begins: forget what was not asked for in the one before."""
        self._known = [known for known in self._known if known.used]
        for known in self._known:
            known.used = False
        self._at, self._rows = len(self._known) - 1, None

    def forget(self) -> None:
        """Forget everything."""
        self._known, self._at, self._rows = [], 0, None

    def _find(self, rows: torch.Tensor) -> int:
        # Those that come by turns come in the same order in every layer.
        count = len(self._known)
        for offset in range(1, count + 1):
            index = (self._at + offset) % count
            if _equal(self._known[index].content, rows):
                return index
        self._known.append(_Known(rows.detach().clone(), self._make(rows)))
        return count


@dataclass
class _Known(Generic[Made]):
    content: torch.Tensor
    made: Made
    used: bool = True


def version(tensor: torch.Tensor) -> int | None:
    """Return a number that differs after something wrote to a tensor; None for one of inference mode: it has none."""
    return None if tensor.is_inference() else tensor._version


def _equal(one: torch.Tensor, two: torch.Tensor) -> bool:
    return (one.shape, one.dtype, one.device) == (two.shape, two.dtype, two.device) and torch.equal(one, two)


def as_batch(rows: torch.Tensor) -> torch.Tensor:
    """Return rows of any number of dimensions as [batch, tokens, width]."""
    return rows if rows.dim() == 3 else rows.reshape(-1, *rows.shape[-2:])


def index_of(places: Collection[tuple[int, int]], batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return places as an index of a batch's first two dimensions, on its device."""
    return torch.tensor(list(places), device=batch.device).reshape(-1, 2).unbind(1)
