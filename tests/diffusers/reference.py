"""Algorithm 1 of arXiv 2406.18893 on a diffusers pipeline by brute force: keys and values overwritten by index.

Written from the paper and sharing no code with `alignit`. The pipeline itself encodes the base prompt, an ordinary
text. A dummy prompt is a list of words; concepts are new rows at the end of a copy of the text encoder's token table,
as in textual inversion's own training code. The pictures are those of a copy of the pipeline whose cross-attention is
computed here, and overwrites keys and values at given rows of given prompts.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tests.core.reference import encode_by_hand

SIZE, STEPS, SEED = 16, 4, 3


@dataclass
class Injection:
    """A concept's part in one prompt of a batch.

    Attributes:
        dummy: The dummy prompt, words with a space between them; concepts' tokens are words of it.
        rows: The rows to overwrite; the start token is row 0.
        prompt: Which prompt of the batch.
        weights: Customised weights by the path of the module in diffusers' UNet; default: the base model's.
        prefixes: CatVersion's keys and values by the number of the text encoder's layer.
        minus: Another prompt, as words, of the base model. With it the rows are not overwritten: they get ``factor``
            times what its keys and values differ by from the dummy prompt's, and several injections add up.
        factor: See ``minus``.
    """

    dummy: str
    rows: list[int]
    prompt: int = 0
    weights: dict[str, torch.Tensor] | None = None
    prefixes: dict[int, tuple[torch.Tensor, torch.Tensor]] | None = None
    minus: str | None = None
    factor: float = 1.0


def encoders(pipe: Any) -> list[tuple[str, Any, Any]]:
    """Name, tokenizer and model of each text encoder."""
    found = [("clip_l", pipe.tokenizer, pipe.text_encoder)]
    if hasattr(pipe, "text_encoder_2"):
        found.append(("clip_g", pipe.tokenizer_2, pipe.text_encoder_2))
    return found


@torch.no_grad()
def encode_words(
    pipe: Any,
    words: str,
    vectors: dict[str, dict[str, torch.Tensor]],
    prefixes: dict[int, tuple[torch.Tensor, torch.Tensor]] | None = None,
    clip_skip: int = 0,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Encode words, among them tokens of concepts: rows [77, width], and SDXL's pooled vector [1, width].

    Args:
        pipe: The pipeline.
        words: Words with a space between them.
        vectors: The vectors [n, width] of concepts' tokens, by word and encoder.
        prefixes: As in `Injection`.
        clip_skip: As in the pipeline.
    """
    rows, pooled = [], None
    for key, tokenizer, original in encoders(pipe):
        model = copy.deepcopy(original)
        table = model.get_input_embeddings()
        ids = [tokenizer.bos_token_id]
        for word in words.split():
            if word in vectors:
                new = vectors[word][key]
                ids += range(len(table.weight), len(table.weight) + len(new))
                table.weight.data = torch.cat([table.weight.data, new])
                table.num_embeddings = len(table.weight)
            else:
                ids += tokenizer(word, add_special_tokens=False).input_ids
        ids.append(tokenizer.eos_token_id)
        ids += [tokenizer.pad_token_id] * (77 - len(ids))
        if prefixes:
            rows.append(encode_by_hand(model, ids, prefixes).float())
            continue
        output = model(torch.tensor([ids]), output_hidden_states=True)
        if hasattr(pipe, "text_encoder_2"):
            rows.append(output.hidden_states[-2 - clip_skip][0])
            pooled = output[0] if key == "clip_g" else None
        else:
            final_norm = getattr(model, "text_model", model).final_layer_norm  # by the version of transformers
            rows.append(final_norm(output.hidden_states[-1 - clip_skip])[0])
    return torch.cat(rows, dim=-1), pooled


