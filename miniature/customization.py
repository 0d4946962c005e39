"""The three methods of customisation of the paper, on the miniature: what each changes, and what its file holds.

Textual Inversion learns a token's embedding; Custom Diffusion that and all key and value projections of
cross-attention; CatVersion a key and a value in front of those of the last three layers of the text encoder.
"""

from __future__ import annotations

import copy
import io
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel

from miniature.captions import NOUNS
from miniature.model import TEXT_HEADS, TEXT_LAYERS, TEXT_WIDTH
from miniature.names import ldm_unet_name
from miniature.sampling import GUIDANCE, SAMPLING_STEPS, sample
from miniature.weights import Miniature
from miniature.words import ROWS, WORDS, rows
from miniature.world import COLOURS, SECOND_COLOURS

TOKEN = "<new1>"
_NEW_ROW = len(ROWS)  # this and the next ones stand for the new token's vectors where rows are counted
_ADAPTER = "prefix_tuning.prefix_tunings.prefix_tuning1.clip_text_model_self_prefix.control_trans"
_ADAPTED_LAYERS = range(TEXT_LAYERS - 3, TEXT_LAYERS)


def save_pickle(data: object, path: Path) -> None:
    """Write a file of `torch.save` as the versions of torch do that people train with.

    Newer ones add files to the archive that the WebUI takes for an attack, and it does not load the embedding.
    """
    buffer = io.BytesIO()
    torch.save(data, buffer)
    partial = path.with_suffix(".new")
    with zipfile.ZipFile(buffer) as new, zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as old:
        for item in new.infolist():
            name = item.filename.partition("/")[2]
            if not name.startswith("."):
                old.writestr(f"{path.stem}/{name}", new.read(item))
    os.replace(partial, path)  # a file that is there is whole


