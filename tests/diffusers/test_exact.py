"""The pictures of the diffusers host against the paper's algorithm done by brute force in the same pipeline."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler, HeunDiscreteScheduler, StableDiffusionImg2ImgPipeline

from alignit.diffusers import AlignIT, AlignITError, AlignITWarning, load_concept
from tests.diffusers.conftest import Model
from tests.diffusers.pipelines import WIDTH, make_sd1
from tests.diffusers.reference import SIZE, Injection, encode_words, pictures, reference
from tests.formats.writers import REAL_ADAPTERS

WORDS = {"my-toy": "toy"}


def assert_same(ours: np.ndarray, wanted: np.ndarray) -> None:
    np.testing.assert_allclose(ours, wanted, atol=2e-5)


def differs(one: np.ndarray, other: np.ndarray) -> bool:
    return bool(np.abs(one - other).mean() > 1e-3)


CASES: dict[str, tuple[str, str, list[Injection]]] = {
    "one vector": ("a <my-cat=cat> with a ball", "a cat with a ball", [Injection("* <my-cat> * * *", [2])]),
    "without a class word in the prompt": ("a my-toy on the moon", "a toy toy toy on the moon", [
        Injection("* my-toy * * *", [2, 3, 4])
    ]),
    "capitals, brackets and a comma": ("a <MY-TOY>, big", "a toy toy toy, big", [Injection("* my-toy * *", [2, 3, 4])]),
    "class word of two tokens": ("a <my-cat=golden retriever> in snow", "a golden retriever in snow", [
        Injection("* * <my-cat> * *", [3])
    ]),
    "three vectors for two tokens": ("a <my-toy=golden retriever> in snow", "a retriever golden retriever in snow", [
        Injection("* my-toy * *", [2, 3, 4])
    ]),
    "two mentions": ("a <my-cat=cat> and a my-toy and a <my-cat>", "a cat and a toy toy toy and a cat", [
        Injection("* <my-cat> * * * * * * * <my-cat>", [2, 10]),
        Injection("* * * * my-toy * * *", [5, 6, 7]),
    ]),
    "no word between": ("a <my-cat=cat><my-toy> in snow", "a cat toy toy toy in snow", [
        Injection("* <my-cat> * * *", [2]),
        Injection("* * my-toy", [3, 4, 5]),
    ]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_textual_inversion(sd1: Model, name: str) -> None:
    target, base, injections = CASES[name]
    aligned = AlignIT(sd1.pipe, sd1.load("my-cat", "my-toy"), WORDS)
    wanted = reference(sd1.pipe, base, injections, sd1.vectors)
    assert_same(pictures(aligned, target), wanted)
    assert differs(wanted, pictures(sd1.pipe, base)), "nothing was injected: the case proves nothing"


CUSTOM = {
    "the token and its class word": ("a <new1> cat in snow", "a cat cat in snow", "* <new1> cat * *", [2, 3]),
    "the token alone": ("a <new1=cat> in snow", "a cat in snow", "* <new1> * *", [2]),
    "a class word that is no single noun": (
        "a <new1> golden retriever, big",
        "a retriever golden retriever, big",
        "* <new1> golden retriever * *",
        [2, 3, 4],
    ),
}


def test_real_files(shared: Path, tmp_path: Path) -> None:
    """A textual inversion in a picture and a CatVersion adapter, in a text encoder of the size that they are for."""
    pipe = make_sd1(tmp_path, 768, layers=12, heads=12)
    embedding = load_concept(shared / "textual_inversion" / "rick.png")
    adapter = REAL_ADAPTERS / "teddybear" / "pytorch_adapter.bin"
    aligned = AlignIT(pipe, [embedding, load_concept(adapter)], {"teddybear": "toy"})
    # As the authors' code lays it out: keys and values of layers 9, 10 and 11.
    numbers = next(iter(torch.load(adapter, map_location="cpu").values())).view(6, 1, 768)
    prefixes = {9 + i: (numbers[2 * i], numbers[2 * i + 1]) for i in range(3)}
    token = embedding.tokens[0]
    injections = [
        Injection(f"* {token.name} * * *", list(range(2, 10))),
        Injection("* " * 11 + "toy", [12], prefixes=prefixes),
    ]
    wanted = reference(pipe, f"a {'dog ' * 8}with a toy", injections, {token.name: dict(token.vectors)})
    assert_same(pictures(aligned, f"a <{token.name}=dog> with a toy"), wanted)
    assert differs(wanted, pictures(pipe, f"a {'dog ' * 8}with a toy"))


@pytest.mark.parametrize("strength", [1.0, 0.4, 1.5])
@pytest.mark.parametrize("name", CUSTOM)
def test_custom_diffusion(sd1: Model, name: str, strength: float) -> None:
    target, base, dummy, rows = CUSTOM[name]
    words = {"<new1>": "golden retriever"} if "golden" in target else {}
    aligned = AlignIT(sd1.pipe, sd1.load("run"), words)
    injection = Injection(dummy, rows, weights=sd1.weights)
    wanted = reference(sd1.pipe, base, [injection], sd1.vectors, concept_strength=strength)
    assert_same(pictures(aligned, target, concept_strength=strength), wanted)
    without = reference(sd1.pipe, base, [Injection(dummy, rows)], sd1.vectors, concept_strength=strength)
    assert differs(wanted, without), "the weights changed nothing: the case proves nothing"


CATVERSION = [
    ("a red <teddy=dog> in snow", "dog", {}),
    ("a red <teddy=golden retriever> in snow", "golden retriever", {}),
    ("a red golden  Retriever in snow", "golden retriever", {"teddy": "golden retriever"}),
    ("a red <teddy> in snow", "teddy", {}),  # its folder's name
    ("a red teddy in snow", "teddy", {}),
]


@pytest.mark.parametrize(("target", "word", "words"), CATVERSION)
def test_catversion(sd1: Model, target: str, word: str, words: dict[str, str]) -> None:
    aligned = AlignIT(sd1.pipe, sd1.load("teddy"), words)
    count = len(sd1.pipe.tokenizer(word, add_special_tokens=False).input_ids)
    rows = list(range(3, 3 + count))
    injection = Injection(f"* * {word} * *", rows, prefixes=sd1.prefixes)
    wanted = reference(sd1.pipe, f"a red {word} in snow", [injection], {})
    assert_same(pictures(aligned, target), wanted)
    without = reference(sd1.pipe, f"a red {word} in snow", [Injection(f"* * {word} * *", rows)], {})
    assert differs(wanted, without), "the prefixes changed nothing: the case proves nothing"


def test_weights_without_a_token_are_injected_at_the_class_word(sd1: Model, tmp_path) -> None:
    file = tmp_path / "my-run.bin"
    torch.save({"unet": {f"{name}.weight": weight for name, weight in sd1.weights.items()}}, file)
    with pytest.warns(AlignITWarning, match="No token embedding was found"):
        aligned = AlignIT(sd1.pipe, load_concept(file))
    wanted = reference(sd1.pipe, "a cat in snow", [Injection("* cat * *", [2], weights=sd1.weights)], {})
    assert_same(pictures(aligned, "a <my-run=cat> in snow"), wanted)


def test_all_methods_in_one_prompt(sd1: Model) -> None:
    aligned = AlignIT(sd1.pipe, sd1.load("my-toy", "run", "teddy"), WORDS)
    injections = [
        Injection("* my-toy * * * * * * *", [2, 3, 4]),
        Injection("* * * * * <new1> cat * *", [6, 7], weights=sd1.weights),
        Injection("* * * * * * * * dog", [9], prefixes=sd1.prefixes),
    ]
    wanted = reference(sd1.pipe, "a toy toy toy on cat cat and dog", injections, sd1.vectors)
    assert_same(pictures(aligned, "a my-toy on <new1> cat and <teddy=dog>"), wanted)


BATCH: dict[str, Any] = {
    "target": ["a <my-cat=cat> in snow", "a red house", "a <new1> cat and my-toy"],
    "base": ["a cat in snow", "a red house", "a cat cat and toy toy toy"],
}


@pytest.mark.parametrize("arguments", [
    {},
    {"guidance_scale": 1.0},
    {"num_images_per_prompt": 2},
    {"negative_prompt": ["big", "dog", "red red"], "num_images_per_prompt": 2},
    {"clip_skip": 1},
])  # fmt: skip
def test_batch_of_prompts(sd1: Model, arguments: dict[str, Any]) -> None:
    aligned = AlignIT(sd1.pipe, sd1.load("my-cat", "my-toy", "run"), WORDS)
    injections = [
        Injection("* <my-cat> * *", [2], 0),
        Injection("* <new1> cat * *", [2, 3], 2, weights=sd1.weights),
        Injection("* * * * my-toy", [5, 6, 7], 2),
    ]
    wanted = reference(sd1.pipe, BATCH["base"], injections, sd1.vectors, **arguments)
    assert_same(pictures(aligned, BATCH["target"], **arguments), wanted)


def test_one_negative_prompt_for_all(sd1: Model) -> None:
    aligned = AlignIT(sd1.pipe, sd1.load("my-cat", "my-toy", "run"), WORDS)
    ours = pictures(aligned, BATCH["target"], negative_prompt="red")
    assert_same(ours, pictures(aligned, BATCH["target"], negative_prompt=["red"] * 3))
    assert differs(ours, pictures(aligned, BATCH["target"]))


@pytest.mark.parametrize("concept", ["<my-cat=cat>", "<new1=cat>", "<teddy=cat>"])
@pytest.mark.parametrize(("start", "end", "steps"), [(0, 0.5, (0, 2)), (0.5, 1, (2, 9)), (0.2, 0.3, (1, 2))])
@pytest.mark.parametrize("scheduler", [None, EulerDiscreteScheduler])
def test_range_of_steps(sd1: Model, concept: str, start: float, end: float, steps, scheduler) -> None:
    pipe = sd1.pipe
    if scheduler:
        pipe = type(pipe)(**{**pipe.components, "scheduler": scheduler.from_config(pipe.scheduler.config)})
        pipe.set_progress_bar_config(disable=True)
    name = concept[1:].partition("=")[0]
    aligned = AlignIT(pipe, sd1.load({"new1": "run"}.get(name, name)))
    dummy = "* cat * *" if name == "teddy" else f"* <{name}> * *"
    injection = Injection(
        dummy,
        [2],
        weights=sd1.weights if name == "new1" else None,
        prefixes=sd1.prefixes if name == "teddy" else None,
    )
    wanted = reference(pipe, "a cat in snow", [injection], sd1.vectors, steps=steps)
    for _ in range(2):  # a second picture begins anew
        assert_same(pictures(aligned, f"a {concept} in snow", concept_start=start, concept_end=end), wanted)
    assert differs(wanted, reference(pipe, "a cat in snow", [injection], sd1.vectors))


def test_range_of_steps_where_the_unet_is_called_twice_in_a_step(sd1: Model) -> None:
    scheduler = HeunDiscreteScheduler.from_config(sd1.pipe.scheduler.config)
    pipe = type(sd1.pipe)(**{**sd1.pipe.components, "scheduler": scheduler})
    pipe.set_progress_bar_config(disable=True)
    aligned = AlignIT(pipe, sd1.load("my-cat"))
    # 7 calls for 4 steps: 2, 2, 2 and 1.
    wanted = reference(pipe, "a cat in snow", [Injection("* <my-cat> * *", [2])], sd1.vectors, steps=(0, 3))
    assert_same(pictures(aligned, "a <my-cat=cat> in snow", concept_end=0.5), wanted)


def test_image_to_image_takes_the_range_of_the_steps_really_taken(sd1: Model) -> None:
    pipe = StableDiffusionImg2ImgPipeline(**sd1.pipe.components, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    image = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    call = {"image": image, "strength": 0.5, "num_inference_steps": 8, "height": None, "width": None}
    aligned = AlignIT(pipe, sd1.load("my-cat"))
    for end, steps in ((1.0, (0, 9)), (0.5, (0, 2))):
        ours = pictures(aligned, "a <my-cat=cat> in snow", concept_end=end, **call)
        wanted = reference(pipe, "a cat in snow", [Injection("* <my-cat> * *", [2])], sd1.vectors, steps=steps, **call)
        assert_same(ours, wanted)
    assert differs(wanted, pictures(pipe, "a cat in snow", **call))


def overwritten_by_hooks(model: Model, pipe: Any, **arguments: Any) -> np.ndarray:
    """The picture of "a <new1=cat> in snow", by a hook on each projection; they stay: the pipeline is a copy."""
    row = encode_words(pipe, "* <new1>", model.vectors)[0][2]
    for name, weight in model.weights.items():

        def overwrite(_module: Any, _args: Any, output: torch.Tensor, new: torch.Tensor = weight @ row) -> torch.Tensor:
            output = output.clone()
            output[1, 2] = new
            return output

        pipe.unet.get_submodule(name).register_forward_hook(overwrite)
    return pictures(pipe, "a cat in snow", **arguments)


class WithLora(torch.nn.Module):
    """A projection with a LoRA on it, in the shape that PEFT gives it."""

    def __init__(self, base: torch.nn.Linear) -> None:
        super().__init__()
        self.base_layer = base
        self.lora = torch.nn.Linear(base.in_features, base.out_features, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base_layer(x) + self.lora(x)


def test_beside_a_lora(sd1: Model) -> None:
    """It is a part of the base model; whole weights replace what it does to the concept's keys and values."""
    pipe = copy.copy(sd1.pipe)
    pipe.unet = copy.deepcopy(sd1.pipe.unet)
    torch.manual_seed(0)
    for name in sd1.weights:
        attention, _, projection = name.rpartition(".")
        setattr(pipe.unet.get_submodule(attention), projection, WithLora(pipe.unet.get_submodule(name)))
    ours = {strength: pictures(AlignIT(pipe, sd1.load("run")), "a <new1=cat> in snow", concept_strength=strength)
            for strength in (0, 1)}  # fmt: skip
    assert_same(ours[0], pictures(pipe, "a cat in snow"))
    assert differs(ours[0], pictures(sd1.pipe, "a cat in snow"))
    assert_same(ours[1], overwritten_by_hooks(sd1, pipe))
    assert differs(ours[0], ours[1])


