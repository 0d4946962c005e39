"""Custom Diffusion's file forms in the host: each gives the picture of the same weights, on SD 1 and SDXL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from alignit.concepts.layer_names import diffusers_name, layer_of
from tests.formats.writers import compressed, save_webui_delta
from tests.host.make_checkpoints import G_WIDTH, L_WIDTH
from tests.host.test_deltas import LDM, note, same
from tests.host.webui import WebUI

OTHER_DELTA = Path(__file__).parent / "other_delta"


@dataclass
class Run:
    """A training run: what its forms hold, under LDM's names without prefix and suffix.

    Attributes:
        base: The checkpoint's W.
        weights: W'.
        reference: W' in a file for the reference.
        folder: The host's folder of deltas.
    """

    base: dict[str, torch.Tensor]
    weights: dict[str, torch.Tensor]
    reference: str
    folder: Path


def low_rank(matrix: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A change that three singular values hold, so that a factored file loses nothing."""
    out, into = matrix.shape
    change = torch.randn(out, 3, generator=generator) @ torch.randn(3, into, generator=generator)
    return 0.4 * matrix.std() * change / change.std()


@pytest.fixture(scope="module")
def train(servers, tmp_path_factory) -> Iterator[Callable[[str], Run]]:
    host: WebUI = servers.get("host")
    folder = host.data / "models" / "deltas" / "forms"
    folder.mkdir(parents=True)
    runs: dict[str, Run] = {}

    def train(checkpoint: str) -> Run:
        if checkpoint not in runs:
            generator = torch.Generator().manual_seed(len(checkpoint))
            state = load_file(host.cache / "checkpoints" / f"{checkpoint}.safetensors")
            base = {layer: tensor for name, tensor in state.items() if (layer := layer_of(name))}
            weights = {layer: tensor + low_rank(tensor, generator) for layer, tensor in base.items()}
            reference = tmp_path_factory.mktemp("forms") / f"{checkpoint}.safetensors"
            save_file({f"{LDM}{layer}.weight": tensor for layer, tensor in weights.items()}, reference)
            runs[checkpoint] = Run(base, weights, str(reference), folder)
        return runs[checkpoint]

    yield train
    for file in folder.iterdir():
        file.unlink()
    for name in ("formtoken", "factored"):
        (host.embeddings / f"{name}.safetensors").unlink(missing_ok=True)


def vector(width: int) -> torch.Tensor:
    noise = torch.randn(width, generator=torch.Generator().manual_seed(width))
    return 2.5 * noise / noise.norm()


def authors_ldm(run: Run, name: str, token: torch.Tensor) -> None:
    state: dict[str, Any] = {f"{LDM}{layer}.weight": tensor for layer, tensor in run.weights.items()}
    torch.save({"state_dict": {**state, "embed": token[None]}}, run.folder / f"{name}.ckpt")


def authors_compressed(run: Run, name: str, token: torch.Tensor) -> None:
    state: dict[str, Any] = {
        f"{LDM}{layer}.weight": compressed(tensor - run.base[layer], 3) for layer, tensor in run.weights.items()
    }
    torch.save({"state_dict": {**state, "embed": token[None]}}, run.folder / f"{name}.ckpt")


def authors_diffusers(run: Run, name: str, token: torch.Tensor | list[torch.Tensor]) -> None:
    unet = {f"{diffusers_name(layer)}.weight": tensor for layer, tensor in run.weights.items()}
    torch.save({"unet": unet, "modifier_token": {"<new1>": token}}, run.folder / f"{name}.bin")


def diffusers(run: Run, name: str, token: torch.Tensor) -> None:
    state = {}
    for layer, tensor in run.weights.items():
        start, _, letter = diffusers_name(layer).rpartition(".to_")
        state[f"{start}.processor.to_{letter}_custom_diffusion.weight"] = tensor
    save_file(state, run.folder / f"{name}.safetensors")
    torch.save({"<new1>": token}, run.folder / "<new1>.bin")


def webui(factored: bool) -> Callable[[Run, str, torch.Tensor], None]:
    def save(run: Run, name: str, token: torch.Tensor) -> None:
        deltas = {layer: tensor - run.base[layer] for layer, tensor in run.weights.items()}
        save_webui_delta(run.folder / f"{name}.delta.safetensors", deltas, factored)
        save_file({"<new1>": token[None]}, run.folder / "<new1>.safetensors")

    return save


