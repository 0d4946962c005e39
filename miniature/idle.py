"""Training in the background: as many threads as there are cores that nobody else needs."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

import torch

_STAT = Path("/proc/stat")  # Linux; elsewhere all threads are used
_INTERVAL = 1.0


class IdleCores:
    """Adapts the number of torch's threads to what other processes use.

    The threads of one computation wait for each other. Where one of them shares its core with something more urgent,
    all are as slow as that one: fewer threads are faster then.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.cores = os.cpu_count() or 1
        self.last = self._read()
        self.when = time.monotonic()

    def adapt(self) -> None:
        """Set the number of threads; does nothing if the process is not niced, or was adapted just now."""
        now = time.monotonic()
        if self.last is None or now - self.when < _INTERVAL or os.nice(0) <= 0:
            return
        ticks = self._read()
        if ticks is None:
            return
        busy, total, own = (new - old for new, old in zip(ticks, self.last, strict=True))
        self.last, self.when = ticks, now
        others = self.cores * max(0.0, busy - own) / max(1.0, total)
        torch.set_num_threads(max(1, min(self.threads, self.cores - math.ceil(others - 0.2))))

    @staticmethod
    def _read() -> tuple[float, float, float] | None:
        """Return what all processes have used, what they could have used, and what this one has, in ticks."""
        try:
            user, nice, system, idle, wait, *_ = map(int, _STAT.read_text().split("\n", 1)[0].split()[1:])
        except (OSError, ValueError):
            return None
        busy = user + nice + system
        return busy, busy + idle + wait, time.process_time() * os.sysconf("SC_CLK_TCK")
