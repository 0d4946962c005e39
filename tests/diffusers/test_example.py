"""The example program, and the example in the documentation."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.diffusers.conftest import Model
from tests.diffusers.reference import SIZE

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def folder(sd1: Model, tmp_path: Path) -> Path:
    sd1.pipe.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_example_program(sd1: Model, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = [str(folder), str(sd1.files["run"]), "a <new1> cat in snow", "--steps", "3", "--size", str(SIZE)]
    monkeypatch.setattr(sys, "argv", ["diffusers_host.py", *arguments, "--out", str(tmp_path / "out.png")])
    runpy.run_path(str(DOCS / "examples" / "diffusers_host.py"), run_name="__main__")
    sheet = np.asarray(Image.open(tmp_path / "out.png"))
    assert sheet.shape == (SIZE, 3 * SIZE, 3)
    pictures = np.split(sheet, 3, axis=1)
    assert len({picture.tobytes() for picture in pictures}) == 3


def test_example_in_the_documentation(
    sd1: Model, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, maps, second = re.findall(
        r"```python\n(.+?)```", (DOCS / "diffusers.md").read_text(encoding="utf8"), re.DOTALL
    )
    replacements = {
        "path/to/sd-1.5": str(folder),
        "my-cat.safetensors": str(sd1.files["my-cat"]),
        ", torch_dtype=torch.float16": "",
        '.to("cuda")': "",
    }
    for old, new in replacements.items():
        assert old in first
        first = first.replace(old, new)
    names: dict[str, object] = {}
    exec(first, names)
    assert np.asarray(names["image"]).shape == (SIZE, SIZE, 3)
    assert not np.array_equal(names["image"], names["plain"])
    monkeypatch.chdir(tmp_path)
    exec(maps, names)
    assert (tmp_path / "ball.png").exists()
    names["aligned"] = type(names["aligned"])(names["pipe"], sd1.load("run"))  # type: ignore[operator]
    names["generator"] = None
    exec(second, names)
    assert len(names["first"]) == 1  # type: ignore[arg-type]
