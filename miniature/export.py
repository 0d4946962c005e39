"""The miniature for hosts: a checkpoint with its YAML for the WebUI, and a folder for diffusers.

    python -m miniature.export FOLDER [--bpe bpe_simple_vocab_16e6.txt.gz]

writes into FOLDER:

- ``miniature.safetensors`` and ``miniature.yaml``, for the WebUI's models/Stable-diffusion;
- ``clip``, the text encoder's settings and CLIP's tokenizer, which the YAML points to;
- ``diffusers``, the same model for ``StableDiffusionPipeline.from_pretrained``.

The tokenizer's merges are not part of this repository. They come from an installed open_clip or clip, or from the file
that ``--bpe`` names.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPTokenizer

from miniature.model import (
    BETA_END,
    BETA_START,
    LATENT,
    STEPS,
    TEXT_WIDTH,
    UNET_BLOCKS,
    UNET_CHANNELS,
    UNET_HEADS,
    VAE_CHANNELS,
    text_config,
)
from miniature.names import ldm_state
from miniature.sampling import make_scheduler
from miniature.weights import FOLDER, Miniature, WeightsError, load_miniature
from miniature.words import ROWS, VOCABULARY

NAME = "miniature"
_BPE_FILE = "bpe_simple_vocab_16e6.txt.gz"
_FILL_SEED = 20240618


class ExportError(Exception):
    """The model can't be exported; the message says why and what to do."""


def full_text_encoder(text: CLIPTextModel) -> CLIPTextModel:
    """Return the text encoder with all rows of CLIP's vocabulary.

    Those that were not trained are random, of the trained rows' size, and the same on every machine.
    """
    full = CLIPTextModel(text_config(VOCABULARY)).eval()
    state = {name: tensor.float() for name, tensor in text.state_dict().items()}
    name = "text_model.embeddings.token_embedding.weight"
    trained = state[name]
    table = torch.randn(VOCABULARY, TEXT_WIDTH, generator=torch.Generator().manual_seed(_FILL_SEED))
    table *= trained.std()
    table[list(ROWS)] = trained
    full.load_state_dict(state | {name: table}, strict=False)
    return full