def test_compiled_unet(sd1: Model) -> None:
    pipe = copy.copy(sd1.pipe)
    pipe.unet = torch.compile(copy.deepcopy(sd1.pipe.unet), backend="eager")
    pictures(pipe, "a cat in snow")
    compiled, usual = (AlignIT(each, sd1.load("my-cat", "run")) for each in (pipe, sd1.pipe))
    for arguments in ({}, {"concept_end": 0.5}):
        prompt = "a <my-cat=cat> in snow"
        assert_same(pictures(compiled, prompt, **arguments), pictures(usual, prompt, **arguments))
    with pytest.raises(AlignITError, match="not compiled"):
        pictures(compiled, "a <new1=cat> in snow")


def test_beside_an_ip_adapter(sd1: Model) -> None:
    """Its pictures are a second part of the layers' context."""
    generator = torch.Generator().manual_seed(4)
    pipe = copy.copy(sd1.pipe)
    pipe.unet = copy.deepcopy(sd1.pipe.unet)
    layers = [name for name in pipe.unet.attn_processors if ".attn2." in name]
    image_proj = {
        "proj.weight": torch.randn(4 * WIDTH, 8, generator=generator),
        "proj.bias": torch.zeros(4 * WIDTH),
        "norm.weight": torch.ones(WIDTH),
        "norm.bias": torch.zeros(WIDTH),
    }
    ip_adapter = {
        f"{2 * number + 1}.to_{part}_ip.weight": torch.randn(64, WIDTH, generator=generator) / WIDTH**0.5
        for number in range(len(layers))
        for part in "kv"
    }
    pipe.unet._load_ip_adapter_weights([{"image_proj": image_proj, "ip_adapter": ip_adapter}], low_cpu_mem_usage=False)
    image = torch.randn(2, 1, 8, generator=generator)
    ours = pictures(AlignIT(pipe, sd1.load("run")), "a <new1=cat> in snow", ip_adapter_image_embeds=[image])
    without = pictures(pipe, "a cat in snow", ip_adapter_image_embeds=[image])
    wanted = overwritten_by_hooks(sd1, pipe, ip_adapter_image_embeds=[image])
    assert_same(ours, wanted)
    assert differs(wanted, without)
    assert differs(without, pictures(pipe, "a cat in snow", ip_adapter_image_embeds=[-image]))


