"""A test-only extension of every host: Algorithm 1 done by index, and a look at what extensions leave behind.

It shares no code with AlignIT, and asks hosts for nothing but their UNet, their text encoder and their callbacks. The
script takes one JSON object; every key is optional:

    inject     list of injections, each with
                 dummy     the dummy prompt p', encoded by the plain host
                 rows      token rows of the conditioning to overwrite (the first word of a prompt is row 1)
                 part      which of the positive conditionings, counted picture by picture and by AND part; default: all
                 strength  K = K_p + strength (K' - K_p)
                 weights   a Custom Diffusion file with W': K' = W' c'
                 adapter   a CatVersion file that changes the text encoder for p'
                 keys, values, layers, steps   as in tests/host/probe/scripts/probe.py
    attention  rows of the conditioning: add up how much the cross-attention looks at them; read it at /probe/attention
    raise_in   "unet" or "encoder": raise there, once
    patched    true: compute the cross-attention in a patch of the UNet, as an IP-Adapter does: attn2 is not called

Whose a row of the UNet's batch is, is told by the whole of its conditioning, which is compared with what the host said
to sample with: no order of rows is taken for granted.
"""

from __future__ import annotations

import json
import math
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import gradio as gr
import torch
from fastapi import FastAPI
from modules import errors, processing, prompt_parser, script_callbacks, scripts, shared

# What differs from host to host


def objects() -> Any:
    return getattr(shared.sd_model, "forge_objects", None)


def unet() -> Any:
    own = getattr(shared.sd_model, "model", None)
    return own.diffusion_model if own is not None else objects().unet.model.diffusion_model


def text_encoder() -> Any:
    engine = getattr(shared.sd_model, "text_processing_engine", None)
    return engine.text_encoder if engine is not None else shared.sd_model.cond_stage_model.wrapped


def loaded(file: str) -> dict[str, Any]:
    try:
        from modules.safe import unsafe_torch_load as load  # noqa: PLC0415  # its torch.load refuses what a new torch saved
    except ImportError:
        load = torch.load
    return load(file, map_location="cpu")  # type: ignore[no-any-return]


def set_schedule(_sd_model: Any) -> None:
    """Give the miniature its noise schedule, which a WebUI reads from the YAML and its forks do not."""
    if objects() is None:
        return
    model = objects().unet.model
    if hasattr(model, "predictor"):
        register = model.predictor.register_schedule
        given = [None] if register.__code__.co_argcount > 6 else []  # betas, where a host takes them
        register(*given, "linear", 1000, 0.00085, 0.02, 8e-3)
    else:
        numbers = {"timesteps": 1000, "linear_start": 0.00085, "linear_end": 0.02, "cosine_s": 8e-3}
        model.model_sampling._register_schedule(given_betas=None, beta_schedule="linear", **numbers)


# CatVersion, from its published training code


@contextmanager
def adapted(file: str | None) -> Iterator[None]:
    if file is None:
        yield
        return
    values = {name: value for name, value in loaded(file).items() if name.endswith(".control_trans")}
    numbers = sorted({int(found[1]) for name in values if (found := re.search(r"layers\.(\d+)\.", name))})
    states = next(iter(values.values())).view(len(numbers), 2, -1)
    layers = text_encoder().transformer.text_model.encoder.layers
    changed = [layers[number].self_attn for number in numbers]
    for attention, (key, value) in zip(changed, states, strict=True):
        attention.forward = attending(attention, key, value)
    try:
        yield
    finally:
        for attention in changed:
            del attention.forward


def attending(attention: Any, key: torch.Tensor, value: torch.Tensor) -> Callable[..., Any]:
    def forward(hidden_states: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, None]:
        length = hidden_states.shape[1]
        q, k, v = (layer(hidden_states) for layer in (attention.q_proj, attention.k_proj, attention.v_proj))
        k, v = (torch.cat([more.to(rows).expand(len(rows), 1, -1), rows], 1) for more, rows in ((key, k), (value, v)))
        # A mask of ones for the prefix, in front of CLIP's own.
        mask = torch.cat([torch.ones(length, 1), torch.full((length, length), -torch.inf).triu(1)], 1)
        heads = [
            ((q_h / attention.head_dim**0.5) @ k_h.mT + mask).softmax(-1) @ v_h
            for q_h, k_h, v_h in zip(*(rows.split(attention.head_dim, -1) for rows in (q, k, v)), strict=True)
        ]
        return attention.out_proj(torch.cat(heads, -1)), None

    return forward


# The injection, and the attention


class ProbeError(Exception):
    """What raise_in raises."""


