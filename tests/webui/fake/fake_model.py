"""A model of the host in small: a text encoder that works on chunks of tokens, and a UNet with cross-attention.

Nothing in it is trained. Each row of the conditioning depends on all tokens up to its own, as in CLIP, and each picture
on each row.
"""

from __future__ import annotations

import re
import unicodedata
from types import SimpleNamespace
from typing import Any

import torch
from modules import sd_hijack

WIDTH, TOKENS, LENGTH = 8, 2**14, 75
START, END, FIRST_WORD = 0, 1, 2


class Tokenizer:
    """Each word, and each sign, is a token; words get their numbers when they are first seen."""

    def __init__(self) -> None:
        self.decoder: dict[int, str] = {}
        self.encoder: dict[str, int] = {}

    def ids(self, text: str) -> list[int]:
        for sign in ",.<>=()":
            text = text.replace(sign, f" {sign} ")
        return [self._id(word) for word in unicodedata.normalize("NFC", text).lower().split()]

    def _id(self, word: str) -> int:
        number = self.encoder.setdefault(word, FIRST_WORD + len(self.encoder))
        self.decoder[number] = f"{word}</w>"
        return number

    def decode(self, ids: list[int]) -> str:
        return " ".join(self.decoder.get(number, "").removesuffix("</w>") for number in ids)


class Table(torch.nn.Module):
    """The token embeddings, as the host wraps them."""

    textual_inversion_key = "clip_l"

    def __init__(self) -> None:
        super().__init__()
        self.wrapped = torch.nn.Embedding(TOKENS, WIDTH)


class TextEncoder(torch.nn.Module):
    """What the host's text encoders offer."""

    id_start, id_end, id_pad = START, END, END

    def __init__(self) -> None:
        super().__init__()
        self.table = Table()
        self.tokenizer = Tokenizer()
        self.hijack = sd_hijack.model_hijack

    def tokenize(self, texts: Any) -> list[list[int]]:
        return [self.tokenizer.ids(text) for text in texts]

    def tokenize_line(self, line: str) -> tuple[list[Any], int]:
        # No emphasis; its escapes are taken out all the same.
        tokens = self.tokenize([re.sub(r"\\(.)", r"\1", line)])[0]
        ids: list[int] = []
        fixes: list[tuple[int, Any]] = []
        position = 0
        while position < len(tokens):
            embedding, length = self.hijack.embedding_db.find_embedding_at_position(tokens, position)
            if embedding is None:
                ids.append(tokens[position])
                position += 1
            else:
                fixes.append((len(ids), embedding))
                ids += [START] * embedding.vectors
                position += length
        assert len(ids) <= LENGTH, "the fake has one chunk"
        padded = [START, *ids, *[END] * (LENGTH + 1 - len(ids))]
        return [SimpleNamespace(tokens=padded, multipliers=[1.0] * len(padded), fixes=fixes)], len(ids)

    def process_texts(self, texts: Any) -> tuple[list[list[Any]], int]:
        lines = [self.tokenize_line(text) for text in texts]
        return [chunks for chunks, _ in lines], max(count for _, count in lines)

    def process_tokens(self, tokens: list[list[int]], multipliers: list[list[float]]) -> torch.Tensor:
        prompts = []
        for ids, weights, fixes in zip(tokens, multipliers, self.hijack.fixes or [[]] * len(tokens), strict=True):
            rows = self.table.wrapped(torch.tensor(ids)).clone()
            for offset, embedding in fixes:
                rows[offset + 1 : offset + 1 + embedding.vectors] = embedding.vec
            context = torch.zeros(WIDTH)
            encoded = []
            for row, weight in zip(rows, weights, strict=True):
                context = torch.tanh(row + 0.7 * context)
                encoded.append(weight * context)
            prompts.append(torch.stack(encoded))
        return torch.stack(prompts)

    def forward(self, texts: Any) -> torch.Tensor:
        prompts, _ = self.process_texts(texts)
        chunks = [chunks[0] for chunks in prompts]
        self.hijack.fixes = [chunk.fixes for chunk in chunks]
        try:
            return self.process_tokens([chunk.tokens for chunk in chunks], [chunk.multipliers for chunk in chunks])
        finally:
            self.hijack.fixes = None


class CrossAttention(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.heads = 2
        self.to_q = torch.nn.Linear(4, WIDTH, bias=False)
        self.to_k, self.to_v = (torch.nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(2))
        self.out = torch.nn.Linear(WIDTH, 4)

    def forward(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        weights = (self.to_q(x) @ self.to_k(context).transpose(1, 2)).softmax(-1)
        return self.out(weights @ self.to_v(context))


class UNet(torch.nn.Module):
    """One block on the way down and the middle one, named as in SD 1."""

    channel_mult = (1, 2, 4, 4)

    def __init__(self) -> None:
        super().__init__()
        self.input_blocks = torch.nn.ModuleDict({"1": torch.nn.ModuleDict({"1": _block()})})
        self.middle_block = torch.nn.ModuleDict({"1": _block()})

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        flat = x.flatten(2).transpose(1, 2)
        for block in (self.input_blocks["1"]["1"], self.middle_block["1"]):
            flat = flat + block.transformer_blocks[0].attn2(flat, context)
        return flat.transpose(1, 2).unflatten(2, x.shape[2:]) + 0.01 * timesteps[:, None, None, None]


def _block() -> torch.nn.Module:
    block, part = torch.nn.Module(), torch.nn.Module()
    part.attn2 = CrossAttention()
    block.transformer_blocks = torch.nn.ModuleList([part])
    return block


class Model:
    """A checkpoint that is loaded."""

    is_sd3 = is_sdxl = False
    sd_checkpoint_info = "a checkpoint"

    def __init__(self) -> None:
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(0)
            self.cond_stage_model = TextEncoder()
            self.model = SimpleNamespace(diffusion_model=UNet())
        for part in (self.cond_stage_model, self.model.diffusion_model):
            part.requires_grad_(False)

    def get_learned_conditioning(self, texts: Any) -> torch.Tensor:
        return self.cond_stage_model(texts)


class Embedding:
    """A textual inversion that the host has loaded."""

    shorthash = None

    def __init__(self, name: str, vec: torch.Tensor, filename: str) -> None:
        self.name, self.vec, self.vectors, self.filename = name, vec, len(vec), filename
