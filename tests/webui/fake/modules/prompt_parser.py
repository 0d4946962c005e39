"""Neither ``AND`` nor prompt editing: a prompt is one text from the first step to the last."""

from __future__ import annotations

from typing import Any


def get_multicond_prompt_list(prompts: Any) -> tuple[list[list[tuple[int, float]]], list[str], dict[str, int]]:
    texts = list(dict.fromkeys(prompts))
    places = {text: index for index, text in enumerate(texts)}
    return [[(places[prompt], 1.0)] for prompt in prompts], texts, places


def get_learned_conditioning_prompt_schedules(prompts: Any, steps: int, *_: Any) -> list[list[tuple[int, str]]]:
    return [[(steps, prompt)] for prompt in prompts]


class SdConditioning(list):
    """Texts, and whether they are of the negative prompt."""

    def __init__(self, prompts: Any, is_negative_prompt: bool = False, copy_from: Any = None) -> None:
        super().__init__(prompts)
        self.is_negative_prompt = getattr(copy_from, "is_negative_prompt", is_negative_prompt)
