"""The diffusers host against the WebUI: the same checkpoint, prompt and noise give the same picture up to rounding.

The WebUI makes its pictures with its own torch, its own UNet and its own samplers; nothing of these is shared with
diffusers. With 4 steps both take the sigmas and timesteps of the training schedule at 999, 666, 333 and 0.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig

from alignit.diffusers import AlignIT, load_concept
from alignit.prompt.class_words import format_class_words
from miniature.model import BETA_END, text_config
from tests.formats.writers import save_adapter
from tests.host.make_checkpoints import (
    CLIP_L,
    G_WIDTH,
    L_TEXT,
    L_WIDTH,
    MINIATURE_CLIP,
    SIZE_EMBEDDING,
    VOCABULARY,
    open_clip_arch,
)
from tests.host.miniature import ADAPTED, WIDTH
from tests.host.test_deltas import projections
from tests.host.webui import WebUI

STEPS, SIZE, SEED = 4, 64, 1  # those of WebUI.txt2img
GUIDANCE = 7.0


def make_scheduler(beta_end: float = 0.012) -> EulerDiscreteScheduler:
    return EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=beta_end,
        beta_schedule="scaled_linear",
        timestep_spacing="linspace",
        steps_offset=1,
        prediction_type="v_prediction",
    )


PARTS = {
    "scheduler": ["diffusers", "EulerDiscreteScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def make_pipeline(host: WebUI, folder: Path) -> StableDiffusionPipeline:
    """Load the WebUI's checkpoint with diffusers' own conversion."""
    (folder / "tokenizer").symlink_to(host.cache / MINIATURE_CLIP)
    text_config(VOCABULARY).save_pretrained(folder / "text_encoder")
    index = {"_class_name": "StableDiffusionPipeline", "requires_safety_checker": False, **PARTS}
    (folder / "model_index.json").write_text(json.dumps(index))
    checkpoint = host.cache / "checkpoints" / "miniature.safetensors"
    pipe = StableDiffusionPipeline.from_single_file(
        str(checkpoint),
        config=str(folder),
        original_config=str(checkpoint.with_suffix(".yaml")),
        local_files_only=True,
        safety_checker=None,
        feature_extractor=None,
        scheduler=make_scheduler(BETA_END),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def make_xl_pipeline(host: WebUI, folder: Path) -> StableDiffusionXLPipeline:
    """Load the WebUI's SDXL checkpoint with diffusers' own conversion, for the sizes of this model."""
    (folder / "tokenizer").symlink_to(host.cache / CLIP_L)
    shutil.copytree(host.cache / CLIP_L, folder / "tokenizer_2")
    for name in ("special_tokens_map.json", "tokenizer_config.json"):  # SDXL's second tokenizer pads with token 0
        settings = json.loads((folder / "tokenizer_2" / name).read_text())
        (folder / "tokenizer_2" / name).write_text(json.dumps({**settings, "pad_token": "!"}))
    CLIPTextConfig(**L_TEXT).save_pretrained(folder / "text_encoder")
    arch = open_clip_arch(G_WIDTH)["text_cfg"]
    CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=G_WIDTH,
        intermediate_size=4 * G_WIDTH,
        projection_dim=G_WIDTH,
        num_hidden_layers=arch["layers"],
        num_attention_heads=arch["heads"],
        hidden_act="gelu",
        eos_token_id=2,
    ).save_pretrained(folder / "text_encoder_2")
    UNet2DConditionModel(
        block_out_channels=(32, 64, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1, 2),
        attention_head_dim=4,
        cross_attention_dim=L_WIDTH + G_WIDTH,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=SIZE_EMBEDDING,
        projection_class_embeddings_input_dim=G_WIDTH + 6 * SIZE_EMBEDDING,
    ).save_config(folder / "unet")
    AutoencoderKL(
        block_out_channels=(32,) * 4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        scaling_factor=0.13025,
        force_upcast=False,
    ).save_config(folder / "vae")
    second = {"text_encoder_2": ["transformers", "CLIPTextModelWithProjection"], "tokenizer_2": PARTS["tokenizer"]}
    (folder / "model_index.json").write_text(
        json.dumps({"_class_name": "StableDiffusionXLPipeline", **PARTS, **second})
    )
    pipe = StableDiffusionXLPipeline.from_single_file(
        str(host.cache / "checkpoints" / "tiny-sdxl.safetensors"),
        config=str(folder),
        local_files_only=True,
        scheduler=make_scheduler(),
        add_watermarker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def pipe(servers, tmp_path_factory) -> StableDiffusionPipeline:
    return make_pipeline(servers.get("host"), tmp_path_factory.mktemp("diffusers"))


@pytest.fixture(scope="module")
def pipe_xl(servers, tmp_path_factory) -> StableDiffusionXLPipeline:
    return make_xl_pipeline(servers.get("host"), tmp_path_factory.mktemp("diffusers-xl"))


@pytest.fixture(scope="module")
def files(servers) -> Iterator[dict[str, Path]]:
    """Concepts' files where the WebUI looks for them."""
    host: WebUI = servers.get("host")
    generator = torch.Generator().manual_seed(12)
    weights = {
        name: tensor + 0.4 * tensor.std() * torch.randn(tensor.shape, generator=generator)
        for name, tensor in projections(host, "miniature").items()
    }
    vector = torch.randn(1, WIDTH, generator=generator)
    run = host.data / "models" / "deltas" / "for-diffusers.ckpt"
    run.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": {**weights, "embed": 2.5 * vector / vector.norm()}}, run)
    numbers = 15 * torch.randn(6 * WIDTH, generator=generator)
    adapters = host.data / "models" / "catversion"
    teddy = save_adapter(adapters / "plush", {"control_trans": numbers}, ADAPTED, hidden_size=WIDTH)
    yield {
        "my-cat": host.embeddings / "my-cat.pt",
        "my-toy": host.embeddings / "my-toy.pt",
        "run": run,
        "plush": teddy,
    }
    run.unlink()
    teddy.unlink()


