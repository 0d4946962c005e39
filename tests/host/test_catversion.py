"""CatVersion: ``<catversion:NAME>`` in the prompt, with AlignIT and without."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import requests
import torch
from safetensors.torch import save_file

from tests.formats.writers import REAL_ADAPTERS, save_adapter
from tests.host.miniature import ADAPTED, WIDTH
from tests.host.test_clean import comparable
from tests.host.test_deltas import CHANGED, customised, note, projections, same
from tests.host.webui import HIRES, WebUI

TARGET = "a photo of a teddy bear in snow"
BASE = "a photo of a teddy bear in snow"
DUMMY, ROWS = "* * * * teddy bear * *", [5, 6]
LONG = {"batch_size": 2, "negative_prompt": "ugly, teddy bear, " * 20}
MIXED_TEXT = "my-toy, a <new1> dog and a cat"
MIXED = f"{MIXED_TEXT} <delta:mixed:1> <catversion:cat>"
MIXED_ON = [True, "my-toy=toy"]


@dataclass
class Files:
    """Adapters as the authors' code writes them.

    Attributes:
        bear: One in the folder "teddy_bear".
        cat: Another one, in "cat".
        weights: Custom Diffusion's W', for a mixture.
        checkpoint: Name of a checkpoint with these in place.
    """

    bear: str
    cat: str
    weights: str
    checkpoint: str


@pytest.fixture(scope="module")
def files(servers, tmp_path_factory) -> Iterator[Files]:
    host: WebUI = servers.get("host")
    folder = host.data / "models" / "catversion"
    generator = torch.Generator().manual_seed(4)

    def adapter(place: str) -> str:
        numbers = 15 * torch.randn(6 * WIDTH, generator=generator)
        return str(save_adapter(folder / place, {"control_trans": numbers}, ADAPTED, hidden_size=WIDTH))

    bear = adapter("teddy_bear/checkpoints/adapter_gs-999")
    adapter("teddy_bear/checkpoints/adapter_gs-499")  # less trained
    cat = adapter("cat")
    weights = {
        name: tensor + 0.4 * tensor.std() * torch.randn(tensor.shape, generator=generator)
        for name, tensor in projections(host, "miniature").items()
    }
    reference = tmp_path_factory.mktemp("catversion") / "weights.safetensors"
    save_file(weights, reference)
    vector = torch.randn(1, WIDTH, generator=generator)
    vector *= 2.5 / vector.norm()
    deltas = host.data / "models" / "deltas"
    deltas.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": {**weights, "embed": vector}}, deltas / "mixed.ckpt")
    save_file({"mixedtoken": vector}, host.embeddings / "mixedtoken.safetensors")
    host.post("/sdapi/v1/refresh-embeddings")
    with customised(host, "miniature-mixed", weights) as checkpoint:
        yield Files(bear, cat, str(reference), checkpoint)
    shutil.rmtree(folder)


@pytest.mark.parametrize("payload", [{}, LONG, HIRES, {"override_settings": {"CLIP_stop_at_last_layers": 2}}])
def test_the_picture_equals_the_references(host: WebUI, files: Files, payload: dict) -> None:
    inject = [{"dummy": DUMMY, "rows": ROWS, "adapter": files.bear}]
    ours = host.txt2img(f"{TARGET} <catversion:teddy_bear>", alignit=[True], **payload)
    wanted = host.txt2img(BASE, reference={"inject": inject}, **payload)
    without = host.txt2img(BASE, reference={"inject": [{"dummy": DUMMY, "rows": ROWS}]}, **payload)
    assert same(ours, wanted)
    assert wanted[0].difference(without[0]) > CHANGED, "the adapter changed nothing: the case proves nothing"
    assert ours.info["extra_generation_params"]["AlignIT class words"] == "teddy_bear=teddy bear"
    assert note(ours) == ""


@pytest.mark.parametrize("payload", [{}, LONG, HIRES])
def test_with_alignit_off_it_is_catversion_itself(host: WebUI, files: Files, payload: dict) -> None:
    wanted = host.txt2img(BASE, reference={"catversion": [files.bear]}, **payload)
    for text in (TARGET, "a photo of a <teddy_bear=teddy bear> in snow", "a photo of a <teddy_bear> in snow"):
        ours = host.txt2img(f"{text} <catversion:teddy_bear>", **payload)
        assert same(ours, wanted)
        assert note(ours) == ""
    assert wanted[0].difference(host.txt2img(BASE, **payload)[0]) > 1


def test_two_adapters_with_alignit_off_are_both_attended_to(host: WebUI, files: Files) -> None:
    ours = host.txt2img("a cat and a teddy bear <catversion:teddy_bear> <catversion:cat>")
    assert same(ours, host.txt2img("a cat and a teddy bear", reference={"catversion": [files.bear, files.cat]}))


def test_two_adapters_do_not_bleed_into_each_other(host: WebUI, files: Files) -> None:
    ours = host.txt2img("a cat and a teddy bear <catversion:teddy_bear> <catversion:cat>", alignit=[True])
    inject = [
        {"dummy": "* cat * * * *", "rows": [2], "adapter": files.cat},
        {"dummy": "* * * * teddy bear", "rows": [5, 6], "adapter": files.bear},
    ]
    assert same(ours, host.txt2img("a cat and a teddy bear", reference={"inject": inject}))


def mixture(files: Files) -> list[dict[str, Any]]:
    """What the paper injects for `MIXED`."""
    return [
        {"dummy": "my-toy * * * * * *", "rows": [1, 2, 3]},
        {"dummy": "* * * * * mixedtoken dog * * *", "rows": [6, 7], "weights": files.weights},
        {"dummy": "* * * * * * * * * cat", "rows": [10], "adapter": files.cat},
    ]


@pytest.mark.parametrize("payload", [{}, LONG, HIRES])
def test_all_three_methods_in_one_prompt(host: WebUI, files: Files, payload: dict) -> None:
    ours = host.txt2img(MIXED, alignit=MIXED_ON, **payload)
    wanted = host.txt2img("toy toy toy, a dog dog and a cat", reference={"inject": mixture(files)}, **payload)
    assert same(ours, wanted)
    assert note(ours) == ""


def test_each_of_the_three_methods_is_in_the_picture(host: WebUI, files: Files) -> None:
    """So that the comparisons of the mixture can fail."""
    inject = mixture(files)
    toy, dog, cat = inject
    dog_unchanged = {key: value for key, value in dog.items() if key != "weights"}
    cat_unchanged = {key: value for key, value in cat.items() if key != "adapter"}
    base = "toy toy toy, a dog dog and a cat"
    aligned = host.txt2img(base, reference={"inject": inject})
    for less in ([dog, cat], [toy, cat], [toy, dog], [toy, dog_unchanged, cat], [toy, dog, cat_unchanged]):
        assert aligned[0].difference(host.txt2img(base, reference={"inject": less})[0]) > CHANGED

    text, catversion = "my-toy, a mixedtoken dog and a cat", {"catversion": [files.cat]}
    without = [host.txt2img(text, reference=catversion)]  # Custom Diffusion
    host.load(files.checkpoint)
    plain = host.txt2img(text, reference=catversion)
    without += [
        host.txt2img(text),
        host.txt2img("toy, a mixedtoken dog and a cat", reference=catversion),
        host.txt2img("my-toy, a dog and a cat", reference=catversion),
    ]
    for less in (aligned, *without):
        assert plain[0].difference(less[0]) > 1


@pytest.mark.parametrize("payload", [{}, LONG, HIRES])
def test_all_three_methods_with_alignit_off(host: WebUI, files: Files, payload: dict) -> None:
    ours = host.txt2img(MIXED, **payload)
    host.load(files.checkpoint)
    wanted = host.txt2img("my-toy, a mixedtoken dog and a cat", reference={"catversion": [files.cat]}, **payload)
    assert same(ours, wanted)
    assert note(ours) == ""


@pytest.mark.parametrize("alignit", [MIXED_ON, None])
def test_nothing_of_the_three_methods_is_left_behind(host: WebUI, files: Files, alignit: list | None) -> None:  # noqa: ARG001
    plain = host.txt2img(MIXED_TEXT)
    before = comparable(host.state())
    for payload in ({}, HIRES, {"reference": {"interrupt_at": 1}}):
        assert host.txt2img(MIXED, alignit=alignit, **payload) != plain
        assert comparable(host.state()) == before
    assert host.txt2img(MIXED_TEXT) == plain


@pytest.mark.host_errors
@pytest.mark.parametrize("alignit", [MIXED_ON, None])
def test_nothing_of_the_three_methods_is_left_after_an_error(host: WebUI, files: Files, alignit: list | None) -> None:  # noqa: ARG001
    plain = host.txt2img(MIXED_TEXT)
    before = comparable(host.state())
    with pytest.raises(requests.HTTPError, match="as asked"):
        host.txt2img(MIXED, alignit=alignit, reference={"raise_in": "unet"})
    assert comparable(host.state()) == before
    assert host.txt2img(MIXED_TEXT) == plain


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("bear", TARGET),
        ("teddy_bear=bear", TARGET),
        ("", "a photo of a teddy <teddy_bear=bear> in snow"),
        ("", "a photo of a teddy bear in <teddy_bear=bear>"),  # for all mentions
    ],
)
def test_class_word_from_the_user(host: WebUI, files: Files, words: str, text: str) -> None:
    ours = host.txt2img(f"{text} <catversion:teddy_bear>", alignit=[True, words])
    both = text.endswith("bear>")
    dummy, rows = ("* * * * * bear * bear", [6, 8]) if both else ("* * * * * bear * *", [6])
    inject = [{"dummy": dummy, "rows": rows, "adapter": files.bear}]
    base = "a photo of a teddy bear in bear" if both else BASE
    assert same(ours, host.txt2img(base, reference={"inject": inject}))


def test_what_the_prompt_has_of_the_folders_name_is_the_class_word(host: WebUI, files: Files) -> None:
    ours = host.txt2img("a Bear in snow <catversion:teddy_bear>", alignit=[True])
    inject = [{"dummy": "* bear * *", "rows": [2], "adapter": files.bear}]
    assert same(ours, host.txt2img("a bear in snow", reference={"inject": inject}))


def test_emphasis_chunks_and_parts(host: WebUI, files: Files) -> None:
    ours = host.txt2img(
        "a (teddy bear:1.3), snow BREAK a teddy bear AND a house <catversion:teddy_bear>", alignit=[True]
    )
    inject = [
        {
            "dummy": "* (teddy bear:1.3) * * BREAK * teddy bear",
            "rows": [2, 3, 79, 80],
            "adapter": files.bear,
            "parts": [0],
        }
    ]
    wanted = host.txt2img("a (teddy bear:1.3), snow BREAK a teddy bear AND a house", reference={"inject": inject})
    assert same(ours, wanted)


def test_strength_and_steps(host: WebUI, files: Files) -> None:
    ours = host.txt2img(f"{TARGET} <catversion:teddy_bear>", alignit=[True, "", 0.5, 0.0, 0.5])
    inject = [{"dummy": DUMMY, "rows": ROWS, "adapter": files.bear, "strength": 0.5, "steps": [0, 1]}]
    assert same(ours, host.txt2img(BASE, reference={"inject": inject}))


def test_beside_a_lora_of_the_text_encoder(host: WebUI, files: Files) -> None:
    ours = host.txt2img(f"{TARGET} <catversion:teddy_bear> <lora:tiny-lora:1>", alignit=[True])
    inject = [{"dummy": DUMMY, "rows": ROWS, "adapter": files.bear}]
    assert same(ours, host.txt2img(f"{BASE} <lora:tiny-lora:1>", reference={"inject": inject}))


def test_an_embedding_with_the_class_word_in_its_name_is_left_alone(host: WebUI, files: Files) -> None:  # noqa: ARG001
    ours = host.txt2img("a my-cat in snow <catversion:cat>", alignit=[True, "my-cat=dog"])
    inject = [{"dummy": "* my-cat * *", "rows": [2]}]
    assert same(ours, host.txt2img("a dog in snow", reference={"inject": inject}))
    assert "<catversion:cat> is in the prompt, but its class word 'cat' is not" in note(ours)


@pytest.mark.parametrize("name", ["teddybear", "colorful_teapot"])
def test_real_adapters(host: WebUI, name: str) -> None:
    folder = host.data / "models" / "catversion" / name
    shutil.copytree(REAL_ADAPTERS / name, folder)
    host.load("wide-sd1")
    word = name.rsplit("_", maxsplit=1)[-1]
    tokens = {"teddybear": [2, 3], "teapot": [2]}[word]
    inject = [{"dummy": f"* {word} * *", "rows": tokens, "adapter": str(folder / "pytorch_adapter.bin")}]
    ours = host.txt2img(f"a {word} in snow <catversion:{name}>", alignit=[True])
    plain = host.txt2img(f"a {word} in snow <catversion:{name}>")
    assert same(ours, host.txt2img(f"a {word} in snow", reference={"inject": inject}))
    assert same(plain, host.txt2img(f"a {word} in snow", reference={"catversion": [inject[0]["adapter"]]}))
    base = host.txt2img(f"a {word} in snow")
    assert ours[0].difference(base[0]) > 1
    assert plain[0].difference(base[0]) > 1
    assert note(ours) == note(plain) == ""


def test_nothing_is_left_behind(host: WebUI, files: Files) -> None:  # noqa: ARG001
    host.txt2img("a house")
    before = comparable(host.state())
    for alignit in ([True], None):
        for payload in ({}, HIRES, {"reference": {"interrupt_at": 1}}):
            host.txt2img(f"{TARGET} <catversion:teddy_bear>", alignit=alignit, **payload)
            assert comparable(host.state()) == before


@pytest.mark.host_errors
@pytest.mark.parametrize("alignit", [[True], None])
@pytest.mark.parametrize("place", ["unet", "encoder"])
def test_nothing_is_left_behind_after_an_error(
    host: WebUI,
    files: Files,  # noqa: ARG001
    alignit: list | None,
    place: str,
) -> None:
    host.txt2img("a house")
    before = comparable(host.state())
    with contextlib.suppress(requests.HTTPError):  # in the encoder AlignIT goes on without itself
        reference = {"raise_in": place, "raise_at": 2}  # the negative prompt is encoded first
        host.txt2img(f"{TARGET} in rain <catversion:teddy_bear>", alignit=alignit, reference=reference)
    assert host.raised("as asked")
    host.txt2img("a garden")  # the host itself leaves its list of embeddings after an error in the encoder
    assert comparable(host.state()) == before


def test_what_is_wrong_is_said(host: WebUI, files: Files) -> None:  # noqa: ARG001
    plain = host.txt2img("a dog in snow")
    unused = host.txt2img("a dog in snow <catversion:teddy_bear>", alignit=[True])
    assert "its class word 'teddy bear' is not: write <teddy_bear=cat>" in note(unused)
    assert unused == plain
    missing = host.txt2img("a dog in snow <catversion:nothing>", alignit=[True])
    assert "'nothing' is not in the folder 'catversion'" in note(missing)
    assert missing == plain
    strong = host.txt2img("a dog in snow <catversion:cat:0.5>")
    assert "CatVersion knows none" in note(strong)
    assert strong == plain
    both = host.txt2img("a bear <catversion:teddy_bear> <catversion:cat>", alignit=[True, "bear"])
    assert "'bear' is the class word of both 'teddy_bear' and 'cat'" in note(both)
    damaged = host.data / "models" / "catversion" / "damaged" / "pytorch_adapter.bin"
    damaged.parent.mkdir()
    damaged.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    broken = host.txt2img("a dog in snow <catversion:damaged>", alignit=[True])
    assert "'pytorch_adapter.bin'" in note(broken)
    assert broken == plain
    for checkpoint in ("tiny-sd2", "tiny-sdxl", "wide-sd1"):
        host.load(checkpoint)
        other = host.txt2img(f"{TARGET} <catversion:teddy_bear>", alignit=[True])
        assert "Load the kind of model that it was trained for" in note(other)
        assert other == host.txt2img(TARGET)