class Job:
    """What the probe does during one generation; everything is undone by `end`."""

    current: ClassVar[Job | None] = None
    recorded: ClassVar[dict[str, list[torch.Tensor]]] = {}
    weights: ClassVar[dict[str, dict[str, torch.Tensor]]] = {}

    def __init__(self, p: Any, request: dict[str, Any]) -> None:
        self.p = p
        self.request = request
        self.hooks: list[Any] = []
        self.hooked: Any = None
        self.dummies: list[torch.Tensor] = []
        self.positive: torch.Tensor | None = None
        self.parts: list[int | None] = []
        self.queries: dict[str, torch.Tensor] = {}
        self.copies = 1
        self.step = 0
        Job.recorded = {}
        Job.current = self
        if request.get("raise_in") == "encoder":
            self.hooks.append(text_encoder().register_forward_pre_hook(self.raise_once))
            self.hooks.append(text_encoder().transformer.register_forward_pre_hook(self.raise_once))

    def raise_once(self, *_: Any) -> None:
        if self.request.pop("raise_in", None):
            raise ProbeError("raised as asked")

    def end(self) -> None:
        for hook in self.hooks:
            hook.remove()
        Job.current = None

    def begin_step(self, params: Any) -> None:
        cond = params.text_cond
        self.positive = (cond["crossattn"] if isinstance(cond, dict) else cond).clone()
        self.step = params.denoiser.step
        injections = self.request.get("inject", [])
        if len(self.dummies) != len(injections):
            self.dummies = [self.encode(injection) for injection in injections]
        model = unet()
        if self.hooked is model:
            return
        self.hooked = model
        self.hooks.append(model.register_forward_pre_hook(self.on_call, with_kwargs=True))
        if self.request.get("raise_in") == "unet":
            self.hooks.append(model.register_forward_pre_hook(self.raise_once))
        for name, attention in model.named_modules():
            if name.endswith("attn2"):
                self.hooks.append(attention.to_k.register_forward_hook(self.overwrite(name, "keys")))
                self.hooks.append(attention.to_v.register_forward_hook(self.overwrite(name, "values")))
                if "attention" in self.request:
                    self.hooks.append(attention.to_q.register_forward_hook(self.keep_queries(name)))
                    self.hooks.append(attention.to_k.register_forward_hook(self.attend(name, attention.heads)))

    @staticmethod
    def encode(injection: dict[str, Any]) -> torch.Tensor:
        with torch.no_grad(), adapted(injection.get("adapter")):
            cond = shared.sd_model.get_learned_conditioning(prompt_parser.SdConditioning([injection["dummy"]]))
        return (cond["crossattn"] if isinstance(cond, dict) else cond).clone()  # type: ignore[no-any-return]

    def on_call(self, _unet: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        context = kwargs["context"] if "context" in kwargs else args[2]
        assert self.positive is not None
        length = self.positive.shape[1]
        self.copies = context.shape[1] // length if context.shape[1] % length == 0 else 1
        self.parts = []
        taken: dict[int, int] = {}
        for row in context:
            same = [k for k, cond in enumerate(self.positive) if torch.equal(row[:length], cond.to(row)[: len(row)])]
            # Pictures of one prompt have the same conditioning, and stand in order.
            number = taken.get(same[0], 0) if same else 0
            self.parts.append(same[min(number, len(same) - 1)] if same else None)
            if same:
                taken[same[0]] = number + 1

    def overwrite(self, name: str, which: str) -> Callable[..., torch.Tensor | None]:
        def hook(projection: Any, args: tuple[torch.Tensor], out: torch.Tensor) -> torch.Tensor | None:
            result = out.clone()
            for injection, context in zip(self.request.get("inject", []), self.dummies, strict=True):
                first, last = injection.get("steps", [0, 10**9])
                wanted = injection.get(which, True) and any(part in name for part in injection.get("layers", [""]))
                if not wanted or not first <= self.step <= last:
                    continue
                length = args[0].shape[1] // self.copies
                dummy = torch.nn.functional.pad(context[:, :length], (0, 0, 0, max(0, length - context.shape[1])))
                # In a batch of the same shape as the real one, so that rounding is the same too.
                dummy = dummy.repeat(1, self.copies, 1).expand(len(args[0]), -1, -1).to(args[0])
                new = projection.forward(dummy)  # not __call__: this hook must not see it
                if "weights" in injection:
                    layer = f"model.diffusion_model.{name}.{'to_k' if which == 'keys' else 'to_v'}.weight"
                    new = torch.nn.functional.linear(dummy, self.matrix(injection["weights"], layer).to(dummy))
                rows = [row + copy * length for row in injection["rows"] for copy in range(self.copies)]
                strength = injection.get("strength", 1.0)
                for place, part in enumerate(self.parts):
                    if part is not None and injection.get("part", part) == part:
                        # Exactly K' where the strength is 1, not K_p + (K' - K_p) with its rounding.
                        at = new[place, rows]
                        result[place, rows] = at if strength == 1 else torch.lerp(out[place, rows], at, strength)
            return result

        return hook

    def matrix(self, file: str, layer: str) -> torch.Tensor:
        if file not in self.weights:
            self.weights[file] = loaded(file)["state_dict"]
        return self.weights[file][layer]

    def keep_queries(self, name: str) -> Callable[..., None]:
        def hook(_module: Any, _args: Any, out: torch.Tensor) -> None:
            self.queries[name] = out

        return hook

    def attend(self, name: str, heads: int) -> Callable[..., None]:
        """Attention as it is defined, of each row that is a positive one's; a token's is that of all its copies."""

        def hook(_module: Any, _args: Any, keys: torch.Tensor) -> None:
            length = keys.shape[1] // self.copies
            for place, part in enumerate(self.parts):
                if part is None:
                    continue
                q, k = (rows[place].unflatten(-1, (heads, -1)).transpose(0, 1) for rows in (self.queries[name], keys))
                seen = (q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])).softmax(-1).mean(0)
                seen = seen.unflatten(-1, (self.copies, length)).sum(1).T[self.request["attention"]]
                self.recorded.setdefault(f"{part} {name}", []).append(seen)

        return hook


