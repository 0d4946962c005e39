"""CLIP and CLIPSeg with random weights, small, in the form in which transformers keeps the real ones."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPSegConfig,
    CLIPSegForImageSegmentation,
    CLIPSegProcessor,
    CLIPTokenizerFast,
    ViTImageProcessor,
)
from transformers.models.clip.tokenization_clip import bytes_to_unicode

_TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2}
_VISION = {**_TEXT, "image_size": 32, "patch_size": 8, "num_hidden_layers": 4}


def tokenizer(folder: Path) -> CLIPTokenizerFast:
    """Return CLIP's tokenizer with single letters for tokens."""
    letters = list(bytes_to_unicode().values())
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizerFast(str(folder / "vocab.json"), str(folder / "merges.txt"))


def save_clip(folder: Path) -> Path:
    """Write a small CLIP into a folder."""
    folder.mkdir(parents=True)
    tokens = tokenizer(folder)
    text = {**_TEXT, "vocab_size": len(tokens), "eos_token_id": len(tokens) - 1, "bos_token_id": len(tokens) - 2}
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=text, vision_config=_VISION, projection_dim=16)).save_pretrained(folder)
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(images, tokens).save_pretrained(folder)
    return folder


def save_segmenter(folder: Path) -> Path:
    """Write a small CLIPSeg into a folder."""
    folder.mkdir(parents=True)
    tokens = tokenizer(folder)
    text = {**_TEXT, "vocab_size": len(tokens), "eos_token_id": len(tokens) - 1, "bos_token_id": len(tokens) - 2}
    torch.manual_seed(1)
    config = CLIPSegConfig(
        text_config=text,
        vision_config=_VISION,
        projection_dim=16,
        extract_layers=[1, 2, 3],
        reduce_dim=16,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=32,
        conditional_layer=0,
    )
    CLIPSegForImageSegmentation(config).save_pretrained(folder)
    images = ViTImageProcessor(size={"height": 32, "width": 32})
    CLIPSegProcessor(images, tokens).save_pretrained(folder)
    return folder
