"""The always-on script: what the host calls, and when."""

from __future__ import annotations

import html
from typing import Any

import gradio as gr
from modules import scripts

from alignit.maps.words import MapChoice
from alignit.prompt.syntax import without_class_words
from alignit.webui.generation.arguments import Arguments, ArgumentsError
from alignit.webui.generation.compare import Comparison
from alignit.webui.generation.infotext import take_info
from alignit.webui.generation.job import Job
from alignit.webui.generation.maps import MapRecording
from alignit.webui.generation.notes import Notes
from alignit.webui.host import host
from alignit.webui.host.ports import Step
from alignit.webui.networks.networks import has_networks, plain_text
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
        if Job.is_copy(p):
            # ADetailer does this in mid-batch; the info is that of the pictures being made.
            p.extra_generation_params = dict(p.extra_generation_params)
        Job.end(p)
        Comparison.end(p)
        MapRecording.end(p)
        take_info(p)
        try:
            Arguments.from_list(with_axes(p, args))
        except ArgumentsError as error:
            if getattr(p, "is_api", False):
                host().life.refuse(p, error)

    def process(self, p: Any, *args: Any) -> None:
        """Set the generation up: the model is loaded, styles are merged and embeddings are up to date."""
        Job.end(p)
        Comparison.end(p)
        MapRecording.end(p)
        try:
            arguments = Arguments.from_list(with_axes(p, args))
        except ArgumentsError as error:
            Notes(p).say(f"{error} This picture is made without AlignIT.")
            return
        if arguments.enabled or has_networks(_prompts(p)):
            try:
                if arguments.compare:
                    Comparison(p, arguments, slice(self.args_from, self.args_to))
                Job(p, arguments)
                if arguments.attention_maps:
                    MapRecording(p, MapChoice.parse(arguments.map_words))
            except Exception:
                Comparison.end(p)
                host().life.report("AlignIT: error while setting up")
                Notes(p).say(
                    "An error while setting up; the console has the details. This picture is made without AlignIT."
                )

    def before_process_batch(self, p: Any, *_args: Any, batch_number: int, **_kwargs: Any) -> None:
        """Tell the comparison which batch is next."""
        comparison = Comparison.of(p)
        if comparison is not None:
            comparison.begin_batch(batch_number)

    def process_batch(self, p: Any, *_args: Any, **_kwargs: Any) -> None:
        """Give the host plain embeddings for class words in the prompts that AlignIT leaves to it."""
        names = ["negative_prompts", "hr_negative_prompts"]
        job = Job.of(p)
        if job is None or not job.aligns:
            names += ["prompts", "hr_prompts"]
        find = plain_text(p.extra_network_data)
        for name in names:
            prompts = getattr(p, name, None)
            if prompts:
                setattr(p, name, [without_class_words(prompt, find) for prompt in prompts])

    def process_before_every_sampling(self, p: Any, *_args: Any, **_kwargs: Any) -> None:
        """Tell the job that a sampling pass begins."""
        job = Job.of(p)
        if job is not None:
            job.begin_pass()

    def postprocess_image(self, p: Any, pp: Any, *_args: Any) -> None:
        """Tell the comparison and the attention maps that a picture is made."""
        comparison = Comparison.of(p)
        if comparison is not None:
            comparison.note_picture()
        maps = MapRecording.of(p)
        if maps is not None:
            maps.draw(pp.image)

    def postprocess(self, p: Any, processed: Any, *_args: Any) -> None:
        """Have the comparison add its grid, and the attention maps their sheets."""
        comparison = Comparison.of(p)
        if comparison is not None:
            comparison.finish(processed)
        maps = MapRecording.of(p)
        if maps is not None:
            maps.finish(processed)


def on_step(step: Step) -> None:
    """Tell the job that a sampling step begins."""
    job = Job.of(step.p)
    if job is not None:
        job.before_step(step)
        job.record_step(step)


def _prompts(p: Any) -> list[str]:
    return [*(p.all_prompts or []), *(getattr(p, "all_hr_prompts", None) or [])]
