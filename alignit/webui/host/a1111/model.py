"""The model that is loaded."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager
from typing import Any

import torch

from alignit.patches import replaced
from alignit.webui.host.a1111.encoders import A1111TextEncoder
from alignit.webui.host.ports import Condition, Options, UnsupportedEncoderError

# With the checkpoint, what the host's own caches of conditionings are keyed by (`StableDiffusionProcessing`).
_ENCODING_OPTIONS = ("CLIP_stop_at_last_layers", "sdxl_clip_l_skip", "emphasis", "fp8_storage", "cache_fp16_weight")


class A1111Model:
    """A model of the host; a `alignit.webui.host.ports.Model`."""

    def __init__(self, sd_model: Any, options: Options) -> None:
        """Take the host's own object."""
        self._sd_model = sd_model
        self._options = options

    @property
    def unet(self) -> torch.nn.Module:
        """See `alignit.webui.host.ports.Model`."""
        unet: torch.nn.Module = self._sd_model.model.diffusion_model
        return unet

    @property
    def encoders(self) -> list[A1111TextEncoder]:
        """See `alignit.webui.host.ports.Model`."""
        if getattr(self._sd_model, "is_sd3", False):
            raise UnsupportedEncoderError("Stable Diffusion 3 has no cross-attention to inject keys and values into")
        conditioner = getattr(self._sd_model, "conditioner", None)
        candidates = conditioner.embedders if conditioner is not None else [self._sd_model.cond_stage_model]
        encoders = [A1111TextEncoder(encoder) for encoder in candidates if hasattr(encoder, "process_tokens")]
        if not encoders:
            raise UnsupportedEncoderError("this model's text encoder does not work on token chunks")
        return encoders

    @property
    def identity(self) -> Hashable:
        """See `alignit.webui.host.ports.Model`."""
        return id(self._sd_model), self._sd_model.sd_checkpoint_info, self.dtype

    @property
    def encoding_state(self) -> Hashable:
        """See `alignit.webui.host.ports.Model`."""
        return self._sd_model.sd_checkpoint_info, *(self._options.get(name, None) for name in _ENCODING_OPTIONS)

    @property
    def device(self) -> torch.device:
        """See `alignit.webui.host.ports.Model`."""
        from modules import devices

        return torch.device(devices.device)

    @property
    def dtype(self) -> torch.dtype:
        """See `alignit.webui.host.ports.Model`."""
        from modules import devices

        dtype: torch.dtype = devices.dtype_unet
        return dtype

    def linear(self, module: Any) -> tuple[tuple[int, int], torch.Tensor | None]:
        """See `alignit.webui.host.ports.Model`."""
        weight: torch.Tensor = module.weight
        return (weight.shape[0], weight.shape[1]), weight

    def conditioning(self, make: Callable[[Condition], Condition]) -> AbstractContextManager[None]:
        """See `alignit.webui.host.ports.Model`."""
        name = "get_learned_conditioning"
        return replaced(self._sd_model, name, make(getattr(self._sd_model, name)))
