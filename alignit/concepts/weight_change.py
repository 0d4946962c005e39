"""What a concept that changes W_k and W_v makes of keys and values."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Protocol

import torch

from alignit.concepts.concept import KeyValueWeights


class WeightChange(Hashable, Protocol):
    """A change of W_k and W_v: what layers make of rows with it. It is hashable: equal ones change the same way."""

    def to(self, device: torch.device, dtype: torch.dtype) -> WeightChange:
        """Return the change with its weights on a device and of a type."""

    def apply(self, layer: str, inputs: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        """Return a projection's outputs as the changed weights give them.

        Args:
            layer: The projection (see `alignit.concepts.layer_names`).
            inputs: What it was given, [..., in].
            outputs: What it returns, [..., out]. They are not changed.
        """


@dataclass(frozen=True)
class Change:
    """A change of W_k and W_v. Two are equal if they are the same weights at the same strength.

    Attributes:
        weights: The customised weights.
        strength: s in W + s (W' - W) for full weights W', and in W + s delta for a delta.
    """

    weights: KeyValueWeights
    strength: float = 1.0

    def to(self, device: torch.device, dtype: torch.dtype) -> Change:
        """Return the change with its weights on a device and of a type."""
        matrices = {layer: matrix.to(device, dtype) for layer, matrix in self.weights.matrices.items()}
        return Change(KeyValueWeights(self.weights.full, matrices), self.strength)

    def apply(self, layer: str, inputs: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        """See `WeightChange`."""
        matrix = self.weights.matrices.get(layer)
        if matrix is None:
            return outputs
        changed = matrix.project(inputs).to(outputs)
        if not self.weights.full:
            return outputs + self.strength * changed
        return changed if self.strength == 1 else torch.lerp(outputs, changed, self.strength)
