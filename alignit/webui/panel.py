"""The panel in txt2img and img2img."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any

import gradio as gr
from modules import infotext_utils, ui_components

from alignit.webui.arguments import Arguments, infotext_key, label, value_range
from alignit.webui.inspection import inspect_prompt, remember_class_words, suggested_class_words


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
            found = gr.HTML(elem_id=elem_id("found"))
            class_words = gr.Textbox(
                value=defaults.class_words,
                label=label("class_words"),
                placeholder="my-cat=cat, my-dog=golden retriever",
                info="What each concept is, in ordinary words. <my-cat=cat> in the prompt does the same.",
                elem_id=elem_id("class_words"),
            )
            with gr.Row():
                look = gr.Button("Look for concepts", elem_id=elem_id("look"))
                suggest = gr.Button("Suggest class words", elem_id=elem_id("suggest"))
                remember = gr.Button("Remember class words", elem_id=elem_id("remember"))
            with gr.Row():
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
        self.components = [enabled, class_words, strength, start, end]
        self.paste_fields = [
            # The key is absent where AlignIT was off, and an absent key would leave the checkbox as it is.
            infotext_utils.PasteField(enabled, lambda params: infotext_key("class_words") in params),
            *(
                infotext_utils.PasteField(component, infotext_key(name))
                for component, name in zip(
                    self.components[1:], ("class_words", "strength", "start", "end"), strict=True
                )
            ),
        ]
        if prompt is not None:
            looking = {"fn": _found, "inputs": [prompt, class_words], "outputs": [found], "show_progress": False}
            look.click(**looking)
            prompt.blur(**looking)
            class_words.blur(**looking)
            enabled.change(**looking)
            suggest.click(
                fn=suggested_class_words, inputs=[prompt, class_words], outputs=[class_words], show_progress=False
            ).then(**looking)
            remember.click(fn=_remember, inputs=[prompt, class_words], outputs=[found], show_progress=False)


def _found(prompt: str, class_words: str) -> str:
    return _as_html(inspect_prompt(prompt, class_words))


def _remember(prompt: str, class_words: str) -> str:
    return _as_html(remember_class_words(prompt, class_words))


def _as_html(lines: list[str]) -> str:
    return "<br>".join(map(html.escape, lines))