def attention() -> dict[str, Any]:
    """For each positive conditioning and layer, the mean over heads and steps: [rows, places]."""
    return {key: torch.stack(seen).mean(0).tolist() for key, seen in Job.recorded.items()}


def plain_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
    q, k, v = (rows.unflatten(-1, (options["n_heads"], -1)).transpose(1, 2) for rows in (q, k, v))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


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

    def process_before_every_sampling(self, p: Any, *_: Any, **__: Any) -> None:
        if Job.current and Job.current.request.get("patched"):
            patched = p.sd_model.forge_objects.unet.clone()
            for block, number in [("input", 4), ("input", 5), ("middle", 0), *(("output", n) for n in range(3))]:
                patched.set_model_patch_replace(plain_attention, "attn2", block, number)
            p.sd_model.forge_objects.unet = patched

    def postprocess(self, p: Any, *_: Any) -> None:  # noqa: ARG002
        if Job.current:
            Job.current.end()


def on_cfg_denoiser(params: Any) -> None:
    if Job.current:
        Job.current.begin_step(params)


# What is left behind


def modules() -> list[tuple[str, Any]]:
    return [(name, module) for whole in (unet(), text_encoder()) for name, module in whole.named_modules()]


def hooks() -> list[str]:
    kinds = ("_forward_hooks", "_forward_pre_hooks")
    return [f"{name} {kind} {hook}" for name, m in modules() for kind in kinds for hook in getattr(m, kind).values()]


def replaced(thing: Any) -> list[str]:
    """Methods that stand on an object and hide those of its class."""
    return [name for name, value in vars(thing).items() if callable(value) and hasattr(type(thing), name)]


def bits(whole: Any) -> int:
    """A number that is another after a change of any one bit of the weights, almost surely."""
    total = 0
    for number, tensor in enumerate([*whole.parameters(), *whole.buffers()]):
        whole_bytes = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        total ^= hash((number, int(whole_bytes.sum(dtype=torch.int64)), whole_bytes[::977].numpy().tobytes()))
    return total


def caches() -> dict[str, str]:
    owners = (processing.StableDiffusionProcessing, processing.StableDiffusionProcessingTxt2Img)
    return {
        f"{owner.__name__}.{name}": repr(cache[0])
        for owner in owners
        for name, cache in vars(owner).items()
        if name.startswith("cached_") and isinstance(cache, list)
    }


def state() -> dict[str, Any]:
    model = shared.sd_model
    engine = getattr(model, "text_processing_engine", None)
    return {
        "weights": [bits(unet()), bits(text_encoder())],
        "hooks": hooks(),
        "replaced": {name: found for name, module in modules() if (found := replaced(module))},
        "of the model": replaced(model),
        "encoder": type(engine if engine is not None else model.cond_stage_model).__name__,
        "of the encoder": replaced(engine if engine is not None else model.cond_stage_model),
        "fixes": repr(engine.embeddings.fixes) if engine is not None else "",
        "callbacks": {k: [c.name for c in v] for k, v in script_callbacks.enumerate_callbacks() if v}
        if hasattr(script_callbacks, "enumerate_callbacks")
        else {},
        "job": Job.current is not None,
    }


def exceptions(clear: bool = False) -> list[Any]:
    found = errors.get_exceptions()
    if clear:
        errors.exception_records.clear()
    return found  # type: ignore[no-any-return]


def add_routes(_page: Any, app: FastAPI) -> None:
    app.add_api_route("/probe/state", state, methods=["GET"])
    app.add_api_route("/probe/caches", caches, methods=["GET"])
    app.add_api_route("/probe/attention", attention, methods=["GET"])
    app.add_api_route("/probe/exceptions", exceptions, methods=["GET"])


def end_with_parent() -> None:
    """A server must not outlive the tests, even if these are killed."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


end_with_parent()
script_callbacks.on_model_loaded(set_schedule)
script_callbacks.on_cfg_denoiser(on_cfg_denoiser)
script_callbacks.on_app_started(add_routes)