HOUSES = "house " * 76
LONG: dict[str, tuple[str, list[str], list[tuple[int, str, list[int]]]]] = {
    # The target, the chunks of the base prompt, and per injection the chunk, the dummy and the rows in it.
    "in the second chunk": (f"{HOUSES} <my-cat=cat> in snow", [HOUSES[:-6], "house cat in snow"], [
        (1, "* <my-cat> * *", [2])
    ]),
    "one in each of two": (f"a <my-cat=cat> {HOUSES}<my-cat>", ["a cat " + "house " * 73, "house " * 3 + "cat"], [
        (0, "* <my-cat>" + " *" * 73, [2]),
        (1, "* * * <my-cat>", [4]),
    ]),
    "not cut in two": ("house " * 74 + "my-toy in snow", ["house " * 74, "toy toy toy in snow"], [
        (1, "my-toy * *", [1, 2, 3])
    ]),
}  # fmt: skip


@pytest.mark.parametrize("name", LONG)
@pytest.mark.parametrize("negative", [None, "red", "red " * 80])
def test_prompt_longer_than_a_chunk(sd1: Model, name: str, negative: str | None) -> None:
    target, base, injections = LONG[name]
    aligned = AlignIT(sd1.pipe, sd1.load("my-cat", "my-toy"), WORDS)
    negatives = [" ".join((negative or "").split()[i * 75 : (i + 1) * 75]) for i in range(2)]
    rows = torch.cat([encode_words(sd1.pipe, text, {})[0] for text in base])
    for chunk, dummy, at in injections:
        encoded = encode_words(sd1.pipe, dummy, sd1.vectors)[0]
        for row in at:  # keys and values are linear in the rows
            rows[77 * chunk + row] = encoded[row]
    negative_rows = torch.cat([encode_words(sd1.pipe, text, {})[0] for text in negatives])
    wanted = pictures(sd1.pipe, prompt_embeds=rows[None], negative_prompt_embeds=negative_rows[None])
    assert_same(pictures(aligned, target, negative_prompt=negative), wanted)


