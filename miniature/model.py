"""The three networks of the miniature, with the shapes and the building blocks of Stable Diffusion 1."""

from __future__ import annotations

from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from miniature.words import ROWS

TEXT_WIDTH = 96
TEXT_LAYERS = 5
TEXT_HEADS = 4
TOKENS = 77
LATENT = 12  # side of the latent picture: eight pixels make one
VAE_CHANNELS = (32, 32, 64, 64)
UNET_CHANNELS = (64, 128)
UNET_BLOCKS = 2
UNET_HEADS = 4
# The schedule of SD 1 ends at a tenth of this and leaves enough of the picture in the noise to see its colours: the
# text would not be needed.
BETA_START, BETA_END = 0.00085, 0.02
STEPS = 1000


def make_vae() -> AutoencoderKL:
    """Return the autoencoder with random weights: 8 pixels to 1, 4 channels."""
    return AutoencoderKL(
        block_out_channels=VAE_CHANNELS,
        down_block_types=("DownEncoderBlock2D",) * len(VAE_CHANNELS),
        up_block_types=("UpDecoderBlock2D",) * len(VAE_CHANNELS),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=32,  # fixed in the host's code
        sample_size=8 * LATENT,
    )


def make_unet() -> UNet2DConditionModel:
    """Return the UNet with random weights: six cross-attention layers, all where one cell is sixteen pixels.

    Two blocks at each level, as in all Stable Diffusion models: LDM's names of layers then mean the same as there.
    """
    return UNet2DConditionModel(
        sample_size=LATENT,
        block_out_channels=UNET_CHANNELS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=UNET_BLOCKS,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=UNET_HEADS,  # the number of heads, whatever the name says: diffusers issue 2011
    )


def text_config(rows: int) -> CLIPTextConfig:
    """Return the settings of the text encoder with this many token rows."""
    return CLIPTextConfig(
        vocab_size=rows,
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        num_attention_heads=TEXT_HEADS,
        num_hidden_layers=TEXT_LAYERS,
        max_position_embeddings=TOKENS,
        hidden_act="quick_gelu",
        projection_dim=TEXT_WIDTH,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=1,
    )


def make_text_encoder() -> CLIPTextModel:
    """Return the text encoder with random weights and rows for the words in use alone (see `words.ROWS`)."""
    return CLIPTextModel(text_config(len(ROWS)))
