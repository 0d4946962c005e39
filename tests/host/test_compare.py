"""Compare: class word alone, concept alone and AlignIT with one seed, each as a generation of its own makes it."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import torch
from PIL import Image
from playwright.sync_api import BrowserContext, expect

from tests.formats.writers import save_adapter
from tests.host import test_deltas
from tests.host.browser import Tab, opened
from tests.host.miniature import ADAPTED, WIDTH
from tests.host.test_clean import comparable
from tests.host.test_exact import UGLY, WORDS
from tests.host.webui import HIRES, OPTIMIZATIONS, Picture, Pictures, WebUI

TARGET = "a my-toy playing with a ball"
BASE = "a toy toy toy playing with a ball"
delta_files = test_deltas.files
CLASS_WORD = ", AlignIT strength: 0.0, AlignIT start: 0.0, AlignIT end: 1.0, AlignIT controls: class word"


@dataclass
class Case:
    """A target prompt, the base prompt as one would type it, and how the pictures are made."""

    target: str = TARGET
    base: str = BASE
    payload: dict[str, Any] = field(default_factory=dict)
    base_payload: dict[str, Any] = field(default_factory=dict)
    alignit: list[Any] = field(default_factory=lambda: [True, WORDS])


class Compared:
    """The pictures of a comparison: its grid, and for each of the ways those of all seeds, batch by batch."""

    def __init__(self, pictures: Pictures, batch_size: int = 1) -> None:
        self.all = pictures
        self.info = pictures.info
        self.grid, *single = pictures
        assert len(single) % (3 * batch_size) == 0
        batches = [single[start : start + batch_size] for start in range(0, len(single), batch_size)]
        self.class_word, self.concept, self.aligned = (
            [picture for batch in batches[way::3] for picture in batch] for way in range(3)
        )

    @property
    def note(self) -> str:
        return str(self.info["extra_generation_params"].get("AlignIT note", ""))


def arguments(alignit: list[Any]) -> list[Any]:
    names = ("enabled", "class_words", "strength", "start", "end", "controls")
    return [{**dict(zip(names, alignit, strict=False)), "compare": True}]


def compare(host: WebUI, prompt: str = TARGET, alignit: list[Any] | None = None, **payload: Any) -> Compared:
    given = arguments(alignit or [True, WORDS])
    pictures = host.txt2img(prompt, alignit=given, **payload)
    return Compared(pictures, payload.get("batch_size", 1))


def with_strength_zero(alignit: list[Any]) -> list[Any]:
    return [True, alignit[1], 0.0]


def check(host: WebUI, case: Case) -> Compared:
    ours = compare(host, case.target, case.alignit, **case.payload)
    assert ours.concept == list(host.txt2img(case.target, **case.payload))
    assert ours.aligned == list(host.txt2img(case.target, alignit=case.alignit, **case.payload))
    assert ours.class_word == list(host.txt2img(case.base, **case.payload | case.base_payload))
    for pictures in zip(ours.class_word, ours.concept, ours.aligned, strict=True):
        assert len({picture.png for picture in pictures}) == 3, "two of them are equal: the case proves nothing"
    assert not ours.note
    return ours


CASES = {
    "one picture": Case(),
    "two images at once": Case(payload={"batch_size": 2}),
    "two images one by one": Case(payload={"n_iter": 2}),
    "two times two images": Case(payload={"batch_size": 2, "n_iter": 2} | UGLY),
    "noise in each step": Case(payload={"sampler_name": "Euler a", "n_iter": 2}),
    "a variation seed": Case(payload={"subseed": 7, "subseed_strength": 0.5, "n_iter": 2}),
    "hires fix": Case(payload=HIRES | {"n_iter": 2, "batch_size": 2}),
    "hires fix with its own prompt": Case(
        payload=HIRES | {"hr_prompt": "a my-cat in snow", "n_iter": 2},
        base_payload={"hr_prompt": "a cat in snow"},
    ),
    "hires fix with its own checkpoint": Case(
        payload=HIRES | {"hr_checkpoint_name": "miniature-b.safetensors", "hr_sampler_name": "DDIM", "n_iter": 2}
    ),
    "hires fix with the conditioning of the first pass": Case(
        payload=HIRES | {"override_settings": {"hires_fix_use_firstpass_conds": True}}
    ),
    "refiner": Case(payload={"refiner_checkpoint": "miniature-b", "refiner_switch_at": 0.5, "n_iter": 2}),
    "styles": Case("a my-cat", "a cat", {"styles": ["garden"], "n_iter": 2}),
    "concept in a style": Case("a ball and", "a ball and a cat in snow", {"styles": ["concept"]}, {"styles": []}),
    "AND": Case("a my-cat AND a big my-toy :0.7", "a cat AND a big toy toy toy :0.7", {"n_iter": 2}),
    "prompt editing": Case("a [house:my-cat:0.5] in snow", "a [house:cat:0.5] in snow"),
    "a class word in the prompt": Case("a <my-cat=cat>, in snow", "a cat, in snow", alignit=[True, ""]),
    "half the strength, in some steps, of the keys": Case(alignit=[True, WORDS, 0.5, 0.25, 0.75, "keys; layers down"]),
    "options of its own": Case("a <my-cat=cat; 1.5; values> and my-toy", "a cat and toy toy toy"),
    "options in the class words": Case("a my-cat in snow", "a cat in snow", alignit=[True, "my-cat=cat; 0.7; falling"]),
    "words at words": Case("a <horse=dog> in snow", "a dog in snow", {"n_iter": 2}),
    "a network": Case(
        "a my-cat in snow <lora:tiny-lora:1>", "a cat in snow <lora:tiny-lora:1>", {"n_iter": 2, "batch_size": 2}
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_each_picture_is_that_of_a_generation_of_its_own(host: WebUI, name: str) -> None:
    if name == "words at words":  # plain text where AlignIT is off
        case = CASES[name]
        assert compare(host, case.target, **case.payload).class_word == list(host.txt2img(case.base, **case.payload))
    check(host, CASES[name])


@pytest.mark.parametrize("optimization", OPTIMIZATIONS)
def test_attention_optimizations(host: WebUI, optimization: str) -> None:
    host.options(cross_attention_optimization=optimization)
    check(host, Case(payload={"batch_size": 2}))


def test_sdxl(host: WebUI) -> None:
    host.load("tiny-sdxl")
    check(host, Case("a xl-toy in snow", "a toy toy in snow", {"batch_size": 2, "n_iter": 2}))


@pytest.mark.parametrize("return_mask", [False, True])
def test_img2img_and_inpainting(host: WebUI, return_mask: bool) -> None:
    init = host.txt2img("a house")[0]
    mask = np.zeros((64, 64, 3), np.uint8)
    mask[16:48, 16:48] = 255
    payload: dict[str, Any] = {"init": init, "denoising_strength": 0.7, "batch_size": 2, "n_iter": 2, "steps": 6}
    if return_mask:
        payload |= {"mask": mask, "inpainting_fill": 2, "override_settings": {"return_mask": True}}

    def made(prompt: str, alignit: list[Any]) -> Pictures:
        host.txt2img("a house")  # the host draws the latents of an init picture as its generator was left before
        return host.img2img(prompt, alignit=alignit, **payload)

    pictures = made("a my-cat in snow", arguments([True, WORDS]))
    if return_mask:  # a mask follows each picture
        del pictures[2::2]
    ours = Compared(pictures, 2)
    for way, prompt, alignit in (
        (ours.class_word, "a cat in snow", [False]),
        (ours.concept, "a my-cat in snow", [False]),
        (ours.aligned, "a my-cat in snow", [True, WORDS]),
    ):
        assert way == made(prompt, alignit)[:: 1 + return_mask]
    assert_grid(ours, 4)


def assert_grid(ours: Compared, rows: int, side: int = 64) -> None:
    """The grid holds the single pictures, a row for each seed, under labels and beside the seeds."""
    grid = ours.grid.pixels
    left, top = (side * 3 // 4 if rows > 1 else 0), grid.shape[0] - rows * side
    assert grid.shape[1] == left + 3 * side
    assert 0 < top < side
    assert len(np.unique(grid[:top])) > 1, "the columns have no labels"
    assert rows == 1 or len(np.unique(grid[top:, :left])) > 1, "the rows have no labels"
    for column, pictures in enumerate((ours.class_word, ours.concept, ours.aligned)):
        for row, picture in enumerate(pictures[:rows]):
            cell = grid[top + row * side :, left + column * side :][:side, :side]
            assert np.array_equal(cell, picture.pixels), (row, column)


def test_the_grid(host: WebUI) -> None:
    ours = compare(host, batch_size=2, n_iter=2)
    assert_grid(ours, 4)
    assert ours.info["index_of_first_image"] == 1
    assert ours.info["all_seeds"] == [1, 2] * 3 + [3, 4] * 3
    assert ours.info["all_prompts"] == [TARGET] * 12
    assert len(ours.info["infotexts"]) == 13
    assert ours.grid.infotext == ours.grid.png_info == ours.aligned[0].infotext
    one = compare(host)
    assert_grid(one, 1)
    assert one.info["index_of_first_image"] == 1


def parts(infotext: str) -> list[str]:
    # The order of the keys is another where a comparison takes turns; and where the host has a conditioning in its
    # cache, it notes no hashes of embeddings.
    without_hashes = re.sub(r', TI hashes: "[^"]*"', "", infotext)
    return sorted(without_hashes.replace("\n", ", ").split(", "))


def test_each_picture_has_an_info_that_makes_it_again(page_host: WebUI) -> None:
    for prompt, alignit in (
        (TARGET, [True, WORDS]),
        ("a <my-cat=cat; 0.5; steps 0-0.5> and my-toy", [True, "toy", 0.8]),
    ):
        ours = compare(page_host, prompt, alignit, n_iter=2)
        assert all("AlignIT class words" not in picture.infotext for picture in ours.concept)
        assert all(CLASS_WORD in picture.infotext for picture in ours.class_word)
        assert not any("ompare" in picture.infotext for picture in ours.all)
        pictures = [*ours.class_word, *ours.concept, *ours.aligned]
        assert [picture.infotext for picture in pictures] == [picture.png_info for picture in pictures]
        for picture in pictures:
            again = page_host.post("/sdapi/v1/txt2img", {"infotext": picture.infotext})
            assert Picture(base64.b64decode(again["images"][0]), "") == picture, picture.infotext
            assert parts(json.loads(again["info"])["infotexts"][0]) == parts(picture.infotext)


def saved(host: WebUI, folder: Path, **payload: Any) -> tuple[Compared, dict[str, list[Path]]]:
    outputs = {"outdir_txt2img_samples": f"{folder}/samples", "outdir_txt2img_grids": f"{folder}/grids"}
    host.options(samples_save=True, grid_save=True, save_to_dirs=False, grid_save_to_dirs=False, **outputs)
    ours = compare(host, **payload)
    return ours, {name: sorted((folder / name).glob("*")) for name in ("samples", "grids")}


@pytest.mark.parametrize("settings", [{}, {"save_images_add_number": False, "samples_filename_pattern": "[seed]"}])
def test_saved_pictures_and_grid(host: WebUI, tmp_path: Path, settings: dict[str, Any]) -> None:
    if settings:
        host.options(**settings)
    ours, files = saved(host, tmp_path, n_iter=2, save_images=True)
    (grid,) = files["grids"]
    assert grid.name.startswith("grid-")
    assert Picture(grid.read_bytes(), "") == ours.grid
    assert Picture(grid.read_bytes(), "").png_info == ours.grid.infotext
    assert len(files["samples"]) == 6
    for suffix, pictures in (("class-word", ours.class_word), ("concept", ours.concept), ("alignit", ours.aligned)):
        found = [Picture(path.read_bytes(), "") for path in files["samples"] if path.stem.endswith(f"-{suffix}")]
        assert found == pictures
        assert [picture.png_info for picture in found] == [picture.infotext for picture in pictures]


def test_what_the_settings_and_the_request_say_of_saving_and_showing(host: WebUI, tmp_path: Path) -> None:
    ours, files = saved(host, tmp_path / "unsaved")
    assert files == {"samples": [], "grids": []}  # the API saves nothing unless it is asked to
    assert_grid(ours, 1)
    host.options(return_grid=False, grid_format="jpg")
    pictures = host.txt2img(TARGET, alignit=arguments([True, WORDS]), save_images=True)
    assert pictures == ours.all[1:]
    assert pictures.info["index_of_first_image"] == 0
    (grid,) = (tmp_path / "unsaved" / "grids").glob("*")
    assert grid.suffix == ".jpg"
    assert Image.open(grid).size == ours.grid.image.size


def test_off_is_as_before(host: WebUI) -> None:
    for given in ([True, WORDS, 1, 0, 1, "", False], [{"enabled": True, "class_words": WORDS, "compare": False}]):
        assert host.txt2img(TARGET, alignit=given, n_iter=2) == host.txt2img(TARGET, alignit=[True, WORDS], n_iter=2)
    assert host.txt2img(TARGET, alignit=[False, "", 1, 0, 1, "", True]) == host.txt2img(TARGET)
    by_position = host.txt2img(TARGET, alignit=[True, WORDS, 1, 0, 1, "", True])
    assert by_position == compare(host).all
    assert len(by_position) == 4


def test_nothing_is_left_behind(host: WebUI) -> None:
    plain, aligned = host.txt2img(TARGET), host.txt2img(TARGET, alignit=[True, WORDS])
    before = comparable(host.state())
    caches = {key: value for key, value in host.state()["cond_caches"].items() if key.endswith("_c")}
    for payload in ({}, {"batch_size": 2, "n_iter": 2}, HIRES):
        compare(host, alignit=[True, WORDS, 0.7, 0.2, 0.8, "keys"], **payload)
        assert comparable(host.state()) == before
    assert {key: value for key, value in host.state()["cond_caches"].items() if key.endswith("_c")} == caches
    assert host.txt2img(TARGET) == plain
    assert host.txt2img(TARGET, alignit=[True, WORDS]) == aligned
    compare(host, **HIRES)
    objects = host.state(objects=True)["objects"]
    for seed in range(2):
        compare(host, seed=seed, **HIRES)
    assert host.state(objects=True)["objects"] == objects
    assert "alignit.webui.generation.compare.Comparison" not in objects["alignit"]
    assert "alignit.webui.generation.job.Job" not in objects["alignit"]


def test_one_encoding_for_each_way_and_no_more(host: WebUI) -> None:
    def passes(prompt: str, alignit: list[Any] | None, **payload: Any) -> dict[str, int]:
        host.txt2img(prompt, alignit=alignit, negative_prompt="ugly", reference={"count": True}, **payload)
        return host.counts()

    host.txt2img("a house", negative_prompt="ugly")
    once = passes("first my-cat", arguments([True, WORDS]))
    batches = passes("second my-cat", arguments([True, WORDS]), n_iter=3)
    assert batches["encoder_passes"] == once["encoder_passes"]
    assert batches["unet_calls"] == 3 * once["unet_calls"]


# Stopped in the middle


def pressed(host: WebUI, batch: int, press: str, **payload: Any) -> tuple[list[Picture], dict[str, Any]]:
    pictures = host.txt2img(
        TARGET, alignit=arguments([True, WORDS]), reference={press: 2, "in_batch": batch}, n_iter=3, **payload
    )
    return list(pictures), pictures.info


@pytest.mark.parametrize("press", ["interrupt_at", "stop_at", "skip_at"])
def test_stopped_in_the_second_row(host: WebUI, press: str) -> None:
    whole = compare(host, n_iter=3)
    before = comparable(host.state())
    (grid, *single), info = pressed(host, 4, press)
    assert comparable(host.state()) == before
    assert len(single) == (9 if press == "skip_at" else 5)
    assert single[:4] == whole.all[1:5]
    assert (single[4] == whole.all[5]) == (press == "stop_at")
    wanted = 2 if press == "skip_at" else 1
    note = f"The grid shows {wanted} of 3 seeds: the others do not have all three pictures, complete."
    assert note in info["extra_generation_params"]["AlignIT note"]
    rows = [single[:3], single[6:9]][:wanted]
    cells = grid.pixels[-64 * wanted :, -64 * 3 :]
    assert np.array_equal(cells, np.vstack([np.hstack([picture.pixels for picture in row]) for row in rows]))
    assert compare(host, n_iter=3).all == whole.all


@pytest.mark.parametrize("batch", [0, 2])
def test_interrupted_before_the_first_row_is_done(host: WebUI, batch: int) -> None:
    whole = compare(host, n_iter=3)
    before = comparable(host.state())
    single, info = pressed(host, batch, "interrupt_at")
    assert comparable(host.state()) == before
    assert len(single) == batch + 1
    assert single[:batch] == whole.all[1 : batch + 1]
    assert info["index_of_first_image"] == 0
    assert (
        "There is no grid: no seed has all three pictures, complete." in info["extra_generation_params"]["AlignIT note"]
    )


@contextmanager
def job_counts(host: WebUI) -> Iterator[set[int]]:
    """How many jobs the host says that it has, at any time in the block; 0 and -1 while it is idle and sets up."""
    seen: set[int] = set()
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            seen.add(int(host.get("/sdapi/v1/progress", skip_current_image=True)["state"]["job_count"]))
            time.sleep(0.02)

    thread = threading.Thread(target=watch)
    thread.start()
    yield seen
    done.set()
    thread.join()


@pytest.mark.parametrize(("payload", "wanted"), [({"n_iter": 2}, 6), ({"n_iter": 2, **HIRES}, 12)])
def test_progress_counts_all_pictures(host: WebUI, payload: dict[str, Any], wanted: int) -> None:
    with job_counts(host) as seen:
        compare(host, steps=20, **payload)
    assert seen - {-1, 0, wanted // 2 if "enable_hr" in payload else 0} == {wanted}


@pytest.mark.host_errors
@pytest.mark.parametrize("trouble", ["process_batch", "sample", "unet", "encoder"])
def test_nothing_is_left_after_an_error(host: WebUI, trouble: str) -> None:
    host.txt2img("a house")
    plain = host.txt2img(TARGET)
    before = comparable(host.state())
    given = arguments([True, WORDS, 0.5, 0.2, 0.8])
    with contextlib.suppress(requests.HTTPError):  # in some places the host or AlignIT goes on
        host.txt2img(f"a my-cat, {trouble}", alignit=given, reference={"raise_in": trouble})
    assert host.raised("as asked")
    host.txt2img("a house again")
    assert comparable(host.state()) == before
    assert host.txt2img(TARGET) == plain


# Where there is nothing to compare, and where it cannot be done


@pytest.mark.parametrize(
    ("prompt", "alignit", "why"),
    [
        ("a house in snow", [True, WORDS], "the prompt holds no concept with a class word"),
        ("a my-cat in snow", [True], "the prompt holds no concept with a class word"),
        ("a <nothing-here=cat> in snow", [True], "the prompt holds no concept with a class word"),
    ],
)
def test_nothing_to_compare(host: WebUI, prompt: str, alignit: list[Any], why: str) -> None:
    ours = host.txt2img(prompt, alignit=arguments(alignit), n_iter=2)
    assert ours == host.txt2img(prompt, alignit=alignit, n_iter=2)
    note = ours.info["extra_generation_params"]["AlignIT note"]
    assert f"Nothing is compared: {why}. Each picture is made once." in note
    alone = host.txt2img(prompt, alignit=alignit).info["extra_generation_params"]["AlignIT note"]
    assert alone in note


def test_a_setting_in_the_way(host: WebUI) -> None:
    setting = {"override_settings": {"use_old_emphasis_implementation": True}}
    ours = host.txt2img(TARGET, alignit=arguments([True, WORDS]), **setting)
    assert "AlignIT note" in ours.info["extra_generation_params"]
    assert ours[-1] == host.txt2img(TARGET, **setting)[0]


def test_a_script_makes_the_pictures(host: WebUI) -> None:
    script = {"script_name": "prompt matrix", "script_args": [False, False, "positive", "comma", 0]}
    ours = host.txt2img("a my-cat|in snow", alignit=arguments([True, WORDS]), **script)
    assert ours == host.txt2img("a my-cat|in snow", alignit=[True, WORDS], **script)
    assert "the script 'Prompt matrix' makes the pictures" in ours.info["extra_generation_params"]["AlignIT note"]


@pytest.mark.host_errors
def test_an_argument_that_is_none(host: WebUI) -> None:
    with pytest.raises(Exception, match="compare must be true or false, not 'yes'"):
        host.txt2img(TARGET, alignit=[True, WORDS, 1, 0, 1, "", "yes"])


# With other extensions


def test_prompts_that_differ_from_picture_to_picture(host: WebUI) -> None:
    prompts = ["a my-cat in snow", "a big my-toy", "a house", "my-cat and my-toy"]
    bases = ["a cat in snow", "a big toy toy toy", "a house", "cat and toy toy toy"]
    payload = {"n_iter": 2, "batch_size": 2}

    def made(prompts: list[str], alignit: list[Any]) -> Pictures:
        return host.txt2img("a", alignit=alignit, alwayson_scripts={"Wildcards": {"args": [prompts]}}, **payload)

    ours = Compared(made(prompts, arguments([True, WORDS])), 2)
    assert ours.concept == list(made(prompts, [False]))
    assert ours.aligned == list(made(prompts, [True, WORDS]))
    assert ours.class_word == list(made(bases, [False]))
    assert [picture.infotext.splitlines()[0] for picture in ours.aligned] == prompts
    short = made(prompts[:3], arguments([True, WORDS]))
    assert "set Batch size to 1" in short.info["extra_generation_params"]["AlignIT note"]


def test_what_another_extension_makes_inside_of_a_picture_is_made_as_the_picture_is(host: WebUI) -> None:
    """As ADetailer does: with the scripts' arguments of the outer generation."""
    nested = {"alwayson_scripts": {"Nested": {"args": ["a big my-cat"]}}}
    inner_base = {"alwayson_scripts": {"Nested": {"args": ["a big cat"]}}}
    before = comparable(host.state())
    ours = compare(host, "a my-cat in snow", n_iter=2, **nested)
    assert comparable(host.state()) == before
    for index in range(2):
        for picture, prompt, alignit, inner in (
            (ours.class_word[index], "a cat in snow", [False], inner_base),
            (ours.concept[index], "a my-cat in snow", [False], nested),
            (ours.aligned[index], "a my-cat in snow", [True, WORDS], nested),
        ):
            wanted = host.txt2img(prompt, alignit=alignit, seed=1 + index, **inner)[-1]
            # Not to the last bit: the host draws an inner picture's latents with no seed, from a narrow distribution.
            assert picture.difference(wanted) < 0.1
        assert "AlignIT class words" in ours.aligned[index].infotext
        assert CLASS_WORD in ours.class_word[index].infotext
        assert "AlignIT" not in ours.concept[index].infotext
    assert ours.class_word[0].difference(ours.aligned[0]) > 2