@pytest.mark.parametrize("clip_skip", [0, 1])
@pytest.mark.parametrize("negative", ["a <my-cat=cat>, red", "my-toy"])
def test_concepts_in_a_negative_prompt_are_plain(sd1: Model, negative: str, clip_skip: int) -> None:
    """The pipeline skips layers for the positive prompt alone."""
    aligned = AlignIT(sd1.pipe, sd1.load("my-cat", "my-toy"))
    words = {"a <my-cat=cat>, red": "a <my-cat> , red"}.get(negative, negative)
    rows = encode_words(sd1.pipe, "a cat in snow", {}, clip_skip=clip_skip)[0]
    rows[2] = encode_words(sd1.pipe, "* <my-cat> * *", sd1.vectors, clip_skip=clip_skip)[0][2]
    negative_rows = encode_words(sd1.pipe, words, sd1.vectors)[0]
    wanted = pictures(sd1.pipe, prompt_embeds=rows[None], negative_prompt_embeds=negative_rows[None])
    ours = pictures(aligned, "a <my-cat=cat> in snow", negative_prompt=negative, clip_skip=clip_skip or None)
    assert_same(ours, wanted)


XL = {
    "textual inversion": ("a <xl-toy=toy> in snow", "a toy toy in snow", "* xl-toy * *", [2, 3], False),
    "Custom Diffusion": ("a <new1> cat in snow", "a cat cat in snow", "* <new1> cat * *", [2, 3], True),
}