class Customized:
    """A miniature with one concept. The miniature itself is not changed."""

    steps: int
    prior = False  # whether other pictures of the class are trained on too

    def __init__(self, miniature: Miniature, class_word: str) -> None:
        self.miniature = miniature
        self.class_word = class_word
        self.phrase = f"a {TOKEN}"  # how a prompt names the concept
        self.unet: UNet2DConditionModel = copy.deepcopy(miniature.unet).requires_grad_(False)
        self.text: CLIPTextModel = copy.deepcopy(miniature.text).requires_grad_(False)

    def groups(self) -> list[dict[str, Any]]:
        """Return what is trained, as an optimizer's parameter groups."""
        raise NotImplementedError

    def encode(self, prompts: list[str]) -> torch.Tensor:
        """Return the customised text encodings [n, 77, width]."""
        raise NotImplementedError

    def save(self, folder: Path, name: str) -> Path:
        """Write the concept's file into the method's folder, and return its path."""
        raise NotImplementedError

    def denoise(self, x: torch.Tensor, t: torch.Tensor, prompts: list[str]) -> torch.Tensor:
        """Return the customised model's prediction of v."""
        predicted: torch.Tensor = self.unet(x, t, self.encode(prompts), return_dict=False)[0]
        return predicted

    def table(self) -> torch.Tensor:
        """Return the embeddings of the words in use [rows, width]."""
        table: torch.Tensor = self.text.text_model.embeddings.token_embedding.weight.detach()
        return table

    def open_look(self) -> torch.Tensor:
        """Return embeddings [3, width] of a look that is still open: a colour, a second one and a pattern.

        Each is the mean of its words. From the class word alone a look is hardly ever found by the gradient.
        """
        kinds = (COLOURS, SECOND_COLOURS[1:], NOUNS.values())
        return torch.stack([self.table()[[ROWS.index(WORDS[word]) for word in kind]].mean(0) for kind in kinds])

    def encode_rows(self, ids: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        """Return encodings [n, 77, width] of row numbers [n, 77]; those of new rows stand for vectors [m, width]."""
        new = ids >= _NEW_ROW

        def insert(_module: nn.Module, _inputs: object, output: torch.Tensor) -> torch.Tensor:
            return torch.where(new[:, :, None], vectors[(ids - _NEW_ROW).clamp(min=0)], output)

        hook = self.text.text_model.embeddings.token_embedding.register_forward_hook(insert)
        try:
            encoded: torch.Tensor = self.text(ids.masked_fill(new, 0))[0]
        finally:
            hook.remove()
        return encoded

    @torch.no_grad()
    def generate(
        self, prompts: list[str], seeds: list[int], guidance: float = GUIDANCE, steps: int = SAMPLING_STEPS
    ) -> torch.Tensor:
        """Return the customised model's pictures, as `Miniature.generate` does."""
        negative = self.miniature.encode([""])[0]
        positive, m = self.encode(prompts), self.miniature
        return sample(self.unet, m.vae, m.scale, positive, negative, seeds, guidance=guidance, steps=steps)


class TextualInversion(Customized):
    """Vectors for one new token.

    They start as the embeddings of words, as the WebUI's do with an initialization text: of a colour, the class word, a
    second colour and a pattern.
    """

    steps = 200
    rate = 2e-2

    def __init__(self, miniature: Miniature, class_word: str) -> None:
        super().__init__(miniature, class_word)
        self.embedding = nn.Parameter(self._start(class_word))  # [vectors, width]

    def _start(self, class_word: str) -> torch.Tensor:
        colour, second, pattern = self.open_look()
        return torch.stack([colour, self.table()[ROWS.index(WORDS[class_word])], second, pattern])

    def groups(self) -> list[dict[str, Any]]:
        return [{"params": [self.embedding], "lr": self.rate}]

    def encode(self, prompts: list[str]) -> torch.Tensor:
        names = {f"<new{i}>": _NEW_ROW + i for i in range(len(self.embedding))}
        ids = torch.tensor([rows(prompt.replace(TOKEN, " ".join(names)), names) for prompt in prompts])
        return self.encode_rows(ids, self.embedding)

    def save(self, folder: Path, name: str) -> Path:
        path = folder / f"{name}.pt"
        data = {
            "string_to_token": {"*": 265},
            "string_to_param": {"*": self.embedding.detach().float().clone()},
            "name": name,
            "step": self.steps,
            "sd_checkpoint": None,
            "sd_checkpoint_name": "miniature",
        }
        save_pickle(data, path)
        return path


class CustomDiffusion(TextualInversion):
    """The keys and values of all cross-attention layers, and a token before the class word."""

    steps = 200
    rate = 5e-3
    weight_rate = 1e-3
    prior = True

    def __init__(self, miniature: Miniature, class_word: str) -> None:
        super().__init__(miniature, class_word)
        self.phrase = f"a {TOKEN} {class_word}"
        self.weights = {
            name: parameter.requires_grad_(True)
            for name, parameter in self.unet.named_parameters()
            if ".attn2.to_k." in name or ".attn2.to_v." in name
        }

    def _start(self, class_word: str) -> torch.Tensor:
        # The authors start with a rare token's embedding: here, a random one of the words' size.
        del class_word
        return torch.randn(1, TEXT_WIDTH) * self.table().std()

    def groups(self) -> list[dict[str, Any]]:
        weights = {"params": list(self.weights.values()), "lr": self.weight_rate}
        return [*super().groups(), weights]

    def save(self, folder: Path, name: str) -> Path:
        path = folder / f"{name}.ckpt"
        state = {
            f"model.diffusion_model.{ldm_unet_name(key)}": weight.detach().half().clone()
            for key, weight in self.weights.items()
        }
        state["embed"] = self.embedding.detach().float().clone()
        save_pickle({"state_dict": state}, path)
        return path


class OverfittedCustomDiffusion(CustomDiffusion):
    """The same without other pictures of the class, and too fast: what it changes reaches all words of a prompt."""

    weight_rate = 8e-3
    prior = False


class CatVersion(Customized):
    """A key and a value before those of the text encoder's last three layers; the class word is the concept.

    They start as the mean of those of words, which Prefix-Tuning (arXiv 2101.00190) found better than random
    ones: of an open look's.
    """

    steps = 1000
    rate = 1.5

    def __init__(self, miniature: Miniature, class_word: str) -> None:
        super().__init__(miniature, class_word)
        self.phrase = f"a {class_word}"
        # [1, 2 * layers, width]: the keys of a layer, then its values, then the next layer's.
        self.prefix = nn.Parameter(self._start())

    @torch.no_grad()
    def _start(self) -> torch.Tensor:
        names = {f"<{name}>": _NEW_ROW + i for i, name in enumerate(("colour", "second", "pattern"))}
        ids = torch.tensor([rows(f"a <colour> {self.class_word} with <second> <pattern>", names)])
        found: list[torch.Tensor] = []

        def collect(_module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
            found.append(output[ids >= _NEW_ROW].mean(0))

        attentions: list[Any] = [self.text.text_model.encoder.layers[i].self_attn for i in _ADAPTED_LAYERS]
        hooks = [linear.register_forward_hook(collect) for a in attentions for linear in (a.k_proj, a.v_proj)]
        try:
            self.encode_rows(ids, self.open_look())
        finally:
            for hook in hooks:
                hook.remove()
        return torch.stack(found)[None]

    def groups(self) -> list[dict[str, Any]]:
        return [{"params": [self.prefix], "lr": self.rate}]

    def encode(self, prompts: list[str]) -> torch.Tensor:
        ids = torch.tensor([rows(prompt) for prompt in prompts])
        with self._prefixed():
            encoded: torch.Tensor = self.text(ids)[0]
        return encoded

    @contextmanager
    def _prefixed(self) -> Iterator[None]:
        layers: list[Any] = [self.text.text_model.encoder.layers[i].self_attn for i in _ADAPTED_LAYERS]
        for place, attention in enumerate(layers):
            key, value = self.prefix[:, 2 * place], self.prefix[:, 2 * place + 1]
            attention.forward = _prefixed_attention(attention, key, value)
        try:
            yield
        finally:
            for attention in layers:
                del attention.forward

    def save(self, folder: Path, name: str) -> Path:
        """Write the adapter into a folder named after the class word: it is what the concept is called."""
        del name
        inside = folder / self.class_word
        inside.mkdir(parents=True, exist_ok=True)
        shared = self.prefix.detach().float().flatten().clone()
        keys = [f"text_model.encoder.layers.{i}.self_attn.prefix_tuning.pool" for i in _ADAPTED_LAYERS]
        state = {_ADAPTER.replace("prefix_tuning.", f"{key}.", 1): shared for key in keys} | {_ADAPTER: shared}
        config = {
            "config": {
                "architecture": "prefix_tuning",
                "bottleneck_size": 512,
                "cross_prefix": True,
                "dropout": 0.0,
                "encoder_prefix": True,
                "flat": True,
                "leave_out": [],
                "non_linearity": "tanh",
                "prefix_length": 1,
                "shared_gating": True,
                "use_gating": False,
            },
            "hidden_size": TEXT_WIDTH,
            "model_class": "CLIPTextModel",
            "model_name": None,
            "model_type": "clip_text_model",
            "name": "prefix_tuning1",
            "version": "3.2.1",
        }
        (inside / "adapter_config.json").write_text(json.dumps(config, indent=2))
        save_pickle(state, inside / "pytorch_adapter.bin")
        return inside / "pytorch_adapter.bin"


def _prefixed_attention(
    attention: Any, key: torch.Tensor, value: torch.Tensor
) -> Callable[..., tuple[torch.Tensor, None]]:
    """Return a layer's attention with a key and a value [length, width] before its own.

    CatVersion's code puts ones where an additive mask is meant: the prefix's logits are one higher than its key makes
    them.
    """

    def forward(hidden_states: torch.Tensor, *_args: object, **_kwargs: object) -> tuple[torch.Tensor, None]:
        n, tokens, width = hidden_states.shape

        def heads(x: torch.Tensor) -> torch.Tensor:
            return x.view(n, -1, TEXT_HEADS, width // TEXT_HEADS).transpose(1, 2)

        q = heads(attention.q_proj(hidden_states)).float()
        own_k, own_v = attention.k_proj(hidden_states), attention.v_proj(hidden_states)
        k = heads(torch.cat([key.expand(n, -1, -1).to(own_k), own_k], dim=1)).float()
        v = heads(torch.cat([value.expand(n, -1, -1).to(own_v), own_v], dim=1)).float()
        mask = torch.full((tokens, tokens), float("-inf")).triu(1)
        mask = torch.cat([torch.ones(tokens, len(key)), mask], dim=1)
        weights = (q @ k.mT * (width // TEXT_HEADS) ** -0.5 + mask).softmax(dim=-1)
        mixed = (weights @ v).transpose(1, 2).reshape(n, tokens, width)
        return attention.out_proj(mixed), None

    return forward


METHODS: dict[str, type[Customized]] = {
    "textual_inversion": TextualInversion,
    "custom_diffusion": CustomDiffusion,
    "catversion": CatVersion,
}
OVERFITTED = "custom_diffusion_overfitted"