@pytest.mark.usefixtures("delta_files")
def test_custom_diffusion_and_catversion(host: WebUI) -> None:
    """The concept alone is what the method itself makes; the class word alone has nothing of it."""
    bear = host.data / "models" / "catversion" / "bear"
    generator = torch.Generator().manual_seed(4)
    save_adapter(bear, {"control_trans": 15 * torch.randn(6 * WIDTH, generator=generator)}, ADAPTED, hidden_size=WIDTH)
    try:
        for target, base in (
            ("a <new1> cat in snow <delta:my-run:1>", "a cat cat in snow"),
            ("a <new1> cat and a bear <catversion:bear> <delta:my-run:1>", "a cat cat and a bear"),
            ("a <bear=bear> and my-toy <catversion:bear>", "a bear and toy toy toy"),
        ):
            for alignit in ([True, "my-toy=toy"], [True, "my-toy=toy", 0.6, 0.0, 0.75, "falling"]):
                check(host, Case(target, base, {"batch_size": 2, "n_iter": 2}, alignit=alignit))
            check(host, Case(target, base, HIRES | {"n_iter": 2}, alignit=[True, "my-toy=toy"]))
    finally:
        shutil.rmtree(bear.parent)


def test_a_network_that_cannot_be_used_is_told_once(host: WebUI) -> None:
    prompt = "a my-cat in snow <delta:nothing-here:1>"
    ours = compare(host, prompt, n_iter=2)
    assert ours.note.count("'nothing-here' is not in the folder") == 1
    assert all("AlignIT note" in picture.infotext for picture in ours.all)
    assert ours.concept == list(host.txt2img(prompt, n_iter=2))