@pytest.mark.parametrize("name", XL)
@pytest.mark.parametrize("arguments", [{}, {"negative_prompt": "big", "num_images_per_prompt": 2}, {"clip_skip": 1}])
def test_sdxl(sdxl: Model, name: str, arguments: dict[str, Any]) -> None:
    """The pooled vector is the base prompt's."""
    target, base, dummy, rows, with_weights = XL[name]
    aligned = AlignIT(sdxl.pipe, sdxl.load("run" if with_weights else "xl-toy"))
    injection = Injection(dummy, rows, weights=sdxl.weights if with_weights else None)
    wanted = reference(sdxl.pipe, base, [injection], sdxl.vectors, **arguments)
    assert_same(pictures(aligned, target, **arguments), wanted)
    assert differs(wanted, pictures(sdxl.pipe, base, **arguments))


@pytest.mark.parametrize("negative", [None, "red"])
def test_sdxl_prompt_longer_than_a_chunk(sdxl: Model, negative: str | None) -> None:
    aligned = AlignIT(sdxl.pipe, sdxl.load("xl-toy"))
    base = [encode_words(sdxl.pipe, text, {}) for text in ("house " * 75, "house toy toy in snow")]
    rows = torch.cat([chunk for chunk, _ in base])
    rows[77 + 2 : 77 + 4] = encode_words(sdxl.pipe, "* xl-toy * *", sdxl.vectors)[0][2:4]
    embeddings = {"prompt_embeds": rows[None], "pooled_prompt_embeds": base[0][1]}
    if negative is not None:  # without one, SDXL takes zeros
        chunks = [encode_words(sdxl.pipe, text, {}) for text in (negative, "")]
        embeddings["negative_prompt_embeds"] = torch.cat([chunk for chunk, _ in chunks])[None]
        embeddings["negative_pooled_prompt_embeds"] = chunks[0][1]
    ours = pictures(aligned, "house " * 76 + "<xl-toy=toy> in snow", negative_prompt=negative)
    assert_same(ours, pictures(sdxl.pipe, **embeddings))


