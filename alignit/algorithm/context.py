"""Injected rows at a UNet's entry: seen there, and taken out in the steps in which a concept is not wanted.

A part of line 4 of Algorithm 1 (arXiv 2406.18893): see `alignit.algorithm.injection`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from alignit.algorithm.conditioning import Injected
from alignit.algorithm.rows import context_name, locate, occurrences
from alignit.algorithm.steps import StepRange


class PromptsOverSteps:
    """Prompts with concepts injected, as they are at each step: without the concepts of whose steps it is none.

    Attributes:
        whole: The prompts with all of their concepts.
        steady: Whether they are so at every step.
    """

    def __init__(self, prompts: Sequence[Injected], steps: Mapping[str, StepRange]) -> None:
        """Take prompts.

        Args:
            prompts: The prompts with all of their concepts.
            steps: By concept, the steps in which it is injected; one that is not named, in all.
        """
        self.whole = tuple(prompts)
        named = {name for prompt in prompts for name in prompt.rows.values()}
        self._ranges = {name: steps[name] for name in named if name in steps and not steps[name].always}
        self.steady = not self._ranges
        self._known: dict[frozenset[str], tuple[Injected, ...]] = {frozenset(): self.whole}

    def at(self, fraction: float) -> tuple[Injected, ...]:
        """Return the prompts at a step, given as the fraction of the steps before it; ``whole`` itself with all."""
        inactive = frozenset(name for name, steps in self._ranges.items() if not steps.is_active(fraction))
        if inactive not in self._known:
            self._known[inactive] = tuple(prompt.without(inactive) for prompt in self.whole)
        return self._known[inactive]


class ContextRows:
    """Watches a UNet's cross-attention context for injected rows, through a forward pre-hook at the UNet's entry.

    The context passes as it is, but for concepts of whose steps the step at hand is none: their rows are replaced by
    the base prompt's. Keys and values are linear in the rows, so every layer computes the base model's.
    """

    def __init__(self, prompts: PromptsOverSteps) -> None:
        """Take the prompts whose injected rows to look for."""
        self._prompts = prompts
        self._now = prompts.whole
        self._wanted = {name for prompt in prompts.whole for name in prompt.rows.values()}
        self._seen: set[str] = set()
        self._arrived: set[str] = set()
        self._unet: torch.nn.Module | None = None
        self._hook: torch.utils.hooks.RemovableHandle | None = None

    @property
    def seen(self) -> frozenset[str]:
        """The concepts that the UNet got."""
        return frozenset(self._seen)

    @property
    def arrived(self) -> frozenset[str]:
        """Those of them that it got in a step in which they were wanted: that went on to its layers."""
        return frozenset(self._arrived)

    def step(self, unet: torch.nn.Module, fraction: float) -> None:
        """Watch this UNet, whose forward takes a context [rows, tokens, width], and no other.

        Where nothing is left to do, after all concepts were seen and with no step range, there is no hook.

        Args:
            unet: The UNet.
            fraction: The fraction of the sampling steps before the step that begins.
        """
        self._now = self._prompts.at(fraction)
        if self._prompts.steady and self._seen >= self._wanted:
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
        if not self._arrived >= self._wanted:
            self._look(context)
        if self._now is self._prompts.whole:
            return None
        context = self._as_now(context)
        if name:
            return args, {**kwargs, name: context}
        return (*args[:2], context, *args[3:]), kwargs

    def _look(self, context: torch.Tensor) -> None:
        # Rows of a concept that is not wanted at this step go no further.
        for whole, now in zip(self._prompts.whole, self._now, strict=True):
            came = {whole.rows[one.row] for one in occurrences(context, whole) if one.row in whole.rows}
            self._seen |= came
            self._arrived |= came.intersection(now.rows.values())

    def _as_now(self, context: torch.Tensor) -> torch.Tensor:
        now = {id(whole): prompt for whole, prompt in zip(self._prompts.whole, self._now, strict=True)}
        changed = context.clone()
        for (batch, token), (prompt, row) in locate(context, self._prompts.whole).items():
            changed[batch, token] = now[id(prompt)].conditioning[row].to(context)
        return changed
