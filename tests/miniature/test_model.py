"""Weights, names, export and concepts of the miniature: what needs diffusers."""

from __future__ import annotations

import json
import random
import re
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

pytest.importorskip("diffusers", reason="pip install -e '.[miniature]'")

from alignit.concepts.concept import Family
from alignit.concepts.formats import load_concept
from alignit.concepts.layer_names import layer_of
from miniature import concepts, export
from miniature.classifier import Classifier, read_attributes
from miniature.customization import METHODS, CatVersion, Customized, TextualInversion, _prefixed_attention, save_pickle
from miniature.diffusion import Denoiser, noised
from miniature.evaluation import score
from miniature.model import LATENT, TEXT_WIDTH, make_text_encoder, make_unet, make_vae
from miniature.names import ldm_state, ldm_unet_name
from miniature.state import TrainingError, load_state, prepare_folder, save_state
from miniature.weights import (
    CLASSIFIER_FILE,
    FOLDER,
    MODEL_FILE,
    Miniature,
    WeightsError,
    load_classifier,
    load_miniature,
    save_weights,
)
from miniature.words import ROWS, WORDS, rows
from miniature.world import ATTRIBUTES, random_scene


@pytest.fixture(scope="module")
def untrained() -> Miniature:
    torch.manual_seed(0)
    return Miniature(make_vae().eval(), make_unet().eval(), make_text_encoder().eval(), 0.5)


@pytest.fixture(scope="module")
def folder(untrained: Miniature, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights")
    save_weights(untrained, Classifier().eval(), path)
    return path


def test_weights_come_back_in_half_precision(untrained: Miniature, folder: Path) -> None:
    again = load_miniature(folder)
    assert again.scale == untrained.scale
    for part in ("vae", "unet", "text"):
        kept = getattr(again, part).state_dict()
        for name, tensor in getattr(untrained, part).state_dict().items():
            assert torch.equal(kept[name], tensor.half().float() if tensor.is_floating_point() else tensor), name
    load_classifier(folder)


@pytest.mark.parametrize("name", [MODEL_FILE, CLASSIFIER_FILE])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "text"])
def test_damaged_weights_are_told(folder: Path, tmp_path: Path, name: str, damage: str) -> None:
    copy = tmp_path / "weights"
    shutil.copytree(folder, copy)
    file, content = copy / name, (copy / name).read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "text": b"<html>404</html>"}[damage])
    with pytest.raises(WeightsError, match=name) as caught:
        load_miniature(copy) if name == MODEL_FILE else load_classifier(copy)
    assert ("missing" if damage == "missing" else "damaged") in str(caught.value)


def test_an_output_folder_that_cannot_be_written_is_told(untrained: Miniature, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WeightsError, match="Choose another folder"):
        save_weights(untrained, Classifier(), tmp_path / "file" / "weights")
    with pytest.raises(TrainingError, match="Choose another folder"):
        prepare_folder(tmp_path / "file" / "state")


def test_a_damaged_state_is_told_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "vae.pt"
    assert load_state(path) is None
    save_state(path, {"step": 3})
    assert load_state(path) == {"step": 3}
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(TrainingError, match="damaged"):
        load_state(path)
    assert path.exists()


def test_ldm_names_are_those_of_stable_diffusion(untrained: Miniature) -> None:
    state = ldm_state(untrained.unet.state_dict(), untrained.vae.state_dict(), untrained.text.state_dict())
    parts = (untrained.unet, untrained.vae, untrained.text)
    assert len(state) == sum(len(part.state_dict()) for part in parts)
    assert state["model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"].shape == (128, 96)
    assert state["model.diffusion_model.input_blocks.3.0.op.weight"].shape == (64, 64, 3, 3)
    assert state["model.diffusion_model.output_blocks.2.2.conv.weight"].shape == (128, 128, 3, 3)
    assert state["first_stage_model.decoder.up.3.block.0.conv1.weight"].shape == (64, 64, 3, 3)
    assert state["first_stage_model.decoder.mid.attn_1.q.weight"].shape == (64, 64, 1, 1)
    assert "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight" in state


def test_cross_attention_layers_have_the_same_names_as_in_alignit(untrained: Miniature) -> None:
    names = [n for n in untrained.unet.state_dict() if ".attn2.to_k." in n or ".attn2.to_v." in n]
    assert len(names) == 12
    for name in names:
        assert layer_of(name) == layer_of(ldm_unet_name(name)) == ldm_unet_name(name).removesuffix(".weight")


def test_the_exported_checkpoint_has_all_of_clips_rows(untrained: Miniature, tmp_path: Path) -> None:
    path = export.export_checkpoint(untrained, tmp_path, tmp_path / "clip")
    state = load_file(path)
    table = state["cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"]
    assert table.shape == (49408, TEXT_WIDTH)
    assert torch.equal(table[list(ROWS)], untrained.text.text_model.embeddings.token_embedding.weight.half())
    config = json.loads(path.with_suffix(".yaml").read_text())["model"]["params"]
    assert config["parameterization"] == "v"
    assert config["scale_factor"] == untrained.scale


