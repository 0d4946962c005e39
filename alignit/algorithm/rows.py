"""Injected rows, found by their content: how line 4 of Algorithm 1 (arXiv 2406.18893) knows index i in a UNet's batch.

`alignit.algorithm.conditioning.splice` puts a concept's row into the conditioning; on its way to the UNet a host
copies, stacks, pads, reorders and splits conditionings. An injected row is found again by comparing: it carries its own
address. No record of batch rows is kept, so none can get out of step with what a host, or another extension, does on
the way.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from alignit.algorithm.conditioning import Injected

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
    of_rows = torch.tensor(rows, device=context.device)
    following = torch.tensor(_following_rows(injected), device=context.device)
    row, next_row = of_rows[index], following[index]
    equal = (context[batch, token] == wanted[index]).all(-1)
    # A text encoder's row depends on the tokens before it alone, so that a negative prompt that begins as the dummy
    # prompt does, with the concept, has the same row. It is the user's own there, and what follows it differs.
    at = token + next_row - row
    has_next = (next_row >= 0) & (at < context.shape[1])
    next_equal = (context[batch, at.clamp(0, context.shape[1] - 1)] == conditioning[next_row]).all(-1)
    chosen = torch.stack([batch, token, row, token - row], dim=1)[equal & (next_equal | ~has_next)]
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


def _following_rows(injected: Injected) -> list[int]:
    """Return, for each row of a concept, the row that comes next in its chunk and is none of these, or -1."""
    starts = (injected.base == injected.base[0]).all(-1).tolist()
    following, next_row = {}, -1
    for row in reversed(range(len(starts))):
        if row in injected.rows:
            following[row] = next_row
        else:
            next_row = -1 if starts[row] else row
    return [following[row] for row in injected.rows]


def _agreement(context: torch.Tensor, conditioning: torch.Tensor, offset: int) -> int:
    """Count equal rows of a context [T, width] and a conditioning [T', width] that is laid over it at an offset."""
    start, stop = max(0, offset), min(len(context), len(conditioning) + offset)
    return int((context[start:stop] == conditioning[start - offset : stop - offset]).all(-1).sum())


class Content:
    """Knows whether the rows that modules are given are still the same, and compares once for a call of the UNet."""

    def __init__(self) -> None:
        self._rows: torch.Tensor | None = None
        self._given_to: set[object] = set()
        self._content: torch.Tensor | None = None

    def is_new(self, rows: torch.Tensor, module: object) -> bool:
        """Say whether rows differ from those of the last time, for whichever module that was."""
        # A UNet hands one context to all of its layers; some extensions slice it on the way. Where a module comes
        # again, it is another call, and something may have written to the rows.
        if rows is self._rows and module not in self._given_to:
            self._given_to.add(module)
            return False
        self._rows, self._given_to = rows, {module}
        known = self._content
        if (
            known is not None
            and (known.shape, known.dtype, known.device) == (rows.shape, rows.dtype, rows.device)
            and torch.equal(known, rows)
        ):
            return False
        self._content = rows.detach().clone()
        return True


def index_of(places: Collection[tuple[int, int]], batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return places as an index of a batch's first two dimensions, on its device."""
    return torch.tensor(list(places), device=batch.device).reshape(-1, 2).unbind(1)
