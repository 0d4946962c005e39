"""Write small checkpoints and embeddings that a real WebUI loads. Run by the WebUI's own Python.

    WEBUI/venv/bin/python make_checkpoints.py WEBUI_DIR MINIATURE_DIR OUTPUT_DIR

SD 1 is the trained miniature, from the folder that ``python -m miniature.export`` writes. A second checkpoint and one
for inpainting are made of it. The other models have the blocks and layer names of SD 1 (more layers than the miniature
has, at three resolutions), SD 2, SDXL and the SDXL refiner, with small widths. Nothing in them is trained, so a picture
means nothing; but every part does its work: what Stable Diffusion initialises to zero is random here, and the last
layers are scaled so that one changed word visibly changes the picture.

They predict v rather than noise, because the sampling of a random noise predictor diverges.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

CLIP_L = "openai/clip-vit-large-patch14"  # where FrozenCLIPEmbedder looks, relative to the server's working directory
MINIATURE_CLIP = "openai/miniature"
L_WIDTH, H_WIDTH, G_WIDTH = 96, 112, 128  # SD 1 and SDXL's first encoder; SD 2; SDXL's second encoder
MINIATURE_LAYERS = 5  # of its text encoder
VOCABULARY = 49408
SIZE_EMBEDDING = 32

L_TEXT = {
    "hidden_size": L_WIDTH,
    "intermediate_size": 4 * L_WIDTH,
    "num_attention_heads": 4,
    "num_hidden_layers": 12,  # as many as the real one: CatVersion's files name layers 9, 10, 11
    "max_position_embeddings": 77,
    "vocab_size": VOCABULARY,
    "hidden_act": "quick_gelu",
    "projection_dim": L_WIDTH,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 1,
    "layer_norm_eps": 1e-05,
}


# The text encoder of SD 1 with its real width and depth, for real CatVersion adapters.
WIDE_TEXT = L_TEXT | {"hidden_size": 768, "intermediate_size": 64, "num_attention_heads": 12, "projection_dim": 768}
WIDE_CLIP = "openai/wide"


def open_clip_arch(width: int) -> dict[str, Any]:
    return {
        "embed_dim": width,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": VOCABULARY, "width": width, "heads": 4, "layers": 6},
    }


OPEN_CLIP_ARCHS = {"tiny-H": open_clip_arch(H_WIDTH), "tiny-G": open_clip_arch(G_WIDTH)}  # the probe registers these


# Configurations, as the .yaml beside each checkpoint holds them (JSON is YAML)

VAE = {
    "embed_dim": 4,
    "monitor": "val/rec_loss",
    "ddconfig": {
        "double_z": True, "z_channels": 4, "resolution": 64, "in_channels": 3, "out_ch": 3, "ch": 32,
        "ch_mult": [1, 1, 1, 1], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0,
    },
    "lossconfig": {"target": "torch.nn.Identity"},
}  # fmt: skip


def unet_params(context: int, **more: Any) -> dict[str, Any]:
    return {
        "in_channels": 4, "out_channels": 4, "model_channels": 32, "attention_resolutions": [4, 2, 1],
        "num_res_blocks": 2, "channel_mult": [1, 2, 2, 2], "num_heads": 4, "use_spatial_transformer": True,
        "transformer_depth": 1, "context_dim": context, "use_checkpoint": False, "legacy": False, **more,
    }  # fmt: skip


def ldm_config(text_encoder: dict[str, Any], context: int) -> dict[str, Any]:
    return {
        "model": {
            "target": "ldm.models.diffusion.ddpm.LatentDiffusion",
            "params": {
                "parameterization": "v", "linear_start": 0.00085, "linear_end": 0.0120, "num_timesteps_cond": 1,
                "log_every_t": 200, "timesteps": 1000, "first_stage_key": "jpg", "cond_stage_key": "txt",
                "image_size": 8, "channels": 4, "cond_stage_trainable": False,
                "conditioning_key": "crossattn", "monitor": "val/loss_simple_ema",
                "scale_factor": 0.18215, "use_ema": False,
                "unet_config": {
                    "target": "ldm.modules.diffusionmodules.openaimodel.UNetModel",
                    "params": unet_params(context, image_size=8),
                },
                "first_stage_config": {"target": "ldm.models.autoencoder.AutoencoderKL", "params": VAE},
                "cond_stage_config": text_encoder,
            },
        }
    }  # fmt: skip


SD1_ENCODER = {"target": "ldm.modules.encoders.modules.FrozenCLIPEmbedder"}
SD1_WIDE_ENCODER = SD1_ENCODER | {"params": {"version": WIDE_CLIP}}
SD2_ENCODER = {
    "target": "ldm.modules.encoders.modules.FrozenOpenCLIPEmbedder",
    "params": {"arch": "tiny-H", "freeze": True, "layer": "penultimate"},
}
SDXL_L_ENCODER = {
    "is_trainable": False,
    "input_key": "txt",
    "target": "sgm.modules.encoders.modules.FrozenCLIPEmbedder",
    "params": {"layer": "hidden", "layer_idx": 11},
}
SDXL_G_ENCODER = {
    "is_trainable": False,
    "input_key": "txt",
    "target": "sgm.modules.encoders.modules.FrozenOpenCLIPEmbedder2",
    "params": {
        "arch": "tiny-G", "version": "none", "freeze": True, "layer": "penultimate", "always_return_pooled": True,
        "legacy": False,
    },
}  # fmt: skip


def size_embedder(key: str) -> dict[str, Any]:
    return {
        "is_trainable": False,
        "input_key": key,
        "target": "sgm.modules.encoders.modules.ConcatTimestepEmbedderND",
        "params": {"outdim": SIZE_EMBEDDING},
    }


def sgm_config(refiner: bool = False) -> dict[str, Any]:
    sizes = ["original_size_as_tuple", "crop_coords_top_left", "aesthetic_score" if refiner else "target_size_as_tuple"]
    encoders = [SDXL_G_ENCODER] if refiner else [SDXL_L_ENCODER, SDXL_G_ENCODER]
    numbers = 5 if refiner else 6
    depth = {"channel_mult": [1, 2, 2], "transformer_depth": [1, 1, 2]}
    if refiner:
        depth = {"context_dim": G_WIDTH}
    sgm = "sgm.modules.diffusionmodules"
    return {
        "model": {
            "target": "sgm.models.diffusion.DiffusionEngine",
            "params": {
                "scale_factor": 0.13025,
                "disable_first_stage_autocast": True,
                "denoiser_config": {
                    "target": f"{sgm}.denoiser.DiscreteDenoiser",
                    "params": {
                        "num_idx": 1000,
                        "weighting_config": {"target": f"{sgm}.denoiser_weighting.EpsWeighting"},
                        "scaling_config": {"target": f"{sgm}.denoiser_scaling.VScaling"},
                        "discretization_config": {"target": f"{sgm}.discretizer.LegacyDDPMDiscretization"},
                    },
                },
                "network_config": {
                    "target": f"{sgm}.openaimodel.UNetModel",
                    "params": unet_params(
                        L_WIDTH + G_WIDTH,
                        adm_in_channels=G_WIDTH + numbers * SIZE_EMBEDDING,
                        num_classes="sequential",
                        attention_resolutions=[4, 2],
                        use_linear_in_transformer=True,
                        spatial_transformer_attn_type="softmax",
                    )
                    | depth,
                },
                "conditioner_config": {
                    "target": "sgm.modules.GeneralConditioner",
                    "params": {"emb_models": encoders + [size_embedder(key) for key in sizes]},
                },
                "first_stage_config": {"target": "sgm.models.autoencoder.AutoencoderKLInferenceWrapper", "params": VAE},
            },
        }
    }


# Weights


def fill(module: torch.nn.Module, generator: torch.Generator, gains: dict[str, float]) -> None:
    """Give every parameter a random value: weights keep the variance of their input, times the gain of their name."""
    for name, parameter in module.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim < 2:
            value = 1 + 0.1 * noise if name.endswith("weight") else 0.05 * noise
        else:
            value = noise / math.sqrt(parameter[0].numel())
        for part, gain in gains.items():
            if part in name and parameter.ndim >= 2:
                value *= gain
        parameter.data = value


def rescale(layer: torch.nn.Module, outputs: torch.Tensor, wanted: float) -> None:
    """Scale the last layer of something so that its outputs have mean 0 and the wanted standard deviation."""
    factor = wanted / outputs.std()
    layer.weight.data *= factor
    layer.bias.data = (layer.bias.data - outputs.mean(dim=(0, 2, 3))) * factor


def make_unet(config: dict[str, Any], generator: torch.Generator) -> torch.nn.Module:
    if config["target"].startswith("sgm"):
        from sgm.modules.diffusionmodules.openaimodel import UNetModel  # noqa: PLC0415
    else:
        from ldm.modules.diffusionmodules.openaimodel import UNetModel  # noqa: PLC0415
    unet = UNetModel(**config["params"])
    # Attention that picks single tokens, and a strong voice of the text in the picture.
    fill(unet, generator, {"attn2.to_q": 2.0, "attn2.to_k": 2.0, "attn2.to_out": 3.0})
    width, channels = config["params"]["context_dim"], config["params"]["in_channels"]
    x = torch.randn(4, channels, 8, 8, generator=generator)
    context = torch.randn(4, 77, width, generator=generator)
    classes = config["params"].get("adm_in_channels")
    y = torch.randn(4, classes, generator=generator) if classes else None
    rescale(unet.out[2], unet(x, torch.tensor([900, 700, 400, 100]), context=context, y=y), 1.0)
    return unet


def make_vae(scale_factor: float, generator: torch.Generator) -> torch.nn.Module:
    from ldm.modules.diffusionmodules.model import Decoder, Encoder  # noqa: PLC0415

    vae = torch.nn.Module()
    vae.encoder, vae.decoder = Encoder(**VAE["ddconfig"]), Decoder(**VAE["ddconfig"])
    vae.quant_conv, vae.post_quant_conv = torch.nn.Conv2d(8, 8, 1), torch.nn.Conv2d(4, 4, 1)
    fill(vae, generator, {})
    moments = vae.quant_conv(vae.encoder(torch.rand(4, 3, 64, 64, generator=generator) * 2 - 1))
    rescale(vae.quant_conv, moments, 1 / scale_factor)
    vae.quant_conv.weight.data[4:] = 0  # as good as no variance: encoding draws almost no noise
    vae.quant_conv.bias.data[4:] = -20
    latents = torch.randn(4, 4, 8, 8, generator=generator) / scale_factor
    rescale(vae.decoder.conv_out, vae.decoder(vae.post_quant_conv(latents)), 0.4)
    return vae


def make_clip_l(generator: torch.Generator, text: dict[str, Any]) -> torch.nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel  # noqa: PLC0415

    width = text["hidden_size"]
    encoder = CLIPTextModel(CLIPTextConfig(**text))
    fill(encoder, generator, {"self_attn.q": 1.5, "self_attn.k": 1.5, "out_proj": 0.5, "fc2": 0.5})
    embeddings = encoder.text_model.embeddings
    embeddings.token_embedding.weight.data = word_vectors(width, generator)
    embeddings.position_embedding.weight.data = 0.02 * torch.randn(77, width, generator=generator)
    return encoder


def make_open_clip(arch: str, generator: torch.Generator) -> torch.nn.Module:
    from open_clip.model import CLIP  # noqa: PLC0415

    encoder = CLIP(**OPEN_CLIP_ARCHS[arch])
    width = encoder.token_embedding.weight.shape[1]
    del encoder.visual
    fill(encoder, generator, {"attn.in_proj": 1.5, "attn.out_proj": 0.5, "mlp.c_proj": 0.5})
    encoder.token_embedding.weight.data = word_vectors(width, generator)
    encoder.positional_embedding.data = 0.02 * torch.randn(77, width, generator=generator)
    encoder.logit_scale.data = torch.tensor(2.6592)
    return encoder


def word_vectors(width: int, generator: torch.Generator) -> torch.Tensor:
    """Norm 0.4 or so, like the words of the real CLIP-L."""
    return torch.randn(VOCABULARY, width, generator=generator) * (0.4 / math.sqrt(width))


@torch.no_grad()
def make_checkpoint(name: str, config: dict[str, Any], seed: int, folder: Path) -> None:
    generator = torch.Generator().manual_seed(seed)
    params = config["model"]["params"]
    parts = {
        "model.diffusion_model.": make_unet(params.get("unet_config") or params["network_config"], generator),
        "first_stage_model.": make_vae(params["scale_factor"], generator),
    }
    if "conditioner_config" in params:
        for i, embedder in enumerate(params["conditioner_config"]["params"]["emb_models"]):
            if embedder is SDXL_L_ENCODER:
                parts[f"conditioner.embedders.{i}.transformer."] = make_clip_l(generator, L_TEXT)
            elif embedder is SDXL_G_ENCODER:
                parts[f"conditioner.embedders.{i}.model."] = make_open_clip("tiny-G", generator)
    elif params["cond_stage_config"] is SD2_ENCODER:
        parts["cond_stage_model.model."] = make_open_clip("tiny-H", generator)
    else:
        text = WIDE_TEXT if params["cond_stage_config"] is SD1_WIDE_ENCODER else L_TEXT
        parts["cond_stage_model.transformer."] = make_clip_l(generator, text)
    state = {prefix + key: value for prefix, part in parts.items() for key, value in part.state_dict().items()}
    # In half where it would be large.
    dtype = torch.float16 if params.get("cond_stage_config") is SD1_WIDE_ENCODER else None
    save_file(
        {key: (value.to(dtype) if dtype else value).contiguous().clone() for key, value in state.items()},
        folder / f"{name}.safetensors",
    )
    (folder / f"{name}.yaml").write_text(json.dumps(config, indent=1))


# The trained model


@torch.no_grad()
def make_miniatures(exported: Path, output: Path) -> None:
    """Copy the miniature, and make a second checkpoint of it and one for inpainting."""
    checkpoints = output / "checkpoints"
    state = load_file(exported / "miniature.safetensors")
    # As good as no variance: the host draws the noise of a picture's latents without a seed.
    state["first_stage_model.quant_conv.weight"][4:] = 0
    state["first_stage_model.quant_conv.bias"][4:] = -20
    config = json.loads((exported / "miniature.yaml").read_text())
    config["model"]["params"]["cond_stage_config"]["params"]["version"] = MINIATURE_CLIP
    save_file(state, checkpoints / "miniature.safetensors")
    (checkpoints / "miniature.yaml").write_text(json.dumps(config, indent=1))
    generator = torch.Generator().manual_seed(12)
    other = {name: another(name, tensor, generator) if tensor.ndim > 1 else tensor for name, tensor in state.items()}
    save_file(other, checkpoints / "miniature-b.safetensors")
    # One configuration for both, as for all real SD 1 checkpoints: the host then loads new weights into the same
    # modules. It compares file names, so the probe resolves this link for it.
    (checkpoints / "miniature-b.yaml").symlink_to("miniature.yaml")
    first = "model.diffusion_model.input_blocks.0.0.weight"  # sees the mask and the masked picture too
    wider = torch.randn(len(state[first]), 5, 3, 3, generator=generator) * state[first].std()
    save_file(
        state | {first: torch.cat([state[first], wider.to(state[first])], 1)},
        checkpoints / "miniature-inpaint.safetensors",
    )
    params = config["model"]["params"]
    config["model"]["target"] = "ldm.models.diffusion.ddpm.LatentInpaintDiffusion"
    params |= {"conditioning_key": "hybrid", "finetune_keys": None}
    params["unet_config"]["params"]["in_channels"] = 9
    (checkpoints / "miniature-inpaint.yaml").write_text(json.dumps(config, indent=1))


def another(name: str, tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A weight of the second checkpoint: pictures are others, and the weights of Custom Diffusion unlike."""
    far = 1.0 if "attn2.to_k" in name or "attn2.to_v" in name else 0.15
    return (tensor + far * tensor.float().std() * torch.randn(tensor.shape, generator=generator)).to(tensor)