def test_export_without_merges_is_told(tmp_path: Path) -> None:
    with pytest.raises(export.ExportError, match="--bpe"):
        export.find_merges(tmp_path / "none.gz")
    (tmp_path / "bad.gz").write_bytes(b"no archive")
    with pytest.raises(export.ExportError, match="damaged"):
        export.find_merges(tmp_path / "bad.gz")


def test_v_gives_back_picture_and_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn((2, 3, 4, LATENT, LATENT), generator=generator)
    t = torch.tensor([0, 500, 999])
    x, v = noised(latents, t, noise)
    a = (x * latents).sum((1, 2, 3)) / latents.square().sum((1, 2, 3))
    assert a[0] > 0.99
    assert a[2].abs() < 0.1  # nearly nothing of the picture is left at the last step
    assert v[0] == pytest.approx(noise[0], abs=0.2)
    assert v[2] == pytest.approx(-latents[2], abs=0.2)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_the_rate_falls_evenly_to_nothing(untrained: Miniature, steps: int) -> None:
    class Pushed(CatVersion):
        """Its gradient is the same all the time: each step of Adam is as long as the rate then."""

        def denoise(self, x: torch.Tensor, t: torch.Tensor, prompts: list[str]) -> torch.Tensor:
            del t, prompts
            return 1e6 + 1e-3 * self.prefix.sum() + 0 * x

    trained = concepts.train_concept(untrained, concepts.CONCEPTS[0], Pushed, steps=steps)
    assert isinstance(trained, CatVersion)
    went = CatVersion(untrained, "cat").prefix - trained.prefix
    wanted = CatVersion.rate * sum(1 - step / steps for step in range(steps))
    torch.testing.assert_close(went, torch.full_like(went, wanted), rtol=1e-3, atol=0)


