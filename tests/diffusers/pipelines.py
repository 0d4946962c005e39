"""Small random diffusers pipelines with the parts, layer names and tokenizer of SD 1 and SDXL.

Nothing in them is trained, so a picture means nothing; but every part does its work, and one changed word visibly
changes the picture. They predict v rather than noise, because the sampling of a random noise predictor diverges.
"""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

WIDTH, SECOND_WIDTH = 32, 48
WORDS = [
    "a",
    "the",
    "on",
    "in",
    "and",
    "with",
    "cat",
    "dog",
    "toy",
    "ball",
    "moon",
    "snow",
    "photo",
    "of",
    "house",
    "golden",
    "retriever",
    "red",
    "big",
]


def make_tokenizer(folder: Path, pad: str = "<|endoftext|>") -> CLIPTokenizer:
    """CLIP's tokenizer with a small vocabulary: all bytes, and a token for each of `WORDS`."""
    # Printable stand-ins for bytes, as in GPT-2's byte-level BPE.
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(byte) for byte in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            known = [pair for pair in itertools.pairwise(parts) if pair in merges]
            pair = min(known, key=merges.index) if known else (parts[0], parts[1])
            if not known:
                merges.append(pair)
            at = list(itertools.pairwise(parts)).index(pair)
            parts[at : at + 2] = ["".join(pair)]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *(left + right for left, right in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}), encoding="utf8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges), ""]
    (folder / "merges.txt").write_text("\n".join(lines), encoding="utf8")
    special = dict.fromkeys(("eos_token", "unk_token"), "<|endoftext|>") | {"bos_token": "<|startoftext|>"}
    special["pad_token"] = pad
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    assert all(len(tokenizer(word, add_special_tokens=False).input_ids) == 1 for word in WORDS)
    return tokenizer


def fill(module: torch.nn.Module, gains: dict[str, float]) -> None:
    """Give every parameter a random value: weights keep the variance of their input, times the gain of their name."""
    for name, parameter in module.named_parameters():
        noise = torch.randn(parameter.shape)
        if parameter.ndim < 2:
            value = 1 + 0.1 * noise if name.endswith("weight") else 0.05 * noise
        else:
            value = noise / math.sqrt(parameter[0].numel())
        gain = math.prod(gain for part, gain in gains.items() if part in name)
        parameter.data = value * gain if parameter.ndim >= 2 else value


def make_text_encoder(
    tokenizer: CLIPTokenizer, width: int, with_projection: bool = False, layers: int = 4, heads: int = 4
) -> Any:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    encoder = (CLIPTextModelWithProjection if with_projection else CLIPTextModel)(config).eval()
    fill(encoder, {"self_attn": 1.5})
    return encoder


def make_unet(context: int, **more: Any) -> UNet2DConditionModel:
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=2,  # the map between LDM's and diffusers' layer names counts on it
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=context,
        norm_num_groups=8,
        **more,
    ).eval()
    fill(unet, {"attn2.to_q": 1.5, "attn2.to_k": 1.5, "attn2.to_out": 3.0, "conv_out": 0.5})
    return unet


def make_vae() -> AutoencoderKL:
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        latent_channels=4,
    ).eval()
    fill(vae, {"conv_out": 0.3})
    return vae


def make_scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
    )


def make_sd1(folder: Path, width: int = WIDTH, **text: int) -> StableDiffusionPipeline:
    """A pipeline whose pictures are 16x16, with a text encoder of any width."""
    torch.manual_seed(1)
    tokenizer = make_tokenizer(folder / "tokenizer")
    pipe = StableDiffusionPipeline(
        vae=make_vae(),
        text_encoder=make_text_encoder(tokenizer, width, **text),
        tokenizer=tokenizer,
        unet=make_unet(width, attention_head_dim=4),
        scheduler=make_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def make_sdxl(folder: Path) -> StableDiffusionXLPipeline:
    """Two text encoders, whose tokenizers pad differently, and the pooled vector of the second."""
    torch.manual_seed(2)
    tokenizers = make_tokenizer(folder / "tokenizer"), make_tokenizer(folder / "tokenizer_2", pad="!")
    unet = make_unet(
        WIDTH + SECOND_WIDTH,
        attention_head_dim=(4, 8),
        transformer_layers_per_block=(1, 2),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=SECOND_WIDTH + 6 * 8,
    )
    pipe = StableDiffusionXLPipeline(
        vae=make_vae(),
        text_encoder=make_text_encoder(tokenizers[0], WIDTH),
        text_encoder_2=make_text_encoder(tokenizers[1], SECOND_WIDTH, with_projection=True),
        tokenizer=tokenizers[0],
        tokenizer_2=tokenizers[1],
        unet=unet,
        scheduler=make_scheduler(),
        add_watermarker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe
