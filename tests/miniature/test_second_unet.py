"""The second edition's UNet: its training on a frozen text encoder, the gate, and the command that does it all."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("diffusers", reason="pip install -e '.[miniature]'")

from miniature.classifier import Classifier, read_attributes, train_classifier
from miniature.model import LATENT, TEXT_WIDTH, make_text_encoder, make_unet, make_vae
from miniature.second import diffusion, pretraining, train
from miniature.second.diffusion import encode, train_unet, translate
from miniature.second.evaluation import Gate, score
from miniature.second.world import ATTRIBUTES, Scene
from miniature.weights import Miniature, load_classifier, save_weights
from tests.miniature.second_scenes import CAR, PAIR, same_weights, scenes, stop_at

CPU = torch.device("cpu")


def test_a_unet_reads_another_encoders_rows_as_far_as_they_are_the_same_in_other_terms() -> None:
    torch.manual_seed(0)
    unet, text = make_unet().eval(), make_text_encoder().eval()
    other = copy.deepcopy(text)
    with torch.no_grad():  # the same rows in other units
        other.text_model.final_layer_norm.weight.mul_(torch.linspace(0.5, 2.0, TEXT_WIDTH))
    x, t = torch.randn(2, 4, LATENT, LATENT), torch.tensor([10, 900])
    texts = ["a red cat on the beach", "a blue car and a green cup"]
    with torch.no_grad():
        before = unet(x, t, encode(text, texts), return_dict=False)[0]
        foreign = unet(x, t, encode(other, texts), return_dict=False)[0]
        translate(unet, text, other, count=16)
        after = unet(x, t, encode(other, texts), return_dict=False)[0]
    assert (foreign - before).abs().max() > 1e-3
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-3)


def test_unet_training_goes_on_where_it_was_stopped_and_leaves_the_encoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diffusion, "SAVE_EVERY", 1)
    monkeypatch.setattr(diffusion, "BATCH", 2)
    torch.manual_seed(0)
    text, some = make_text_encoder().eval(), scenes(6)
    before = copy.deepcopy(text)
    latents = torch.randn(6, 4, LATENT, LATENT)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    through = train_unet(latents, some, text, whole, 3, CPU, kept_out=2)
    with monkeypatch.context() as patch:
        stop_at(patch, diffusion, "noised", 3)
        with pytest.raises(KeyboardInterrupt):
            train_unet(latents, some, text, parts, 3, CPU, kept_out=2)
    assert same_weights(through, train_unet(latents, some, text, parts, 3, CPU, kept_out=2))
    assert same_weights(before, text)
    assert not same_weights(through, make_unet())


def test_unet_training_begins_with_what_it_is_given(tmp_path: Path) -> None:
    torch.manual_seed(1)
    start, text = make_unet(), make_text_encoder()
    some = scenes(4)
    trained = train_unet(torch.randn(4, 4, LATENT, LATENT), some, text, tmp_path, 0, CPU, start=start)
    assert same_weights(trained, start)


# The gate and the command


def test_the_gate_counts_an_attribute_where_both_objects_have_their_own() -> None:
    swapped = PAIR.values() | {"colour": "blue", "other colour": "red"}
    half = PAIR.values() | {"other class": "cup"}
    one = Scene((CAR,), "snow", "none", "crown")
    found = score([swapped, half, one.values()], [PAIR, PAIR, one])
    assert found.two == pytest.approx(
        {"class": 0.5, "colour": 0.5, "pattern": 1, "second": 1, "background": 1, "companion": 1, "accessory": 1}
    )
    assert found.one["class"] == found.one["accessory"] == 1
    assert not found.passed()
    perfect = score([PAIR.values(), *[s.values() for s in scenes(200)]], [PAIR, *scenes(200)])
    assert perfect.passed()
    assert "the gate is passed" in perfect.report()
    poor = Gate(perfect.one, {**perfect.two, "colour": 0.84})
    assert not poor.passed()


def test_the_classifier_reads_both_objects(tmp_path: Path) -> None:
    some = scenes(8)
    classifier = train_classifier(train.painted(some), some, tmp_path, 1, CPU, ATTRIBUTES)
    shown = read_attributes(classifier, train.painted(some))
    assert set(shown[0]) == set(ATTRIBUTES)
    miniature = Miniature(make_vae(), make_unet(), make_text_encoder(), 1.0)
    save_weights(miniature, classifier, tmp_path)
    again = load_classifier(tmp_path, ATTRIBUTES)
    assert set(again.heads) == set(ATTRIBUTES) > set(Classifier().heads)


def test_the_command_does_all_parts_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"READ": 16, "DECODED": 8, "KEPT_OUT": 4, "GATE": 1}.items():
        monkeypatch.setattr(train, name, value)
    monkeypatch.setattr(pretraining, "FAMILIES", 2)
    state, output = tmp_path / "state", tmp_path / "weights"
    arguments = ["--state", str(state), "--output", str(output), "--vae-steps", "1", "--classifier-steps", "1",
                 "--text-steps", "1", "--steps", "1", "--scenes", "32", "--threads", "1"]  # fmt: skip
    assert train.main(arguments) == 0
    told = capsys.readouterr().out
    assert "The gate: one object: class" in told
    first = load_file(output / "miniature.safetensors")
    assert train.main(arguments) == 0
    again = load_file(output / "miniature.safetensors")
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    assert "text encoder step" not in capsys.readouterr().out
    # From the weights of before, as from the first edition's.
    towers = tmp_path / "towers.safetensors"
    pretraining.save_towers(pretraining.load_towers(state / "towers.pt"), towers)
    warm = ["--state", str(tmp_path / "warm"), "--output", str(tmp_path / "warm weights"), "--start", str(output),
            "--unet", "--towers", str(towers)]  # fmt: skip
    assert train.main([*warm, *arguments[4:]]) == 0
    warmed = load_file(tmp_path / "warm weights" / "miniature.safetensors")
    kept = [torch.equal(tensor, warmed[name]) for name, tensor in first.items() if name.startswith("vae.")]
    assert all(kept)
    assert all(torch.equal(tensor, warmed[name]) for name, tensor in first.items() if name.startswith("text."))
    assert not (tmp_path / "warm" / "towers.pt").exists()


def test_the_command_says_what_it_needs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train.main(["--unet"])
    assert "--unet needs --start" in capsys.readouterr().err
    assert train.main(["--start", str(tmp_path / "none"), "--state", str(tmp_path)]) == 1
    assert "missing" in capsys.readouterr().err


def test_training_scenes_are_the_same_each_time() -> None:
    once = train.training_scenes(40)
    assert once == train.training_scenes(40)
    assert len(set(once)) > 30
