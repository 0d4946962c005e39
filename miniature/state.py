"""Training that can be stopped at any moment and goes on where it was."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from miniature.idle import IdleCores


class TrainingError(Exception):
    """Training can't start or go on; the message says why and what to do."""


def prepare_folder(folder: Path) -> Path:
    """Make the folder of training's states, and try to write in it.

    Raises:
        TrainingError: It can't be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".probe"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise TrainingError(f"Can't write in {folder}: {error.strerror}. Choose another folder.") from error
    return folder


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a state; the old one stays until the new one is complete.

    Raises:
        TrainingError: It can't be written.
    """
    new = path.with_suffix(".new")
    try:
        torch.save(state, new)
        os.replace(new, path)
    except (OSError, RuntimeError) as error:
        raise TrainingError(f"Can't write {path}: {error}. What was made before is kept.") from error


def load_state(path: Path) -> dict[str, Any] | None:
    """Read a state back, None if there is none.

    Raises:
        TrainingError: It is damaged.
    """
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise TrainingError(f"{path} is damaged. Delete it to train this part anew.") from error
    return state


def progress(name: str, first: int, last: int) -> Iterator[int]:
    """Count steps from `first` up to `last`, with a progress bar on standard error."""
    start = told = time.monotonic()
    every = 1.0 if sys.stderr.isatty() else 30.0
    idle = IdleCores(torch.get_num_threads())
    for step in range(first, last):
        idle.adapt()
        yield step
        now = time.monotonic()
        if now - told >= every or step + 1 == last:
            told = now
            rate = (step + 1 - first) / (now - start)
            bar = "#" * int(24 * (step + 1) / last)
            left = (last - step - 1) / rate / 60
            end = "\n" if step + 1 == last or not sys.stderr.isatty() else ""
            print(f"\r{name} [{bar:24}] {step + 1}/{last}, {left:.1f} min left ", end=end, file=sys.stderr, flush=True)
