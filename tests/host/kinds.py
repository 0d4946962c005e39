"""The hosts that AlignIT is tested in: where they are looked for, and how they are started. Nothing is installed."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, eq=False)
class Kind:
    """A kind of host.

    Attributes:
        name: Its name.
        variable: The environment variable with its folder.
        folder: The folder's name in the home otherwise, in capitals or not.
        flags: What it is started with on a computer without a GPU.
        config: Settings that it needs beside those of all.
        engines: Whether its models are engines, as in Forge: then none is loaded before the first picture, and it is
            always started with its page.
        ready: What its log has once it is ready.
    """

    name: str
    variable: str
    folder: str
    flags: tuple[str, ...]
    config: dict[str, Any] = field(default_factory=dict)
    engines: bool = False
    ready: tuple[str, ...] = ("Startup time:",)

    @property
    def directory(self) -> Path:
        """Where it is, or would be."""
        given = os.environ.get(self.variable)
        if given:
            return Path(given).expanduser()
        home = Path.home()
        found = sorted(path for path in home.iterdir() if path.name.lower() == self.folder) if home.is_dir() else []
        return found[0] if found else home / self.folder

    def find(self) -> Path | None:
        """Return its folder, or None where there is none that is ready to run."""
        directory = self.directory
        return directory if (directory / "launch.py").is_file() and python_of(directory).exists() else None

    @property
    def missing(self) -> str:
        """What to say where it is not there."""
        return f"no {self.name} with a venv at {self.directory} (set {self.variable})"


def python_of(directory: Path) -> Path:
    return directory / "venv" / "bin" / "python"


_SLOW = ("--always-cpu", "--all-in-fp32", "--no-download-sd-model")

WEBUI = Kind(
    "WebUI",
    "WEBUI_DIR",
    "stable-diffusion-webui",
    ("--no-download-sd-model", "--use-cpu=all", "--no-half", "--disable-console-progressbars"),
    ready=("Model loaded in", "Startup time:"),
)
REFORGE = Kind("reForge", "REFORGE_DIR", "stable-diffusion-webui-reforge", _SLOW)
CLASSIC = Kind("Forge Classic", "FORGE_CLASSIC_DIR", "sd-webui-forge-classic", _SLOW)
FORGE = Kind("Forge", "FORGE_DIR", "stable-diffusion-webui-forge", _SLOW, engines=True)
# Without the first of these settings it stops and waits for a key.
NEO = Kind(
    "Forge Neo",
    "FORGE_NEO_DIR",
    "sd-webui-forge-neo",
    ("--cpu", "--force-fp32"),
    {"VERSION_UID": "PY313", "forge_preset": "sd"},
    engines=True,
)
KINDS = (WEBUI, REFORGE, CLASSIC, FORGE, NEO)