# Tokenizer and embeddings


def make_clip_folder(folder: Path, text: dict[str, Any], tokenizer: Path) -> None:
    """config.json of a text encoder, and CLIP's tokenizer from another folder of this kind."""
    shutil.copytree(tokenizer, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"projection_dim": text["projection_dim"], "text_config": {"model_type": "clip_text_model", **text}}
    (folder / "config.json").write_text(json.dumps(config, indent=1))


def concept_vectors(seed: int, norms: list[float], width: int) -> torch.Tensor:
    """Random directions (no word is near) with norms that training gives: longer than a word's."""
    noise = torch.randn(len(norms), width, generator=torch.Generator().manual_seed(seed))
    return noise / noise.norm(dim=1, keepdim=True) * torch.tensor(norms)[:, None]


def save_webui_embedding(path: Path, vectors: torch.Tensor) -> None:
    """As Embedding.save of the WebUI does after training."""
    data = {
        "string_to_token": {"*": 265},
        "string_to_param": {"*": vectors},
        "name": path.stem,
        "step": 500,
        "sd_checkpoint": "0000000000",
        "sd_checkpoint_name": "miniature",
    }
    torch.save(data, path)


def make_embeddings(folder: Path) -> None:
    folder.mkdir()
    save_webui_embedding(folder / "my-cat.pt", concept_vectors(1, [2.5], L_WIDTH))
    save_webui_embedding(folder / "my-toy.pt", concept_vectors(2, [2.1, 2.6, 3.2], L_WIDTH))
    save_webui_embedding(folder / "sd2-cat.pt", concept_vectors(3, [0.7], H_WIDTH))
    # As textual_inversion.py of diffusers does: one key, the placeholder token.
    save_file({"<my-dog>": concept_vectors(4, [3.0], L_WIDTH)}, folder / "my-dog.safetensors")
    for name, seed, norms in (("xl-cat", 5, [0.7]), ("xl-toy", 6, [0.6, 0.9])):
        both = {"clip_l": concept_vectors(seed, norms, L_WIDTH), "clip_g": concept_vectors(seed + 50, norms, G_WIDTH)}
        save_file(both, folder / f"{name}.safetensors")


