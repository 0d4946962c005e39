"""A test-only extension of the WebUI: the paper's injection done by index, and a look at what extensions leave behind.

It shares no code with AlignIT. The script takes one JSON object; every key is optional:

    inject      list of injections, each with
                  dummy     the dummy prompt p', encoded by the plain host
                  rows      token rows of the conditioning to overwrite (the first word of a prompt is row 1)
                  take      rows of p' to take them from; default: the same
                  parts     which positive rows, counted image by image and within an image by AND part; default: all
                  steps     [first, last] of the denoiser's steps, both included; default: all
                  strength  1.0: K = K_p + strength (K' - K_p)
                  weights   a .safetensors file with the customised model's W' by LDM names: K' = W' c'
                  delta     true: these less the checkpoint's own are a change of what the layer computes with LoRAs
                  adapter   a CatVersion file that changes the text encoder for p'
                  encoder   a .safetensors file with other weights of the text encoder for p', by a checkpoint's names
                  keys, values, layers   false to leave keys or values alone; substrings of layer names, default: all
                  minus     another prompt, encoded by the plain host: K = K + strength factor (K' - K_minus) instead,
                            with K_minus of the plain model; several of these at a row add up
                  factor    1.0: see there
                  at        "conditioning": put rows of c' into the conditioning instead of keys and values
    catversion  a list of CatVersion files that change the text encoder for all positive prompts
    hires       another list, for the hires pass; default: the same list
    count       count text-encoder passes and UNet calls; read them at /probe/counts
    rewrite_cond  true: multiply the positive conditioning by 1.0001 on every step, like a meddling extension
    raise_in    "process_batch", "sample", "unet" or "encoder": raise there, once
    raise_at    at which call of the UNet or the text encoder (default 2 and 1)
    is_sd3      true: the loaded model calls itself one of Stable Diffusion 3
    interrupt_at, skip_at   press Interrupt or Skip at this step of the denoiser
    stop_at     press Interrupt there where the settings let the batch end first
    in_batch    at that step of this batch alone, counted from 0
    attention   rows of the conditioning: add up how much the cross-attention looks at them, as the host itself computes
                it without an optimisation; read it at /probe/attention
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, ClassVar

import gradio as gr
import ldm.modules.attention
import ldm.modules.diffusionmodules.openaimodel
import open_clip
import sgm.modules.attention
import sgm.modules.diffusionmodules.openaimodel
import torch
from fastapi import FastAPI
from modules import (
    devices,
    errors,
    extra_networks,
    paths,
    processing,
    prompt_parser,
    safe,
    script_callbacks,
    scripts,
    sd_hijack,
    sd_hijack_clip,
    sd_hijack_open_clip,
    sd_models,
    sd_models_config,
    sd_samplers_cfg_denoiser,
    shared,
)
from modules.hypernetworks import hypernetwork
from safetensors import safe_open
from torch.nn.modules import module as torch_module

# CatVersion, from its published training code


@contextmanager
def catversion(files: Sequence[str]) -> Iterator[None]:
    """Let SD 1's text encoder attend to the keys and values of adapters."""
    added: dict[int, list[tuple[torch.Tensor, torch.Tensor]]] = {}
    for file in files:
        pool = {
            name: value
            for name, value in safe.unsafe_torch_load(file, map_location="cpu").items()
            if name.endswith(".control_trans")
        }
        found = (re.search(r"layers\.(\d+)\.", name) for name in pool)
        numbers = sorted({int(match[1]) for match in found if match})
        states = next(iter(pool.values())).view(len(numbers), 2, -1)
        for number, (key, value) in zip(numbers, states, strict=True):
            added.setdefault(number, []).append((key, value))
    with ExitStack() as undo:
        for number, pairs in added.items():
            encoder = shared.sd_model.cond_stage_model.wrapped.transformer.text_model.encoder
            attention = encoder.layers[number].self_attn
            attention.forward = attend_to(attention, pairs)
            undo.callback(delattr, attention, "forward")
        yield