def checkpoint_config(clip_folder: str, scale: float) -> dict[str, Any]:
    """Return what the YAML beside the checkpoint says."""
    vae = {
        "embed_dim": 4,
        "monitor": "val/rec_loss",
        "ddconfig": {
            "double_z": True,
            "z_channels": 4,
            "resolution": 8 * LATENT,
            "in_channels": 3,
            "out_ch": 3,
            "ch": VAE_CHANNELS[0],
            "ch_mult": [channels // VAE_CHANNELS[0] for channels in VAE_CHANNELS],
            "num_res_blocks": 1,
            "attn_resolutions": [],
            "dropout": 0.0,
        },
        "lossconfig": {"target": "torch.nn.Identity"},
    }
    unet = {
        "image_size": LATENT,
        "in_channels": 4,
        "out_channels": 4,
        "model_channels": UNET_CHANNELS[0],
        "attention_resolutions": [2],
        "num_res_blocks": UNET_BLOCKS,
        "channel_mult": [channels // UNET_CHANNELS[0] for channels in UNET_CHANNELS],
        "num_heads": UNET_HEADS,
        "use_spatial_transformer": True,
        "transformer_depth": 1,
        "context_dim": TEXT_WIDTH,
        "use_checkpoint": False,
        "legacy": False,
    }
    return {
        "model": {
            "target": "ldm.models.diffusion.ddpm.LatentDiffusion",
            "params": {
                "parameterization": "v",
                "linear_start": BETA_START,
                "linear_end": BETA_END,
                "num_timesteps_cond": 1,
                "log_every_t": 200,
                "timesteps": STEPS,
                "first_stage_key": "jpg",
                "cond_stage_key": "txt",
                "image_size": LATENT,
                "channels": 4,
                "cond_stage_trainable": False,
                "conditioning_key": "crossattn",
                "monitor": "val/loss_simple_ema",
                "scale_factor": scale,
                "use_ema": False,
                "unet_config": {"target": "ldm.modules.diffusionmodules.openaimodel.UNetModel", "params": unet},
                "first_stage_config": {"target": "ldm.models.autoencoder.AutoencoderKL", "params": vae},
                "cond_stage_config": {
                    "target": "ldm.modules.encoders.modules.FrozenCLIPEmbedder",
                    "params": {"version": clip_folder},
                },
            },
        }
    }


def find_merges(file: Path | None = None) -> list[str]:
    """Return the merges of CLIP's tokenizer.

    Raises:
        ExportError: There is no file with them, or it is damaged.
    """
    candidates = [file] if file else []
    for package in () if file else ("open_clip", "clip"):
        spec = find_spec(package)
        if spec and spec.origin:
            candidates.append(Path(spec.origin).with_name(_BPE_FILE))
    for path in candidates:
        try:
            lines = gzip.decompress(path.read_bytes()).decode().split("\n")
        except FileNotFoundError:
            continue
        except (OSError, EOFError, UnicodeDecodeError) as error:
            raise ExportError(f"{path} is damaged: {error}. Get it again.") from error
        merges = lines[1 : VOCABULARY - 2 - 512 + 1]
        if len(merges) < VOCABULARY - 2 - 512:
            raise ExportError(f"{path} has too few lines. Get it again.")
        return merges
    raise ExportError(f"CLIP's {_BPE_FILE} is not here. Install open_clip_torch, or name the file with --bpe.")


def write_clip_folder(folder: Path, merges: list[str]) -> None:
    """Write the text encoder's settings and the tokenizer's files."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = _letters()
    words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair.split()) for pair in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    special = dict.fromkeys(("eos_token", "pad_token", "unk_token"), "<|endoftext|>")
    special["bos_token"] = "<|startoftext|>"
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 1, "num_hidden_layers": 1}
    config = {
        "model_type": "clip",
        "architectures": ["CLIPModel"],
        "projection_dim": TEXT_WIDTH,
        "text_config": {**text_config(VOCABULARY).to_dict(), "model_type": "clip_text_model"},
        "vision_config": {"model_type": "clip_vision_model", "image_size": 32, "patch_size": 16, **vision},
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1))


def _letters() -> list[str]:
    """Return how CLIP's tokenizer writes the 256 bytes: printable ones as they are, the others shifted."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return [*map(chr, plain), *(chr(256 + i) for i in range(len(others)))]


def export_checkpoint(miniature: Miniature, folder: Path, clip_folder: Path) -> Path:
    """Write NAME.safetensors and NAME.yaml in half precision; return the checkpoint's path."""
    text = full_text_encoder(miniature.text)
    state = ldm_state(miniature.unet.state_dict(), miniature.vae.state_dict(), text.state_dict())
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{NAME}.safetensors"
    save_file({n: (t.half() if t.is_floating_point() else t).contiguous().clone() for n, t in state.items()}, path)
    config = checkpoint_config(str(clip_folder.resolve()), miniature.scale)
    path.with_suffix(".yaml").write_text(json.dumps(config, indent=1))  # JSON is YAML
    return path


def export_diffusers(miniature: Miniature, folder: Path, clip_folder: Path) -> None:
    """Write a folder that `StableDiffusionPipeline.from_pretrained` loads."""
    miniature.vae.register_to_config(scaling_factor=miniature.scale)
    pipeline = StableDiffusionPipeline(
        vae=miniature.vae,
        unet=miniature.unet,
        text_encoder=full_text_encoder(miniature.text),
        tokenizer=CLIPTokenizer.from_pretrained(str(clip_folder), local_files_only=True),
        scheduler=make_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(torch.float16).save_pretrained(folder)
    miniature.vae.float()
    miniature.unet.float()


def export(folder: Path, weights: Path = FOLDER, bpe: Path | None = None) -> None:
    """Write everything that the module's docstring lists.

    Raises:
        ExportError: The tokenizer's merges are missing, or the folder can't be written.
        WeightsError: The weights are missing or damaged.
    """
    miniature = load_miniature(weights)
    merges = find_merges(bpe)
    try:
        write_clip_folder(folder / "clip", merges)
        export_checkpoint(miniature, folder, folder / "clip")
        export_diffusers(miniature, folder / "diffusers", folder / "clip")
    except OSError as error:
        raise ExportError(f"Can't write in {folder}: {error}. Choose another folder.") from error


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", type=Path, default=FOLDER)
    parser.add_argument("--bpe", type=Path, help=f"CLIP's {_BPE_FILE}")
    options = parser.parse_args(arguments)
    try:
        export(options.folder, options.weights, options.bpe)
    except (ExportError, WeightsError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
