"""A test-only script that gives each picture a prompt of its own when all other scripts are set up, as wildcards do."""

from __future__ import annotations

import json
from typing import Any

import gradio as gr
from modules import scripts


class Wildcards(scripts.Script):
    def title(self) -> str:
        return "Wildcards"

    def show(self, is_img2img: bool) -> Any:  # noqa: ARG002
        return scripts.AlwaysVisible

    def ui(self, is_img2img: bool) -> list[Any]:  # noqa: ARG002
        return [gr.Textbox(value="[]", visible=False)]

    def process(self, p: Any, prompts: list[str] | str) -> None:
        prompts = json.loads(prompts or "[]") if isinstance(prompts, str) else prompts
        if prompts:
            p.all_prompts = list(prompts)
            for name in ("all_negative_prompts", "all_seeds", "all_subseeds"):
                setattr(p, name, getattr(p, name)[: len(prompts)])