def attend_to(
    attention: Any, pairs: list[tuple[torch.Tensor, torch.Tensor]]
) -> Callable[..., tuple[torch.Tensor, None]]:
    def forward(hidden_states: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, None]:
        batch, length, _width = hidden_states.shape
        query, key, value = (
            project(hidden_states) for project in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        key = torch.cat([pair[0].expand(batch, 1, -1) for pair in pairs] + [key], 1)
        value = torch.cat([pair[1].expand(batch, 1, -1) for pair in pairs] + [value], 1)
        # A mask of ones for the prefixes, in front of CLIP's own.
        mask = torch.full((length, length), -torch.inf).triu(1)
        mask = torch.cat([torch.ones(length, len(pairs)), mask], 1)
        heads = [
            ((q / attention.head_dim**0.5) @ k.mT + mask).softmax(-1) @ v
            for q, k, v in zip(*(rows.split(attention.head_dim, -1) for rows in (query, key, value)), strict=True)
        ]
        return attention.out_proj(torch.cat(heads, -1)), None

    return forward


@contextmanager
def other_encoder(file: str | None) -> Iterator[None]:
    """Let the text encoder have the weights of a file, in the parameters themselves."""
    parameters = {name.replace(".wrapped", ""): value for name, value in shared.sd_model.named_parameters()}
    before = {}
    try:
        if file is not None:
            # The Lora extension takes the last job's networks out of the weights when a module runs, and no sooner.
            shared.sd_model.get_learned_conditioning(prompt_parser.SdConditioning([""]))
            with safe_open(file, "pt") as weights:
                for name in weights.keys():  # noqa: SIM118  # it is no dictionary
                    before[name] = parameters[name].clone()
                    parameters[name].copy_(weights.get_tensor(name))
        yield
    finally:
        for name, value in before.items():
            parameters[name].copy_(value)


# The injection


class Injection:
    """Overwrites rows of the keys and values in every attn2, by index, while the sampler runs."""

    def __init__(self, p: processing.StableDiffusionProcessing, request: dict[str, Any]) -> None:
        self.p = p
        self.request = request
        self.model: Any = None
        self.encoded_for: Any = None
        self.hooks: list[Any] = []
        self.contexts: list[torch.Tensor] = []
        self.minus: list[torch.Tensor | None] = []
        self.positives = 0  # rows of positive conditioning in this step
        self.seen = 0  # rows that the UNet was given in this step so far
        self.first = 0  # what seen was when the running UNet call began
        self.step = 0

    def injections(self) -> list[dict[str, Any]]:
        first_pass = self.request.get("inject", [])
        hires = getattr(self.p, "is_hr_pass", False)
        return self.request.get("hires", first_pass) if hires else first_pass  # type: ignore[no-any-return]

    def begin_step(self, params: script_callbacks.CFGDenoiserParams) -> None:
        model = shared.sd_model
        now = (id(model), model.sd_checkpoint_info.filename, self.p.iteration, getattr(self.p, "is_hr_pass", False))
        if now != self.encoded_for:  # the first step, a refiner, the hires pass with its own checkpoint or LoRAs
            self.encoded_for = now
            self.contexts = [self.encode(injection) for injection in self.injections()]
            self.minus = [self.encode({"dummy": i["minus"]}) if "minus" in i else None for i in self.injections()]
        if model is not self.model:
            self.remove_hooks()
            self.add_hooks(model)
        cond = params.text_cond
        self.positives = (cond["crossattn"] if isinstance(cond, dict) else cond).shape[0]
        self.seen = self.first = 0
        self.step = params.denoiser.step
        for injection, context in zip(self.injections(), self.contexts, strict=True):
            if injection.get("at") == "conditioning" and self.applies(injection):
                rows = cond["crossattn"] if isinstance(cond, dict) else cond
                for part in injection.get("parts", range(self.positives)):
                    rows[part, injection["rows"]] = context[0, injection.get("take", injection["rows"])].to(rows.dtype)

    def applies(self, injection: dict[str, Any]) -> bool:
        first, last = injection.get("steps", [0, 10**9])
        return first <= self.step <= last  # type: ignore[no-any-return]

    @staticmethod
    def encode(injection: dict[str, Any]) -> torch.Tensor:
        text = injection["dummy"]
        # For SDXL's refiner the host passes over SDXL's embeddings; the dummy prompt shall have them all the same.
        database = sd_hijack.model_hijack.embedding_db
        passed_over = [e for name, e in database.skipped_embeddings.items() if name in text.split()]
        for embedding in passed_over:
            database.register_embedding(embedding, shared.sd_model)
        adapters, weights = [injection["adapter"]] if "adapter" in injection else [], injection.get("encoder")
        with devices.autocast(), torch.no_grad(), catversion(adapters), other_encoder(weights):
            cond = shared.sd_model.get_learned_conditioning(prompt_parser.SdConditioning([text]))
        for embedding in passed_over:
            database.register_embedding_by_name(None, shared.sd_model, embedding.name)
        return cond["crossattn"] if isinstance(cond, dict) else cond  # type: ignore[no-any-return]

    def add_hooks(self, model: Any) -> None:
        self.model = model
        unet = model.model.diffusion_model
        self.hooks.append(unet.register_forward_pre_hook(self.count_rows))
        for name, attention in unet.named_modules():
            if name.endswith("attn2"):
                self.hooks.append(attention.to_k.register_forward_hook(self.overwrite(name, attention, 0)))
                self.hooks.append(attention.to_v.register_forward_hook(self.overwrite(name, attention, 1)))

    def remove_hooks(self) -> None:
        for hook in self.hooks:
            hook.remove()
        self.hooks.clear()
        self.model = None

    def count_rows(self, _unet: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        self.first = self.seen
        self.seen += args[0].shape[0]

    def overwrite(self, name: str, attention: torch.nn.Module, which: int) -> Callable[..., torch.Tensor | None]:
        """The hook of one to_k (which = 0) or to_v (which = 1)."""

        def hook(projection: torch.nn.Module, args: tuple[torch.Tensor], out: torch.Tensor) -> torch.Tensor | None:
            result = None
            for injection, context, minus in zip(self.injections(), self.contexts, self.minus, strict=True):
                if injection.get("at", "keys and values") != "keys and values" or not self.applies(injection):
                    continue
                if not injection.get(("keys", "values")[which], True):
                    continue
                if not any(part in name for part in injection.get("layers", [""])):
                    continue
                # K' = to_k(c') in a batch of the same shape as the real one, so that rounding is the same too.
                length = args[0].shape[1]
                dummy = torch.nn.functional.pad(context[:, :length], (0, 0, 0, max(0, length - context.shape[1])))
                dummy = dummy.expand(args[0].shape[0], -1, -1).to(args[0].dtype)
                dummy = hypernetwork.apply_hypernetworks(shared.loaded_hypernetworks, dummy, attention)[which]
                wanted = projection.forward(dummy)  # not __call__: this hook must not see it
                if "weights" in injection:
                    layer = f"model.diffusion_model.{name}.{('to_k', 'to_v')[which]}.weight"
                    with safe_open(injection["weights"], "pt") as file:
                        changed = file.get_tensor(layer).to(dummy)
                    if injection.get("delta"):
                        with safe_open(shared.sd_model.sd_checkpoint_info.filename, "pt") as file:
                            changed = changed - file.get_tensor(layer).to(dummy)
                        wanted = wanted + torch.nn.functional.linear(dummy, changed)
                    else:
                        wanted = torch.nn.functional.linear(dummy, changed)
                rows = injection["rows"]
                take = injection.get("take", rows)
                strength = injection.get("strength", 1.0)
                if minus is not None:
                    taken = torch.nn.functional.pad(minus[:, :length], (0, 0, 0, max(0, length - minus.shape[1])))
                    taken = taken.expand(args[0].shape[0], -1, -1).to(args[0].dtype)
                    taken = hypernetwork.apply_hypernetworks(shared.loaded_hypernetworks, taken, attention)[which]
                    # The host repeats a conditioning's last row up to the longest one's length, and these rows with it.
                    last = context.shape[1] - 1
                    rows = [*rows, *range(last + 1, args[0].shape[1])] if last in rows else rows
                    take = [min(row, last) for row in rows]
                    wanted = injection.get("factor", 1.0) * (wanted - projection.forward(taken))
                for row in range(out.shape[0]):
                    part = self.first + row
                    if part < self.positives and part in injection.get("parts", range(self.positives)):
                        result = out.clone() if result is None else result
                        if minus is not None:
                            result[row, rows] += strength * wanted[row, take]
                            continue
                        # Exactly K' where the strength is 1, not K_p + (K' - K_p) with its rounding.
                        new = (
                            wanted[row, take]
                            if strength == 1
                            else torch.lerp(out[row, rows], wanted[row, take], strength)
                        )
                        result[row, rows] = new
            return result

        return hook


# The attention


class AttentionWatch:
    """Adds up what the host's plain CrossAttention.forward gives to its softmax's caller, in every attn2."""

    recorded: ClassVar[dict[str, dict[str, Any]]] = {}

    def __init__(self, p: processing.StableDiffusionProcessing, rows: list[int]) -> None:
        self.p = p
        self.rows = rows
        self.hooks: list[Any] = []
        self.layer: str | None = None
        self.heads = self.positives = self.seen = self.first = 0
        AttentionWatch.recorded = {}
        self.softmax = torch.Tensor.softmax
        torch.Tensor.softmax = self.watched_softmax()

    def begin_step(self, params: script_callbacks.CFGDenoiserParams) -> None:
        self.remove_hooks()
        unet = shared.sd_model.model.diffusion_model
        self.hooks.append(unet.register_forward_pre_hook(self.count_rows))
        for name, attention in unet.named_modules():
            if name.endswith("attn2"):
                self.hooks.append(attention.register_forward_pre_hook(self.enter(name), with_kwargs=True))
                self.hooks.append(attention.register_forward_hook(self.leave))
        cond = params.text_cond
        self.positives = (cond["crossattn"] if isinstance(cond, dict) else cond).shape[0]
        self.seen = self.first = 0

    def count_rows(self, _unet: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        self.first = self.seen
        self.seen += args[0].shape[0]

    def enter(self, name: str) -> Callable[..., None]:
        def hook(attention: Any, *_: Any) -> None:
            self.layer, self.heads = name, attention.heads

        return hook

    def leave(self, *_: Any) -> None:
        self.layer = None

    def watched_softmax(self) -> Callable[..., torch.Tensor]:
        def softmax(logits: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            result = self.softmax(logits, *args, **kwargs)
            if self.layer is not None:
                self.add(result.detach())
            return result

        return softmax

    def add(self, attention: torch.Tensor) -> None:
        key = f"{self.p.iteration} {'hires' if getattr(self.p, 'is_hr_pass', False) else 'first'}"
        by_layer = self.recorded.setdefault(key, {})
        for row, heads in enumerate(attention.double().split(self.heads)):
            part = self.first + row
            if part < self.positives:
                known = by_layer.setdefault(f"{part} {self.layer}", {"count": 0, "total": 0})
                known["total"] = known["total"] + heads.mean(0).T[self.rows]
                known["count"] += 1

    def remove_hooks(self) -> None:
        for hook in self.hooks:
            hook.remove()
        self.hooks.clear()

    def remove(self) -> None:
        self.remove_hooks()
        torch.Tensor.softmax = self.softmax


def attention() -> dict[str, Any]:
    """For each pass, for each row of the batch and layer, the mean over heads and steps: [rows, places]."""
    return {
        key: {name: (item["total"] / item["count"]).tolist() for name, item in by_layer.items()}
        for key, by_layer in AttentionWatch.recorded.items()
    }


# Misbehaving and counting


class ProbeError(Exception):
    """What raise_in raises."""


class Watch:
    """Sees every call of a module while it is on: counts text-encoder passes and UNet calls, raises in them."""

    counts: ClassVar[Counter[str]] = Counter()

    def __init__(self, request: dict[str, Any]) -> None:
        self.raise_in = request.get("raise_in")
        self.raise_at = request.get("raise_at", 2 if self.raise_in == "unet" else 1)
        Watch.counts = Counter(encoder_passes=0, encoder_rows=0, unet_calls=0, unet_rows=0, foreign_products=0)
        self.linear = torch.nn.functional.linear
        torch.nn.functional.linear = self.count_foreign
        self.handle = torch_module.register_module_forward_pre_hook(self.before_forward)

    def before_forward(self, module: torch.nn.Module, args: tuple[Any, ...]) -> None:
        if isinstance(module, sd_hijack.EmbeddingsWithFixes):
            self.count("encoder", "passes", args)  # SDXL has two text encoders: one pass each
        elif isinstance(module, UNETS):
            self.count("unet", "calls", args)

    def count(self, what: str, unit: str, args: tuple[Any, ...]) -> None:
        Watch.counts[f"{what}_{unit}"] += 1
        Watch.counts[f"{what}_rows"] += args[0].shape[0]
        if self.raise_in == what and Watch.counts[f"{what}_{unit}"] == self.raise_at:
            self.raise_in = None
            raise ProbeError(f"raised in the {what} as asked")

    def count_foreign(self, rows: torch.Tensor, weight: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Count products with matrices that are no model's own."""
        Watch.counts["foreign_products"] += not isinstance(weight, torch.nn.Parameter)
        return self.linear(rows, weight, *args, **kwargs)

    def remove(self) -> None:
        self.handle.remove()
        torch.nn.functional.linear = self.linear


UNETS = (
    ldm.modules.diffusionmodules.openaimodel.UNetModel,
    sgm.modules.diffusionmodules.openaimodel.UNetModel,
)


class Job:
    """What the probe does during one generation; everything is undone by end()."""

    current: Job | None = None

    def __init__(self, p: processing.StableDiffusionProcessing, request: dict[str, Any]) -> None:
        self.p = p
        self.request = request
        self.injection = Injection(p, request) if request.get("inject") or request.get("hires") else None
        self.watch = Watch(request) if request.get("count") or request.get("raise_in") in ("unet", "encoder") else None
        self.attention = AttentionWatch(p, request["attention"]) if "attention" in request else None
        self.close = p.close
        p.close = self.closed
        self.is_sd3 = shared.sd_model.is_sd3
        shared.sd_model.is_sd3 = request.get("is_sd3", self.is_sd3)
        if request.get("catversion"):
            p.get_conds_with_caching = self.changed_conds(p.get_conds_with_caching)
            p.cached_c, p.cached_hr_c = [None, None], [None, None]
        if request.get("raise_in") == "sample":
            p.sample = self.raise_in_sample
        Job.current = self

    def raise_in_sample(self, *_: Any, **__: Any) -> None:
        raise ProbeError("raised in sample as asked")

    def changed_conds(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def get_conds_with_caching(function: Any, prompts: Any, *args: Any) -> Any:
            files = [] if prompts.is_negative_prompt else self.request["catversion"]
            with catversion(files):
                return original(function, prompts, *args)

        return get_conds_with_caching

    def closed(self) -> None:
        self.end()
        self.close()

    def end(self) -> None:
        if self.injection:
            self.injection.remove_hooks()
        if self.watch:
            self.watch.remove()
        if self.attention:
            self.attention.remove()
        for name in ("close", "sample"):
            if vars(self.p).get(name) in (self.closed, self.raise_in_sample):
                delattr(self.p, name)
        if self.request.get("catversion"):
            for name in ("get_conds_with_caching", "cached_c", "cached_hr_c"):
                vars(self.p).pop(name, None)
        shared.sd_model.is_sd3 = self.is_sd3
        Job.current = None


class Reference(scripts.Script):
    def title(self) -> str:
        return "Reference"

    def show(self, is_img2img: bool) -> Any:  # noqa: ARG002
        return scripts.AlwaysVisible

    def ui(self, is_img2img: bool) -> list[Any]:  # noqa: ARG002
        return [gr.Textbox(value="{}", visible=False)]

    def before_process(self, p: Any, request: dict[str, Any] | str) -> None:
        if Job.current:
            Job.current.end()
        request = json.loads(request or "{}") if isinstance(request, str) else request
        if request:
            Job(p, request)

    def process_batch(self, p: Any, *_: Any, **__: Any) -> None:
        job = Job.current
        if job and job.p is p and job.request.get("raise_in") == "process_batch":
            raise ProbeError("raised in process_batch as asked")

    def postprocess(self, p: Any, *_: Any) -> None:  # noqa: ARG002
        if Job.current:
            Job.current.end()


def on_cfg_denoiser(params: script_callbacks.CFGDenoiserParams) -> None:
    job = Job.current
    if not job or params.denoiser.p is not job.p:
        return
    if job.request.get("rewrite_cond"):
        cond = params.text_cond
        if isinstance(cond, dict):
            cond["crossattn"] = cond["crossattn"] * 1.0001
        else:
            params.text_cond = cond * 1.0001
    if job.injection:
        job.injection.begin_step(params)
    if job.attention:
        job.attention.begin_step(params)
    if job.request.get("in_batch", job.p.iteration) != job.p.iteration:
        return
    if params.denoiser.step == job.request.get("interrupt_at"):
        shared.state.interrupt()
    if params.denoiser.step == job.request.get("skip_at"):
        shared.state.skip()
    if params.denoiser.step == job.request.get("stop_at"):
        shared.state.stop_generating()


# What is left behind


def identity(function: Any) -> str:
    """Which function this is: two are the same if and only if this is equal, within one run of the server."""
    code = getattr(function, "__code__", None)
    place = f"{Path(code.co_filename).name}:{code.co_firstlineno}" if code else ""
    name = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', type(function).__name__)}"
    return f"{name} {place} {id(function):x}"


CLASSES = [
    ldm.modules.attention.CrossAttention,
    ldm.modules.attention.BasicTransformerBlock,
    sgm.modules.attention.CrossAttention,
    sgm.modules.attention.BasicTransformerBlock,
    *UNETS,
    sd_hijack.EmbeddingsWithFixes,
    sd_hijack.StableDiffusionModelHijack,
    sd_hijack_clip.TextConditionalModel,
    sd_hijack_clip.FrozenCLIPEmbedderWithCustomWordsBase,
    sd_hijack_clip.FrozenCLIPEmbedderWithCustomWords,
    sd_hijack_clip.FrozenCLIPEmbedderForSDXLWithCustomWords,
    sd_hijack_open_clip.FrozenOpenCLIPEmbedderWithCustomWords,
    sd_hijack_open_clip.FrozenOpenCLIPEmbedder2WithCustomWords,
    sd_samplers_cfg_denoiser.CFGDenoiser,
    processing.StableDiffusionProcessing,
    processing.StableDiffusionProcessingTxt2Img,
    processing.StableDiffusionProcessingImg2Img,
    torch.nn.Module,
    torch.nn.Linear,
]
MODULES = [processing, prompt_parser, extra_networks, sd_models, sd_hijack, sd_hijack_clip, hypernetwork]


def patches() -> dict[str, str]:
    """The functions of the host's classes and modules that an extension could replace."""
    found = {}
    for owner in CLASSES + MODULES:
        prefix = f"{owner.__module__}.{owner.__qualname__}" if isinstance(owner, type) else owner.__name__
        found |= {f"{prefix}.{name}": identity(value) for name, value in vars(owner).items() if callable(value)}
    return found


def hooks(model: torch.nn.Module) -> list[str]:
    """Every hook on every module of the model, and the global ones."""
    kinds = ["_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks"]
    found = [
        f"{name} {kind} {hook}"
        for name, m in model.named_modules()
        for kind in kinds
        for hook in getattr(m, kind).values()
    ]
    kinds = ["_global_forward_hooks", "_global_forward_pre_hooks", "_global_backward_hooks"]
    return found + [f"{kind} {hook}" for kind in kinds for hook in getattr(torch_module, kind).values()]


def overrides(model: torch.nn.Module) -> dict[str, str]:
    """Methods replaced on single modules: callables in an object's own dictionary that hide a method of its class."""
    return {
        f"{module_name}.{name}": identity(value)
        for module_name, module in model.named_modules()
        for name, value in vars(module).items()
        if callable(value) and hasattr(type(module), name)
    }


def tensors(thing: Any) -> Iterator[torch.Tensor]:
    """Every tensor in nested lists, dictionaries and the prompt parser's objects."""
    if isinstance(thing, torch.Tensor):
        yield thing
    elif isinstance(thing, dict):
        for value in thing.values():
            yield from tensors(value)
    elif isinstance(thing, (list, tuple)):
        for value in thing:
            yield from tensors(value)
    elif hasattr(thing, "__dict__"):
        yield from tensors(vars(thing))


def digest(values: Any) -> str:
    result = hashlib.sha256()
    for value in values:
        result.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return result.hexdigest()[:16]


def cond_caches() -> dict[str, Any]:
    """The conditionings that the host keeps on its classes from one generation to the next: key and content."""
    return {
        f"{owner.__name__}.{name}": [repr(cache[0]), digest(tensors(cache[1]))] if cache[0] is not None else None
        for owner in (processing.StableDiffusionProcessing, processing.StableDiffusionProcessingTxt2Img)
        for name, cache in vars(owner).items()
        if name.startswith("cached_") and isinstance(cache, list)
    }


def live_objects() -> dict[str, Any]:
    """Objects of AlignIT's classes and tensors that are alive after a garbage collection."""
    gc.collect()
    ours: Counter[str] = Counter()
    count = size = 0
    for thing in gc.get_objects():
        kind = type(thing)
        if str(kind.__module__).split(".")[0] == "alignit":
            ours[f"{kind.__module__}.{kind.__qualname__}"] += 1
        if issubclass(kind, torch.Tensor):
            count += 1
            size += thing.numel() * thing.element_size()
    return {"alignit": dict(ours), "tensors": count, "tensor_bytes": size}


def state(objects: bool = False) -> dict[str, Any]:
    model = shared.sd_model
    hijack = sd_hijack.model_hijack
    found = {
        "checkpoint": model.sd_checkpoint_info.name_for_extra,
        "weights": digest([*model.parameters(), *model.buffers()]),
        "embeddings": {name: digest(tensors(e.vec)) for name, e in hijack.embedding_db.word_embeddings.items()},
        "hooks": hooks(model),
        "overrides": overrides(model),
        "patches": patches(),
        "cond_caches": cond_caches(),
        "fixes": repr(hijack.fixes),
        "optimization": hijack.optimization_method,
        "callbacks": {k: [c.name for c in v] for k, v in script_callbacks.enumerate_callbacks() if v},
        "extra_networks": sorted(extra_networks.extra_network_registry),
        "loras": {net.name: len(net.modules) for net in loaded_loras()},
        "hypernetworks": [h.name for h in shared.loaded_hypernetworks],
        "job": Job.current is not None,
    }
    return found | ({"objects": live_objects()} if objects else {})


def loaded_loras() -> list[Any]:
    import networks  # the built-in Lora extension's  # noqa: PLC0415

    return networks.loaded_networks  # type: ignore[no-any-return]


def exceptions(clear: bool = False) -> list[Any]:
    found = errors.get_exceptions()
    if clear:
        errors.exception_records.clear()
    return found  # type: ignore[no-any-return]


_opened: Counter[str] = Counter()


def count_opened() -> None:
    """Count how often each file of the models is opened, by name, with a hook of Python's that cannot be removed."""

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(args[0], (str, os.PathLike)):
            path = os.fspath(args[0])
            if isinstance(path, str) and path.startswith(paths.models_path):
                _opened[os.path.basename(path)] += 1

    sys.addaudithook(hook)


def add_routes(_page: Any, app: FastAPI) -> None:
    app.add_api_route("/probe/opened", lambda: dict(_opened), methods=["GET"])
    app.add_api_route("/probe/state", state, methods=["GET"])
    app.add_api_route("/probe/counts", lambda: dict(Watch.counts), methods=["GET"])
    app.add_api_route("/probe/attention", attention, methods=["GET"])
    app.add_api_route("/probe/exceptions", exceptions, methods=["GET"])


# Set-up of the test server


def share_configurations() -> None:
    """Checkpoints whose .yaml is a link to another's count as of one configuration: see make_checkpoints.py."""
    original = sd_models_config.find_checkpoint_config_near_filename

    def resolved(info: Any) -> str | None:
        found = original(info)
        return os.path.realpath(found) if found else None

    if original.__name__ != resolved.__name__:
        sd_models_config.find_checkpoint_config_near_filename = resolved


def end_with_parent() -> None:
    """A server must not outlive the tests, even if these are killed."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if "ALIGNIT_TEST_OPEN_CLIP" in os.environ:
    open_clip.add_model_config(os.environ["ALIGNIT_TEST_OPEN_CLIP"])
    share_configurations()
    end_with_parent()
    count_opened()
script_callbacks.on_cfg_denoiser(on_cfg_denoiser)
script_callbacks.on_app_started(add_routes)
