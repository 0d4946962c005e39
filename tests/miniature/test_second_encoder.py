"""The second edition's text encoder: its pretraining, and the probes of what is in which row."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

pytest.importorskip("diffusers", reason="pip install -e '.[miniature]'")

from miniature import second
from miniature.autoencoder import stacked
from miniature.model import make_text_encoder
from miniature.second import encoder as encoder_study
from miniature.second import pretraining, probes
from miniature.second.captions import full_caption
from miniature.second.pretraining import (
    FAMILY,
    Towers,
    contrastive_loss,
    family,
    own_distance,
    pretrain,
    pretraining_caption,
    tokens,
)
from miniature.second.world import Scene, paint
from miniature.state import TrainingError, load_state
from miniature.words import END, ROWS, rows, split
from miniature.world import HELD_OUT
from tests.miniature.second_scenes import PAIR, same_weights, stop_at

CPU = torch.device("cpu")


def painted(some: list[Scene]) -> torch.Tensor:
    return stacked(paint(scene, random.Random(i)) for i, scene in enumerate(some))


def test_few_pretraining_captions_have_stray_stars_and_keep_their_words() -> None:
    rng = random.Random(3)
    texts = [pretraining_caption(PAIR, rng) for _ in range(1000)]
    starred = [text for text in texts if "*" in text]
    assert 20 < len(starred) < 90
    assert all({"cat", "car"} <= set(split(text)) for text in starred)


def test_a_family_differs_in_little_and_never_shows_a_held_out_look() -> None:
    rng = random.Random(4)
    for _ in range(300):
        members = family(rng)
        assert len(set(members)) == FAMILY
        for member in members[1:]:
            assert not set(member.looks) & set(HELD_OUT)
            around = [(member.background, members[0].background), (member.companion, members[0].companion),
                      (member.accessory, members[0].accessory), (member.looks, members[0].looks)]  # fmt: skip
            assert sum(one != other for one, other in around) == 1


def test_captions_are_read_at_their_first_end_token() -> None:
    torch.manual_seed(0)
    towers = Towers().eval()
    ids = tokens(["a red cat", "a blue car on the beach"])
    assert ids.shape == (2, 8)
    assert ids[0, 4:].tolist() == [ROWS.index(END)] * 4
    longer = torch.tensor([rows("a red cat"), rows("a blue car on the beach")])
    with torch.no_grad():
        encoded, features = towers.encode_text(ids)
        _, same = towers.encode_text(longer)
        expected = towers.text_projection(torch.stack([encoded[0, 4], encoded[1, 7]]))
    torch.testing.assert_close(features, expected)
    torch.testing.assert_close(features, same, msg="what follows the first end token changes nothing")


def test_the_contrastive_loss_is_clips() -> None:
    generator = torch.Generator().manual_seed(1)
    text, image = torch.randn((2, 5, 8), generator=generator)
    a, b = (x / x.norm(dim=1, keepdim=True) for x in (text, image))
    logits = 10 * a @ b.T
    of_text = -(logits.diag() - logits.exp().sum(1).log()).mean()
    of_image = -(logits.diag() - logits.exp().sum(0).log()).mean()
    found = contrastive_loss(text, image, torch.tensor(10.0).log())
    torch.testing.assert_close(found, (of_text + of_image) / 2)


def test_the_own_distance_is_that_of_each_word_alone_at_its_place() -> None:
    torch.manual_seed(0)
    text = make_text_encoder().eval()
    ids = tokens(["a red cat", "a blue car"])
    with torch.no_grad():
        encoded = text(ids)[0]
        found = own_distance(text, ids, encoded)
        words, alone = [], []
        for i in range(2):
            for place in (1, 2, 3):
                words.append(encoded[i, place])
                # An independent way to a word alone: start and word only may be seen, by a mask.
                model = text.text_model
                hidden = model.embeddings(ids[i : i + 1])
                seen = torch.eye(ids.shape[1], dtype=torch.bool)
                seen[:, 0] = True
                mask = torch.where(seen, 0.0, float("-inf"))[None, None]
                for layer in model.encoder.layers:
                    hidden = layer(hidden, None, mask)[0]
                alone.append(model.final_layer_norm(hidden)[0, place])
    w, a = torch.stack(words), torch.stack(alone)
    torch.testing.assert_close(found, (w - a).square().mean() / w.var(dim=0).mean(), rtol=1e-4, atol=1e-5)
    assert found > 0


def test_pretraining_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretraining, "SAVE_EVERY", 1)
    monkeypatch.setattr(pretraining, "FAMILIES", 2)
    rng = random.Random(0)
    some = [scene for _ in range(4) for scene in family(rng)]
    images = painted(some)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    through = pretrain(images, some, whole, 3, CPU)
    with monkeypatch.context() as patch:
        stop_at(patch, pretraining, "contrastive_loss", 3)
        with pytest.raises(KeyboardInterrupt):
            pretrain(images, some, parts, 3, CPU)
    state = load_state(parts / "towers.pt")
    assert state is not None
    assert state["step"] == 2
    assert same_weights(through, pretrain(images, some, parts, 3, CPU))


def test_pretraining_brings_captions_and_pictures_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretraining, "FAMILIES", 4)
    rng = random.Random(0)
    some = [scene for _ in range(4) for scene in family(rng)]
    images = painted(some)

    def loss(towers: Towers) -> float:
        ids = tokens([full_caption(scene, random.Random(1)) for scene in some])
        with torch.no_grad():
            text, image = towers.encode_text(ids)[1], towers.train().image(pretraining.halved(images))
        return contrastive_loss(text, image, towers.log_scale.detach()).item()

    torch.manual_seed(4)
    before = loss(Towers())
    assert loss(pretrain(images, some, tmp_path, 30, CPU)) < 0.7 * before


# The probes


def test_spread_and_change_are_distances() -> None:
    corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    assert probes.spread(corners).item() == pytest.approx(2**0.5)
    assert probes.swap_change(corners, corners + torch.tensor([0.0, 2**0.5])) == pytest.approx(1.0)


def test_the_explained_share_is_that_between_labels() -> None:
    labels = ["a", "a", "b", "b"]
    assert probes.explained(torch.tensor([[1.0], [1.0], [3.0], [3.0]]), labels) == pytest.approx(1.0)
    assert probes.explained(torch.tensor([[1.0], [3.0], [1.0], [3.0]]), labels) == pytest.approx(0.0)
    assert probes.explained(torch.tensor([[0.0], [2.0], [2.0], [4.0]]), labels) == pytest.approx(0.5)


def test_a_linear_map_tells_what_is_there_and_guesses_what_is_not() -> None:
    generator = torch.Generator().manual_seed(2)
    noise = torch.randn((600, 8), generator=generator)
    labels = ["abc"[i] for i in torch.randint(3, (600,), generator=generator).tolist()]
    marked = noise.clone()
    marked[:, :3] += torch.tensor([[10.0 * (label == other) for other in "abc"] for label in labels])
    assert probes.told(marked, labels) > 0.97
    assert 0.2 < probes.told(noise, labels) < 0.5


def test_each_row_probed_is_that_of_its_word() -> None:
    for values in probes.draw(50, 0):
        words = ["", *split(probes.sentence(values))]
        assert {name: words[row] for name, row in probes.OWN_ROW.items()} == values
        assert len(words) == probes.END_ROW


def test_the_study_shows_what_was_measured(tmp_path: Path) -> None:
    torch.manual_seed(0)
    text = make_text_encoder().eval()
    found = probes.probe(probes.encoder(text), count=60)
    assert found.decoded["its own"]["class"] > 0.9
    assert found.change["class"] > found.change["companion"] > 0
    page = encoder_study.study({"some": found, "other": replace(found, matched=0.125)})
    assert "| picture nearer to its caption than to the one with swapped colours | - | 0.12 |" in page.text
    assert f"| class row | {found.change['class']:.2f} | {found.change['class']:.2f} |" in page.text
    page.write(tmp_path)
    assert (tmp_path / "encoder.md").exists()


def test_towers_come_back_in_half_precision(tmp_path: Path) -> None:
    torch.manual_seed(0)
    towers, path = Towers(), tmp_path / "folder" / "towers.safetensors"
    pretraining.save_towers(towers, path)
    again = pretraining.load_towers(path)
    for name, tensor in towers.state_dict().items():
        kept = tensor.half().float() if tensor.is_floating_point() else tensor
        assert torch.equal(again.state_dict()[name], kept), name
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match="Choose another folder"):
        pretraining.save_towers(towers, tmp_path / "file" / "towers.safetensors")


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "other"])
def test_damaged_towers_are_told(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "towers.safetensors"
    pretraining.save_towers(Towers(), path)
    content = path.read_bytes()
    path.write_bytes({"empty": b"", "cut": content[:5000], "text": b"<html>"}.get(damage, content))
    if damage == "other":
        save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(TrainingError, match="damaged"):
        pretraining.load_towers(path)


def test_the_pretrained_encoder_matches_captions_and_pictures() -> None:
    towers = pretraining.load_towers(second.TOWERS)
    assert second.TOWERS.stat().st_size < 3_000_000
    rng = random.Random(77)
    unseen = [scene for _ in range(16) for scene in family(rng)]
    with torch.no_grad():
        text = towers.encode_text(tokens([full_caption(scene, rng) for scene in unseen]))[1]
        image = towers.image(pretraining.halved(painted(unseen)))
    near = torch.nn.functional.normalize(text, dim=-1) @ torch.nn.functional.normalize(image, dim=-1).T
    assert (near.argmax(dim=1) == torch.arange(len(unseen))).float().mean() > 0.8
    assert probes.match_pictures(towers, 50) > 0.9


def test_missing_towers_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert encoder_study.main(["--towers", f"a={tmp_path / 'no.pt'}", "--output", str(tmp_path)]) == 1
    assert "Pretrain" in capsys.readouterr().err
