"""What cannot be done is said, with cause and mend."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import CustomDiffusionAttnProcessor
from safetensors.torch import save_file

from alignit.diffusers import AlignIT, AlignITError, AlignITWarning, ConceptFileError, load_concept
from alignit.prompt.class_words import remember
from tests.diffusers.conftest import PREFIX_LAYERS, Model
from tests.diffusers.pipelines import WIDTH
from tests.diffusers.reference import pictures
from tests.formats.writers import save_adapter


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("a <my-cat> in snow", r"'<my-cat>' has no class word: write <my-cat=cat> in the prompt, or give class_words"),
        ("a <my-cat=> in snow", "The class word '' of '<my-cat>' is empty"),
        ("a <my-cat=a (big) cat> in snow", r"contains '\(', which has a meaning of its own"),
        ("a <my-cat=my-toy> in snow", "contains the concept 'my-toy', and must be an ordinary word"),
        (
            "a <my-dog=dog> in snow",
            r"There is no concept 'my-dog' \(written <my-dog=dog>\), but <my-cat>, my-toy, teddy",
        ),
        (f"a <my-cat={'cat ' * 76}> in snow", "'<my-cat>' takes 76 tokens, and 75 fit into a chunk"),
        ([], "There is no prompt"),
    ],
)
def test_prompt(sd1: Model, prompt: str, message: str) -> None:
    aligned = AlignIT(sd1.pipe, sd1.load("my-cat", "my-toy", "teddy"))
    with pytest.raises(AlignITError, match=message):
        pictures(aligned, prompt)


def test_nearest_nouns_are_suggested(sd1: Model) -> None:
    table = sd1.pipe.text_encoder.get_input_embeddings().weight
    number = sd1.pipe.tokenizer("dog", add_special_tokens=False).input_ids[0]
    concept = copy.deepcopy(sd1.load("my-cat")[0])
    concept.tokens[0].vectors["clip_l"][:] = table[number].detach() + 0.01
    with pytest.raises(AlignITError, match="Nearest to it: dog,"):
        pictures(AlignIT(sd1.pipe, concept), "a <my-cat> in snow")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"concept_strength": 2.5}, "concept_strength must be from 0 to 2, not 2.5"),
        ({"concept_end": -1}, "concept_end must be from 0 to 1, not -1"),
        ({"concept_start": 0.6, "concept_end": 0.4}, r"concept_start \(0.6\) must not be greater than concept_end"),
        ({"negative_prompt": ["red", "big"]}, "There are 2 negative prompts for 1 prompts"),
        ({"prompt_2": "a dog"}, "leave prompt_2 out"),
        ({"negative_prompt_2": "a dog"}, "leave negative_prompt_2 out"),
        ({"prompt_embeds": torch.zeros(1, 77, 8)}, "prompt_embeds is what AlignIT makes of the prompts: leave it out"),
        (
            {"negative_prompt_embeds": torch.zeros(1, 77, 8)},
            "negative_prompt_embeds is what AlignIT makes of the prompts: leave it out",
        ),
        ({"concept_strength": "1"}, "concept_strength must be a number from 0 to 2, not '1'"),
        ({"concept_strength": True}, "concept_strength must be a number from 0 to 2, not True"),
        ({"concept_strength": float("nan")}, "concept_strength must be from 0 to 2, not nan"),
        ({"concept_start": "0"}, "concept_start must be a number from 0 to 1, not '0'"),
        ({"concept_controls": 3}, "concept_controls is 3: give text"),
        ({"negative_prompt": 3}, "negative_prompt is 3: give text, or a list of texts"),
        ({"negative_prompt": [None]}, r"negative_prompt is \[None\]: give text, or a list of texts"),
    ],
)
def test_arguments(sd1: Model, arguments: dict[str, Any], message: str) -> None:
    aligned = AlignIT(sd1.pipe, sd1.load("my-cat"))
    with pytest.raises(AlignITError, match=message):
        pictures(aligned, "a <my-cat=cat> in snow", **arguments)


@pytest.mark.parametrize("prompt", [None, 3, ["a", None], b"a cat"])
def test_a_prompt_that_is_no_text(sd1: Model, prompt: Any) -> None:
    aligned = AlignIT(sd1.pipe, sd1.load("my-cat"))
    with pytest.raises(AlignITError, match=r"^prompt is .*: give text, or a list of texts$"):
        aligned(prompt)
    with pytest.raises(AlignITError, match=r"^prompt is .*: give text$"):
        aligned.explain(prompt)
    with pytest.raises(AlignITError, match=r"^words is .*: give text"), aligned.attention_maps(prompt):
        pass


@pytest.mark.parametrize(
    ("concepts", "class_words", "message"),
    [
        ("my-cat.pt", None, r"^'my-cat.pt' is a path, not a concept: give load_concept\('my-cat.pt'\)$"),
        (Path("my-cat.pt"), None, r"^'my-cat.pt' is a path, not a concept"),
        (["my-cat.pt"], None, r"^'my-cat.pt' is a path, not a concept"),
        (None, None, r"^concepts is None: give what load_concept\(path\) returns, or a list of it$"),
        ([3], None, r"^3 is no concept: give what load_concept\(path\) returns$"),
        ([], "cat", r"^class_words is 'cat': give class words by token, \{'<my-cat>': 'cat'\}$"),
        ([], {"my-cat": 3}, r"^class_words has 'my-cat': 3: give text by token"),
    ],
)
def test_what_is_no_concept_and_no_class_words(sd1: Model, concepts: Any, class_words: Any, message: str) -> None:
    with pytest.raises(AlignITError, match=message):
        AlignIT(sd1.pipe, concepts, class_words)


def test_scale_of_a_lora_in_the_text_encoder(sd1: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    aligned = AlignIT(sd1.pipe, sd1.load("my-cat"))
    monkeypatch.setattr(sd1.pipe.text_encoder, "peft_config", {}, raising=False)
    with pytest.raises(AlignITError, match="set_adapters"):
        pictures(aligned, "a <my-cat=cat> in snow", cross_attention_kwargs={"scale": 0.5})


def test_class_words(sd1: Model, tmp_path: Path) -> None:
    with pytest.raises(AlignITError, match="The class words name '<my-dog>', and there is <my-cat>: check the name"):
        AlignIT(sd1.pipe, sd1.load("my-cat"), {"<my-dog>": "dog"})
    with pytest.raises(AlignITError, match="The class word 'a=b' of '<my-cat>' contains '='"):
        AlignIT(sd1.pipe, sd1.load("my-cat"), {"<my-cat>": "a=b"})
    wanted = pictures(AlignIT(sd1.pipe, sd1.load("my-cat")), "a <my-cat=dog> in snow")
    given = AlignIT(sd1.pipe, sd1.load("my-cat"), {"my-cat": "dog"})
    assert np.array_equal(pictures(given, "a <my-cat> in snow"), wanted)
    file = tmp_path / "kept.safetensors"
    save_file({"<my-cat>": sd1.vectors["<my-cat>"]["clip_l"]}, file)
    remember(file, "dog")
    remembered = AlignIT(sd1.pipe, load_concept(file))
    assert np.array_equal(pictures(remembered, "a <my-cat> in snow"), wanted)
    file.with_suffix(".json").write_text("no JSON")
    with pytest.raises(AlignITError, match=r"kept.json is not valid JSON: mend or delete it"):
        pictures(remembered, "a <my-cat> in snow")
    assert np.array_equal(pictures(remembered, "a <my-cat=dog> in snow"), wanted)
    first = remembered.explain("a <my-cat=dog> and a <my-cat=cat> and a <my-cat>")
    assert first.startswith("base: a dog and a cat and a dog")


def test_two_concepts_of_one_token(sd1: Model) -> None:
    with pytest.raises(AlignITError, match=r"both have the token '<my-cat>': load one of them under another name"):
        AlignIT(sd1.pipe, sd1.load("my-cat", "my-cat"))


def test_two_concepts_of_one_class_word(sd1: Model, tmp_path: Path) -> None:
    other = save_adapter(tmp_path / "bear", {"control_trans": torch.randn(6 * WIDTH)}, PREFIX_LAYERS, hidden_size=WIDTH)
    words = {"bear": "dog", "teddy": "dog"}
    aligned = AlignIT(sd1.pipe, [*sd1.load("teddy"), load_concept(other)], words)
    with pytest.raises(AlignITError, match="'dog' is the class word of both 'teddy' and 'bear': write <teddy=dog>"):
        pictures(aligned, "a dog in snow")
    both = pictures(aligned, "a <teddy> and a <bear>")
    assert not np.array_equal(both, pictures(aligned, "a <bear> and a <teddy>"))


def test_concept_for_another_model(sd1: Model, sdxl: Model) -> None:
    for model, other in ((sd1, sdxl), (sdxl, sd1)):
        for name in other.files:
            with pytest.raises(ConceptFileError, match="Load the kind of model that it was trained for"):
                AlignIT(model.pipe, other.load(name))


def test_pipelines_that_it_does_not_work_with(sd1: Model) -> None:
    with pytest.raises(AlignITError, match="has no UNet with cross-attention"):
        AlignIT(SimpleNamespace(transformer=None), [])
    pipe = copy.copy(sd1.pipe)
    pipe.text_encoder = None
    with pytest.raises(AlignITError, match="has no text encoder"):
        AlignIT(pipe, [])
    pipe.text_encoder = SimpleNamespace(config=SimpleNamespace(model_type="t5"))
    with pytest.raises(AlignITError, match="works with CLIP"):
        AlignIT(pipe, [])


def test_no_concept_in_the_prompt(sd1: Model) -> None:
    aligned = AlignIT(sd1.pipe, sd1.load("my-cat", "teddy"))
    for align in (True, False):
        with pytest.warns(AlignITWarning, match="No prompt names a concept, .*There is <my-cat>, teddy") as caught:
            pictures(aligned, "a <my-cta> and my-cat", align=align)
        assert Path(caught[0].filename).name == "reference.py"  # from where the pipeline is called


def test_weights_that_look_like_something_else(sd1: Model, tmp_path: Path) -> None:
    file = tmp_path / "small.bin"
    small = {f"{name}.weight": 0.01 * weight for name, weight in sd1.weights.items()}
    torch.save({"unet": small, "modifier_token": {"<new1>": sd1.vectors["<new1>"]["clip_l"][0]}}, file)
    with pytest.warns(AlignITWarning, match=r"'small.bin': .* they look like differences"):
        AlignIT(sd1.pipe, load_concept(file))


@pytest.mark.parametrize("align", [True, False])
def test_fused_projections(sd1: Model, align: bool) -> None:
    pipe = copy.deepcopy(sd1.pipe)
    aligned = AlignIT(pipe, sd1.load("run", "my-cat"))
    wanted = pictures(aligned, "a <new1=cat> in snow", align=align)
    rows = pictures(aligned, "a <my-cat=cat> in snow", align=align)
    pipe.fuse_qkv_projections()
    with pytest.raises(AlignITError, match=r"fused projections, in .*. Unfuse .* pipe.unfuse_qkv_projections\(\)"):
        pictures(aligned, "a <new1=cat> in snow", align=align)
    # What needs no weights works with them.
    np.testing.assert_allclose(pictures(aligned, "a <my-cat=cat> in snow", align=align), rows, atol=2e-5)
    pipe.unfuse_qkv_projections()
    assert np.array_equal(pictures(aligned, "a <new1=cat> in snow", align=align), wanted)


def test_custom_diffusion_in_the_pipeline_itself(sd1: Model) -> None:
    pipe = copy.deepcopy(sd1.pipe)
    aligned = AlignIT(pipe, sd1.load("run"))
    processors = {
        name: CustomDiffusionAttnProcessor(hidden_size=64, cross_attention_dim=WIDTH)
        if ".attn2." in name
        else processor
        for name, processor in pipe.unet.attn_processors.items()
    }
    pipe.unet.set_attn_processor(processors)
    with pytest.raises(AlignITError, match="Custom Diffusion of its own"):
        pictures(aligned, "a <new1=cat> in snow")


class _Bypass:
    """An attention processor that computes keys and values without calling the modules."""

    def __call__(self, attn: Any, hidden_states: Any, encoder_hidden_states: Any, **_: Any) -> Any:
        values = encoder_hidden_states @ attn.to_v.weight.T
        return hidden_states + 0 * values.sum()


@pytest.mark.parametrize("align", [True, False])
def test_projections_that_are_not_called_stop_the_first_step(sd1: Model, align: bool) -> None:
    pipe = copy.deepcopy(sd1.pipe)
    aligned = AlignIT(pipe, sd1.load("run"))
    name = next(name for name in pipe.unet.attn_processors if ".attn2." in name)
    pipe.unet.set_attn_processor({**pipe.unet.attn_processors, name: _Bypass()})
    with pytest.raises(
        AlignITError, match=r"not used in 2 layers of the UNet, such as .*: it computes keys and values"
    ):
        pictures(aligned, "a <new1=cat> in snow", align=align)


def test_prompts_of_different_concepts_in_one_plain_call(sd1: Model) -> None:
    aligned = AlignIT(sd1.pipe, sd1.load("run", "other-run"))
    for prompts in (["a <new1> cat", "a <new2> cat"], ["a <new1> cat", "a cat"]):
        with pytest.raises(AlignITError, match="these name different concepts: call the pipeline for each"):
            pictures(aligned, prompts, align=False)


def test_embeddings_that_are_changed_on_the_way_or_used_too_late(sd1: Model) -> None:
    aligned = AlignIT(sd1.pipe, sd1.load("run", "my-cat"))
    with (
        pytest.warns(AlignITWarning, match="<my-cat> reached the UNet nowhere"),
        aligned.prepared("a <my-cat=cat> in snow") as embeddings,
    ):
        pictures(sd1.pipe, prompt_embeds=embeddings["prompt_embeds"] * 1.01)
    with (
        pytest.warns(AlignITWarning, match="was not called in the 'with' block, so nothing of <new1> is used"),
        aligned.prepared("a <new1=cat> in snow"),
    ):
        pass
    with warnings.catch_warnings():
        warnings.simplefilter("error", AlignITWarning)
        with aligned.prepared("a <my-cat=cat> in snow") as embeddings:
            pass  # rows are all there is to it: they can be used at any time
        pictures(sd1.pipe, **embeddings)
