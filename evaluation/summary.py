"""A summary of a quick run to post: figures and how they came about, without prompts, names of concepts or paths."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from evaluation.makers import Settings
from evaluation.plan import Subject
from evaluation.record import Entry
from evaluation.report import table_lines

_PACKAGES = {"alignit": "AlignIT", "torch": "torch", "diffusers": "diffusers", "transformers": "transformers"}


def make_summary(
    entries: Sequence[Entry], facts: Mapping[str, str], subject: Subject, kinds: str, settings: Settings, device: str
) -> str:
    """Return the summary in Markdown.

    Args:
        entries: What the run has made.
        facts: What maker and scorer say of themselves.
        subject: The concept.
        kinds: What kind of concept it is.
        settings: How the pictures were made.
        device: Of CLIP, and of diffusers.
    """
    prompts = len({entry.number for entry in entries})
    seeds = len({entry.seed for entry in entries})
    noted = sum(bool(entry.note) for entry in entries)
    said = {
        **{name: _bare(value) for name, value in facts.items()},
        "concept": f"{kinds}; class word: {subject.class_word}",
        "pictures": f"{settings.steps} steps, guidance {settings.guidance:g}, {settings.size} x {settings.size}",
        "versions here": f"{_versions()}, Python {platform.python_version()}",
        "device here": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "pictures that AlignIT said something about": str(noted),
    }
    lines = [
        f"**AlignIT, quick evaluation: {prompts} prompts x {seeds} seeds**",
        "",
        *table_lines(entries),
        "",
        "In brackets: 95 % intervals over prompts.",
        "",
        *(f"- {name}: {value}" for name, value in said.items()),
    ]
    return "\n".join(lines) + "\n"


def _bare(value: str) -> str:
    """Return a name without the folders it is in on this machine."""
    path = Path(value)
    return path.name if path.is_absolute() or path.exists() else value


def _versions() -> str:
    found = []
    for package, name in _PACKAGES.items():
        try:
            found.append(f"{name} {version(package)}")
        except PackageNotFoundError:
            found.append(f"{name} of no known version")
    return ", ".join(found)
