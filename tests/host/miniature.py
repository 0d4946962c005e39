"""The shipped miniature and its trained concepts in a WebUI."""

from __future__ import annotations

import shutil
from pathlib import Path

from miniature import export
from miniature.concepts import CONCEPTS_FOLDER
from tests.host.webui import WebUI, webui_python

SIZE = {"width": 96, "height": 96, "steps": 20, "cfg_scale": 2.5, "sampler_name": "Euler"}


def add_miniature(webui: WebUI, folder: Path) -> None:
    """Put the miniature among the checkpoints of a WebUI that is not started, and its concepts where they belong.

    Embeddings and Custom Diffusion files have the concept's name, `my-car`; CatVersion's folders are `my_car`.

    Args:
        webui: The WebUI.
        folder: For the exported checkpoint.
    """
    vocabulary = "lib/python*/site-packages/open_clip/bpe_simple_vocab_16e6.txt.gz"
    export.export(folder, bpe=next(webui_python(webui.directory).parents[1].glob(vocabulary)))
    models = webui.data / "models"
    (models / "Stable-diffusion").mkdir(parents=True, exist_ok=True)
    for suffix in (".safetensors", ".yaml"):
        (models / "Stable-diffusion" / f"miniature{suffix}").symlink_to(folder / f"miniature{suffix}")
    for file in (CONCEPTS_FOLDER / "textual_inversion").glob("*.pt"):
        shutil.copy(file, webui.embeddings)
    (models / "deltas").mkdir(exist_ok=True)
    for file in (CONCEPTS_FOLDER / "custom_diffusion").glob("*.ckpt"):
        shutil.copy(file, models / "deltas")
    for adapter in (CONCEPTS_FOLDER / "catversion").glob("*/"):
        shutil.copytree(adapter, models / "catversion" / f"my_{adapter.name}")