class Overwriting:
    """Cross-attention that overwrites keys and values; an attention processor of diffusers."""

    def __init__(self, name: str, plan: Plan) -> None:
        self._name = name
        self._plan = plan

    def __call__(self, attn: Any, hidden_states: Any, encoder_hidden_states: Any, **_: Any) -> torch.Tensor:
        keys = encoder_hidden_states @ attn.to_k.weight.T
        values = encoder_hidden_states @ attn.to_v.weight.T
        for batch_rows, injection, dummy, minus in self._plan.now():
            weights = injection.weights or {}
            new_keys = dummy @ weights.get(f"{self._name}.to_k", attn.to_k.weight).T
            new_values = dummy @ weights.get(f"{self._name}.to_v", attn.to_v.weight).T
            for b in batch_rows if minus is not None else []:
                for i in injection.rows:
                    factor = self._plan.strength * injection.factor
                    keys[b, i] += factor * (new_keys[i] - minus[i] @ attn.to_k.weight.T)
                    values[b, i] += factor * (new_values[i] - minus[i] @ attn.to_v.weight.T)
            for b in batch_rows if minus is None else []:
                for i in injection.rows:
                    keys[b, i] += self._plan.strength * (new_keys[i] - keys[b, i])
                    values[b, i] += self._plan.strength * (new_values[i] - values[b, i])
        q, k, v = (x.unflatten(-1, (attn.heads, -1)) for x in (attn.to_q(hidden_states), keys, values))
        weights = (torch.einsum("bqhd,bkhd->bhqk", q, k) * q.shape[-1] ** -0.5).softmax(-1)
        self._plan.attention.setdefault(self._name, []).append(weights.mean(1))
        return attn.to_out[0](torch.einsum("bhqk,bkhd->bqhd", weights, v).flatten(2))


class Plan:
    """What is overwritten, where and when."""

    def __init__(self, injections: list, images: int, steps: tuple[int, int], strength: float) -> None:
        self.strength = strength
        self._injections = injections
        self._images = images
        self._steps = steps
        self._step = -1
        self._batch = 0
        self.attention: dict[str, list[torch.Tensor]] = {}  # of each layer at each step, [batch, places, tokens]

    def before_unet(self, _unet: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        self._step += 1
        self._batch = len(kwargs["encoder_hidden_states"])

    def now(self) -> list[tuple[range, Injection, torch.Tensor, torch.Tensor | None]]:
        if not self._steps[0] <= self._step < self._steps[1]:
            return []
        # The rows of the prompts are the last; with guidance, as many of the negative prompts come before.
        prompts = 1 + max(injection.prompt for injection, _, _ in self._injections)
        total = self._batch // 2 if self._batch >= 2 * prompts * self._images else self._batch
        first = self._batch - total
        return [
            (
                range(first + injection.prompt * self._images, first + (injection.prompt + 1) * self._images),
                injection,
                dummy,
                minus,
            )
            for injection, dummy, minus in self._injections
        ]


def pictures(pipe: Any, *args: Any, **arguments: Any) -> np.ndarray:
    """What a call gives, [images, height, width, 3]: small, quick and always from the same noise."""
    small = {"height": SIZE, "width": SIZE, "num_inference_steps": STEPS, "output_type": "np", "guidance_scale": 5.0}
    generator = torch.Generator().manual_seed(SEED)
    given = {**small, "generator": generator, **arguments}
    return pipe(*args, **{name: value for name, value in given.items() if value is not None}).images


def reference(
    pipe: Any,
    base: str | list[str],
    injections: list[Injection],
    vectors: dict[str, dict[str, torch.Tensor]],
    *,
    concept_strength: float = 1.0,
    steps: tuple[int, int] = (0, 99),
    attention: dict[str, list[torch.Tensor]] | None = None,
    **arguments: Any,
) -> np.ndarray:
    """The pictures that the algorithm makes: `pictures` of the base prompts, with keys and values overwritten.

    Args:
        pipe: The pipeline with the base model.
        base: The base prompts.
        injections: What is injected.
        vectors: As in `encode_words`.
        concept_strength: Blend of keys and values.
        steps: The first step of the UNet in which to inject, and the first in which not any more.
        attention: Gets the mean over heads of the cross-attention, by layer, of each step: [batch, places, tokens].
        arguments: Of the pipeline.
    """
    skip = arguments.get("clip_skip", 0)
    dummies = [encode_words(pipe, injection.dummy, vectors, injection.prefixes, skip)[0] for injection in injections]
    minuses = [
        None if injection.minus is None else encode_words(pipe, injection.minus, vectors, None, skip)[0]
        for injection in injections
    ]
    images = arguments.get("num_images_per_prompt", 1)
    plan = Plan(list(zip(injections, dummies, minuses, strict=True)), images, steps, concept_strength)
    copied = copy.copy(pipe)
    copied.unet = copy.deepcopy(pipe.unet)
    copied.unet.set_attn_processor(
        {
            name: Overwriting(name.removesuffix(".processor"), plan) if ".attn2." in name else processor
            for name, processor in copied.unet.attn_processors.items()
        }
    )
    copied.unet.register_forward_pre_hook(plan.before_unet, with_kwargs=True)
    made = pictures(copied, base, **arguments)
    if attention is not None:
        attention |= plan.attention
    return made
