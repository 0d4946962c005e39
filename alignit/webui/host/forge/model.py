"""The model that is loaded: an engine, none at all before the first picture."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager
from typing import Any

import torch

from alignit.patches import replaced
from alignit.webui.host.forge.encoders import ForgeTextEncoder
from alignit.webui.host.ports import Condition, Options, UnsupportedEncoderError

# In the order in which the host joins their rows.
_ENGINES = ("text_processing_engine", "text_processing_engine_l", "text_processing_engine_g")
# Of models whose UNet attends to the rows of CLIP. Flux and others have an engine for CLIP as well, and use its pooled
# vector alone.
_WITH_CROSS_ATTENTION = ("is_sd1", "is_sd2", "is_sdxl")
# With the checkpoint, what the host's own caches of conditionings are keyed by (`StableDiffusionProcessing`).
_ENCODING_OPTIONS = ("CLIP_stop_at_last_layers", "emphasis")


def loaded_engine() -> Any | None:
    """Return the host's model, or None: until the first picture a thing stands in its place that is none."""
    from modules import sd_models

    sd_model = sd_models.model_data.sd_model
    return sd_model if getattr(sd_model, "forge_objects", None) is not None else None


def text_engines(sd_model: Any) -> list[tuple[str, Any]]:
    """Return a model's text encoders with their names in it, in the order in which their rows are joined."""
    engines = ((name, getattr(sd_model, name, None)) for name in _ENGINES)
    return [(name, engine) for name, engine in engines if engine is not None]


class ForgeModel:
    """A model of the host; a `alignit.webui.host.ports.Model`."""

    def __init__(self, sd_model: Any, options: Options) -> None:
        """Take the host's own object."""
        self._sd_model = sd_model
        self._options = options

    @property
    def unet(self) -> torch.nn.Module:
        """See `alignit.webui.host.ports.Model`; the patcher's copies, one for each picture, share this module."""
        unet: torch.nn.Module = self._sd_model.forge_objects.unet.model.diffusion_model
        return unet

    @property
    def encoders(self) -> list[ForgeTextEncoder]:
        """See `alignit.webui.host.ports.Model`."""
        if not any(getattr(self._sd_model, flag, False) for flag in _WITH_CROSS_ATTENTION):
            kind = type(self._sd_model).__name__
            raise UnsupportedEncoderError(f"a model of the kind {kind} has no cross-attention to inject into")
        encoders = [ForgeTextEncoder(self._sd_model, name) for name, _ in text_engines(self._sd_model)]
        if not encoders:
            raise UnsupportedEncoderError("this model's text encoder does not work on token chunks")
        return encoders

    @property
    def identity(self) -> Hashable:
        """See `alignit.webui.host.ports.Model`."""
        return id(self._sd_model), *self._checkpoint, self.dtype

    @property
    def encoding_state(self) -> Hashable:
        """See `alignit.webui.host.ports.Model`."""
        return *self._checkpoint, *(self._options.get(name, None) for name in _ENCODING_OPTIONS)

    @property
    def _checkpoint(self) -> tuple[Hashable, ...]:
        from modules import sd_models

        # The second one holds how it was loaded as well: other text encoders, fewer bits.
        return self._sd_model.sd_checkpoint_info, sd_models.model_data.forge_hash

    @property
    def device(self) -> torch.device:
        """See `alignit.webui.host.ports.Model`."""
        from modules import devices

        return torch.device(devices.device)

    @property
    def dtype(self) -> torch.dtype:
        """See `alignit.webui.host.ports.Model`; the weights may be kept in another one."""
        dtype: torch.dtype = self._sd_model.forge_objects.unet.model.computation_dtype
        return dtype

    def linear(self, module: Any) -> tuple[tuple[int, int], torch.Tensor | None]:
        """See `alignit.webui.host.ports.Model`; "Diffusion in Low Bits" packs weights, or has them scaled."""
        weight = module.weight
        # bitsandbytes' 4 bits say it beside the weight, GGUF's have it as their shape.
        shape = tuple(getattr(getattr(weight, "quant_state", None), "shape", weight.shape))
        if hasattr(module, "out_features"):
            shape = module.out_features, module.in_features
        floating = isinstance(weight, torch.Tensor) and weight.is_floating_point()
        as_it_is = floating and tuple(weight.shape) == shape and getattr(module, "scale_weight", None) is None
        return (int(shape[0]), int(shape[1])), weight if as_it_is else None

    def conditioning(self, make: Callable[[Condition], Condition]) -> AbstractContextManager[None]:
        """See `alignit.webui.host.ports.Model`."""
        name = "get_learned_conditioning"
        return replaced(self._sd_model, name, make(getattr(self._sd_model, name)))
