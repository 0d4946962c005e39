"""Custom Diffusion: ``<delta:NAME>`` in the prompt, with AlignIT and without."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.host.miniature import WIDTH
from tests.host.test_clean import comparable
from tests.host.webui import HIRES, Picture, Pictures, WebUI

LDM = "model.diffusion_model."
CHANGED = 0.05  # mean difference of pixels of pictures that are not the same; `same` allows no pixel more than 1


@dataclass
class Files:
    """Files of one training run, as its code writes them, and what stands for the customised model in plain hosts.

    Attributes:
        weights: The customised weights W' by LDM name, as the reference reads them.
        checkpoint: Name of a checkpoint with these weights in place.
    """

    weights: Path
    checkpoint: str


def save_webui_delta(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    entries = dict.fromkeys(tensors, "delta")
    save_file(tensors, path, {"json": json.dumps({"meta": {"version": "0.1"}, "entries": entries})})


def projections(host: WebUI, checkpoint: str) -> dict[str, torch.Tensor]:
    """W_k and W_v of one of the small checkpoints, by LDM name."""
    state = load_file(host.cache / "checkpoints" / f"{checkpoint}.safetensors")
    return {
        name: tensor
        for name, tensor in state.items()
        if name.startswith(LDM) and ("attn2.to_k" in name or "attn2.to_v" in name)
    }


@contextmanager
def customised(host: WebUI, name: str, weights: dict[str, torch.Tensor], base: str = "miniature") -> Iterator[str]:
    """A checkpoint of this name, in the host's own folder: one of the small ones with other weights in place."""
    base_file = host.cache / "checkpoints" / f"{base}.safetensors"
    folder = host.data / "models" / "Stable-diffusion"
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / f"{name}.safetensors", folder / f"{name}.yaml"
    save_file({**load_file(base_file), **weights}, paths[0])
    paths[1].write_bytes(base_file.with_suffix(".yaml").read_bytes())
    host.post("/sdapi/v1/refresh-checkpoints")
    yield name
    for path in paths:
        path.unlink()


@pytest.fixture(scope="module")
def files(servers, tmp_path_factory) -> Iterator[Files]:
    host: WebUI = servers.get("host")
    base = projections(host, "miniature")
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: tensor + 0.4 * tensor.std() * torch.randn(tensor.shape, generator=generator)
        for name, tensor in base.items()
    }
    vector = torch.randn(1, WIDTH, generator=generator)
    vector *= 2.5 / vector.norm()
    deltas = host.data / "models" / "deltas"
    deltas.mkdir(parents=True, exist_ok=True)
    # As train.py of custom-diffusion saves it.
    torch.save({"state_dict": {**weights, "embed": vector}}, deltas / "my-run.ckpt")
    # As custom-diffusion-webui saves it: differences, and the token as an embedding of the WebUI.
    differences = {name: tensor - base[name] for name, tensor in weights.items()}
    save_webui_delta(deltas / "my-cat.delta.safetensors", differences)
    half = {name: tensor for name, tensor in differences.items() if "input_blocks" in name}
    save_webui_delta(deltas / "sparse.delta.safetensors", half)
    save_file({"new": vector}, host.embeddings / "newtoken.safetensors")  # the token, for the reference's prompts
    save_file({"sparse": vector}, host.embeddings / "sparse.safetensors")
    reference = tmp_path_factory.mktemp("deltas") / "weights.safetensors"
    save_file(weights, reference)
    host.post("/sdapi/v1/refresh-embeddings")
    with customised(host, "miniature-customised", weights) as checkpoint:
        yield Files(reference, checkpoint)


def same(ours: Pictures | Picture, wanted: Pictures | Picture) -> bool:
    """Equal up to rounding: the reference computes the rows in a batch, AlignIT each of them once."""
    if isinstance(ours, Picture):
        return bool(np.abs(ours.pixels.astype(int) - wanted.pixels).max() <= 1)
    return len(ours) == len(wanted) and all(map(same, ours, wanted))


