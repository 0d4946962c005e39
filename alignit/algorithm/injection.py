"""Injected rows in the UNet: found by their content, counted, and taken out where they are not wanted.

`alignit.algorithm.conditioning.splice` puts a concept's row into the conditioning; on its way to the UNet a host
copies, stacks, pads, reorders and splits conditionings. An injected row is found again by comparing: it carries its own
address. No record of batch rows is kept, so none can get out of step with what a host, or another extension, does on
the way.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch

from alignit.algorithm.conditioning import Injected

_CONTEXT_NAMES = ("context", "encoder_hidden_states")  # in LDM and sgm, and in diffusers


def context_name(kwargs: Mapping[str, Any]) -> str | None:
    """Return the name under which a UNet or a cross-attention layer is given its context, or None: by position."""
    return next((name for name in _CONTEXT_NAMES if name in kwargs), None)


class Injector:
    """Watches a UNet's cross-attention context for injected rows, through a forward pre-hook at the UNet's entry.

    Algorithm 1's line 4 applies and the context passes as it is, but for concepts that are `inactive` at a step: their
    rows are replaced by the base prompt's. Keys and values are linear in the rows, so every layer computes the base
    model's.

    Use as a context manager: the hook is gone at the end of the block, whatever happens in it.
    """

    def __init__(self) -> None:
        """Start with nothing injected and no UNet."""
        self.inactive: Collection[str] = ()
        """Concepts that are not to be there at this step."""
        self.always_active = True
        """Whether `inactive` stays empty: there is no range of steps to obey."""
        self.expected: set[str] = set()
        """Concepts that the UNet ought to get."""
        self.seen: set[str] = set()
        """Concepts that it got."""
        self.injected: list[Injected] = []
        """The prompts whose injected rows to look for."""
        self._unet: torch.nn.Module | None = None
        self._hook: torch.utils.hooks.RemovableHandle | None = None

    def __enter__(self) -> Injector:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def watch(self, unet: torch.nn.Module) -> None:
        """Watch this UNet, whose forward takes a context [rows, tokens, width], and no other: call before each step.

        Where nothing is left to do, after all expected concepts were seen and with no step range, there is no hook.
        """
        if self.always_active and self.seen >= self.expected:
            self.release()
        elif unet is not self._unet:
            self.release()
            self._unet = unet
            self._hook = unet.register_forward_pre_hook(self._on_forward, with_kwargs=True)

    def release(self) -> None:
        """Remove the hook."""
        if self._hook is not None:
            self._hook.remove()
        self._hook = self._unet = None

    def _on_forward(
        self, _unet: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        name = context_name(kwargs)
        context = kwargs[name] if name else args[2] if len(args) > 2 else None
        if not isinstance(context, torch.Tensor):
            return None
        if not self.seen >= self.expected:
            self._look(context)
        if not self.inactive:
            return None
        context = self._without_injected(context)
        if name:
            return args, {**kwargs, name: context}
        return (*args[:2], context, *args[3:]), kwargs

    def _look(self, context: torch.Tensor) -> None:
        for injected in self.injected:
            self.seen.update(injected.rows[row] for _, _, row in _occurrences(context, injected))

    def _without_injected(self, context: torch.Tensor) -> torch.Tensor:
        restored = context.clone()
        for (batch, token), (injected, row) in locate(context, self.injected).items():
            if injected.rows[row] in self.inactive:
                restored[batch, token] = injected.base[row].to(context)
        return restored


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
        for batch, token, row in _occurrences(context, injected):
            # Prompts that differ elsewhere ("a red <x>", "a blue <x>") can share an injected row, not a base row: the
            # one whose other rows stand around it is meant.
            agreement = _agreement(context[batch], injected.conditioning.to(context), token - row)
            if agreement > best.get((batch, token), 0):
                best[batch, token] = agreement
                found[batch, token] = injected, row
    return found


def _occurrences(context: torch.Tensor, injected: Injected) -> list[tuple[int, int, int]]:
    """Find a prompt's injected rows in a context [R, T, width], as (batch, token, row of the prompt)."""
    if not injected.rows or injected.conditioning.shape[-1] != context.shape[-1]:
        return []  # no concept, or encoded for another model: hires fix can have one of its own
    rows = list(injected.rows)
    # A host casts a conditioning to the UNet's type on the way; the same cast here keeps equality exact.
    conditioning = injected.conditioning.to(context)
    wanted = conditioning[rows]
    # By the first number at first: all of each pair at once would take gigabytes for many rows.
    batch, token, index = (context[:, :, None, 0] == wanted[:, 0]).nonzero(as_tuple=True)
    of_rows = torch.tensor(rows, device=context.device)
    following = torch.tensor(_following_base_rows(conditioning, rows), device=context.device)
    row, next_row = of_rows[index], following[index]
    equal = (context[batch, token] == wanted[index]).all(-1)
    # A text encoder's row depends on the tokens before it alone, so that a negative prompt that begins as the dummy
    # prompt does, with the concept, has the same row. It is the user's own there, and what follows it differs.
    at = token + next_row - row
    has_next = (next_row >= 0) & (at < context.shape[1])
    next_equal = (context[batch, at.clamp(0, context.shape[1] - 1)] == conditioning[next_row]).all(-1)
    return torch.stack([batch, token, row], dim=1)[equal & (next_equal | ~has_next)].tolist()


def _following_base_rows(conditioning: torch.Tensor, rows: Sequence[int]) -> list[int]:
    """Return, for each injected row, the row of the base prompt that comes next in its chunk, or -1."""
    starts = (conditioning == conditioning[0]).all(-1).tolist()
    following, next_base, injected = {}, -1, set(rows)
    for row in reversed(range(len(conditioning))):
        if row in injected:
            following[row] = next_base
        else:
            next_base = -1 if starts[row] else row
    return [following[row] for row in rows]


def _agreement(context: torch.Tensor, conditioning: torch.Tensor, offset: int) -> int:
    """Count equal rows of a context [T, width] and a conditioning [T', width] that is laid over it at an offset."""
    start, stop = max(0, offset), min(len(context), len(conditioning) + offset)
    return int((context[start:stop] == conditioning[start - offset : stop - offset]).all(-1).sum())
