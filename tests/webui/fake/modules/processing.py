"""The host's loop over a generation: it calls scripts in the host's order and, like the host, swallows their errors."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from PIL import Image

from modules import errors, extra_networks, prompt_parser, script_callbacks, shared

_ENCODED_WITH = 2  # a cache: what it was made with, and what was made


class Processing:
    """A generation of one picture."""

    def __init__(self, prompt: str, script_args: list[Any], steps: int = 4, is_api: bool = False) -> None:
        self.prompt, self.negative_prompt = prompt, ""
        self.script_args, self.steps, self.is_api = script_args, steps, is_api
        self.seed = 1
        self.all_seeds = [1]
        self.iteration = self.batch_index = 0
        self.batch_size = 1
        self.all_prompts: list[str] | None = None
        self.all_hr_prompts: list[str] | None = None
        self.extra_generation_params: dict[str, Any] = {}
        self.extra_network_data: dict[str, Any] = {}
        self.comments: list[str] = []
        self.cached_c: list[Any] = [None] * _ENCODED_WITH
        self.c: Any = None

    def comment(self, text: str) -> None:
        self.comments.append(text)

    def setup_prompts(self) -> None:
        """Called next, once scripts have seen the request."""
        self.all_prompts = [self.prompt]

    def get_conds_with_caching(
        self, function: Any, required_prompts: Any, steps: int, caches: Any, extra_network_data: Any, *_: Any
    ) -> Any:
        key = list(required_prompts), steps, repr(sorted(extra_network_data))
        for cache in caches:
            if cache[0] == key:
                return cache[1]
        caches[0][:] = key, function(shared.sd_model, required_prompts, steps)
        return caches[0][1]

    def setup_conds(self) -> None:
        prompts = prompt_parser.SdConditioning(self.prompts)
        self.c = self.get_conds_with_caching(_learn, prompts, self.steps, [self.cached_c], self.extra_network_data)

    def get_conds(self) -> tuple[Any, Any]:
        return self.c, None

    def sample(self) -> Image.Image:
        """Call the UNet at each step; return a picture that shows all that the UNet gave."""
        unet = shared.sd_model.model.diffusion_model
        x = torch.ones(1, 4, 8, 8)
        for step in range(self.steps):
            denoiser = SimpleNamespace(p=self, step=step, total_steps=self.steps)
            conditioning = self.c[0]
            script_callbacks.call(
                "cfg_denoiser", SimpleNamespace(denoiser=denoiser, x=x, text_cond=conditioning, text_uncond=None)
            )
            if shared.state.interrupted:
                break
            x = unet(x, torch.full((1,), float(step)), context=conditioning)
        return Image.frombytes("F", (x.shape[-1], 4 * x.shape[-2]), x.numpy().tobytes())

    def close(self) -> None:
        self.c = None


def _learn(model: Any, prompts: Any, _steps: int) -> list[torch.Tensor]:
    return [model.get_learned_conditioning(prompts)]


def call_scripts(script: Any, method: str, p: Any, *arguments: Any, **named: Any) -> None:
    try:
        own = p.script_args[script.args_from : script.args_to]
        getattr(script, method)(p, *arguments, *own, **named)
    except Exception:
        errors.report(f"Error running {method}", exc_info=True)


def process_images(p: Processing, script: Any) -> Image.Image:
    """Make the picture; `script` is the only one that is installed."""
    call_scripts(script, "before_process", p)
    p.setup_prompts()
    try:
        call_scripts(script, "process", p)
        p.prompts, p.negative_prompts = list(p.all_prompts), [p.negative_prompt]
        call_scripts(script, "before_process_batch", p, batch_number=0)
        p.prompts, p.extra_network_data = extra_networks.parse_prompts(p.prompts)
        call_scripts(script, "process_batch", p, batch_number=0)
        p.setup_conds()
        call_scripts(script, "process_before_every_sampling", p)
        shown = SimpleNamespace(image=p.sample())
        call_scripts(script, "postprocess_image", p, shown)
        processed = SimpleNamespace(images=[shown.image], infotexts=[""], info="", index_of_first_image=0)
        call_scripts(script, "postprocess", p, processed)
    finally:
        p.close()
    return shown.image
