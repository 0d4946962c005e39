"""The trained concepts of the miniature in a WebUI, which has the miniature itself as its first checkpoint."""

from __future__ import annotations

import shutil

from miniature.concepts import CONCEPTS_FOLDER
from miniature.model import TEXT_LAYERS, TEXT_WIDTH
from tests.host.webui import WebUI

WIDTH = TEXT_WIDTH
ADAPTED = (TEXT_LAYERS - 3, TEXT_LAYERS - 2, TEXT_LAYERS - 1)  # the text encoder's layers that CatVersion changes
SIZE = {"width": 96, "height": 96, "steps": 20, "cfg_scale": 2.5, "sampler_name": "Euler"}


def add_concepts(webui: WebUI) -> None:
    """Put the trained concepts where they belong, in a WebUI that is not started.

    Embeddings and Custom Diffusion files have the concept's name, `my-car`; CatVersion's folders are `my_car`.
    """
    models = webui.data / "models"
    for file in (CONCEPTS_FOLDER / "textual_inversion").glob("*.pt"):
        shutil.copy(file, webui.embeddings)
    (models / "deltas").mkdir(parents=True, exist_ok=True)
    for file in (CONCEPTS_FOLDER / "custom_diffusion").glob("*.ckpt"):
        shutil.copy(file, models / "deltas")
    for adapter in (CONCEPTS_FOLDER / "catversion").glob("*/"):
        shutil.copytree(adapter, models / "catversion" / f"my_{adapter.name}")
