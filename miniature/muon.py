"""Muon (Jordan et al. 2024) for matrices and convolutions, Adam for all else.

The momentum of a matrix is replaced by the nearest orthogonal matrix, so that every direction of it learns equally
fast. For the small networks here it needs far fewer steps than Adam alone.
"""

from __future__ import annotations

from typing import Any

import torch


def orthogonalize(matrices: torch.Tensor, rounds: int = 4) -> torch.Tensor:
    """Return about the nearest orthogonal matrices to [..., m, n].

    By the quintic Newton-Schulz iteration, in bfloat16.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = (matrices / (matrices.norm(dim=(-2, -1), keepdim=True) + 1e-7)).bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    for _ in range(rounds):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    found: torch.Tensor = (x.mT if tall else x).to(matrices)
    return found


class Muon:
    """An optimizer of a module: all matrices and convolutions but the named ones are orthogonalized.

    Args:
        module: Whose parameters are trained.
        left_to_adam: Parts of names of matrices that Adam trains: embeddings, the first and the last layer.
        rate: Of the matrices; a step changes their entries by about rate / sqrt(columns).
        adam_rate: Of all others.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        left_to_adam: tuple[str, ...],
        rate: float = 0.02,
        adam_rate: float = 1e-3,
        momentum: float = 0.95,
        decay: float = 0.01,
    ) -> None:
        named = list(module.named_parameters())
        taken = {name for name, p in named if p.ndim > 1 and not any(part in name for part in left_to_adam)}
        self.matrices = [p for name, p in named if name in taken]
        others = [p for name, p in named if name not in taken]
        self.rate, self.adam_rate, self.momentum, self.decay = rate, adam_rate, momentum, decay
        self.buffers = [torch.zeros_like(p) for p in self.matrices]
        self.adam = torch.optim.AdamW(others, adam_rate, betas=(0.9, 0.98), weight_decay=0.0)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self.adam.zero_grad()
        for parameter in self.matrices:
            parameter.grad = None

    @torch.no_grad()
    def step(self, share: float = 1.0) -> None:
        """Change the parameters, with this share of the learning rates."""
        for group in self.adam.param_groups:
            group["lr"] = self.adam_rate * share
        self.adam.step()
        rate = self.rate * share
        groups: dict[tuple[int, int], list[tuple[torch.nn.Parameter, torch.Tensor]]] = {}
        for parameter, buffer in zip(self.matrices, self.buffers, strict=True):
            if parameter.grad is None:
                continue
            buffer.mul_(self.momentum).add_(parameter.grad)
            ahead = parameter.grad.add(buffer, alpha=self.momentum).flatten(1)
            groups.setdefault((ahead.shape[0], ahead.shape[1]), []).append((parameter, ahead))
        for (height, width), members in groups.items():  # all of one shape at once: many are small
            updates = orthogonalize(torch.stack([ahead for _, ahead in members])) * max(1.0, height / width) ** 0.5
            for (parameter, _), update in zip(members, updates, strict=True):
                parameter.mul_(1 - rate * self.decay).add_(update.view_as(parameter), alpha=-rate)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that training needs to go on."""
        return {"buffers": self.buffers, "adam": self.adam.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        for buffer, saved in zip(self.buffers, state["buffers"], strict=True):
            buffer.copy_(saved)
        self.adam.load_state_dict(state["adam"])
