"""The panel in txt2img and img2img."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any

import gradio as gr
from modules import infotext_utils, ui_components

from alignit.webui.arguments import Arguments, infotext_key, label, value_range
from alignit.webui.inspection import (
    InspectionError,
    inspect_prompt,
    remember_class_words,
    suggested_class_words,
)


class Panel:
    """The components of the panel.

    Attributes:
        components: The arguments of the script, in the order of `Arguments`.
        paste_fields: How each is restored from a picture's info.
    """

    def __init__(self, elem_id: Callable[[str], str], prompt: Any) -> None:
        """Build the panel inside the host's page.

        Args:
            elem_id: Gives an element's id from the script's name and the tab.
            prompt: The tab's prompt box, or None where there is no page, as when the host's API asks for defaults.
        """
        defaults = Arguments()
        with ui_components.InputAccordion(
            defaults.enabled, label=label("enabled"), elem_id=elem_id("enabled")
        ) as enabled:
            found = gr.HTML(elem_id=elem_id("found"), elem_classes=["alignit-found"])
            class_words = gr.Textbox(
                value=defaults.class_words,
                label=label("class_words"),
                placeholder="my-cat=cat, my-dog=golden retriever",
                info="What each concept is, in ordinary words. <my-cat=cat> in the prompt does the same.",
                elem_id=elem_id("class_words"),
            )
            with gr.Row(elem_classes=["alignit-row"]):
                suggest = gr.Button("Suggest class words", size="sm", elem_id=elem_id("suggest"))
                remember = gr.Button("Remember class words", size="sm", elem_id=elem_id("remember"))
                look = gr.Button("Look for concepts", visible=False, elem_id=elem_id("look"))  # javascript presses it
            with gr.Row(elem_classes=["alignit-row"]):
                strength, start, end = (
                    gr.Slider(
                        *value_range(name),
                        value=getattr(defaults, name),
                        step=0.05,
                        label=label(name),
                        elem_id=elem_id(name),
                    )
                    for name in ("strength", "start", "end")
                )
            controls = gr.Textbox(
                value=defaults.controls,
                label=label("controls"),
                placeholder="keys; layers down mid; falling",
                info="For all concepts; for one of them in the prompt: <my-cat=cat; 0.5; keys>.",
                elem_id=elem_id("controls"),
            )
            compare = gr.Checkbox(defaults.compare, label=label("compare"), elem_id=elem_id("compare"))
            with gr.Row(elem_classes=["alignit-row"]):
                attention_maps = gr.Checkbox(
                    value=defaults.attention_maps, label=label("attention_maps"), elem_id=elem_id("attention_maps")
                )
                map_words = gr.Textbox(
                    value=defaults.map_words,
                    label=label("map_words"),
                    placeholder="cat, ball; down mid; steps 0-0.5",
                    elem_id=elem_id("map_words"),
                )
        self.components = [enabled, class_words, strength, start, end, controls, compare, attention_maps, map_words]
        self.paste_fields = [
            infotext_utils.PasteField(enabled, was_enabled),
            *(
                infotext_utils.PasteField(component, infotext_key(name))
                for component, name in zip(
                    self.components[1:5], ("class_words", "strength", "start", "end"), strict=True
                )
            ),
            infotext_utils.PasteField(controls, lambda params: params.get(infotext_key("controls"), "")),
        ]
        if prompt is not None:
            # Follows every change, typed or pasted, in the browser alone: javascript/alignit.js waits for the last one.
            soon = f"() => alignitLook('{elem_id('enabled')}', '{elem_id('look')}')"
            for component in (prompt, class_words, enabled):
                component.change(fn=None, _js=soon)
            look.click(fn=_found, inputs=[prompt, class_words], outputs=[found], show_progress=False)
            suggest.click(
                fn=suggested_class_words, inputs=[prompt, class_words], outputs=[class_words], show_progress=False
            )
            remember.click(fn=_remembered, inputs=[prompt, class_words], outputs=[found], show_progress=False)


def was_enabled(params: dict[str, Any]) -> bool:
    """Say from a picture's info whether AlignIT was on: a key that is absent would leave the checkbox as it is."""
    return infotext_key("class_words") in params


def _found(prompt: str, class_words: str) -> str:
    try:
        seen = inspect_prompt(prompt, class_words)
    except InspectionError as error:
        return _as_html([], [f"{error}"])
    return _as_html([f"{concept}" for concept in seen.concepts], seen.notes)


def _remembered(prompt: str, class_words: str) -> str:
    try:
        return _as_html(*remember_class_words(prompt, class_words))
    except InspectionError as error:
        return _as_html([], [f"{error}"])


def _as_html(lines: list[str], notes: list[str]) -> str:
    lines = lines if lines or notes else ["No concept in the prompt."]
    return "".join(
        [f"<p>{html.escape(line)}</p>" for line in lines]
        + [f'<p class="alignit-note">{html.escape(note)}</p>' for note in notes]
    )