# As a person uses it


@pytest.fixture
def tab(browser: BrowserContext, page_host: WebUI) -> Iterator[Tab]:
    with opened(browser, page_host.url) as tab:
        tab.page.set_viewport_size({"width": 1280, "height": 1400})
        tab.set(width=128, height=128)
        yield tab


def test_in_the_page(page_host: WebUI, tab: Tab, tmp_path: Path) -> None:
    page = {"sampler_name": "DPM++ 2M", "cfg_scale": 7, "width": 128, "height": 128}
    tab.prompt.fill("a my-cat on the moon")
    tab.open_panel()
    tab.class_words.fill("my-cat=cat")
    box = tab.part("compare").get_by_label("Compare")
    expect(box).not_to_be_checked()
    assert "three times" in (tab.part("compare").get_attribute("title") or "")
    box.check()
    tab.page.locator("#txt2img_batch_count input[type=number]").fill("2")
    grid = tab.generate(page_host.url)
    over_api = page_host.txt2img("a my-cat on the moon", **page, n_iter=2, alignit=arguments([True, "my-cat=cat"]))
    assert grid == over_api[0]
    expect(tab.page.locator("#txt2img_gallery .thumbnails .thumbnail-item")).to_have_count(7)
    tab.page.locator("#txt2img_gallery").screenshot(path=tmp_path / "gallery.png")
    tab.panel.screenshot(path=tmp_path / "panel.png")
    expect(tab.comments).to_be_empty()
    assert "AlignIT class words: my-cat=cat, AlignIT strength: 1.0" in tab.info.inner_text()
    assert "Compare" not in grid.png_info

    # Each of the pictures back by paste, which leaves Compare as it is.
    box.uncheck()
    tab.page.locator("#txt2img_batch_count input[type=number]").fill("1")
    for picture in over_api[1:4]:
        tab.paste(picture.infotext)
        expect(tab.prompt).to_have_value("a my-cat on the moon")
        expect(tab.checkbox).to_be_checked(checked="AlignIT class words" in picture.infotext)
        assert tab.generate(page_host.url) == picture


