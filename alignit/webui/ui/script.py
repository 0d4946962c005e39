"""The always-on script: what the host calls, and when."""

from __future__ import annotations

import html
from typing import Any

import gradio as gr
from modules import scripts

from alignit.webui.generation.arguments import Arguments, ArgumentsError
from alignit.webui.generation.generation import Generation
from alignit.webui.generation.notes import Notes
from alignit.webui.host import host
from alignit.webui.host.ports import Step
from alignit.webui.ui.axes import with_axes
from alignit.webui.ui.parts import lost_parts, part


class AlignITScript(scripts.Script):  # type: ignore[misc]
    """AlignIT in txt2img and img2img."""

    def __init__(self) -> None:
        super().__init__()
        self._prompt: Any = None
        self._styles: Any = None

    def title(self) -> str:
        """Name the script; API callers use it, so it never changes."""
        return "AlignIT"

    def show(self, is_img2img: bool) -> Any:  # noqa: ARG002
        """Show the panel in both tabs."""
        return scripts.AlwaysVisible

    def after_component(self, component: Any, **kwargs: Any) -> None:
        """Find the tab's prompt box and its styles, which the panel reads."""
        if kwargs.get("elem_id") == f"{self.tabname}_prompt":
            self._prompt = component
        elif kwargs.get("elem_id") == f"{self.tabname}_styles":
            self._styles = component

    def ui(self, is_img2img: bool) -> list[Any]:  # noqa: ARG002
        """Build the panel; its components are the arguments of the methods below."""
        components: list[Any] = []
        with part("AlignIT's panel"):
            host()  # of a kind that AlignIT does not know, there is nothing for a panel to do
            from alignit.webui.ui.panel import Panel  # noqa: PLC0415  # its parts can be missing in the host

            panel = Panel(self.elem_id, self._prompt, self._styles)
            self.infotext_fields = panel.paste_fields
            # "Send to img2img" copies the fields whose second part is among these, be it a label or a function.
            self.paste_field_names = [restored_by for _, restored_by in panel.paste_fields]
            components = panel.components
        for note in lost_parts():
            gr.HTML(html.escape(f"AlignIT: {note}"))
        return components

    def before_process(self, p: Any, *args: Any) -> None:
        """Undo what an earlier generation set up on the same object, and refuse arguments that cannot be used."""
        Generation.prepare(p)
        try:
            Arguments.from_list(with_axes(p, args))
        except ArgumentsError as error:
            if getattr(p, "is_api", False):
                host().life.refuse(p, error)

    def process(self, p: Any, *args: Any) -> None:
        """Set the generation up: the model is loaded, styles are merged and embeddings are up to date."""
        try:
            arguments = Arguments.from_list(with_axes(p, args))
        except ArgumentsError as error:
            Generation.end(p)
            Notes(p).say(f"{error} This picture is made without AlignIT.")
            return
        Generation.begin(p, arguments, slice(self.args_from, self.args_to))

    def before_process_batch(self, p: Any, *_args: Any, batch_number: int, **_kwargs: Any) -> None:
        """See `Generation`."""
        generation = Generation.of(p)
        if generation is not None:
            generation.begin_batch(batch_number)

    def after_extra_networks_activate(self, p: Any, *_args: Any, **kwargs: Any) -> None:
        """See `Generation`."""
        generation = Generation.of(p)
        if generation is not None:
            generation.networks_activated(kwargs.get("extra_network_data"))

    def process_batch(self, p: Any, *_args: Any, **_kwargs: Any) -> None:
        """See `Generation`."""
        Generation.settle(p)
        Generation.give_plain_text(p)

    def process_before_every_sampling(self, p: Any, *_args: Any, **_kwargs: Any) -> None:
        """See `Generation`."""
        generation = Generation.of(p)
        if generation is not None:
            generation.begin_pass()

    def postprocess_image(self, p: Any, pp: Any, *_args: Any) -> None:
        """See `Generation`."""
        generation = Generation.of(p)
        if generation is not None:
            generation.picture_made(pp.image)

    def postprocess(self, p: Any, processed: Any, *_args: Any) -> None:
        """See `Generation`."""
        generation = Generation.of(p)
        if generation is not None:
            generation.finish(processed)


def before_encoding(p: Any) -> None:
    """Let a generation that is made without AlignIT's script have its part too: see `Generation.join`."""
    if not any(isinstance(script, AlignITScript) for script in host().life.scripts_of(p)):
        Generation.join(p)


def on_step(step: Step) -> None:
    """See `Generation`."""
    generation = Generation.of(step.p)
    if generation is not None:
        generation.step(step)


def on_save(params: Any) -> None:
    """See `Generation`; the host calls this before it saves a picture."""
    generation = Generation.of(params.p)
    if generation is not None:
        params.filename = generation.name_file(params.filename)
