"""Algorithm 1 of arXiv 2406.18893 by brute force: small models, whole token lists, overwriting by index.

Written from the paper and sharing no code with `alignit`: concepts are new rows of the token table, as in textual
inversion's own training code; prompts are whole lists of token ids; keys and values are computed layer by layer for
both prompts, and overwritten at an index.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from transformers import CLIPTextConfig, CLIPTextModel

VOCABULARY, FILLER, START, END = 400, 265, 398, 399
LENGTH, WIDTH = 77, 32
ATTENTION_BLOCKS = (1, 2, 4)


def text_encoder(concepts: dict[str, torch.Tensor]) -> tuple[CLIPTextModel, dict[str, list[int]]]:
    """Return a causal CLIP text encoder whose token table holds the concepts' vectors, and their token ids."""
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        bos_token_id=START,
        eos_token_id=END,
    )
    model = CLIPTextModel(config).eval()
    for parameter in model.parameters():  # larger than at initialisation, so that every token matters visibly
        torch.nn.init.normal_(parameter, std=0.3)
    ids = {}
    total = VOCABULARY + sum(len(vectors) for vectors in concepts.values())
    larger = torch.nn.Embedding(total, WIDTH)
    table, free = larger.weight.data, VOCABULARY
    table[:VOCABULARY] = model.get_input_embeddings().weight.data
    model.set_input_embeddings(larger)
    for name, vectors in concepts.items():
        ids[name] = list(range(free, free + len(vectors)))
        table[free : free + len(vectors)] = vectors
        free += len(vectors)
    return model, ids


def padded(text: list[int]) -> list[int]:
    """Return a prompt's tokens with start and end, padded with end tokens."""
    return [START, *text, *[END] * (LENGTH - 1 - len(text))]


def encode(model: CLIPTextModel, tokens: list[int]) -> torch.Tensor:
    """Return the conditioning [77, width] of one prompt."""
    with torch.no_grad():
        return model(input_ids=torch.tensor([tokens])).last_hidden_state[0]


@torch.no_grad()
def encode_by_hand(
    model: CLIPTextModel,
    tokens: list[int],
    prefixes: dict[int, tuple[torch.Tensor, torch.Tensor]],
    prefix_mask: float = 1.0,
) -> torch.Tensor:
    """CatVersion's text encoder, one query of one head at a time, in float64: the conditioning [T, hidden] of a prompt.

    Written from the published attention: a prefix's keys and values [P, hidden] are head-major and join those of the
    tokens after the projections; the scaled query meets them with a mask of ones, the tokens with CLIP's causal one.

    Args:
        model: The text encoder.
        tokens: The prompt's tokens.
        prefixes: By the layer's number.
        prefix_mask: What is added to the prefixes' logits.
    """
    state = {name.removeprefix("text_model."): tensor.double() for name, tensor in model.state_dict().items()}
    heads, epsilon = model.config.num_attention_heads, model.config.layer_norm_eps

    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], epsilon)

    x = state["embeddings.token_embedding.weight"][tokens]
    x = x + state["embeddings.position_embedding.weight"][: len(tokens)]
    size = x.shape[-1] // heads
    for number in range(model.config.num_hidden_layers):
        layer = f"encoder.layers.{number}"
        normed = norm(f"{layer}.layer_norm1", x)
        queries, keys, values = (linear(f"{layer}.self_attn.{part}_proj", normed) for part in "qkv")
        mixed = torch.zeros_like(x)
        for i in range(len(tokens)):
            for head in range(heads):
                part = slice(head * size, (head + 1) * size)
                seen_keys, seen_values = keys[: i + 1, part], values[: i + 1, part]
                added = torch.zeros(i + 1, dtype=torch.float64)
                if number in prefixes:
                    prefix_keys, prefix_values = (tensor.double()[:, part] for tensor in prefixes[number])
                    seen_keys = torch.cat([prefix_keys, seen_keys])
                    seen_values = torch.cat([prefix_values, seen_values])
                    added = torch.cat([torch.full((len(prefix_keys),), prefix_mask, dtype=torch.float64), added])
                logits = seen_keys @ (queries[i, part] * size**-0.5) + added
                mixed[i, part] = logits.softmax(0) @ seen_values
        x = x + linear(f"{layer}.self_attn.out_proj", mixed)
        inner = linear(f"{layer}.mlp.fc1", norm(f"{layer}.layer_norm2", x))
        x = x + linear(f"{layer}.mlp.fc2", inner * torch.sigmoid(1.702 * inner))
    return norm("final_layer_norm", x)