FORMS = {
    "authors-ldm": authors_ldm,
    "authors-compressed": authors_compressed,
    "authors-diffusers": authors_diffusers,
    "diffusers": diffusers,
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_for_sd1(host: WebUI, train: Callable[[str], Run], form: str) -> None:
    run, token = train("miniature"), vector(L_WIDTH)
    FORMS[form](run, form, token)
    save_file({"formtoken": token[None]}, host.embeddings / "formtoken.safetensors")
    host.post("/sdapi/v1/refresh-embeddings")
    inject = [{"dummy": "* formtoken cat * *", "rows": [2, 3], "weights": run.reference}]
    ours = host.txt2img(f"a <new1> cat in snow <delta:{form}:1>", alignit=[True])
    assert same(ours, host.txt2img("a cat cat in snow", reference={"inject": inject}))
    assert note(ours) == ""


@pytest.mark.parametrize("factored", [False, True])
def test_webui_forms_for_sd1(host: WebUI, train: Callable[[str], Run], factored: bool) -> None:
    run, name = train("miniature"), "factored"
    webui(factored)(run, name, vector(L_WIDTH))
    save_file({"factored": vector(L_WIDTH)[None]}, host.embeddings / "factored.safetensors")
    host.post("/sdapi/v1/refresh-embeddings")
    inject = [{"dummy": "* factored * *", "rows": [2], "weights": run.reference}]
    ours = host.txt2img(f"a factored in snow <delta:{name}:1>", alignit=[True, "cat"])
    wanted = host.txt2img("a cat in snow", reference={"inject": inject})
    # The factored form is stored in half.
    assert ours[0].difference(wanted[0]) < 1 if factored else same(ours, wanted)
    assert note(ours) == ""


@pytest.mark.parametrize("form", ["authors-diffusers", "webui"])
def test_forms_for_sdxl(host: WebUI, train: Callable[[str], Run], form: str) -> None:
    run = train("tiny-sdxl")
    tokens = [vector(L_WIDTH), vector(G_WIDTH)]
    host.load("tiny-sdxl")
    both = {"clip_l": tokens[0][None], "clip_g": tokens[1][None]}
    save_file(both, host.embeddings / "formtoken.safetensors")
    save_file(both, host.embeddings / "factored.safetensors")
    host.post("/sdapi/v1/refresh-embeddings")
    if form == "webui":
        webui(False)(run, "factored", tokens[0])
        text, words, base, dummy, rows = "a factored in snow <delta:factored:1>", "cat", "a cat in snow", "", [2]
    else:
        authors_diffusers(run, "sdxl", tokens)
        text, words, base, dummy, rows = "a <new1> cat in snow <delta:sdxl:1>", "", "a cat cat in snow", " cat", [2, 3]
    inject = [{"dummy": f"* formtoken{dummy} * *", "rows": rows, "weights": run.reference}]
    ours = host.txt2img(text, alignit=[True, words])
    assert same(ours, host.txt2img(base, reference={"inject": inject}))
    assert ours[0].difference(host.txt2img(base)[0]) > 1
    assert note(ours) == ""
    plain = host.txt2img(text)
    assert plain[0].difference(ours[0]) > 1
    assert note(plain) == ""


def test_what_of_a_file_is_not_used_is_said(host: WebUI, train: Callable[[str], Run]) -> None:
    run = train("miniature")
    unet = {f"{diffusers_name(layer)}.weight": tensor for layer, tensor in run.weights.items()}
    first = next(name for name in unet if "to_k" in name)
    unet[first.replace("to_k", "to_q")] = torch.eye(4)
    torch.save({"unet": unet, "modifier_token": {"<new1>": vector(L_WIDTH)}}, run.folder / "crossattn.bin")
    ours = host.txt2img("a <new1> cat in snow <delta:crossattn:1>", alignit=[True])
    assert "Its query and output weights are not used" in note(ours)
    state = {f"{LDM}{layer}.weight": tensor for layer, tensor in run.weights.items()}
    torch.save({"state_dict": state}, run.folder / "tokenless.ckpt")
    (run.folder / "<new1>.bin").unlink(missing_ok=True)
    (run.folder / "<new1>.safetensors").unlink(missing_ok=True)
    for alignit in ([True], None):
        assert "No token embedding" in note(host.txt2img("a <new1> cat <delta:tokenless:1>", alignit=alignit))


@pytest.mark.parametrize("page", [False, True])
def test_beside_an_extension_with_a_network_of_the_same_name(
    webui_dir: Path, train: Callable[[str], Run], page: bool
) -> None:
    run = train("miniature")
    with WebUI(webui_dir, page=page, extensions=(OTHER_DELTA,)) as server:
        deltas = server.data / "models" / "deltas"
        deltas.mkdir(parents=True)
        authors_ldm(replace(run, folder=deltas), "my-run", vector(L_WIDTH))
        base = server.txt2img("a cat cat in snow")
        for alignit in ([True], None):
            ours = server.txt2img("a <new1> cat in snow <delta:my-run:1>", alignit=alignit)
            assert "Other delta" not in ours.info["extra_generation_params"]
            assert ours[0].difference(base[0]) > 1
    # Without AlignIT it is the other extension's.
    with WebUI(webui_dir, page=page, extensions=(OTHER_DELTA,), alignit=None) as server:
        assert "Other delta" in server.txt2img("a cat <delta:my-run:1>").info["extra_generation_params"]