def test_interrupt_in_the_page(page_host: WebUI, tab: Tab) -> None:
    before = comparable(page_host.state())
    tab.set(steps=150, width=64, height=64)
    tab.prompt.fill("a <my-cat=cat> on the moon")
    tab.open_panel()
    tab.part("compare").get_by_label("Compare").check()
    tab.page.locator("#txt2img_generate").click()
    tab.page.locator("#txt2img_interrupt").click()
    tab.pictures.first.wait_for()
    expect(tab.comments).to_contain_text("AlignIT: There is no grid: no seed has all three pictures, complete.")
    expect(tab.page.locator("#txt2img_interrupt")).to_be_hidden()
    assert comparable(page_host.state()) == before
    # What is made of one of the pictures is not made three times.
    tab.set(steps=4)
    tab.page.locator("#txt2img_hr > .label-wrap").click()
    tab.page.locator("#txt2img_hr_scale input[type=number]").fill("1")
    tab.page.locator("#txt2img_upscale").click()
    expect(tab.comments).to_contain_text("it is a picture of the gallery that is made larger")
    assert comparable(page_host.state()) == before


def test_the_batch_tab_of_img2img(page_host: WebUI, tab: Tab, tmp_path: Path) -> None:
    inputs, outputs = tmp_path / "in", tmp_path / "out"
    inputs.mkdir()
    for name in ("first", "second"):
        (inputs / f"{name}.png").write_bytes(page_host.txt2img(f"a {name} house")[0].png)
    page_host.options(samples_save=True, save_images_add_number=False)
    img2img = Tab(tab.page, "img2img")
    tab.page.locator("#tabs > .tab-nav button", has_text="img2img").click()
    tab.page.locator("#mode_img2img > .tab-nav button", has_text="Batch").click()
    tab.page.locator("#img2img_batch_source button", has_text="from directory").click()
    tab.page.locator("#img2img_batch_input_dir textarea").fill(str(inputs))
    tab.page.locator("#img2img_batch_output_dir textarea").fill(str(outputs))
    img2img.set(width=64, height=64, steps=20, seed=1)
    img2img.prompt.fill("a <my-cat=cat> in snow")
    img2img.open_panel()
    img2img.part("compare").get_by_label("Compare").check()
    with job_counts(page_host) as seen:
        img2img.generate(page_host.url)
    assert max(seen) == 6
    expect(tab.page.locator("#img2img_gallery .thumbnails .thumbnail-item")).to_have_count(8)
    assert sorted(path.stem for path in outputs.glob("*")) == sorted(
        f"{name}-{way}" for name in ("first", "second") for way in ("class-word", "concept", "alignit")
    )
