"""A benchmark-only extension: another way to use a delta, and a look at where the time of a generation goes.

``<swap:NAME:strength>`` does what the extension custom-diffusion-webui does for ``<delta:NAME:strength>``, step by
step: for each generation it lists the folder, reads the file, goes through the model's parameters, keeps a copy of each
that the file names, adds the differences to it in place, and afterwards copies all of them back.

The script "Meter" takes one JSON object. With anything in it, it measures one generation, to be read at /meter; with
"count" it also counts tensors of the size of the model's key and value projections that are made, and writes to them.
"""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import torch
from fastapi import FastAPI
from modules import extra_networks, paths, script_callbacks, scripts, shared
from safetensors import safe_open
from torch.utils._python_dispatch import TorchDispatchMode


class Meter:
    """Seconds of CPU time of the generation's thread: sums by part, and for each call of the UNet."""

    current: Meter | None = None
    last: Meter | None = None

    def __init__(self, count: bool) -> None:
        self.begin = time.thread_time()
        self.parts: defaultdict[str, float] = defaultdict(float)
        self.unet: list[float] = []
        self.in_hooks: list[float] = []
        self.copies = Copies() if count else None
        Meter.current = Meter.last = self
        if self.copies:
            self.copies.__enter__()

    def end(self) -> None:
        Meter.current = None
        self.parts["all"] = time.thread_time() - self.begin
        if self.copies:
            self.copies.__exit__(None, None, None)

    def enter_unet(self) -> None:
        if not self.unet:
            self.parts["until_unet"] = time.thread_time() - self.begin
        self.unet.append(-time.thread_time())
        self.in_hooks.append(0.0)

    def leave_unet(self) -> None:
        self.unet[-1] += time.thread_time()

    def result(self) -> dict[str, Any]:
        counts = {"made": self.copies.made, "written": self.copies.written} if self.copies else None
        return {"parts": dict(self.parts), "unet": self.unet, "in_hooks": self.in_hooks, "copies": counts}


class Copies(TorchDispatchMode):
    """Counts new tensors of the shape of the model's key and value projections, and changes of these in place."""

    def __init__(self) -> None:
        super().__init__()
        weights = [
            p for name, p in shared.sd_model.named_parameters() if ".attn2.to_k." in name or ".attn2.to_v." in name
        ]
        self.shapes = {tuple(weight.shape) for weight in weights}
        self.storages = {weight.untyped_storage().data_ptr() for weight in weights}
        self.made = self.written = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        name = function._schema.name
        if name.endswith("_") and isinstance(args[0], torch.Tensor):
            self.written += args[0].untyped_storage().data_ptr() in self.storages
        elif isinstance(result, torch.Tensor) and tuple(result.shape) in self.shapes:
            given = {thing.untyped_storage().data_ptr() for thing in args if isinstance(thing, torch.Tensor)}
            self.made += result.untyped_storage().data_ptr() not in given
        return result


def timed(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the time of each call to a part of the running generation."""

    def call(*args: Any, **kwargs: Any) -> Any:
        begin = time.thread_time()
        try:
            return function(*args, **kwargs)
        finally:
            if Meter.current:
                Meter.current.parts[part] += time.thread_time() - begin

    return call


def timed_hook(hook: Callable[..., Any]) -> Callable[..., Any]:
    """Add the time of each call to the running call of the UNet."""

    def call(*args: Any, **kwargs: Any) -> Any:
        begin = time.thread_time()
        try:
            return hook(*args, **kwargs)
        finally:
            if Meter.current and Meter.current.in_hooks:
                Meter.current.in_hooks[-1] += time.thread_time() - begin

    return call


def time_hooks(register: Callable[..., Any]) -> Callable[..., Any]:
    """Time the hooks of AlignIT that are registered on modules, and no others."""

    def call(module: torch.nn.Module, hook: Callable[..., Any], **kwargs: Any) -> Any:
        ours = str(getattr(hook, "__module__", "")).split(".")[0] == "alignit"
        return register(module, timed_hook(hook) if ours else hook, **kwargs)

    return call


class Swap(extra_networks.ExtraNetwork):
    """The model's weights changed in place for the length of a generation."""

    def __init__(self) -> None:
        super().__init__("swap")
        self.kept: dict[str, torch.Tensor] = {}

    def activate(self, p: Any, params_list: list[Any]) -> None:
        if not params_list:
            return
        folder = Path(paths.models_path) / "deltas"
        files = {path.stem: path for path in sorted(folder.rglob("*.safetensors"))}
        for params in params_list:
            name, strength = params.items
            with safe_open(files[f"{name}.delta"], "pt") as file:
                differences = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            for key, parameter in p.sd_model.named_parameters():
                if key in differences:
                    self.kept.setdefault(key, parameter.detach().clone())
                    with torch.no_grad():
                        parameter[:] = parameter.detach() + differences[key].to(parameter.device) * float(strength)

    def deactivate(self, p: Any) -> None:
        if self.kept:
            for key, parameter in p.sd_model.named_parameters():
                if key in self.kept:
                    with torch.no_grad():
                        parameter[:] = self.kept[key]
            self.kept = {}


class Script(scripts.Script):
    """Begins and ends the measuring."""

    def title(self) -> str:
        return "Meter"

    def show(self, is_img2img: bool) -> Any:  # noqa: ARG002
        return scripts.AlwaysVisible

    def ui(self, is_img2img: bool) -> list[Any]:  # noqa: ARG002
        return [gr.Textbox(value="{}", visible=False)]

    def before_process(self, p: Any, request: dict[str, Any] | str) -> None:  # noqa: ARG002
        request = json.loads(request or "{}") if isinstance(request, str) else request
        if request:
            watch(shared.sd_model.model.diffusion_model)
            Meter(bool(request.get("count")))

    def postprocess(self, p: Any, *_: Any) -> None:  # noqa: ARG002
        if Meter.current:
            Meter.current.end()


_watched: list[torch.nn.Module] = []


def watch(unet: torch.nn.Module) -> None:
    """Time the calls of a UNet from now on; of one at a time."""
    if unet in _watched:
        return

    def before(*_: Any) -> None:
        if Meter.current:
            Meter.current.enter_unet()

    def after(*_: Any) -> None:
        if Meter.current:
            Meter.current.leave_unet()

    unet.register_forward_pre_hook(before)
    unet.register_forward_hook(after)
    _watched[:] = [unet]


def install() -> None:
    """Take the time of AlignIT's functions, whatever the order in which the host loaded the extensions."""
    extra_networks.register_extra_network(Swap())
    Swap.activate = timed("activate", Swap.activate)  # type: ignore[method-assign]
    Swap.deactivate = timed("deactivate", Swap.deactivate)  # type: ignore[method-assign]
    job, encoders = sys.modules["alignit.webui.generation.job"], sys.modules["alignit.webui.generation.encoding"]
    job.read_networks = timed("activate", job.read_networks)  # type: ignore[attr-defined]
    job.Job._watch_projections = timed("activate", job.Job._watch_projections)  # type: ignore[attr-defined]
    encoders._encode = timed("dummy_prompts", encoders._encode)  # type: ignore[attr-defined]
    for name in ("register_forward_hook", "register_forward_pre_hook"):
        setattr(torch.nn.Module, name, time_hooks(getattr(torch.nn.Module, name)))


def add_routes(_page: Any, app: FastAPI) -> None:
    app.add_api_route("/meter", lambda: Meter.last.result() if Meter.last else None, methods=["GET"])


script_callbacks.on_before_ui(install)
script_callbacks.on_app_started(add_routes)
