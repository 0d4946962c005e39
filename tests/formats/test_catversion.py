"""CatVersion adapters, real and written as the authors' code writes them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from alignit.concepts.concept import ConceptFileError, Family
from alignit.concepts.formats import load_concept
from tests.formats.writers import REAL_ADAPTERS, WIDTH, adapter, bottleneck, random, save_adapter

LAYERS = (9, 10, 11)


@pytest.mark.parametrize("name", ["teddybear", "colorful_teapot"])
def test_real_adapters(name: str) -> None:
    path = REAL_ADAPTERS / name / "pytorch_adapter.bin"
    concept = load_concept(path)
    assert (concept.name, concept.family) == (name, Family.CATVERSION)
    assert concept.class_word == name.replace("_", " ")
    assert concept.tokens == ()
    assert concept.weights is None
    assert concept.encoder_change.hidden == 768
    assert list(concept.encoder_change.layers) == [9, 10, 11]
    # Trusted files; cuda:1 is where they were trained.
    flat = torch.load(path, map_location="cpu", weights_only=True).popitem()[1]
    prefixes = concept.encoder_change.layers.values()
    assert torch.equal(torch.cat([row for prefix in prefixes for row in (prefix.key[0], prefix.value[0])]), flat)
    assert concept.nbytes == flat.numel() * 4


@pytest.mark.parametrize("length", [1, 4])
def test_flat(tmp_path: Path, length: int) -> None:
    flat = random(length * 6 * WIDTH)
    path = save_adapter(
        tmp_path / "cat", {"control_trans": torch.nn.Parameter(flat)}, settings={"prefix_length": length}
    )
    layers = load_concept(path).encoder_change.layers
    states = flat.view(length, 6, WIDTH)
    for index, layer in enumerate(LAYERS):
        assert torch.equal(layers[layer].key, states[:, 2 * index])
        assert torch.equal(layers[layer].value, states[:, 2 * index + 1])


@pytest.mark.parametrize("length", [1, 3])
def test_not_flat_equals_its_own_network(tmp_path: Path, length: int) -> None:
    parts = bottleneck(length)
    network = torch.nn.Sequential(torch.nn.Linear(WIDTH, 6), torch.nn.Tanh(), torch.nn.Linear(6, 6 * WIDTH))
    network.load_state_dict({name.removeprefix("control_trans."): part for name, part in list(parts.items())[1:]})
    states = network(parts["wte.weight"]).detach()
    path = save_adapter(tmp_path / "cat", parts, settings={"prefix_length": length, "flat": False})
    for settings_there in (True, False):
        if not settings_there:
            path.with_name("adapter_config.json").unlink()
        layers = load_concept(path).encoder_change.layers
        for index, layer in enumerate(LAYERS):
            torch.testing.assert_close(layers[layer].key, states[:, 2 * index * WIDTH :][:, :WIDTH])
            torch.testing.assert_close(layers[layer].value, states[:, (2 * index + 1) * WIDTH :][:, :WIDTH])


def test_layers_come_from_the_names(tmp_path: Path) -> None:
    path = save_adapter(tmp_path / "cat", {"control_trans": random(4 * WIDTH)}, layers=(9, 2))
    layers = load_concept(path).encoder_change.layers
    assert list(layers) == [2, 9]
    assert torch.equal(layers[2].key[0], random(4 * WIDTH)[:WIDTH])


def test_without_its_settings_the_prefix_is_one_token(tmp_path: Path) -> None:
    path = save_adapter(tmp_path / "cat", {"control_trans": random(6 * WIDTH)})
    path.with_name("adapter_config.json").unlink()
    assert load_concept(path).encoder_change.hidden == WIDTH


@pytest.mark.parametrize(
    ("folders", "name", "class_word"),
    [
        ("teddybear", "teddybear", "teddybear"),
        ("colorful_teapot/checkpoints/adapter_gs-999", "colorful_teapot", "colorful teapot"),
    ],
)
def test_name_is_the_folder_that_says_something(tmp_path: Path, folders: str, name: str, class_word: str) -> None:
    concept = load_concept(save_adapter(tmp_path / folders, {"control_trans": random(6 * WIDTH)}))
    assert (concept.name, concept.class_word) == (name, class_word)


def test_name_of_a_file_that_was_renamed(tmp_path: Path) -> None:
    path = save_adapter(tmp_path / "catversion", {"control_trans": random(6 * WIDTH)})
    concept = load_concept(path.rename(path.with_name("my_cat.bin")))
    assert (concept.name, concept.class_word) == ("my_cat", "my cat")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": {"use_gating": True}}, "gates"),
        ({"settings": {"architecture": "lora"}}, "another kind of model"),
        ({"model_type": "bert"}, "another kind of model"),
        ({"hidden_size": 768}, "no prefix for 3 layers of width 768"),
        ({"hidden_size": WIDTH + 1}, "no prefix"),
        ({"settings": {"prefix_length": 2}}, "no prefix"),
        ({"settings": {"prefix_length": "1"}}, "no prefix"),
    ],
)
def test_settings_of_another_method(tmp_path: Path, change: dict, message: str) -> None:
    path = save_adapter(tmp_path / "cat", {"control_trans": random(6 * WIDTH)}, **change)
    with pytest.raises(ConceptFileError, match=message):
        load_concept(path)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"config": 3}', "[" * 60_000, "\x00"])
def test_settings_that_are_damaged(tmp_path: Path, text: str) -> None:
    path = save_adapter(tmp_path / "cat", {"control_trans": random(6 * WIDTH)})
    path.with_name("adapter_config.json").write_text(text)
    with pytest.raises(ConceptFileError, match=r"'adapter_config\.json' "):
        load_concept(path)


def test_adapters_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_adapter.bin"

    def refuse(data: dict[str, torch.Tensor], message: str) -> None:
        torch.save(data, path)
        with pytest.raises(ConceptFileError, match=message):
            load_concept(path)

    flat = adapter({"control_trans": random(6 * WIDTH)})
    refuse(flat | {"text_model.x.prefix_gates.prefix_tuning1.weight": random(1, WIDTH)}, "gates")
    refuse({name: value for name, value in flat.items() if "layers" not in name}, "which layers")
    refuse({name: random(6 * WIDTH, seed=seed) for seed, name in enumerate(flat)}, "different prefix for each layer")
    refuse({name: value[:5] for name, value in flat.items()}, "5 numbers")
    refuse({name: value[:0] for name, value in flat.items()}, "0 numbers")
    refuse({name: value.long() for name, value in flat.items()}, "int64")
    refuse({name: value * float("inf") for name, value in flat.items()}, "NaN or infinite")
    parts = bottleneck(1)
    refuse(adapter({name: part for name, part in parts.items() if "bias" not in name}), "a part of a prefix")
    refuse(adapter(parts | {"control_trans.2.weight": random(96, 7)}), "do not fit")
    refuse(adapter(parts | {"wte.weight": random(600, WIDTH)}), "shape")
    thin = {"wte.weight": random(500, 1), "control_trans.0.weight": random(300_000, 1)}
    refuse(adapter(parts | thin), "shape")


def test_aliases_are_read_once(tmp_path: Path) -> None:
    # Four names for one tensor must not look like a file that claims more than it holds.
    source = REAL_ADAPTERS / "teddybear" / "pytorch_adapter.bin"
    shutil.copy(source, tmp_path / "pytorch_adapter.bin")
    assert load_concept(tmp_path / "pytorch_adapter.bin").nbytes == 4608 * 4
