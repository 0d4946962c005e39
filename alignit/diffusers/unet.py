"""The UNet of a diffusers pipeline: its key and value projections, and the steps of sampling."""

from __future__ import annotations

from typing import Any

import torch

from alignit.algorithm.hooks import eager
from alignit.algorithm.injection import Injection
from alignit.concepts.layer_names import layer_of
from alignit.diffusers.errors import AlignITError

_MEND = (
    "Unfuse the projections with pipe.unfuse_qkv_projections(), set the usual attention with "
    "pipe.unet.set_default_attn_processor(), and take the UNet as it is, not compiled"
)


def layer_modules(unet: Any) -> dict[str, Any]:
    """Return a UNet's cross-attention key and value projections, by layer (see `alignit.concepts.layer_names`)."""
    # With a LoRA of PEFT in it, a projection is the base layer of a module in its place.
    return {
        layer: getattr(module, "base_layer", module)
        for name, module in eager(unet).named_modules()
        if (layer := layer_of(name))
    }


def check_projections(unet: Any) -> None:
    """Check that a concept's weights can be used in a UNet: that it computes keys and values with `to_k` and `to_v`.

    Raises:
        AlignITError: They cannot.
    """
    for name, attention in eager(unet).named_modules():
        if name.endswith(".attn2"):
            if layer_of(f"{name}.to_k") is None:
                raise AlignITError(
                    f"The pipeline's UNet has a layer {name}, which Stable Diffusion 1, 2 and XL do not have: a "
                    "concept's weights are for these alone"
                )
            processor = type(getattr(attention, "processor", None)).__name__
            # By the processor: unfusing sets it back, and leaves the attention's own mark.
            kinds = {"Fused": "fused projections", "CustomDiffusion": "Custom Diffusion of its own"}
            if found := next((text for kind, text in kinds.items() if kind in processor), None):
                raise AlignITError(
                    f"The pipeline's UNet has {found}, in {processor}: keys and values are not those of to_k "
                    f"and to_v, where a concept's weights are used. {_MEND}"
                )


class StepWatch:
    """Follows the sampling, and has line 4 done at each step. Use as a context manager.

    Attributes:
        called: Whether the UNet was called at all.
    """

    def __init__(self, unet: Any, scheduler: Any, injection: Injection) -> None:
        """Take what to follow; nothing is hooked yet.

        Args:
            unet: The UNet.
            scheduler: The pipeline's scheduler.
            injection: What is to be done in the UNet, with hooks that all have to be called.
        """
        self.called = False
        self._unet = unet
        self._scheduler = scheduler
        self._injection = injection
        self._handles: list[Any] = []
        self._timesteps: Any = None
        self._distinct: list[float] = []
        self._first = self._last = 0

    def __enter__(self) -> StepWatch:
        self._handles = [
            # Before the injection's own hook at the same place, which asks which step it is.
            self._unet.register_forward_pre_hook(self._before, with_kwargs=True),
            self._unet.register_forward_hook(self._after),
        ]
        try:
            self._injection.step(self._unet)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._injection.release()

    def _before(self, _unet: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not self._injection.steady:
            self._injection.step(self._unet, self.fraction(args, kwargs))
        self.called = True

    def fraction(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> float:
        """Return the fraction of the steps of this pass that come before a call of the UNet, from its arguments."""
        timestep = torch.as_tensor(kwargs["timestep"] if "timestep" in kwargs else args[1])
        return self._fraction(float(timestep.flatten()[0]))

    def _fraction(self, timestep: float) -> float:
        if self._timesteps is not self._scheduler.timesteps:
            self._timesteps = self._scheduler.timesteps
            # Schedulers of second order have each timestep twice.
            self._distinct = list(dict.fromkeys(float(value) for value in self._timesteps))
            self._last = len(self._distinct)
        step = min(range(len(self._distinct)), key=lambda index: abs(self._distinct[index] - timestep))
        if step < self._last:
            self._first = step  # a pass begins: that of an image-to-image pipeline somewhere in the middle
        self._last = step
        return (step - self._first) / (len(self._distinct) - self._first)

    def _after(self, *_: Any) -> None:
        layers = self._injection.waiting
        if layers:
            raise AlignITError(
                f"The concept's weights are not used in {len(layers)} layers of the UNet, such as {min(layers)}: it "
                f"computes keys and values without to_k and to_v. {_MEND}"
            )