def make_lora(path: Path) -> None:
    """For the miniature, with the names of kohya's trainer: all of attn2 and of the text encoder's attention."""
    generator = torch.Generator().manual_seed(7)
    blocks = [("down_blocks_1", 2, 128), ("mid_block", 1, 128), ("up_blocks_0", 3, 128)]
    shapes = {}
    for block, count, width in blocks:
        for i in range(count):
            attention = f"lora_unet_{block}_attentions_{i}_transformer_blocks_0_attn2"
            shapes[f"{attention}_to_q"] = shapes[f"{attention}_to_out_0"] = (width, width)
            shapes[f"{attention}_to_k"] = shapes[f"{attention}_to_v"] = (width, L_WIDTH)
    for layer in range(MINIATURE_LAYERS):
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes[f"lora_te_text_model_encoder_layers_{layer}_self_attn_{part}"] = (L_WIDTH, L_WIDTH)
    state = {}
    for name, (out, into) in shapes.items():
        state[f"{name}.lora_down.weight"] = torch.randn(4, into, generator=generator) / math.sqrt(into)
        state[f"{name}.lora_up.weight"] = torch.randn(out, 4, generator=generator) / math.sqrt(into)
        state[f"{name}.alpha"] = torch.tensor(4.0)
    save_file(state, path)


