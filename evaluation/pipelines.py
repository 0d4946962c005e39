"""Diffusers pipelines of real checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

from evaluation.errors import EvaluationError


def load_pipeline(checkpoint: Path, device: str) -> Any:
    """Return a diffusers pipeline of a checkpoint.

    Raises:
        EvaluationError: It cannot be loaded.
    """
    if not checkpoint.exists():
        raise EvaluationError(f"{checkpoint} is not there: check the path")
    problem: Exception | None = None
    for kind in (StableDiffusionPipeline, StableDiffusionXLPipeline):
        try:
            pipe = kind.from_pretrained(checkpoint) if checkpoint.is_dir() else kind.from_single_file(str(checkpoint))
        except (OSError, ValueError, KeyError) as error:
            problem = error
            continue
        pipe.set_progress_bar_config(disable=True)
        return pipe.to(device, torch.float16 if device == "cuda" else torch.float32)
    raise EvaluationError(f"diffusers can't load {checkpoint}: {problem}")
