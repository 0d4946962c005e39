"""A test-only extension of the WebUI that makes a function of AlignIT's raise, for one generation."""

from __future__ import annotations

from typing import Any

import gradio as gr
from modules import prompt_parser, scripts, shared

import alignit.algorithm.injection
import alignit.webui.generation.compare
import alignit.webui.generation.concepts
import alignit.webui.generation.encoding
import alignit.webui.generation.job
import alignit.webui.generation.maps
import alignit.webui.networks.embeddings

PLACES = {
    "splice": (alignit.webui.generation.encoding, "splice"),
    "read": (alignit.webui.generation.concepts.Concepts, "read"),
    "find_embedding": (alignit.webui.networks.embeddings, "_by_name"),
    "watch": (alignit.algorithm.injection.Injection, "step"),
    "job": (alignit.webui.generation.job.Job, "__init__"),
    "maps": (alignit.webui.generation.maps.MapRecording, "__init__"),
    "prompts": (alignit.webui.generation.compare, "has_concepts"),
    "batch": (alignit.webui.generation.compare.Comparison, "_enter"),
    "grid": (alignit.webui.generation.compare, "_grid"),
    "end_of_pass": (alignit.webui.generation.job.Job, "_end_pass"),
}
originals: dict[str, Any] = {}


def fail(*_: Any, **__: Any) -> None:
    raise RuntimeError("raised as asked")


def restore() -> None:
    for place, original in originals.items():
        setattr(*PLACES[place], original)
    originals.clear()


class Faults(scripts.Script):
    def title(self) -> str:
        return "Faults"

    def show(self, is_img2img: bool) -> Any:  # noqa: ARG002
        return scripts.AlwaysVisible

    def ui(self, is_img2img: bool) -> list[Any]:  # noqa: ARG002
        return [gr.Textbox(value="", visible=False)]

    def before_process(self, p: Any, place: str) -> None:  # noqa: ARG002
        restore()
        if place in PLACES:
            owner, name = PLACES[place]
            originals[place] = getattr(owner, name)
            setattr(owner, name, fail)

    def process_batch(self, p: Any, place: str, **_: Any) -> None:
        if place == "foreign_conditioning":
            setup_conds = p.setup_conds

            def setup_foreign_conds() -> None:
                setup_conds()
                prompts = prompt_parser.SdConditioning(["a house"] * len(p.prompts), width=p.width, height=p.height)
                p.c = prompt_parser.get_multicond_learned_conditioning(shared.sd_model, prompts, p.steps)

            p.setup_conds = setup_foreign_conds

    def postprocess(self, p: Any, processed: Any, place: str) -> None:  # noqa: ARG002
        restore()
