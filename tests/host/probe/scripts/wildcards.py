"""A test-only script that gives each picture a prompt of its own when all other scripts are set up, as wildcards do.

Two arguments: the prompts, and by which of the script's methods they are given.
"""

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
        return [gr.Textbox(value="[]", visible=False), gr.Textbox(value="process", visible=False)]

    def before_process_batch(
        self, p: Any, prompts: list[str] | str, method: str, /, *, batch_number: int, **_named: Any
    ) -> None:
        prompts = json.loads(prompts or "[]") if isinstance(prompts, str) else prompts
        if prompts and method == "before_process_batch":
            batch = slice(batch_number * p.batch_size, (batch_number + 1) * p.batch_size)
            p.all_prompts[batch] = p.prompts = prompts[batch]

    def process(self, p: Any, prompts: list[str] | str, method: str) -> None:
        prompts = json.loads(prompts or "[]") if isinstance(prompts, str) else prompts
        if prompts and method == "process":
            p.all_prompts = list(prompts)
            for name in ("all_negative_prompts", "all_seeds", "all_subseeds"):
                setattr(p, name, getattr(p, name)[: len(prompts)])