def make_hypernetwork(path: Path) -> None:
    """For SD 1, as Hypernetwork.save of the WebUI writes it: a change of the context for keys and one for values."""
    generator = torch.Generator().manual_seed(8)

    def layers() -> dict[str, torch.Tensor]:
        into = 0.3 * torch.randn(2 * L_WIDTH, L_WIDTH, generator=generator) / math.sqrt(L_WIDTH)
        out = torch.randn(L_WIDTH, 2 * L_WIDTH, generator=generator) / math.sqrt(2 * L_WIDTH)
        return {
            "linear.0.weight": into,
            "linear.0.bias": torch.zeros(2 * L_WIDTH),
            "linear.1.weight": out,
            "linear.1.bias": torch.zeros(L_WIDTH),
        }

    data = {L_WIDTH: (layers(), layers()), "step": 100, "name": path.stem, "layer_structure": [1, 2, 1]}
    data |= {"activation_func": "linear", "is_layer_norm": False, "weight_initialization": "Normal"}
    data |= {"sd_checkpoint": None, "sd_checkpoint_name": None, "activate_output": False, "use_dropout": False}
    torch.save(data | {"dropout_structure": [0, 0, 0], "last_layer_dropout": False, "optional_info": None}, path)


def main(webui: Path, miniature: Path, output: Path) -> None:
    for repository in ("stable-diffusion-stability-ai", "generative-models"):
        sys.path.insert(0, str(webui / "repositories" / repository))
    torch.set_num_threads(2)
    shutil.copytree(miniature / "clip", output / MINIATURE_CLIP)
    make_clip_folder(output / CLIP_L, L_TEXT, output / MINIATURE_CLIP)
    make_clip_folder(output / WIDE_CLIP, WIDE_TEXT, output / MINIATURE_CLIP)
    make_embeddings(output / "embeddings")
    for folder in ("Lora", "hypernetworks"):
        (output / folder).mkdir()
    make_lora(output / "Lora" / "tiny-lora.safetensors")
    make_hypernetwork(output / "hypernetworks" / "tiny-hyper.pt")
    for name, config in OPEN_CLIP_ARCHS.items():
        (output / "open_clip").mkdir(exist_ok=True)
        (output / "open_clip" / f"{name}.json").write_text(json.dumps(config))
    checkpoints = output / "checkpoints"
    checkpoints.mkdir()
    make_miniatures(miniature, output)
    make_checkpoint("tiny-sd1", ldm_config(SD1_ENCODER, L_WIDTH), 11, checkpoints)
    make_checkpoint("wide-sd1", ldm_config(SD1_WIDE_ENCODER, WIDE_TEXT["hidden_size"]), 17, checkpoints)
    make_checkpoint("tiny-sd2", ldm_config(SD2_ENCODER, H_WIDTH), 14, checkpoints)
    make_checkpoint("tiny-sdxl", sgm_config(), 15, checkpoints)
    make_checkpoint("tiny-sdxl-refiner", sgm_config(refiner=True), 16, checkpoints)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
