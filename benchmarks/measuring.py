"""What the benchmarks share: a picture and its time, medians with their uncertainty, facts of the machine, tables."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timezone
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from tests.host.kinds import python_of  # noqa: E402
from tests.host.webui import WebUI  # noqa: E402

Payload = dict[str, Any]
Arm = Callable[[int], Payload]
"""Makes the payload of the n-th picture."""

SIZE = {"width": 256, "height": 256, "steps": 20}
_number = count(1)


def picture(prompt: str, *alignit: Any, **more: Any) -> Arm:
    """Make an arm of a prompt; alignit: the arguments after "enabled", none for off.

    The prompt's # becomes the picture's number, in four tokens. The host keeps the conditioning of the last prompt that
    it encoded. Without a new prompt each time, all but the first picture without AlignIT would find theirs there; ours
    never does, as AlignIT keeps nothing.
    """

    def payload(n: int) -> Payload:
        arguments = {"alignit": [True, *alignit]} if alignit else {}
        return {**SIZE, "prompt": prompt.replace("#", f"{n:04d}"), "seed": n, **arguments, **more}

    return payload


def generate(webui: WebUI, arm: Arm, **more: Any) -> tuple[float, float]:
    """Make a picture; return the seconds that the request took and those that the server's process used the CPU."""
    clock = (~webui.process.pid << 3) | 2  # type: ignore[union-attr]  # Linux: the CPU clock of another process
    cpu = time.clock_gettime(clock)
    seconds = webui.txt2img(**arm(next(_number)) | more).seconds
    return seconds, time.clock_gettime(clock) - cpu


def load(webui: WebUI, model: str) -> None:
    """Make a checkpoint the current one, where it is not."""
    if webui.options()["sd_model_checkpoint"].split(".")[0] != model:
        webui.load(model)


def median_interval(values: np.ndarray) -> tuple[float, float, float]:
    """Return the median and its 95 % bootstrap confidence interval."""
    draws = np.random.default_rng(0).choice(values, (10000, len(values)))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    return float(np.median(values)), float(low), float(high)


def memory_field(webui: WebUI, name: str) -> float:
    """Return a field of the server's /proc/PID/status, in MiB."""
    status = Path(f"/proc/{webui.process.pid}/status").read_text()  # type: ignore[union-attr]
    return int(re.search(rf"^{name}:\s+(\d+) kB", status, re.M)[1]) / 1024  # type: ignore[index]


def forget_peak(webui: WebUI) -> None:
    """Let the server's VmHWM begin again, at the memory that it has now."""
    Path(f"/proc/{webui.process.pid}/clear_refs").write_text("5")  # type: ignore[union-attr]


def facts(webui: WebUI, pairs: int) -> dict[str, Any]:
    """What a reader has to know about where this was measured."""
    code = "import torch, platform; print(torch.__version__, platform.python_version())"
    command = [str(python_of(webui.directory)), "-c", code]
    torch, python = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    processor = re.search(r"^model name\s*: (.*)", Path("/proc/cpuinfo").read_text(), re.M)
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "host": f"AUTOMATIC1111 WebUI {webui.version}",
        "torch": torch,
        "python": python,
        "machine": f"{os.cpu_count()} CPUs ({processor[1] if processor else platform.machine()}), no GPU",
        "load at the start": f"{os.getloadavg()[0]:.2f}",
        "pairs": pairs,
    }


def table(head: list[str], rows: list[list[Any]]) -> str:
    """Write a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def verdict(measured: bool) -> str:
    """Say in a table whether a wanted figure was reached."""
    return "yes" if measured else "**no**"
