"""The panel in txt2img and img2img."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any

import gradio as gr
from modules import ui_components

from alignit.prompt.syntax import FORBIDDEN
from alignit.webui.generation.arguments import Arguments, infotext_key, label, value_range
from alignit.webui.ui.panel_concepts import MAX_TEXT, answer


class Panel:
    """The components of the panel.

    Attributes:
        components: The arguments of the script, in the order of `Arguments`.
        paste_fields: How each is restored from a picture's info.
    """

    def __init__(self, elem_id: Callable[[str], str], prompt: Any, styles: Any = None) -> None:
        """Build the panel inside the host's page.

        Args:
            elem_id: Gives an element's id from the script's name and the tab.
            prompt: The tab's prompt box, or None where there is no page, as when the host's API asks for defaults.
            styles: The tab's choice of styles, or None.
        """
        defaults = Arguments()
        with ui_components.InputAccordion(
            defaults.enabled, label=label("enabled"), elem_id=elem_id("enabled")
        ) as enabled:
            # Filled in the browser, by javascript/alignit_concepts.js.
            limits = f'data-limit="{MAX_TEXT}" data-forbidden="{html.escape(FORBIDDEN.pattern)}"'
            gr.HTML(f"<div {limits}></div>", elem_id=elem_id("found"), elem_classes=["alignit-found"])
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
                question, answered = (gr.Textbox(visible=False, elem_id=elem_id(name)) for name in ("asked", "answer"))
                for hidden in (question, answered):
                    hidden.do_not_save_to_config = True
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
            (enabled, was_enabled),
            *(
                (component, infotext_key(name))
                for component, name in zip(
                    self.components[1:5], ("class_words", "strength", "start", "end"), strict=True
                )
            ),
            (controls, lambda params: params.get(infotext_key("controls"), "")),
        ]
        if prompt is not None:
            # javascript/alignit.js sees changes by itself: an event of the prompt box, even one without a server's
            # function, makes gradio update all of the page at every key, in a tenth of a second.
            panel = f"alignitPanel('{elem_id('')}')"
            sources = [prompt, class_words, controls, *([styles] if styles is not None else [])]
            look.click(
                fn=answer,
                _js=f"(...values) => {panel}.question(values)",
                inputs=[question, *sources],
                outputs=[answered],
                show_progress=False,
            ).then(fn=None, _js=f"(answer) => {panel}.answered(answer)", inputs=[answered])
            suggest.click(fn=None, _js=f"() => {panel}.ask('suggest')")
            remember.click(fn=None, _js=f"() => {panel}.ask('remember')")


def was_enabled(params: dict[str, Any]) -> bool:
    """Say from a picture's info whether AlignIT was on: a key that is absent would leave the checkbox as it is."""
    return infotext_key("class_words") in params
