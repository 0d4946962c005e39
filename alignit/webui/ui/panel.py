"""The panel in txt2img and img2img."""

from __future__ import annotations

import html
import json
from collections.abc import Callable
from contextlib import nullcontext
from itertools import groupby
from typing import Any

import gradio as gr
from modules import ui_components

from alignit import __version__
from alignit.webui.generation.arguments import Arguments, restored_by
from alignit.webui.generation.declarations import Argument
from alignit.webui.ui.panel_concepts import answer, page_constants
from alignit.webui.ui.report import report_text

_BUTTON_HINTS = {
    "suggest": "Add the nearest noun for each concept of the prompt that has no class word.",
    "remember": "Keep the class words of this prompt's concepts with their embeddings, for all later pictures.",
    "copy_report": "Copy versions, settings, the last notes and errors, to post with a question. No prompts, no names.",
}


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
        self._elem_id = elem_id
        # The panel itself is the first argument's field.
        switch, *arguments = Arguments.declared()
        with ui_components.InputAccordion(
            switch.default, label=switch.declared.label, elem_id=elem_id(switch.name)
        ) as enabled:
            # Filled in the browser, by javascript/alignit_concepts.js.
            hints = {item.name: item.declared.hint for item in arguments if item.declared.hint} | _BUTTON_HINTS
            constants = page_constants() | {"hints": json.dumps(hints)}
            data = " ".join(f'data-{name}="{html.escape(text)}"' for name, text in constants.items())
            gr.HTML(f"<div {data}></div>", elem_id=elem_id("found"), elem_classes=["alignit-found"])
            fields: dict[str, Any] = {switch.name: enabled}
            for row, items in groupby(arguments, key=lambda item: item.declared.row):
                with gr.Row(elem_classes=["alignit-row"]) if row else nullcontext():
                    for item in items:
                        fields[item.name] = self._field(item)
                        if item.name == "class_words":
                            suggest, remember, look, question, answered = self._class_word_buttons()
            with gr.Row(elem_classes=["alignit-row", "alignit-foot"]):
                gr.HTML(f'<span class="alignit-version">AlignIT {__version__}</span>', elem_id=elem_id("version"))
                copy = gr.Button("Copy report", size="sm", elem_id=elem_id("copy_report"))
                report = self._hidden("report")
        self.components = list(fields.values())
        self.paste_fields = [
            (fields[item.name], restored)
            for item in Arguments.declared()
            if (restored := restored_by(item)) is not None
        ]
        class_words, controls = fields["class_words"], fields["controls"]
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
            copy.click(fn=report_text, outputs=[report], show_progress=False).then(
                fn=None, _js=f"(text) => {panel}.copy(text)", inputs=[report]
            )

    def _field(self, item: Argument) -> Any:
        declared = item.declared
        common = {"value": item.default, "label": declared.label, "elem_id": self._elem_id(item.name)}
        if isinstance(item.default, bool):
            return gr.Checkbox(**common)
        if isinstance(item.default, str):
            return gr.Textbox(**common, placeholder=declared.placeholder or None, info=declared.info or None)
        return gr.Slider(*declared.limits, **common, step=declared.step)

    def _class_word_buttons(self) -> tuple[Any, ...]:
        with gr.Row(elem_classes=["alignit-row"]):
            suggest = gr.Button("Suggest class words", size="sm", elem_id=self._elem_id("suggest"))
            remember = gr.Button("Remember class words", size="sm", elem_id=self._elem_id("remember"))
            look = gr.Button("Look for concepts", visible=False, elem_id=self._elem_id("look"))  # javascript presses it
            return suggest, remember, look, self._hidden("asked"), self._hidden("answer")

    def _hidden(self, name: str) -> Any:
        box = gr.Textbox(visible=False, elem_id=self._elem_id(name))
        box.do_not_save_to_config = True
        return box
