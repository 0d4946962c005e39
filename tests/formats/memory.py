"""Loads files in a process that may take little memory beyond what it has when all is imported. Linux only.

    python -m tests.formats.memory MIB FILE...

prints a JSON list: for each file the error that its user would read, or null where it loads, and whether the memory
ran out on the way, which an error can hide.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from alignit.concepts.concept import ConceptFileError
from alignit.concepts.formats import load_concept
from tests.formats.writers import hide, random, webui_embedding

ROOT = Path(__file__).parents[2]


def load_within(mib: int, files: Sequence[Path]) -> list[tuple[str | None, bool]]:
    """Load files in a process of its own that may take so many MiB for it.

    Returns:
        For each the error, None where there is none, and whether the memory ran out.
    """
    # One arena and one thread: each of them reserves addresses, which are what is limited.
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.formats.memory", str(mib), *map(str, files)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [(message, ran_out) for message, ran_out in json.loads(done.stdout)]


def _load(path: Path) -> tuple[str | None, bool]:
    gc.collect()  # what the file before left is not this one's
    try:
        load_concept(path)
    except MemoryError:
        return None, True
    except ConceptFileError as error:
        causes: list[BaseException] = [error]
        while cause := causes[-1].__cause__ or causes[-1].__context__:
            causes.append(cause)
        return str(error), any(isinstance(cause, MemoryError) or "memory" in str(cause) for cause in causes[1:])
    return None, False


def _warm_up() -> None:
    """Let everything be imported and started that the files need."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "cat"
        embedding = webui_embedding(random(2, 8))
        for legacy in (False, True):
            torch.save(embedding, path, _use_new_zipfile_serialization=not legacy)
            load_concept(path)
        save_file({"emb_params": random(2, 8)}, path)
        load_concept(path)
        hide(embedding).save(path, "PNG")
        load_concept(path)


def _main(mib: str, *files: str) -> None:
    import resource  # noqa: PLC0415  # Windows has none

    torch.set_num_threads(1)
    _warm_up()
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + int(mib) * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    print(json.dumps([_load(Path(file)) for file in files]))


if __name__ == "__main__":
    _main(*sys.argv[1:])