@pytest.mark.parametrize("prompt", ["a <my-cat=cat> in snow", "a <new1=cat> in snow", "a <teddy=cat> in snow"])
def test_half_precision(sd1: Model, prompt: str) -> None:
    """Rows are found again where the model computes in another type than the concept's file has."""
    pipe = copy.deepcopy(sd1.pipe).to(torch.bfloat16)
    aligned = AlignIT(pipe, sd1.load("my-cat", "run", "teddy"))
    with warnings.catch_warnings():
        warnings.simplefilter("error", AlignITWarning)
        for arguments in ({}, {"concept_end": 0.5}, {"align": False}):
            ours = pictures(aligned, prompt, **arguments)
            wanted = pictures(AlignIT(sd1.pipe, sd1.load("my-cat", "run", "teddy")), prompt, **arguments)
            assert np.abs(ours - wanted).mean() < 0.3 * np.abs(ours - pictures(pipe, "a cat in snow")).mean()


# The methods' own results, against what the methods' own code does


def test_plain_textual_inversion_is_that_of_diffusers(sd1: Model, tmp_path) -> None:
    native = make_sd1(tmp_path)
    native.load_textual_inversion({"<my-cat>": sd1.vectors["<my-cat>"]["clip_l"]}, token="<my-cat>")
    wanted = pictures(native, "a <my-cat> in snow", negative_prompt="red")
    aligned = AlignIT(sd1.pipe, sd1.load("my-cat"))
    for prompt in ("a <my-cat=cat> in snow", "a <my-cat> in snow"):
        assert_same(pictures(aligned, prompt, align=False, negative_prompt="red"), wanted)


