"""The editor behind a card's button, with what AlignIT wants to know of a concept."""

from __future__ import annotations

import html
import json
import math
import os
from collections.abc import Mapping
from typing import Any

import gradio as gr
from modules import ui_extra_networks_user_metadata

from alignit.prompt.class_words import SIDECAR_KEY, ClassWordError, check_class_word
from alignit.prompt.sidecar import SidecarError, read_sidecar, update_sidecar

STRENGTH_KEY = "preferred weight"
"""The host's own, of its LoRA cards."""

TOKEN_KEY = "token"


def preferred_strength(metadata: Mapping[str, Any]) -> float | None:
    """Return the strength that a user prefers for a concept, or None for the host's default."""
    strength = metadata.get(STRENGTH_KEY)
    if isinstance(strength, bool) or not isinstance(strength, (int, float)) or not math.isfinite(strength):
        return None
    return float(strength) or None


class MetadataEditor(ui_extra_networks_user_metadata.UserMetadataEditor):  # type: ignore[misc]
    """Description, class word and notes.

    They are read from the file beside the concept's when the editor opens, and written into what is there when it is
    saved: the panel's "Remember class words" and other programs write there too.
    """

    def create_editor(self) -> None:
        """Build the editor; the host calls this once for each of its tabs."""
        self.create_default_editor_elems()
        self.edit_class_word = gr.Textbox(
            label="Class word", info="An ordinary word for what the concept is, such as cat"
        )
        own = self.create_own_elems()
        self.edit_notes = gr.TextArea(label="Notes", lines=4)
        for element in (self.edit_class_word, *own):
            element.do_not_save_to_config = True
        self.html_problem = gr.HTML()  # the host's own line for messages is below the buttons, and can be out of sight
        self.create_default_buttons()
        edited = [self.edit_description, self.edit_notes, self.edit_class_word, *own]
        self.button_edit.click(
            fn=self.put_values_into_components,
            inputs=[self.edit_name_input],
            outputs=[self.edit_name, self.html_filedata, self.html_preview, self.html_problem, *edited],
        ).then(fn=lambda: gr.update(visible=True), inputs=[], outputs=[self.box])
        page, tab = json.dumps(self.page.name), json.dumps(self.tabname)
        self.button_save.click(fn=self.save, inputs=[self.edit_name_input, *edited], outputs=[self.html_problem]).then(
            fn=None,
            _js="function(name, problem) {"
            f"if (!problem) {{ closePopup(); extraNetworksRefreshSingleCard({page}, {tab}, name); }} }}",
            inputs=[self.edit_name_input, self.html_problem],
            outputs=[],
        )

    def create_own_elems(self) -> list[Any]:
        """Build what only one kind of concept has."""
        return []

    def own_values(self, item: Mapping[str, Any], metadata: Mapping[str, Any]) -> list[Any]:  # noqa: ARG002
        """Return what these show."""
        return []

    def own_changes(self, item: Mapping[str, Any], *values: Any) -> dict[str, Any]:  # noqa: ARG002
        """Return what is to be stored of them."""
        return {}

    def put_values_into_components(self, name: str) -> list[Any]:
        """Return what the editor shows for a card."""
        item = self.page.items[name]
        metadata: dict[str, Any] = {}
        problem = ""
        try:
            metadata = read_sidecar(item["filename"])
        except SidecarError as error:
            problem = _paragraph(error)
        item["user_metadata"] = metadata
        start = os.path.splitext(item["filename"])[0]
        name_html, _, table, preview, _ = super().put_values_into_components(name)
        return [
            name_html,
            table,
            preview,
            problem,
            _text(metadata.get("description")) or self.page.find_description(start) or "",
            _text(metadata.get("notes")),
            _text(metadata.get(SIDECAR_KEY)),
            *self.own_values(item, metadata),
        ]

    def get_metadata_table(self, name: str) -> list[tuple[str, str]]:
        """See the host's class, which does not escape the file's name."""
        return [(label, html.escape(str(value))) for label, value in super().get_metadata_table(name) if value]

    def save(self, name: str, description: str, notes: str, class_word: str, *own: Any) -> str:
        """Store what was edited; what is empty is taken out. Return what is wrong, as HTML; empty: nothing is."""
        item = self.page.items.get(name)
        if item is None:
            return _paragraph(f"There is no '{name}' any more: close this, and refresh")
        class_word = class_word.strip()
        changes = {"description": description, "notes": notes, SIDECAR_KEY: class_word}
        try:
            if class_word:
                check_class_word(class_word)
            changes.update(self.own_changes(item, *own))
            update_sidecar(item["filename"], {key: value or None for key, value in changes.items()})
        except (ClassWordError, SidecarError) as error:
            return _paragraph(error)
        return ""


class DeltaEditor(MetadataEditor):
    """For Custom Diffusion, the token and the strength too."""

    def create_own_elems(self) -> list[Any]:
        """See above."""
        self.edit_token = gr.Dropdown(label="Token", choices=[], info="Put before it in the prompt", interactive=True)
        self.edit_strength = gr.Slider(
            label="Preferred strength", info="0: the default of the WebUI's settings", minimum=0, maximum=2, step=0.01
        )
        return [self.edit_token, self.edit_strength]

    def own_values(self, item: Mapping[str, Any], metadata: Mapping[str, Any]) -> list[Any]:
        """See above."""
        tokens = list(item["tokens"])
        token = metadata.get(TOKEN_KEY)
        chosen = token if token in tokens else next(iter(tokens), None)
        return [gr.Dropdown.update(choices=tokens, value=chosen), preferred_strength(metadata) or 0]

    def own_changes(self, item: Mapping[str, Any], *values: Any) -> dict[str, Any]:
        """See above."""
        token, strength = values
        first = next(iter(item["tokens"]), None)
        return {TOKEN_KEY: None if token == first else token, STRENGTH_KEY: strength}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _paragraph(problem: object) -> str:
    return f"<p class='alignit-note'>{html.escape(str(problem))}.</p>"