class CrossAttention(torch.nn.Module):
    """Cross-attention with the names that Stable Diffusion's has."""

    def __init__(self, query: int, context: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = torch.nn.Linear(query, query, bias=False)
        self.to_k = torch.nn.Linear(context, query, bias=False)
        self.to_v = torch.nn.Linear(context, query, bias=False)
        self.to_out = torch.nn.Linear(query, query)

    def forward(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        return self.attend(x, self.to_k(context), self.to_v(context))

    def attend(self, x: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        def split(t: torch.Tensor) -> torch.Tensor:
            return t.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        q, k, v = split(self.to_q(x)), split(keys), split(values)
        weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
        return self.to_out((weights @ v).transpose(1, 2).flatten(2))


class UNet(torch.nn.Module):
    """Blocks of self-mixing and cross-attention at three widths; called as Stable Diffusion's UNet is."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        widths = [16, 32, 64]
        self.enter = torch.nn.ModuleList(torch.nn.Linear(a, b) for a, b in zip([4, *widths], widths, strict=False))
        # Named as in Stable Diffusion: input_blocks.1.1.transformer_blocks.0.attn2 and so on.
        self.input_blocks = torch.nn.ModuleList(torch.nn.ModuleList() for _ in range(5))
        for number, width in zip(ATTENTION_BLOCKS, widths, strict=True):
            block = torch.nn.ModuleDict({"attn2": CrossAttention(width, WIDTH, 4)})
            transformer = torch.nn.ModuleDict({"transformer_blocks": torch.nn.ModuleList([block])})
            self.input_blocks[number].extend([torch.nn.Identity(), transformer])
        self.leave = torch.nn.Linear(64, 4)
        for parameter in self.parameters():
            torch.nn.init.normal_(parameter, std=0.3)

    @property
    def attentions(self) -> list[CrossAttention]:
        return [self.input_blocks[number][1]["transformer_blocks"][0]["attn2"] for number in ATTENTION_BLOCKS]

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        for enter, attention in zip(self.enter, self.attentions, strict=True):
            x = torch.tanh(enter(x) + timesteps[:, None, None])
            x = x + attention(x, context=context)
        return self.leave(x)


def generate_by_index(
    unet: UNet,
    x: torch.Tensor,
    timesteps: torch.Tensor,
    base: torch.Tensor,
    injections: list[tuple[torch.Tensor, list[int]]],
    strength: float = 1.0,
    customised: dict[str, torch.Tensor] | None = None,
    parts: str = "kv",
    blocks: Sequence[int] = ATTENTION_BLOCKS,
) -> torch.Tensor:
    """Line 4 for one prompt: K and V of both prompts layer by layer, K_p[i] and V_p[i] overwritten at each index i.

    Args:
        unet: The base model.
        x: Noisy picture [1, positions, 4], with its timesteps [1].
        base: Conditioning of the base prompt [tokens, width].
        injections: For each concept the conditioning of its dummy prompt [tokens, width], and its indices.
        strength: Blend of keys and values.
        customised: Weights W' of the customised model by name, as in Custom Diffusion's checkpoints; default: the base.
        parts: "k", "v" or both: what is overwritten.
        blocks: Where it is.
    """
    for number, enter, attention in zip(ATTENTION_BLOCKS, unet.enter, unet.attentions, strict=True):
        name = f"model.diffusion_model.input_blocks.{number}.1.transformer_blocks.0.attn2.to_"
        weights = {"k": attention.to_k.weight, "v": attention.to_v.weight}
        weights = {part: (customised or {}).get(f"{name}{part}.weight", weight) for part, weight in weights.items()}
        x = torch.tanh(enter(x) + timesteps[:, None, None])
        keys, values = base @ attention.to_k.weight.T, base @ attention.to_v.weight.T
        for dummy, indices in injections:
            dummy_keys, dummy_values = dummy @ weights["k"].T, dummy @ weights["v"].T
            for i in indices if number in blocks else []:
                if "k" in parts:
                    keys[i] = keys[i] + strength * (dummy_keys[i] - keys[i])
                if "v" in parts:
                    values[i] = values[i] + strength * (dummy_values[i] - values[i])
        x = x + attention.attend(x, keys[None], values[None])
    return unet.leave(x)


@dataclass
class Concept:
    """What one concept does in `generate_with`.

    Attributes:
        dummy: Conditioning of its dummy prompt [tokens, width].
        indices: Where its keys and values are injected.
        reached: Other rows at which it adds ``factor`` times the difference of two prompts' keys and values.
        plus: Conditioning of the prompt whose keys and values it adds, of the customised model.
        minus: Conditioning of that whose it takes away, of the base model.
        factor: See ``reached``.
        strength, customised, parts, blocks: As in `generate_by_index`.
    """

    dummy: torch.Tensor
    indices: list[int]
    reached: list[int] = field(default_factory=list)
    plus: torch.Tensor | None = None
    minus: torch.Tensor | None = None
    factor: float = 1.0
    strength: float = 1.0
    customised: dict[str, torch.Tensor] | None = None
    parts: str = "kv"
    blocks: Sequence[int] = ATTENTION_BLOCKS


def generate_with(
    unet: UNet, x: torch.Tensor, timesteps: torch.Tensor, base: torch.Tensor, concepts: list[Concept]
) -> torch.Tensor:
    """`generate_by_index` for concepts of all kinds, which can add to keys and values at rows beyond their own."""
    for number, enter, attention in zip(ATTENTION_BLOCKS, unet.enter, unet.attentions, strict=True):
        x = torch.tanh(enter(x) + timesteps[:, None, None])
        made = []
        for part, weight in (("k", attention.to_k.weight), ("v", attention.to_v.weight)):
            of_base = base @ weight.T
            result = of_base.clone()
            for concept in concepts:
                if part not in concept.parts or number not in concept.blocks:
                    continue
                name = f"model.diffusion_model.input_blocks.{number}.1.transformer_blocks.0.attn2.to_{part}.weight"
                changed = (concept.customised or {}).get(name, weight)
                for i in concept.indices:
                    result[i] += concept.strength * (changed @ concept.dummy[i] - of_base[i])
                for i in concept.reached:
                    difference = changed @ concept.plus[i] - weight @ concept.minus[i]
                    result[i] += concept.strength * concept.factor * difference
            made.append(result[None])
        x = x + attention.attend(x, *made)
    return unet.leave(x)