@pytest.fixture
def spotted(untrained: Miniature, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let concepts start as a look in words, and return these."""
    table = untrained.text.text_model.embeddings.token_embedding.weight.detach()
    look = table[[ROWS.index(WORDS[word]) for word in ("red", "white", "spots")]]
    monkeypatch.setattr(Customized, "open_look", lambda _: look)
    return "a red cat with white spots"


@pytest.mark.usefixtures("spotted")
def test_textual_inversion_starts_as_its_words(untrained: Miniature) -> None:
    encoded = TextualInversion(untrained, "cat").encode(["a photo of a <new1>"])
    torch.testing.assert_close(encoded, untrained.encode(["a photo of a red cat white spots"]))


def test_catversion_starts_as_the_keys_and_values_of_words(untrained: Miniature, spotted: str) -> None:
    text = untrained.text
    hidden = text(torch.tensor([rows(spotted)]), output_hidden_states=True).hidden_states
    words = [1 + spotted.split().index(word) for word in ("red", "white", "spots")]
    wanted = []
    for number in (2, 3, 4):
        layer = text.text_model.encoder.layers[number]
        entering = layer.layer_norm1(hidden[number])[0, words]
        wanted += [layer.self_attn.k_proj(entering).mean(0), layer.self_attn.v_proj(entering).mean(0)]
    torch.testing.assert_close(CatVersion(untrained, "cat").prefix[0], torch.stack(wanted))


def test_an_open_look_is_between_all_words_of_its_kind(untrained: Miniature) -> None:
    table = untrained.text.text_model.embeddings.token_embedding.weight.detach()
    colour, second, pattern = TextualInversion(untrained, "cat").open_look()
    for mean, words in (
        (colour, "red orange yellow green blue purple white black"),
        (second, "white black yellow blue"),
        (pattern, "stripes spots checks"),
    ):
        to_each = torch.stack([table[ROWS.index(WORDS[word])] - mean for word in words.split()])
        assert to_each.mean(0).abs().max() < 1e-6


@pytest.mark.parametrize("method", list(METHODS))
def test_concepts_are_written_as_alignit_reads_them(untrained: Miniature, tmp_path: Path, method: str) -> None:
    before = {name: tensor.clone() for name, tensor in untrained.unet.state_dict().items()}
    customized = concepts.train_concept(untrained, concepts.CONCEPTS[0], METHODS[method], steps=2)
    path = customized.save(tmp_path, "my-cat")
    concept = load_concept(path)
    if method == "catversion":
        assert concept.family is Family.CATVERSION
        assert concept.encoder_change is not None
        assert set(concept.encoder_change.layers) == {2, 3, 4}
        assert concept.encoder_change.layers[3].key.shape == (1, TEXT_WIDTH)
        assert concept.class_word == "cat"
    elif method == "custom_diffusion":
        assert concept.weights is not None
        assert len(concept.weights.matrices) == 12
        assert concept.tokens[0].name == "<new1>"
    else:
        assert concept.family is Family.TEXTUAL_INVERSION
        assert concept.tokens[0].name == "my-cat"
    assert all(torch.equal(before[name], tensor) for name, tensor in untrained.unet.state_dict().items())
    plain, changed = untrained.encode(["a cat"]), customized.encode([customized.phrase])
    assert not torch.equal(plain, changed)
    assert changed.shape == (1, 77, TEXT_WIDTH)


def test_a_prefix_is_attended_to_as_in_catversion(untrained: Miniature) -> None:
    attention = untrained.text.text_model.encoder.layers[3].self_attn
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn((1, 5, TEXT_WIDTH), generator=generator)
    key, value = torch.randn((2, 1, TEXT_WIDTH), generator=generator)
    with torch.no_grad():
        found = _prefixed_attention(attention, key, value)(hidden)[0]
        q, k, v = (getattr(attention, f"{name}_proj")(hidden)[0] for name in "qkv")
        width = TEXT_WIDTH // 4
        rows = []
        for i in range(5):  # each query by itself, with what comes before it
            mixed = []
            for head in range(4):
                part = slice(head * width, (head + 1) * width)
                logits = [q[i, part] @ key[0, part] / width**0.5 + 1]  # one more, as in the published code
                logits += [q[i, part] @ k[j, part] / width**0.5 for j in range(i + 1)]
                weights = torch.stack(logits).exp()
                values = torch.stack([value[0, part], *(v[j, part] for j in range(i + 1))])
                mixed.append(weights / weights.sum() @ values)
            rows.append(torch.cat(mixed))
        expected = attention.out_proj(torch.stack(rows))
    assert torch.allclose(found[0], expected, atol=1e-5)


# The shipped weights

shipped = pytest.mark.skipif(not (FOLDER / MODEL_FILE).exists(), reason="the weights are not here")


@shipped
def test_the_shipped_file_is_small_and_in_half_precision() -> None:
    assert (FOLDER / MODEL_FILE).stat().st_size <= 15_000_000
    with safe_open(FOLDER / MODEL_FILE, "pt") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"F16"}  # noqa: SIM118


@shipped
def test_the_classifier_reads_painted_scenes() -> None:
    rng = random.Random(99)
    scenes = [random_scene(rng) for _ in range(200)]
    images = concepts.pictures(scenes, list(range(200)))
    for name, share in score(load_classifier(), images, scenes).items():
        assert share >= 0.95, name


@shipped
def test_generated_pictures_show_what_the_prompt_says() -> None:
    torch.set_num_threads(2)
    miniature, classifier = load_miniature(), load_classifier()
    kinds = ATTRIBUTES["class"]
    prompts = [f"a photo of a {kind} on the beach" for kind in kinds] + [f"a {kind} at night" for kind in kinds]
    shown = read_attributes(classifier, miniature.generate(prompts, list(range(len(prompts))), steps=12))
    assert sum(seen["class"] == kind for seen, kind in zip(shown, (*kinds, *kinds), strict=True)) >= 8
    places = ["beach"] * len(kinds) + ["night"] * len(kinds)
    assert sum(seen["background"] == place for seen, place in zip(shown, places, strict=True)) >= 8


def test_words_that_are_encoded_alone_know_of_no_other() -> None:
    model = Denoiser().eval()
    ids = torch.tensor([rows("a red cat with a ball"), rows("a blue cat with a box")])
    alone = torch.tensor([True, True])
    with torch.no_grad():
        first, second = model.encode(ids, alone)
        together = model.encode(ids)
        # An independent way to the same: each row sees the start token and itself.
        text = model.text.text_model
        seen = torch.eye(77, dtype=torch.bool)
        seen[:, 0] = True
        mask = torch.where(seen, 0.0, float("-inf"))[None, None].expand(2, 1, -1, -1)
        hidden = text.embeddings(ids)
        for layer in text.encoder.layers:
            hidden = layer(hidden, None, mask)[0]
        expected = text.final_layer_norm(hidden)
    assert torch.allclose(torch.stack([first, second]), expected, atol=1e-5)
    differs = (first - second).abs().amax(dim=-1) > 1e-6
    assert differs.nonzero().flatten().tolist() == [2, 6], "red and blue, ball and box, and no row after them"
    assert ((together[0] - together[1]).abs().amax(dim=-1) > 1e-6).sum() > 50
    with torch.no_grad():
        one = model.encode(ids, torch.tensor([False, True]))
    assert torch.equal(one[0], together[0])
    assert torch.allclose(one[1], second)


def test_files_of_concepts_are_what_the_webui_takes_for_safe(tmp_path: Path) -> None:
    path = tmp_path / "my-cat.pt"
    save_pickle({"string_to_param": {"*": torch.arange(6.0).reshape(1, 6)}, "name": "my-cat"}, path)
    with zipfile.ZipFile(path) as archive:
        # The names that the WebUI's check of archives allows.
        allowed = r"my-cat/(data\.pkl|version|byteorder|data/\d+|\.data/serialization_id)"
        assert all(re.fullmatch(allowed, name) for name in archive.namelist())
        assert all(item.compress_type == zipfile.ZIP_STORED for item in archive.infolist())
    read = torch.load(path, weights_only=True)
    assert torch.equal(read["string_to_param"]["*"], torch.arange(6.0).reshape(1, 6))
    assert torch.equal(load_concept(path).tokens[0].vectors["clip_l"], torch.arange(6.0).reshape(1, 6))
