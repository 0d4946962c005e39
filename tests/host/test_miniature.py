"""The shipped miniature in a real WebUI: it loads, and its pictures show what the prompt says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers", reason="pip install -e '.[miniature]'")

from miniature import export
from miniature.classifier import read_attributes
from miniature.weights import FOLDER, MODEL_FILE, load_classifier
from tests.host.webui import WebUI, find_webui, webui_python

WEBUI = find_webui()
pytestmark = [
    pytest.mark.skipif(WEBUI is None, reason="no WebUI here"),
    pytest.mark.skipif(not (FOLDER / MODEL_FILE).exists(), reason="the miniature's weights are not here"),
]

PROMPTS = {
    "a photo of a red car on the beach": {"class": "car", "colour": "red", "background": "beach"},
    "a blue house in the snow": {"class": "house", "colour": "blue", "background": "snow"},
    "a green cup with a ball in the garden": {"class": "cup", "background": "garden", "companion": "ball"},
    "a purple robot wearing a hat in the city": {"class": "robot", "background": "city", "accessory": "hat"},
}


def test_the_miniature_obeys_prompts_in_the_webui(tmp_path: Path) -> None:
    assert WEBUI is not None
    merges = next(
        webui_python(WEBUI).parents[1].glob("lib/python*/site-packages/open_clip/bpe_simple_vocab_16e6.txt.gz")
    )
    export.export(tmp_path, bpe=merges)
    webui = WebUI(WEBUI)
    folder = webui.data / "models" / "Stable-diffusion"
    folder.mkdir(parents=True)
    for suffix in (".safetensors", ".yaml"):
        (folder / f"miniature{suffix}").symlink_to(tmp_path / f"miniature{suffix}")
    right = wanted = 0
    with webui:
        webui.load("miniature")
        for prompt, attributes in PROMPTS.items():
            pictures = webui.txt2img(
                prompt, width=96, height=96, steps=20, cfg_scale=2.5, batch_size=4, seed=1, sampler_name="Euler"
            )
            images = torch.from_numpy(np.stack([picture.pixels for picture in pictures]))[..., :3].permute(0, 3, 1, 2)
            for seen in read_attributes(load_classifier(), images.contiguous()):
                wanted += len(attributes)
                right += sum(seen[name] == value for name, value in attributes.items())
    print(f"{right} of {wanted}")
    assert right >= 0.75 * wanted
