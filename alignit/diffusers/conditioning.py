"""The conditioning of a batch of prompts, over all text encoders and chunks: lines 1 to 3 of Algorithm 1."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from alignit.algorithm.conditioning import EncodersDisagreeError, Injected, Placed, splice
from alignit.algorithm.controls import Controls
from alignit.algorithm.prompts import base_chunk
from alignit.algorithm.reach import Context
from alignit.diffusers.concepts import Parts
from alignit.diffusers.errors import AlignITError
from alignit.diffusers.text import Encoded, EncoderChanges, PipelineEncoder, Target, text_encoders
from alignit.prompt.resolve import PlainMention


@dataclass(frozen=True)
class Negative:
    """Negative prompts.

    Attributes:
        texts: As typed, one for each prompt.
        parts: The same with the concepts found, all of them plain.
    """

    texts: Sequence[str]
    parts: Sequence[Parts]


@dataclass(frozen=True)
class Conditioned:
    """What stands for a batch of prompts in a call of the pipeline.

    Attributes:
        arguments: The pipeline's arguments.
        injected: What was injected, one entry for each prompt with a concept.
    """

    arguments: dict[str, Any]
    injected: list[Injected]


def condition(
    pipe: Any,
    prompts: Sequence[Parts],
    negative: Negative | None,
    clip_skip: int | None,
    strength: Callable[[str], float],
    controls: Callable[[str], Controls],
) -> Conditioned:
    """Encode prompts, and write the rows of the dummy prompts into those of the base prompts.

    Negative prompts are left to the pipeline where it can encode them: where no prompt is longer than a chunk, and no
    negative prompt names a concept.

    Args:
        pipe: The pipeline.
        prompts: B target prompts.
        negative: B negative prompts, or None for the pipeline's own.
        clip_skip: As in the pipeline, which does not apply it to negative prompts.
        strength: Gives a concept's blend of rows.
        controls: Gives how a concept is put in.

    Raises:
        AlignITError: A concept does not fit into a chunk, or the text encoders do not agree on its place.
    """
    encoders = text_encoders(pipe)
    targets = [[encoder.target_chunks(parts, _changes(parts)) for parts in prompts] for encoder in encoders]
    count = _longest(targets)
    negatives = None
    if count > 1 or (negative and any(isinstance(part, PlainMention) for parts in negative.parts for part in parts)):
        texts: Sequence[Parts] = negative.parts if negative else [[""]] * len(prompts)
        negatives = [[encoder.target_chunks(parts) for parts in texts] for encoder in encoders]
        count = max(count, _longest(negatives))
    results = [
        _encode(encoder, _padded(encoder, chunks, count), clip_skip)
        for encoder, chunks in zip(encoders, targets, strict=True)
    ]
    spliced = [
        splice(result.rows, chunks, filler_tokens(encoder, controls), _one(encoder, clip_skip), strength, controls)
        for encoder, chunks, result in zip(encoders, targets, results, strict=True)
    ]
    try:
        placed = [Placed.joined(of_encoders) for of_encoders in zip(*(where for _, where in spliced), strict=True)]
    except EncodersDisagreeError:
        raise AlignITError("The pipeline's text encoders cut the prompt differently: use its own tokenizers") from None
    # SDXL joins the rows of its two encoders.
    conditioning = torch.cat([rows for rows, _ in spliced], dim=-1)
    base = torch.cat([result.rows for result in results], dim=-1)
    arguments: dict[str, Any] = {"prompt_embeds": conditioning, **_pooled(results, "pooled_prompt_embeds")}
    zeroed = negative is None and getattr(pipe.config, "force_zeros_for_empty_prompt", False)
    if negatives is not None and not zeroed:
        encoded = [
            _encode(encoder, _padded(encoder, chunks, count), None)
            for encoder, chunks in zip(encoders, negatives, strict=True)
        ]
        arguments["negative_prompt_embeds"] = torch.cat([result.rows for result in encoded], dim=-1)
        arguments |= _pooled(encoded, "negative_pooled_prompt_embeds")
    elif negative is not None:
        arguments["negative_prompt"] = list(negative.texts)
    injected = [
        Injected(conditioning[index], base[index], where.rows, where.reached, where.among_words)
        for index, where in enumerate(placed)
        if where.rows
    ]
    return Conditioned(arguments, injected)


def filler_tokens(encoder: PipelineEncoder, controls: Callable[[str], Controls]) -> Callable[[str], int | None]:
    """Return what gives the token id of each concept's filler, None where the prompt's own words stand there.

    Raises:
        AlignITError: Once asked for a filler that is not one token.
    """

    def token(name: str) -> int | None:
        if controls(name).context is Context.PROMPT:
            return None
        text = controls(name).filler
        ids = encoder.tokenize(text)
        if len(ids) != 1:
            raise AlignITError(f"The filler '{text}' of '{name}' is {len(ids)} tokens: use a word that is one")
        return ids[0]

    return token


def _changes(parts: Parts) -> EncoderChanges:
    """Return the changes of the text encoder for all of a prompt: CatVersion's own way."""
    plain = [part.item.encoder_change for part in parts if isinstance(part, PlainMention) and part.item is not None]
    return tuple(dict.fromkeys(change for change in plain if change is not None))


def _longest(batches: Sequence[Sequence[Sequence[Target]]]) -> int:
    return max(len(chunks) for batch in batches for chunks in batch)


def _padded(encoder: PipelineEncoder, batch: Sequence[list[Target]], count: int) -> list[list[Target]]:
    return [chunks + [encoder.empty_chunk()] * (count - len(chunks)) for chunks in batch]


def _encode(encoder: PipelineEncoder, batch: Sequence[Sequence[Target]], clip_skip: int | None) -> Encoded:
    """Encode the base prompts, all in as many chunks."""
    results = [
        encoder.encode([base_chunk(target) for target in chunks], clip_skip) for chunks in zip(*batch, strict=True)
    ]
    return Encoded(torch.cat([result.rows for result in results], dim=1), results[0].pooled)


def _one(encoder: PipelineEncoder, clip_skip: int | None) -> Callable[[Any], torch.Tensor]:
    return lambda chunk: encoder.encode([chunk], clip_skip).rows[0]


def _pooled(results: Sequence[Encoded], name: str) -> dict[str, torch.Tensor]:
    pooled = [result.pooled for result in results if result.pooled is not None]
    return {name: pooled[-1]} if pooled else {}
