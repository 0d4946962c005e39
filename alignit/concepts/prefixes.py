"""CatVersion's text encoder: learned keys and values in front of those of the tokens, in some layers of CLIP.

The prefix of a layer enters its self-attention after ``k_proj`` and ``v_proj``, for every query of the chunk. The
published training code joins a mask of ones for the prefix to CLIP's causal mask, which is added to the logits, where
0 lets a position through: a prefix's logit is therefore larger by 1 than the scalar product says. The prefixes were
trained so, and are used so.

No module is replaced and no weight is written: the `forward` of the layers' attention is another one on these
instances, for the length of a block. Projections are called as modules, so that a LoRA on them keeps working.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from alignit.concepts.concept import ModelShapes
from alignit.patches import replaced

_PREFIX_MASK = 1.0


@dataclass(frozen=True, eq=False)
class Prefix:
    """One layer's learned prefix in a text encoder's self-attention.

    Attributes:
        key: [P, hidden], head-major: ``view(P, heads, head_dim)``. It enters after ``k_proj``, unscaled.
        value: [P, hidden], likewise, after ``v_proj``.
    """

    key: torch.Tensor
    value: torch.Tensor


@dataclass(frozen=True, eq=False)
class EncoderPrefixes:
    """CatVersion's change of the text encoder: a prefix in each of some layers.

    Attributes:
        layers: By the encoder layer's number, counted from 0.
    """

    layers: Mapping[int, Prefix]

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """All that is held."""
        return tuple(tensor for prefix in self.layers.values() for tensor in (prefix.key, prefix.value))

    @property
    def hidden(self) -> int:
        """Width of the text encoder."""
        return next(iter(self.layers.values())).key.shape[1]

    def misfit(self, model: ModelShapes) -> str | None:
        """See `alignit.concepts.concept.EncoderChange`."""
        if len(model.token_widths) > 1 or not model.encoder_layers:
            return "changes the text encoder of SD1, and the loaded model has another"
        # CLIP's hidden states are as wide as its token embeddings.
        width = next(iter(model.token_widths.values()))
        if self.hidden != width:
            return f"changes a text encoder of width {self.hidden}, and the loaded model's is {width}"
        if max(self.layers) >= model.encoder_layers:
            return f"changes text-encoder layer {max(self.layers)}, and the loaded model's has {model.encoder_layers}"
        return None

    def applied(self, layers: Sequence[Any]) -> AbstractContextManager[None]:
        """See `alignit.concepts.concept.EncoderChange`."""
        return prefixed(layers, self.layers)


@contextmanager
def prefixed(layers: Sequence[Any], prefixes: Mapping[int, Prefix]) -> Iterator[None]:
    """Let a text encoder attend to prefixes for the length of a block; afterwards it is as it was.

    Blocks may be nested: the prefixes add up.

    Args:
        layers: The encoder's layers, each with transformers' `CLIPAttention` as ``self_attn``, in any of its versions.
        prefixes: By the layer's number, counted from 0.
    """
    with ExitStack() as patches:
        for number, prefix in prefixes.items():
            attention = layers[number].self_attn
            before = getattr(attention.forward, "prefixes", ())
            patches.enter_context(replaced(attention, "forward", _with_prefixes(attention, (*before, prefix))))
        yield


def _with_prefixes(attention: Any, prefixes: Sequence[Prefix]) -> Callable[..., tuple[torch.Tensor, None]]:
    def forward(
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        causal_attention_mask: torch.Tensor | None = None,
        **_others: Any,
    ) -> tuple[torch.Tensor, None]:
        mask = _mask(hidden_states, attention_mask, causal_attention_mask)
        keys = _join([prefix.key for prefix in prefixes], attention.k_proj(hidden_states))
        values = _join([prefix.value for prefix in prefixes], attention.v_proj(hidden_states))
        mask = torch.nn.functional.pad(mask, (keys.shape[1] - mask.shape[-1], 0), value=_PREFIX_MASK)
        query, key, value = (
            rows.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
            for rows in (attention.q_proj(hidden_states) * attention.scale, keys, values)
        )
        weights = (query @ key.transpose(-1, -2) + mask).softmax(-1).to(value.dtype)
        return attention.out_proj((weights @ value).transpose(1, 2).flatten(2)), None

    forward.prefixes = tuple(prefixes)  # type: ignore[attr-defined]
    return forward


def _join(prefixes: Sequence[torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
    """Put prefixes [P, hidden] in front of the rows of each prompt, [B, T, hidden]."""
    return torch.cat([*(prefix.to(rows).expand(len(rows), -1, -1) for prefix in prefixes), rows], dim=1)


def _mask(hidden_states: torch.Tensor, *given: torch.Tensor | None) -> torch.Tensor:
    """Return what is added to the tokens' logits, [B or 1, 1, T, T]."""
    length = hidden_states.shape[1]
    # Versions of transformers hand the causal mask over, or leave it to an attention that knows of it.
    hidden = torch.ones(length, length, dtype=torch.bool, device=hidden_states.device).triu(1)
    mask = torch.zeros(1, 1, length, length, dtype=hidden_states.dtype, device=hidden_states.device)
    mask = mask.masked_fill(hidden, float("-inf"))
    for other in given:
        if other is not None and other.dtype == torch.bool:
            mask = mask.masked_fill(~other, float("-inf"))
        elif other is not None:
            mask = torch.minimum(mask, other)
    return mask
