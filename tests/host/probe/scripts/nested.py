"""A test-only script that runs a generation inside another, in the order in which ADetailer does it.

After the first picture of a batch it calls every script's `postprocess` on a copy of the processing object, then makes
an img2img object with the same scripts and arguments, and processes a copy of that. Two arguments: the nested prompt,
empty for nothing; and which scripts take part in it, "all" or "some", the host's own alone, or "none".
"""

from __future__ import annotations

from copy import copy
from typing import Any

import gradio as gr
from modules import processing, scripts, shared


class Nested(scripts.Script):
    def title(self) -> str:
        return "Nested"

    def show(self, is_img2img: bool) -> Any:  # noqa: ARG002
        return scripts.AlwaysVisible

    def ui(self, is_img2img: bool) -> list[Any]:  # noqa: ARG002
        return [gr.Textbox(value="", visible=False), gr.Textbox(value="all", visible=False)]

    def postprocess_image(self, p: Any, picture: Any, prompt: str, taking_part: str) -> None:
        if not prompt or p.prompt == prompt:
            return
        p.scripts.postprocess(copy(p), processing.Processed(p, []))
        inner = processing.StableDiffusionProcessingImg2Img(
            sd_model=shared.sd_model,
            init_images=[picture.image],
            prompt=prompt,
            denoising_strength=0.5,
            width=p.width,
            height=p.height,
            do_not_save_samples=True,
            do_not_save_grid=True,
        )
        inner.scripts, inner.script_args = p.scripts, p.script_args
        if taking_part != "all":
            inner.scripts = copy(p.scripts) if taking_part == "some" else None
        if inner.scripts is not p.scripts and inner.scripts is not None:
            own = [script for script in p.scripts.alwayson_scripts if "extensions-builtin" in script.filename]
            inner.scripts.alwayson_scripts = own
        # The host's own panel scripts have just set these from their defaults.
        inner.seed, inner.steps, inner.sampler_name = 7, p.steps, p.sampler_name
        again = copy(inner)
        picture.image = processing.process_images(again).images[0]
        again.close()
        inner.close()
        # ADetailer does it after the last picture of a batch.
        renewed = copy(p)
        p.scripts.before_process(renewed)
        p.scripts.process(renewed)
