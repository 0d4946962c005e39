"""Concepts' files: read once, kept in memory while they are unchanged, within the bound of the settings."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.formats.writers import save_adapter
from tests.host.miniature import ADAPTED, WIDTH
from tests.host.test_deltas import projections
from tests.host.webui import HIRES, Pictures, WebUI

NAMES = ("first", "second", "third", "fourth")


@pytest.fixture
def deltas(host: WebUI) -> Iterator[Path]:
    """A folder with four deltas of one size, of which a bound of 2 MiB holds three."""
    folder = host.data / "models" / "deltas" / "cached"
    folder.mkdir(parents=True)
    for seed, name in enumerate(NAMES):
        size = write(host, folder / f"{name}.ckpt", seed)
    assert 3 * size < 2**21 < 4 * size
    yield folder
    shutil.rmtree(folder)


def write(host: WebUI, path: Path, seed: int) -> int:
    """Write customised weights with their token, as train.py of custom-diffusion does; return the tensors' bytes."""
    generator = torch.Generator().manual_seed(seed)
    weights = {
        name: tensor + 0.3 * tensor.std() * torch.randn(tensor.shape, generator=generator)
        for name, tensor in projections(host, "miniature").items()
    }
    vector = torch.randn(1, WIDTH, generator=generator)
    torch.save({"state_dict": {**weights, "embed": 2.5 * vector / vector.norm()}}, path)
    return sum(tensor.numel() * tensor.element_size() for tensor in weights.values())


def use(host: WebUI, name: str, **payload: object) -> Pictures:
    pictures = host.txt2img(f"a <new1> cat in snow <delta:{name}:1>", **{"alignit": [True], **payload})
    assert "AlignIT note" not in pictures.info["extra_generation_params"]
    return pictures


def opened(host: WebUI, file: str) -> int:
    """How often the server has opened a model's file so far."""
    return host.get("/probe/opened").get(file, 0)  # type: ignore[no-any-return]


def concepts_alive(host: WebUI) -> int:
    return host.state(objects=True)["objects"]["alignit"].get("alignit.concepts.concept.Concept", 0)  # type: ignore[no-any-return]


def test_a_file_is_read_once_for_all_generations(host: WebUI, deltas: Path) -> None:  # noqa: ARG001
    picture = use(host, "first")
    reads = opened(host, "first.ckpt")
    assert reads > 0
    for payload in (
        {"seed": 2},
        {"batch_size": 2, "n_iter": 2},
        HIRES,
        {"alignit": None},
        {"alignit": [True, "", 0.5]},
    ):
        use(host, "first", **payload)
    assert use(host, "first") == picture
    assert opened(host, "first.ckpt") == reads


def test_an_adapter_is_read_once(host: WebUI) -> None:
    folder = host.data / "models" / "catversion" / "cached"
    numbers = 15 * torch.randn(6 * WIDTH, generator=torch.Generator().manual_seed(4))
    save_adapter(folder, {"control_trans": numbers}, ADAPTED, hidden_size=WIDTH)
    host.txt2img("a cat in snow <catversion:cached>", alignit=[True, "cached=cat"])
    reads = opened(host, "pytorch_adapter.bin")
    assert reads > 0
    for alignit in ([True, "cached=cat"], None):
        host.txt2img("a cat in snow <catversion:cached>", alignit=alignit, seed=2)
    assert opened(host, "pytorch_adapter.bin") == reads
    shutil.rmtree(folder)


@pytest.mark.parametrize("alignit", [[True], None])
def test_a_changed_file_is_read_again_and_its_old_concept_forgotten(
    host: WebUI, deltas: Path, alignit: list | None
) -> None:
    before = use(host, "first", alignit=alignit)
    reads, alive = opened(host, "first.ckpt"), concepts_alive(host)
    write(host, deltas / "first.ckpt", seed=9)  # of the same size
    after = use(host, "first", alignit=alignit)
    assert opened(host, "first.ckpt") > reads
    assert after[0].difference(before[0]) > 0.1
    assert concepts_alive(host) == alive
    reads = opened(host, "first.ckpt")
    assert use(host, "first", alignit=alignit) == after
    assert opened(host, "first.ckpt") == reads
    os.utime(deltas / "first.ckpt")
    assert use(host, "first", alignit=alignit) == after
    assert opened(host, "first.ckpt") > reads


def test_the_bound_of_the_settings_holds_and_the_least_used_goes(host: WebUI, deltas: Path) -> None:  # noqa: ARG001
    host.options(alignit_cache_mib=0)
    use(host, "third")
    least = concepts_alive(host)  # the one in use is always kept
    host.options(alignit_cache_mib=2)
    for name in ("first", "second", "third", "first", "fourth"):  # the second is the least used when the fourth comes
        use(host, name)
    assert concepts_alive(host) == least + 2
    reads = {name: opened(host, f"{name}.ckpt") for name in NAMES}
    for name in ("first", "third", "fourth"):
        use(host, name)
        assert opened(host, f"{name}.ckpt") == reads[name]
    use(host, "second")
    assert opened(host, "second.ckpt") > reads["second"]
    host.options(alignit_cache_mib=100)
    for name in NAMES:
        use(host, name)
    reads = {name: opened(host, f"{name}.ckpt") for name in NAMES}
    for name in NAMES:
        use(host, name)
    assert {name: opened(host, f"{name}.ckpt") for name in NAMES} == reads
    host.options(alignit_cache_mib=0)
    use(host, "first")
    assert concepts_alive(host) == least