CASES = {
    "the concept's token and its class word": ("a <new1> cat in snow", "a cat cat in snow", "* newtoken cat * *"),
    "the token alone": ("a <new1=cat> in snow", "a cat in snow", "* newtoken * *"),
    "a comma that would merge": ("a <new1> cat, snow", "a cat cat, snow", "* newtoken cat * *"),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("payload", [{}, {"batch_size": 2, "negative_prompt": "ugly, " * 45}, HIRES])
def test_the_picture_equals_the_references(host: WebUI, files: Files, name: str, payload: dict) -> None:
    target, base, dummy = CASES[name]
    rows = [2, 3] if "cat" in dummy else [2]
    inject = [{"dummy": dummy, "rows": rows, "weights": str(files.weights)}]
    ours = host.txt2img(f"{target} <delta:my-run:1>", alignit=[True], **payload)
    wanted = host.txt2img(base, reference={"inject": inject}, **payload)
    without = host.txt2img(base, reference={"inject": [{"dummy": dummy, "rows": rows}]}, **payload)
    assert same(ours, wanted)
    assert wanted[0].difference(without[0]) > CHANGED, "the weights changed nothing: the case proves nothing"
    assert ours.info["extra_generation_params"]["AlignIT class words"] == "<new1>=cat"
    assert "AlignIT note" not in ours.info["extra_generation_params"]


def test_class_word_of_two_tokens_from_the_panel(host: WebUI, files: Files) -> None:
    ours = host.txt2img("a <new1> golden retriever in snow <delta:my-run:1>", alignit=[True, "golden retriever"])
    inject = [{"dummy": "* newtoken golden retriever * *", "rows": [2, 3, 4], "weights": str(files.weights)}]
    assert same(ours, host.txt2img("a retriever golden retriever in snow", reference={"inject": inject}))


@pytest.mark.parametrize("strength", [0.5, 1.5])
def test_strength(host: WebUI, files: Files, strength: float) -> None:
    inject = [{"dummy": "* newtoken cat * *", "rows": [2, 3], "weights": str(files.weights), "strength": strength}]
    ours = host.txt2img("a <new1> cat in snow <delta:my-run:1>", alignit=[True, "", strength])
    assert same(ours, host.txt2img("a cat cat in snow", reference={"inject": inject}))


def test_range_of_steps(host: WebUI, files: Files) -> None:
    inject = [{"dummy": "* newtoken cat * *", "rows": [2, 3], "weights": str(files.weights), "steps": [0, 1]}]
    ours = host.txt2img("a <new1> cat in snow <delta:my-run:1>", alignit=[True, "", 1.0, 0.0, 0.5])
    assert same(ours, host.txt2img("a cat cat in snow", reference={"inject": inject}))


def test_beside_a_textual_inversion(host: WebUI, files: Files) -> None:
    ours = host.txt2img("a <new1> cat and my-toy <delta:my-run:1>", alignit=[True, "my-toy=toy"])
    inject = [
        {"dummy": "* newtoken cat * * * *", "rows": [2, 3], "weights": str(files.weights)},
        {"dummy": "* * * * my-toy", "rows": [5, 6, 7]},
    ]
    assert same(ours, host.txt2img("a cat cat and toy toy toy", reference={"inject": inject}))


@pytest.mark.parametrize("network", ["<lora:tiny-lora:1>", "<hypernet:tiny-hyper:1>"])
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_beside_another_network(host: WebUI, files: Files, network: str, strength: float) -> None:
    """Full weights replace what a LoRA does to the keys and values of the concept, and of it alone."""
    ours = host.txt2img(f"a <new1> cat in snow <delta:my-run:1> {network}", alignit=[True, "", strength])
    inject = [{"dummy": "* newtoken cat * *", "rows": [2, 3], "weights": str(files.weights), "strength": strength}]
    assert same(ours, host.txt2img(f"a cat cat in snow {network}", reference={"inject": inject}))


def test_differences_with_the_token_as_an_embedding_of_the_same_name(host: WebUI, files: Files) -> None:
    inject = [{"dummy": "* my-cat * *", "rows": [2], "weights": str(files.weights)}]
    wanted = host.txt2img("a cat in snow", reference={"inject": inject})
    for name in ("my-cat", "my-cat.delta"):
        ours = host.txt2img(f"a my-cat in snow <delta:{name}:1>", alignit=[True, "cat"])
        assert same(ours, wanted)
    assert wanted[0].difference(host.txt2img("a my-cat in snow", alignit=[True, "cat"])[0]) > CHANGED


def test_strength_zero_of_the_delta(host: WebUI, files: Files) -> None:  # noqa: ARG001
    none = host.txt2img("a my-cat in snow <delta:my-cat:0>", alignit=[True, "cat"])
    assert same(none, host.txt2img("a my-cat in snow", alignit=[True, "cat"]))


PARTLY = {  # the token, the same for the reference, how far to go from W to W', and in which layers
    "<delta:my-cat:0.5>": ("my-cat", "my-cat", 0.5, ""),
    "<delta:my-cat:1.5>": ("my-cat", "my-cat", 1.5, ""),
    "<delta:my-run:0.5>": ("<new1>", "newtoken", 0.5, ""),
    "<delta:sparse>": ("sparse", "sparse", 1, "input_blocks"),
}


@pytest.mark.parametrize("network", PARTLY)
def test_strength_and_layers_of_the_delta(host: WebUI, files: Files, tmp_path: Path, network: str) -> None:
    token, embedding, strength, part = PARTLY[network]
    whole = load_file(files.weights)
    weights = {
        name: tensor + strength * (whole[name] - tensor) if part in name else tensor
        for name, tensor in projections(host, "miniature").items()
    }
    reference = tmp_path / "weights.safetensors"
    save_file(weights, reference)

    def injected(weights: dict[str, str]) -> Pictures:
        inject = [{"dummy": f"* {embedding} * *", "rows": [2], **weights}]
        return host.txt2img("a cat in snow", reference={"inject": inject})

    aligned = host.txt2img(f"a {token} in snow {network}", alignit=[True, "cat"])
    assert same(aligned, injected({"weights": str(reference)}))
    for other in ({}, {"weights": str(files.weights)}):
        assert aligned[0].difference(injected(other)[0]) > CHANGED, (
            "the strength changed nothing: the case proves nothing"
        )

    plain = host.txt2img(f"a {token} in snow {network}")
    others = [host.txt2img(f"a {embedding} in snow")]
    with customised(host, "miniature-partly", weights) as checkpoint:
        for name in (checkpoint, files.checkpoint):
            host.load(name)
            others.append(host.txt2img(f"a {embedding} in snow"))
    without, wanted, fully = others
    assert same(plain, wanted)
    assert plain[0].difference(without[0]) > CHANGED
    assert plain[0].difference(fully[0]) > CHANGED
    assert note(aligned) == note(plain) == ""


@pytest.mark.parametrize("payload", [{}, {"batch_size": 2, "negative_prompt": "ugly, " * 45}, HIRES])
def test_with_alignit_off_it_is_custom_diffusion_itself(host: WebUI, files: Files, payload: dict) -> None:
    ours = host.txt2img("a <new1> cat in snow <delta:my-run:1>", **payload)
    host.load(files.checkpoint)
    assert same(ours, host.txt2img("a newtoken cat in snow", **payload))
    assert ours[0].difference(host.txt2img("a cat in snow", **payload)[0]) > 1


def test_refiner_and_hires_checkpoint_get_their_own_values(host: WebUI, files: Files) -> None:
    for payload in (
        {"refiner_checkpoint": "miniature-b", "refiner_switch_at": 0.5},
        HIRES | {"hr_checkpoint_name": "miniature-b.safetensors"},
    ):
        inject = [{"dummy": "* newtoken cat * *", "rows": [2, 3], "weights": str(files.weights), "strength": 0.5}]
        ours = host.txt2img("a <new1> cat in snow <delta:my-run:1>", alignit=[True, "", 0.5], **payload)
        assert same(ours, host.txt2img("a cat cat in snow", reference={"inject": inject}, **payload))


@pytest.mark.parametrize("alignit", [[True], [True, "", 0.5], None])
@pytest.mark.parametrize("payload", [{}, {"steps": 9, "batch_size": 3, "negative_prompt": "ugly"}, HIRES])
def test_what_is_injected_is_computed_once(host: WebUI, files: Files, alignit: list | None, payload: dict) -> None:  # noqa: ARG001
    """Not for a step, a call, an image or a pass of hires fix: one product for each of the 12 matrices."""
    host.txt2img("a <new1> cat in snow <delta:my-run:1>", alignit=alignit, reference={"count": True}, **payload)
    assert host.counts()["foreign_products"] == 12


def test_with_other_networks_in_the_hires_pass_it_is_computed_again(host: WebUI, files: Files) -> None:  # noqa: ARG001
    again = HIRES | {"hr_prompt": "a <new1> cat in snow <delta:my-run:1> <lora:tiny-lora:1>"}
    host.txt2img("a <new1> cat in snow <delta:my-run:1>", alignit=[True], reference={"count": True}, **again)
    assert host.counts()["foreign_products"] == 24


def test_nothing_is_left_behind(host: WebUI, files: Files) -> None:  # noqa: ARG001
    host.txt2img("a house")  # after a refiner the host loads its own model again
    before = comparable(host.state())
    for alignit in ([True], None):
        for payload in ({}, HIRES, {"reference": {"interrupt_at": 1}}):
            host.txt2img("a <new1> cat in snow <delta:my-run:1>", alignit=alignit, **payload)
            assert comparable(host.state()) == before


@pytest.mark.host_errors
@pytest.mark.parametrize("alignit", [[True], None])
def test_nothing_is_left_behind_after_an_error(host: WebUI, files: Files, alignit: list | None) -> None:  # noqa: ARG001
    host.txt2img("a house")
    before = comparable(host.state())
    with pytest.raises(Exception, match="as asked"):
        host.txt2img("a <new1> cat in rain <delta:my-run:1>", alignit=alignit, reference={"raise_in": "unet"})
    assert comparable(host.state()) == before


def note(pictures: Pictures) -> str:
    return str(pictures.info["extra_generation_params"].get("AlignIT note", ""))


def test_whole_weights_that_are_taken_for_differences_are_doubted(host: WebUI, files: Files) -> None:
    base = load_file(host.cache / "checkpoints" / "miniature.safetensors")
    trained = {name: base[name] * 1.02 for name in load_file(files.weights)}
    save_webui_delta(host.data / "models" / "deltas" / "wrong.delta.safetensors", trained)
    ours = host.txt2img("a <new1> cat in snow <delta:wrong:1>")
    assert "they look like whole weights" in note(ours)


def test_what_is_wrong_is_said(host: WebUI, files: Files) -> None:  # noqa: ARG001
    plain = host.txt2img("a cat in snow")
    missing = host.txt2img("a cat in snow <delta:nothing:1>")
    assert "'nothing' is not in the folder 'deltas'" in note(missing)
    assert missing == plain
    (host.data / "models" / "deltas" / "broken.ckpt").write_bytes(b"<html>Not found</html>")
    broken = host.txt2img("a cat in snow <delta:broken:1>", alignit=[True])
    assert "'broken.ckpt'" in note(broken)
    assert broken == plain
    assert "Write a number" in note(host.txt2img("a cat in snow <delta:my-run:much>"))
    unused = host.txt2img("a cat in snow <delta:my-run:1>", alignit=[True])
    assert "no token of it with a class word is: write <new1>" in note(unused)
    assert unused == plain
    no_word = host.txt2img("a <new1> running in snow <delta:my-run:1>", alignit=[True])
    assert "'<new1>' has no class word" in note(no_word)


MISFITS = {  # what is said of it after the file's name
    "for-sd2.ckpt": "has vectors of width 112 for '<new1>', and the loaded model's are 96. Load the kind of model",
    "for-sdxl.delta.safetensors": "has weights of shape (64, 224) for input_blocks.4.1.",
    "incomplete.ckpt": "lacks 2 of the loaded model's 12 layers, the first being middle_block.1.transformer_blocks.0."
    "attn2.to_k. Load the kind of model that it was trained for (SD1, SD2 or SDXL), or look for the complete file.",
}


@pytest.fixture(scope="module")
def misfits(servers, files: Files) -> None:
    """Files that do not fit the miniature: of two other families, and one that lost the keys and values of a layer."""
    host: WebUI = servers.get("host")
    deltas = host.data / "models" / "deltas"
    torch.save({"state_dict": {**projections(host, "tiny-sd2"), "embed": torch.ones(1, 112)}}, deltas / "for-sd2.ckpt")
    differences = {name: 0.1 * tensor for name, tensor in projections(host, "tiny-sdxl").items()}
    save_webui_delta(deltas / "for-sdxl.delta.safetensors", differences)
    fewer = {name: tensor for name, tensor in load_file(files.weights).items() if "middle_block" not in name}
    torch.save({"state_dict": {**fewer, "embed": torch.ones(1, WIDTH)}}, deltas / "incomplete.ckpt")


@pytest.mark.parametrize("alignit", [[True, "my-toy=toy"], None])
@pytest.mark.parametrize("file", MISFITS)
def test_without_a_delta_that_does_not_fit(
    host: WebUI,
    misfits: None,  # noqa: ARG001
    file: str,
    alignit: list | None,
) -> None:
    prompt, name = "a <new1> cat and my-toy", file.split(".", maxsplit=1)[0]
    without = host.txt2img(prompt, alignit=alignit)
    ours = host.txt2img(f"{prompt} <delta:{name}:1>", alignit=alignit)
    assert f"'{file}' {MISFITS[file]}" in note(ours)
    assert f"The picture is made without <delta:{name}>." in note(ours)
    assert ours == without
    assert ours != host.txt2img(f"{prompt} <delta:my-run:1>", alignit=alignit)


@pytest.mark.parametrize("checkpoint", ["tiny-sd2", "tiny-sdxl"])
def test_without_a_delta_of_sd1_in_other_models(host: WebUI, files: Files, checkpoint: str) -> None:  # noqa: ARG001
    host.load(checkpoint)
    for alignit in ([True], None):
        ours = host.txt2img("a <new1> cat in snow <delta:my-run:1>", alignit=alignit)
        assert "'my-run.ckpt' has " in note(ours)
        assert "Load the kind of model that it was trained for" in note(ours)
        assert ours == host.txt2img("a <new1> cat in snow", alignit=alignit)


def test_whole_weights_of_another_checkpoint_are_used_and_told(host: WebUI, files: Files) -> None:
    host.load("miniature-b")
    text = "a <new1> cat in snow <delta:my-run:1>"
    inject = [{"dummy": "* newtoken cat * *", "rows": [2, 3], "weights": str(files.weights)}]
    aligned, plain = host.txt2img(text, alignit=[True]), host.txt2img(text)
    for ours in (aligned, plain):
        assert "'my-run.ckpt': its weights are unlike the loaded model's" in note(ours)
        assert "they seem to be trained on another checkpoint" in note(ours)
    assert same(aligned, host.txt2img("a cat cat in snow", reference={"inject": inject}))
    # Differences go with any checkpoint.
    assert note(host.txt2img("a my-cat in snow <delta:my-cat:1>")) == ""
    with customised(host, "miniature-b-customised", load_file(files.weights), "miniature-b") as checkpoint:
        host.load(checkpoint)
        assert same(plain, host.txt2img("a newtoken cat in snow"))
