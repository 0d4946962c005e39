"""The editor behind a card's button, with what AlignIT wants to know of a concept."""

from __future__ import annotations

import html
import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import gradio as gr
from modules import ui_extra_networks_user_metadata

from alignit.prompt.class_words import SIDECAR_KEY, ClassWordError, check_class_word
from alignit.prompt.sidecar import SidecarError, read_sidecar, update_sidecar
from alignit.webui.networks.network import CardField

STRENGTH_KEY = "preferred weight"
"""The host's own, of its LoRA cards."""

TOKEN_KEY = "token"


def preferred_strength(metadata: Mapping[str, Any]) -> float | None:
    """Return the strength that a user prefers for a concept, or None for the host's default."""
    strength = metadata.get(STRENGTH_KEY)
    if isinstance(strength, bool) or not isinstance(strength, (int, float)) or not math.isfinite(strength):
        return None
    return float(strength) or None


def chosen_token(item: Mapping[str, Any], metadata: Mapping[str, Any]) -> str | None:
    """Return the token that a user wants in prompts, or a card's first one; None where it has none."""
    token = metadata.get(TOKEN_KEY)
    return token if token in item["tokens"] else next(iter(item["tokens"]), None)


class _Field(Protocol):
    """What the editor of one kind of concept has beside description, class word and notes."""

    key: str

    def element(self) -> Any:
        """Build its element of the page."""

    def shown(self, item: Mapping[str, Any], metadata: Mapping[str, Any]) -> Any:
        """Return what it shows for a card."""

    def stored(self, item: Mapping[str, Any], value: Any) -> Any:
        """Return what is stored of it; None: nothing is."""


class _TokenField:
    key = TOKEN_KEY

    def element(self) -> Any:
        return gr.Dropdown(label="Token", choices=[], info="Put before it in the prompt", interactive=True)

    def shown(self, item: Mapping[str, Any], metadata: Mapping[str, Any]) -> Any:
        return gr.Dropdown.update(choices=list(item["tokens"]), value=chosen_token(item, metadata))

    def stored(self, item: Mapping[str, Any], value: Any) -> Any:
        return None if value == next(iter(item["tokens"]), None) else value


class _StrengthField:
    key = STRENGTH_KEY

    def element(self) -> Any:
        return gr.Slider(
            label="Preferred strength", info="0: the default of the WebUI's settings", minimum=0, maximum=2, step=0.01
        )

    def shown(self, _item: Mapping[str, Any], metadata: Mapping[str, Any]) -> Any:
        return preferred_strength(metadata) or 0

    def stored(self, _item: Mapping[str, Any], value: Any) -> Any:
        return value


_FIELDS: dict[CardField, _Field] = {CardField.TOKEN: _TokenField(), CardField.STRENGTH: _StrengthField()}


class MetadataEditor(ui_extra_networks_user_metadata.UserMetadataEditor):  # type: ignore[misc]
    """Description, class word and notes.

    They are read from the file beside the concept's when the editor opens, and written into what is there when it is
    saved: the panel's "Remember class words" and other programs write there too.
    """

    def __init__(self, ui: Any, tabname: str, page: Any, fields: Sequence[CardField] = ()) -> None:
        """Build the editor of a page's cards, with these fields of its own."""
        self._fields = [_FIELDS[field] for field in fields]
        super().__init__(ui, tabname, page)

    def create_editor(self) -> None:
        """Build the editor; the host calls this once for each of its tabs."""
        self.create_default_editor_elems()
        self.edit_class_word = gr.Textbox(
            label="Class word", info="An ordinary word for what the concept is, such as cat"
        )
        own = [field.element() for field in self._fields]
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
            *(field.shown(item, metadata) for field in self._fields),
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
        changes: dict[str, Any] = {"description": description, "notes": notes, SIDECAR_KEY: class_word}
        try:
            if class_word:
                check_class_word(class_word)
            changes |= {field.key: field.stored(item, value) for field, value in zip(self._fields, own, strict=True)}
            update_sidecar(item["filename"], {key: value or None for key, value in changes.items()})
        except (ClassWordError, SidecarError) as error:
            return _paragraph(error)
        return ""


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _paragraph(problem: object) -> str:
    return f"<p class='alignit-note'>{html.escape(str(problem))}.</p>"
