"""AlignIT as the fake host loads it: its script file run, its callbacks called, its panel built."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

FAKE = Path(__file__).with_name("fake")
SCRIPT = Path(__file__).parents[2] / "scripts" / "alignit.py"
_USED = (
    *("errors", "extra_networks", "paths", "processing", "script_callbacks"),
    *("scripts", "sd_hijack", "sd_models", "shared", "ui_extra_networks"),
)
_FOREIGN = ("modules", "gradio", "fake_model", "alignit.webui")


@dataclass
class Made:
    """What a generation gave.

    Attributes:
        p: The host's processing object.
        picture: The picture's bytes.
    """

    p: Any
    picture: bytes

    @property
    def info(self) -> dict[str, Any]:
        return self.p.extra_generation_params


class FakeHost:
    """The fake host, with AlignIT and a model in it.

    Attributes:
        modules: The host's modules.
        script: AlignIT's script.
        panel: The panel's components.
        model: The model that is loaded.
        xyz: The module of the X/Y/Z plot.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.modules = SimpleNamespace(**{name: importlib.import_module(f"modules.{name}") for name in _USED})
        self.modules.paths.models_path = str(folder)
        self.xyz = ModuleType("xyz_grid.py")
        self.xyz.axis_options = []
        self.xyz.AxisOption = _AxisOption
        plot = type("XYZ", (), {"__module__": "xyz_grid.py"})
        self.modules.scripts.scripts_data.append(SimpleNamespace(script_class=plot, module=self.xyz))
        self.models = importlib.import_module("fake_model")
        self.model = self.modules.sd_models.model_data.sd_model = self.models.Model()
        self.load()

    def load(self) -> None:
        """Load AlignIT, as the host does when it starts and at each "Reload UI"."""
        for name in [name for name in sys.modules if f"{name}.".startswith("alignit.webui.")]:
            del sys.modules[name]
        # By its path, under its file's name.
        spec = importlib.util.spec_from_file_location("alignit.py", SCRIPT)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self.script = module.AlignITScript()
        self.call("ui_settings")
        self.call("before_ui")
        self.panel = self.script.ui(is_img2img=False)
        self.script.args_from, self.script.args_to = 1, 1 + len(self.panel)

    def call(self, kind: str, *arguments: Any) -> None:
        self.modules.script_callbacks.call(kind, *arguments)

    def add_embedding(self, name: str, vectors: int = 1, class_word: str | None = None) -> torch.Tensor:
        """Install an embedding, with a class word remembered for it or none; return its vectors."""
        path = self.folder / f"{name}.pt"
        path.touch()
        if class_word is not None:
            path.with_suffix(".json").write_text(f'{{"class word": "{class_word}"}}')
        vec = torch.randn(vectors, self.models.WIDTH, generator=torch.Generator().manual_seed(len(name)))
        ids = self.model.cond_stage_model.tokenizer.ids(name)
        self.modules.sd_hijack.model_hijack.embedding_db.register(self.models.Embedding(name, vec, str(path)), ids)
        return vec

    def p(self, prompt: str, alignit: Sequence[Any] | dict[str, Any] = (), **settings: Any) -> Any:
        """Return a processing object with AlignIT's arguments, by position or by name; the rest as in the panel."""
        given = [alignit] if isinstance(alignit, dict) else list(alignit)
        arguments = [*given, *(component.value for component in self.panel[len(given) :])]
        # Before all scripts' own stands which one of the host's list makes the pictures; 0 is for none.
        return self.modules.processing.Processing(prompt, [0, *arguments], **settings)

    def make(self, prompt: str, alignit: Sequence[Any] | dict[str, Any] = (), **settings: Any) -> Made:
        """Make a picture."""
        return self.run(self.p(prompt, alignit, **settings))

    def run(self, p: Any) -> Made:
        return Made(p, self.modules.processing.process_images(p, self.script).tobytes())

    def state(self) -> dict[str, Any]:
        """Return what nothing may change that AlignIT does for a generation."""
        unet, encoder = self.model.model.diffusion_model, self.model.cond_stage_model
        return {
            "hooks": [
                (kind, name, len(getattr(module, kind)))
                for part in (unet, encoder)
                for name, module in part.named_modules()
                for kind in ("_forward_hooks", "_forward_pre_hooks")
            ],
            "attributes": [
                sorted(vars(owner)) for owner in (self.model, *unet.modules(), *encoder.modules(), encoder.hijack)
            ],
            "weights": [weight.numpy().tobytes() for part in (unet, encoder) for weight in part.parameters()],
            "fixes": encoder.hijack.fixes,
            "params": copy.copy(encoder.hijack.extra_generation_params),
        }


class _AxisOption(SimpleNamespace):
    def __init__(self, label: str, kind: type, apply: Any, **settings: Any) -> None:
        super().__init__(label=label, type=kind, apply=apply, **settings)


@pytest.fixture
def host(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHost]:
    """AlignIT, freshly loaded into the fake host; other tests see neither of them, nor these theirs.

    What the host was told of errors fails the test, unless it is marked host_errors: the host goes on after them.
    """

    def taken() -> dict[str, ModuleType]:
        names = [name for name in sys.modules if any(f"{name}.".startswith(f"{part}.") for part in _FOREIGN)]
        return {name: sys.modules.pop(name) for name in names}

    before = taken()
    monkeypatch.syspath_prepend(str(FAKE))
    try:
        loaded = FakeHost(tmp_path)
        yield loaded
        reported = loaded.modules.errors.reported
        if request.node.get_closest_marker("host_errors"):
            assert reported, "an error was expected"
        elif reported:
            pytest.fail(f"errors in the host: {reported}")
    finally:
        taken()
        sys.modules.update(before)
        # A package holds its modules as well as `sys.modules` does.
        for name, module in before.items():
            package, _, own = name.rpartition(".")
            if package:
                setattr(sys.modules[package], own, module)
