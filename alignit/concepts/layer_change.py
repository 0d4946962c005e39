"""What a concept makes of a UNet's layers beside its keys and values: a LoRA's other modules."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Protocol

import torch


class LayerChange(Hashable, Protocol):
    """A change of modules of a UNet. It is hashable: equal ones change the same way."""

    def layers(self, unet: torch.nn.Module) -> Iterable[str]:
        """Return the paths in a UNet of the modules that it changes: ``input_blocks.1.1.proj_in``."""

    def difference(self, layer: str, inputs: torch.Tensor) -> torch.Tensor:
        """Return what the changed module makes of its inputs, less what it makes of them without the change.

        Args:
            layer: The module's path.
            inputs: What it was given.
        """