@pytest.fixture(scope="module")
def xl_files(servers, pipe_xl) -> Iterator[dict[str, Path]]:
    host: WebUI = servers.get("host")
    generator = torch.Generator().manual_seed(13)
    weights = {
        name: weight.detach() + 0.4 * weight.detach().std() * torch.randn(weight.shape, generator=generator)
        for name, weight in pipe_xl.unet.named_parameters()
        if "attn2.to_k" in name or "attn2.to_v" in name
    }
    token = [0.1 * torch.randn(width, generator=generator) for width in (L_WIDTH, G_WIDTH)]
    run = host.data / "models" / "deltas" / "xl-run.bin"
    run.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"unet": weights, "modifier_token": {"<new1>": token}}, run)
    yield {"xl-toy": host.embeddings / "xl-toy.safetensors", "xl-run": run}
    run.unlink()


def picture(pipe: Any, prompt: str, negative: str = "", **arguments: Any) -> np.ndarray:
    # The noise of the WebUI where its setting says CPU: one picture after the other from a generator of its own.
    generator = torch.Generator().manual_seed(SEED)
    size = {"height": SIZE, "width": SIZE, "num_inference_steps": STEPS, "guidance_scale": GUIDANCE}
    image = pipe(prompt, generator=generator, output_type="np", negative_prompt=negative, **size, **arguments).images[0]
    return np.asarray(image) * 255


def assert_same(ours: np.ndarray, webui: np.ndarray) -> None:
    # The WebUI rounds to whole numbers, downwards.
    difference = ours - webui
    assert -0.02 <= difference.min() <= difference.max() <= 1.02


def test_the_models_are_the_same(host: WebUI, pipe: Any) -> None:
    host.options(randn_source="CPU")
    one, other = (host.txt2img(f"a {animal} in snow", cfg_scale=GUIDANCE)[0] for animal in ("cat", "dog"))
    assert_same(picture(pipe, "a cat in snow"), one.pixels)
    assert_same(picture(pipe, "a dog in snow"), other.pixels)
    assert one.difference(other) > 1


CASES = [
    ("a my-cat playing with a ball", ["my-cat"], {"my-cat": "cat"}, {}),
    ("a <my-cat=cat>, beside my-toy in snow", ["my-cat", "my-toy"], {"my-toy": "golden retriever"}, {}),
    ("a <new1> cat in snow", ["run"], {}, {}),
    ("a <new1=cat> and my-toy in snow", ["run", "my-toy"], {"my-toy": "toy"}, {"strength": 0.6, "end": 0.5}),
    ("a big plush in snow", ["plush"], {}, {}),
    ("a <plush=teddy bear> and <new1> cat and a <my-cat=dog>", ["my-cat", "run", "plush"], {}, {}),
]
NETWORKS = {"run": " <delta:for-diffusers:1>", "xl-run": " <delta:xl-run:1>", "plush": " <catversion:plush>"}


@pytest.mark.parametrize("align", [True, False])
@pytest.mark.parametrize(("prompt", "names", "words", "settings"), CASES)
def test_the_same_picture(
    host: WebUI,
    pipe: Any,
    files: dict[str, Path],
    align: bool,
    prompt: str,
    names: list[str],
    words: dict[str, str],
    settings: dict[str, float],
) -> None:
    host.options(randn_source="CPU")
    webui = host.txt2img(
        prompt + "".join(NETWORKS.get(name, "") for name in names),
        cfg_scale=GUIDANCE,
        alignit=[{"enabled": align, "class_words": format_class_words(words), **settings}],
    )
    assert "AlignIT note" not in webui.info["extra_generation_params"]
    aligned = AlignIT(pipe, [load_concept(files[name]) for name in names], words)
    ours = picture(aligned, prompt, align=align, **{f"concept_{name}": value for name, value in settings.items()})
    assert_same(ours, webui[0].pixels)


@pytest.mark.parametrize("align", [True, False])
@pytest.mark.parametrize(
    ("prompt", "names", "settings"),
    [
        ("a <xl-toy=toy> in snow", ["xl-toy"], {}),
        ("a <new1> cat and a <xl-toy=plush toy>", ["xl-run", "xl-toy"], {"strength": 0.6}),
    ],
)
def test_the_same_picture_in_sdxl(
    host: WebUI,
    pipe_xl: Any,
    xl_files: dict[str, Path],
    align: bool,
    prompt: str,
    names: list[str],
    settings: dict[str, float],
) -> None:
    host.options(randn_source="CPU")
    host.load("tiny-sdxl")
    payload = {"cfg_scale": GUIDANCE, "negative_prompt": "ugly"}
    plain = host.txt2img("a cat in snow", **payload)[0]
    assert_same(picture(pipe_xl, "a cat in snow", "ugly"), plain.pixels)
    networks = "".join(NETWORKS.get(name, "") for name in names)
    webui = host.txt2img(prompt + networks, alignit=[{"enabled": align, **settings}], **payload)
    assert "AlignIT note" not in webui.info["extra_generation_params"]
    aligned = AlignIT(pipe_xl, [load_concept(xl_files[name]) for name in names])
    more = {f"concept_{name}": value for name, value in settings.items()}
    assert_same(picture(aligned, prompt, "ugly", align=align, **more), webui[0].pixels)
    assert webui[0].difference(plain) > 1
