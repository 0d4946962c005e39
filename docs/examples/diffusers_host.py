"""Make three pictures of a concept with diffusers, side by side: the class word alone, the concept plain, and aligned.

    python diffusers_host.py MODEL my-cat.safetensors "a photo of <my-cat=cat> on the moon" --out cat.png

MODEL is a folder, a single checkpoint file, or a name on the Hugging Face hub, of Stable Diffusion 1, 2 or XL. Needs
``pip install diffusers transformers`` and AlignIT (``pip install -e .`` in its folder).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from PIL import Image

from alignit.diffusers import AlignIT, load_concept


def load_pipeline(model: str, xl: bool, device: str) -> DiffusionPipeline:
    """Load the base model."""
    dtype = torch.float16 if device == "cuda" else torch.float32
    if Path(model).is_file():
        kind = StableDiffusionXLPipeline if xl else StableDiffusionPipeline
        return kind.from_single_file(model, torch_dtype=dtype).to(device)
    return DiffusionPipeline.from_pretrained(model, torch_dtype=dtype).to(device)


def main() -> None:
    """Make the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("concept", type=Path)
    parser.add_argument("prompt", help="names the concept with its class word: <my-cat=cat>, or <new1> cat")
    parser.add_argument("--negative", default=None)
    parser.add_argument("--strength", type=float, default=1.0)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--size", type=int, default=None, help="default: the model's own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--xl", action="store_true", help="the checkpoint file is one of SDXL")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("pictures.png"))
    arguments = parser.parse_args()

    aligned = AlignIT(load_pipeline(arguments.model, arguments.xl, arguments.device), load_concept(arguments.concept))

    def picture(**how: object) -> Image.Image:
        # The same noise for all.
        generator = torch.Generator().manual_seed(arguments.seed)
        call = {"num_inference_steps": arguments.steps, "height": arguments.size, "width": arguments.size, **how}
        return aligned(arguments.prompt, negative_prompt=arguments.negative, generator=generator, **call).images[0]

    pictures = [picture(concept_strength=0.0), picture(align=False), picture(concept_strength=arguments.strength)]
    width, height = pictures[0].size
    sheet = Image.new("RGB", (width * len(pictures), height))
    for number, image in enumerate(pictures):
        sheet.paste(image, (number * width, 0))
    sheet.save(arguments.out)
    print(f"{arguments.out}: the class word alone, the concept plain, the concept aligned")


if __name__ == "__main__":
    main()