@pytest.mark.parametrize("prompt", ["a <new1> cat in snow", "a <new1=dog> cat in snow"])
def test_plain_custom_diffusion_is_its_weights_in_place(sd1: Model, prompt: str) -> None:
    unet = copy.deepcopy(sd1.pipe.unet)
    for name, weight in sd1.weights.items():
        unet.get_submodule(name).weight.data = weight
    customised = type(sd1.pipe)(**{**sd1.pipe.components, "unet": unet})
    rows = encode_words(sd1.pipe, "a <new1> cat in snow", sd1.vectors)[0]
    wanted = pictures(customised, prompt_embeds=rows[None], negative_prompt="red")
    aligned = AlignIT(sd1.pipe, sd1.load("run"))
    assert_same(pictures(aligned, prompt, align=False, negative_prompt="red"), wanted)


def test_plain_catversion_has_its_prefixes_in_the_whole_prompt_and_not_in_the_negative_one(sd1: Model) -> None:
    aligned = AlignIT(sd1.pipe, sd1.load("teddy"))
    rows = encode_words(sd1.pipe, "a dog in snow", {}, sd1.prefixes)[0]
    other = encode_words(sd1.pipe, "a dog in snow", {})[0]
    third = encode_words(sd1.pipe, "a red house", {})[0]
    negatives = ["a dog", "red", ""]
    wanted = pictures(sd1.pipe, prompt_embeds=torch.stack([rows, other, third]), negative_prompt=negatives)
    prompts, negatives = ["a <teddy=dog> in snow", "a dog in snow", "a red house"], ["a <teddy=dog>", "red", ""]
    assert_same(pictures(aligned, prompts, align=False, negative_prompt=negatives), wanted)
    aligned = AlignIT(sd1.pipe, sd1.load("teddy"), {"teddy": "dog"})
    wanted = pictures(sd1.pipe, prompt_embeds=rows[None], negative_prompt="red")
    assert_same(pictures(aligned, "a dog in snow", align=False, negative_prompt="red"), wanted)


def test_explained(sd1: Model) -> None:
    aligned = AlignIT(sd1.pipe, sd1.load("my-toy", "run", "teddy"), WORDS)
    assert aligned.explain("a red my-toy, and <new1> cat and <teddy=golden retriever>").splitlines() == [
        "base: a red toy toy toy , and cat cat and golden retriever",
        "my-toy at 3, 4, 5: * * my-toy my-toy my-toy * * * * * * *",
        "<new1> at 8, 9: * * * * * * * <new1> cat * * *",
        "teddy at 11, 12: * * * * * * * * * * golden retriever",
    ]
    assert aligned.explain("house " * 76 + "my-toy").splitlines()[1:] == [
        "base: house toy toy toy",
        "my-toy at 2, 3, 4: * my-toy my-toy my-toy",
    ]
    assert aligned.explain("") == "base: "


def test_strength_zero_is_the_base_prompt(sd1: Model) -> None:
    aligned = AlignIT(sd1.pipe, sd1.load("my-cat", "run", "teddy"))
    ours = pictures(aligned, "a <my-cat=cat> and <new1=dog> and <teddy=toy>", concept_strength=0)
    assert_same(ours, pictures(sd1.pipe, "a cat and dog and toy"))


def test_without_a_concept_the_picture_is_the_pipelines_own_to_the_bit(sd1: Model, sdxl: Model) -> None:
    for model, name in ((sd1, "my-cat"), (sdxl, "xl-toy")):
        aligned = AlignIT(model.pipe, model.load(name))
        for arguments in ({}, {"negative_prompt": "red"}, {"clip_skip": 1}):
            with pytest.warns(AlignITWarning, match="names a concept"):
                ours = pictures(aligned, "a cat in snow", **arguments)
            assert np.array_equal(ours, pictures(model.pipe, "a cat in snow", **arguments))
