"""A test-only script that does what extensions do that stand in AlignIT's way, each kind of it in its plainest form.

One argument, a JSON object; every key is optional:

    attention   how cross-attention is computed, in the place of `attn2`'s own forward:
                  "regions"   the context's chunks one by one, the mean of what they give
                  "extended"  with rows of its own behind the context, whose values count negative
                  "cut"       without the context's last rows
                  "twice"     keys and values computed twice, from each half of the batch and from copies
    whole       true: keys and values are computed from the context as it is, and cut or extended then: what the paper's
                injection is in this attention, for the probe's reference, which counts rows in the context
    around      true: the transformer's block does it without calling `attn2`
    change      true: multiply what `to_k` is given by 1.01
    encoder     words: the text encoder is called again from a hook on it, for the prompt without each of them; rows of
                other places come half from there
    lora        [step, strength]: give all networks of the Lora extension this strength from this step on
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any, ClassVar

import gradio as gr
import torch
from modules import script_callbacks, scripts, shared

EXTRA = torch.randn(5, 4096, generator=torch.Generator().manual_seed(3))
CUT = 20


class Neighbour(scripts.Script):
    asked: ClassVar[dict[str, Any]] = {}

    def title(self) -> str:
        return "Neighbour"

    def show(self, is_img2img: bool) -> Any:  # noqa: ARG002
        return scripts.AlwaysVisible

    def ui(self, is_img2img: bool) -> list[Any]:  # noqa: ARG002
        return [gr.Textbox(value="", visible=False)]

    def process(self, p: Any, asked: Any) -> None:
        remove()
        asked = json.loads(asked or "{}") if isinstance(asked, str) else asked
        Neighbour.asked = asked
        unet = shared.sd_model.model.diffusion_model
        for name, module in unet.named_modules():
            if "attention" not in asked:
                break
            if name.endswith(".attn2") and not asked.get("around"):
                module.forward = attention_of(module, asked)
            elif hasattr(module, "attn2") and asked.get("around"):
                module._forward = block_of(module, asked)
        if "encoder" in asked:
            encoder = getattr(shared.sd_model, "conditioner", None) or shared.sd_model.cond_stage_model
            handles.append(encoder.register_forward_hook(encode_again(asked["encoder"])))
            p.cached_c = p.cached_uc = [None, None]

    def postprocess(self, p: Any, processed: Any, asked: Any) -> None:  # noqa: ARG002
        remove()


handles: list[Any] = []


def remove() -> None:
    Neighbour.asked = {}
    for handle in handles:
        handle.remove()
    handles.clear()
    for module in shared.sd_model.model.diffusion_model.modules():
        for name in ("forward", "_forward"):
            if getattr(vars(module).get(name), "__module__", "") == __name__:
                delattr(module, name)


# Cross-attention


def attend(attention: Any, x: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    def split(rows: torch.Tensor) -> torch.Tensor:
        return rows.unflatten(-1, (attention.heads, -1)).transpose(1, 2)

    query, keys, values = split(attention.to_q(x)), split(keys), split(values)
    weights = (query @ keys.mT * attention.scale).softmax(-1)
    return attention.to_out((weights @ values).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


def attention_of(attention: Any, asked: dict[str, Any]) -> Callable[..., torch.Tensor]:
    kind, whole = asked["attention"], asked.get("whole")
    factor = 1.01 if asked.get("change") else 1.0

    def project(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return attention.to_k(rows * factor if factor != 1 else rows), attention.to_v(rows)

    def plain(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        linear = torch.nn.functional.linear
        return linear(rows, attention.to_k.weight), linear(rows, attention.to_v.weight)

    def forward(x: torch.Tensor, context: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        full = project(context) if whole else None

        def parts(place: slice) -> tuple[torch.Tensor, torch.Tensor]:
            return (full[0][:, place], full[1][:, place]) if full else project(context[:, place])

        if kind == "regions":
            chunks = [slice(at, at + 77) for at in range(0, context.shape[1], 77)]
            return sum(attend(attention, x, *parts(chunk)) for chunk in chunks) / len(chunks)  # type: ignore[return-value]
        if kind == "cut":
            return attend(attention, x, *parts(slice(0, context.shape[1] - CUT)))
        if kind == "twice":
            if full is None:
                halves = [project(half.clone()) for half in context.chunk(2) for _ in range(2)][::2]
                full = tuple(torch.cat(each) for each in zip(*halves, strict=True))
            return attend(attention, x, *full)
        extra = EXTRA[:, : context.shape[-1]].to(context).expand(len(context), -1, -1)
        if full:
            keys, values = (torch.cat(pair, 1) for pair in zip(full, plain(extra), strict=True))
        else:
            keys, values = project(torch.cat([context, extra], 1))
        values[:, -extra.shape[1] :] *= -1
        return attend(attention, x, keys, values)

    return forward


def block_of(block: Any, asked: dict[str, Any]) -> Callable[..., torch.Tensor]:
    cross = attention_of(block.attn2, asked)

    def _forward(x: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        x = block.attn1(block.norm1(x), context=context if block.disable_self_attn else None) + x
        x = cross(block.norm2(x), context) + x
        return block.ff(block.norm3(x)) + x  # type: ignore[no-any-return]

    return _forward


# Text encoder


def encode_again(words: list[str]) -> Callable[..., Any]:
    busy = False

    def rows_without(encoder: Any, given: Any, word: str) -> torch.Tensor:
        texts = [text.replace(word, "_") for text in (given["txt"] if isinstance(given, dict) else given)]
        # In SDXL there are two encoders, and sizes beside the texts.
        return encoder({**given, "txt": texts})["crossattn"] if isinstance(given, dict) else encoder(texts)  # type: ignore[no-any-return]

    def hook(encoder: Any, args: tuple[Any, ...], output: Any) -> Any:
        nonlocal busy
        texts = args[0]["txt"] if isinstance(args[0], dict) else args[0]
        if busy or getattr(texts, "is_negative_prompt", False):
            return None
        busy = True
        try:
            others = [rows_without(encoder, args[0], word) for word in words]
        finally:
            busy = False
        mean = sum(others) / len(others)
        if isinstance(output, dict):
            return {**output, "crossattn": output["crossattn"].lerp(mean, 0.5)}
        return output.lerp(mean, 0.5)

    return hook


# LoRA


def on_cfg_denoiser(params: Any) -> None:
    step, strength = Neighbour.asked.get("lora", (None, None))
    if step is not None and params.denoiser.step == step:
        for network in sys.modules["networks"].loaded_networks:
            network.te_multiplier = network.unet_multiplier = strength


script_callbacks.on_cfg_denoiser(on_cfg_denoiser)
