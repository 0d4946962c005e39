"""One server of each host that is installed, with the widened miniature; one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests import widened
from tests.host.kinds import KINDS, Kind
from tests.host.webui import ALIGNIT, Picture, Pictures, WebUI, made_once, widened_miniature

PROBE = Path(__file__).parent / "probe"
FAULTS = Path(__file__).parents[1] / "host" / "faults"
TOKEN_OF = "my-robot"  # the Custom Diffusion concept whose token is installed as an embedding too, for the reference
TOKEN = "newtoken"

LONG = {"negative_prompt": "night hat, " * 30}  # more than one chunk: hosts of the family repeat the shorter prompt
SIZE = {"cfg_scale": 5, "seed": 3}

OFF: dict[str, dict[str, Any]] = {
    "a photo of a cat with a ball in the snow": SIZE,
    "a photo of a my-cat AND a (red:1.3) car BREAK at night": {**SIZE, **LONG, "batch_size": 2},
}
"""Prompts with AlignIT off, and what else is asked for."""


def keep(kind: Kind, key: str, pictures: Pictures) -> None:
    """Keep pictures of a host for the tests of the others, which can be another run; the key says how they are made."""
    for number, picture in enumerate(pictures):
        (_kept(kind, key) / f"{number}.png").write_bytes(picture.png)


def kept(kind: Kind, key: str) -> Pictures | None:
    """Return the pictures that were kept, or None."""
    files = sorted(_kept(kind, key).glob("*.png"))
    return Pictures(Picture(file.read_bytes(), "") for file in files) if files else None


def _kept(kind: Kind, key: str) -> Path:
    return made_once([Path(widened.__file__)], lambda _folder: None, f"{kind.name} {key}")


def make(kind: Kind, directory: Path, *, alignit: bool = True) -> WebUI:
    """A server that is not started, with AlignIT or without it."""
    host = WebUI(
        directory,
        kind=kind,
        wide=True,
        probe=False,
        alignit=ALIGNIT if alignit else None,
        extensions=(PROBE, *((FAULTS,) if alignit else ())),
    )
    state = torch.load(widened_miniature(directory) / "deltas" / f"{TOKEN_OF}.ckpt", weights_only=True)["state_dict"]
    save_file({"emb_params": state["embed"].float().contiguous()}, host.embeddings / f"{TOKEN}.safetensors")
    return host


@pytest.fixture(scope="session", params=KINDS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="session")
def directory(kind: Kind) -> Path:
    directory = kind.find()
    if directory is None:
        pytest.skip(kind.missing)
    return directory


@pytest.fixture(scope="session")
def plain_pictures(kind: Kind, directory: Path) -> dict[str, Pictures]:
    """Pictures of a server without AlignIT, by the prompt."""
    with make(kind, directory, alignit=False) as host:
        return {prompt: host.txt2img(prompt, **payload) for prompt, payload in OFF.items()}


@pytest.fixture(scope="session")
def fork(kind: Kind, directory: Path) -> Iterator[WebUI]:
    """A server with AlignIT."""
    with make(kind, directory) as host:
        host.txt2img("a cat")  # some load the model for it
        yield host


@pytest.fixture
def gallery(kind: Kind) -> dict[str, Pictures]:
    """The pictures of AlignIT's in this run, by the test's name for them."""
    return _galleries.setdefault(kind, {})


_galleries: dict[Kind, dict[str, Pictures]] = {}


@pytest.fixture(autouse=True)
def _no_error(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail where the host recorded an exception, unless the test is marked host_errors."""
    # In this order: the server without AlignIT is gone before the other starts.
    given = [request.getfixturevalue(name) for name in ("plain_pictures", "fork") if name in request.fixturenames]
    fork: WebUI | None = given[-1] if "fork" in request.fixturenames else None
    yield
    if fork is not None:
        errors = fork.exceptions(clear=True)
        if errors and not request.node.get_closest_marker("host_errors"):
            pytest.fail(f"exceptions: {errors}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [str(report.longrepr) for report in terminalreporter.stats.get("skipped", [])]
    for kind in KINDS:
        count = sum(kind.missing in text for text in reports)
        if count:
            terminalreporter.section("HOST MISSING", red=True, bold=True)
            terminalreporter.line(f"{count} tests in {kind.name} did not run: {kind.missing}", red=True)
