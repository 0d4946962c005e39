"""What a concept that changes W_k and W_v makes of keys and values."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from alignit.concepts.concept import Factors, KeyValueWeights, Matrix


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

        def moved(matrix: Matrix) -> Matrix:
            return type(matrix)(*(tensor.to(device, dtype) for tensor in matrix.tensors))

        matrices = {layer: moved(matrix) for layer, matrix in self.weights.matrices.items()}
        return Change(KeyValueWeights(self.weights.full, matrices), self.strength)

    def apply(self, layer: str, inputs: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        """Return a projection's outputs as the changed weights give them.

        Args:
            layer: The projection (see `alignit.concepts.layer_names`).
            inputs: What it was given, [..., in].
            outputs: What it returns, [..., out]. They are not changed.
        """
        matrix = self.weights.matrices.get(layer)
        if matrix is None:
            return outputs
        changed = inputs
        for factor in (matrix.right, matrix.left) if isinstance(matrix, Factors) else (matrix.tensor,):
            changed = torch.nn.functional.linear(changed, factor.to(changed))
        changed = changed.to(outputs)
        if not self.weights.full:
            return outputs + self.strength * changed
        return changed if self.strength == 1 else torch.lerp(outputs, changed, self.strength)
