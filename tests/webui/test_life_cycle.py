"""A generation's life cycle: what is made, that it is the paper's, and that nothing stays behind."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from tests.webui.conftest import FakeHost

ON = [True, "my-cat=cat"]
PROMPT, BASE = "a my-cat in snow", "a cat in snow"


@pytest.fixture(autouse=True)
def vec(host: FakeHost) -> torch.Tensor:
    return host.add_embedding("my-cat")


def conditionings(host: FakeHost, prompt: str, alignit: list[Any]) -> list[torch.Tensor]:
    """Return what the UNet is given at each step, [77, width] each."""
    seen = []
    handle = host.model.model.diffusion_model.register_forward_pre_hook(
        lambda _unet, _args, named: seen.append(named["context"][0].clone()), with_kwargs=True
    )
    host.make(prompt, alignit)
    handle.remove()
    return seen


def test_off_is_the_host_alone(host: FakeHost) -> None:
    before = host.state()
    made = host.make(PROMPT)
    with torch.no_grad():
        expected = host.model.cond_stage_model([PROMPT])
    assert host.state() == before
    assert made.p.comments == []
    assert made.info == {}
    assert torch.equal(conditionings(host, PROMPT, [])[0], expected[0])


def test_what_is_injected_is_the_row_of_the_dummy_prompt(host: FakeHost, vec: torch.Tensor) -> None:
    encoder = host.model.cond_stage_model
    base = encoder([BASE])[0]
    # Lines 1 to 3 of Algorithm 1 in plain steps: all but the concept is the filler, and the concept's row is taken.
    (filler,) = encoder.tokenizer.ids("*")
    table = encoder.table.wrapped.weight
    context = torch.zeros(host.models.WIDTH)
    for token in (table[host.models.START], table[filler], vec[0]):
        context = torch.tanh(token + 0.7 * context)
    expected = base.clone()
    expected[2] = context
    assert not torch.equal(context, base[2])
    seen = conditionings(host, PROMPT, ON)
    assert len(seen) == 4
    for step in seen:
        torch.testing.assert_close(step, expected)


def test_strength_0_and_steps(host: FakeHost) -> None:
    base = host.model.cond_stage_model([BASE])[0]
    for step in conditionings(host, PROMPT, [*ON, 0.0]):
        assert torch.equal(step, base)
    pictures = {tuple(given): host.make(PROMPT, given).picture for given in (ON, [*ON, 1.0, 0.0, 0.5], [*ON, 0.0])}
    assert len(set(pictures.values())) == 3


def test_nothing_is_left_after_success(host: FakeHost) -> None:
    before = host.state()
    plain = host.make(PROMPT).picture
    p = host.p(PROMPT, ON)
    attributes = set(vars(p))
    made = host.run(p)
    assert made.picture != plain
    assert host.state() == before
    assert set(vars(p)) - attributes == {"prompts", "negative_prompts"}
    assert p.cached_c == [None, None]
    assert host.make(PROMPT).picture == plain


def fail(*_: object, **__: object) -> None:
    raise RuntimeError("as asked")


def failing(host: FakeHost, monkeypatch: pytest.MonkeyPatch, owner: Any, method: str) -> Any:
    """Make a picture while a method of the model fails, and check what is left; return the processing object."""
    before, plain = host.state(), host.make(PROMPT).picture
    p = host.p(PROMPT, ON)
    attributes = set(vars(p))
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="as asked"):
        patch.setattr(owner, method, fail)
        host.run(p)
    assert set(vars(p)) - attributes == {"prompts", "negative_prompts"}
    assert host.state() == before
    assert host.make(PROMPT).picture == plain
    return p


def test_nothing_is_left_after_an_error_in_the_unet(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(host, monkeypatch, type(host.model.model.diffusion_model), "forward")


@pytest.mark.host_errors
def test_nothing_is_left_after_an_error_in_the_encoder(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    p = failing(host, monkeypatch, type(host.model.cond_stage_model), "process_tokens")
    assert any("An error while encoding the prompt" in comment for comment in p.comments)


def test_nothing_is_left_after_an_interrupt(host: FakeHost) -> None:
    before, plain = host.state(), host.make(PROMPT).picture
    host.modules.shared.state.interrupted = True
    host.make(PROMPT, ON)
    host.modules.shared.state.interrupted = False
    assert host.state() == before
    assert host.make(PROMPT).picture == plain


def test_a_copy_in_mid_batch_is_a_generation_of_its_own(host: FakeHost) -> None:
    expected, other = host.make(PROMPT, ON).picture, host.make("a my-cat", ON).picture
    p = host.p(PROMPT, ON)
    copies = []

    def nested(params: Any) -> None:
        if not copies:
            copies.append(copy.copy(params.denoiser.p))
            copies[0].prompt = "a my-cat"
            copies.append(host.run(copies[0]).picture)

    host.modules.script_callbacks.on_cfg_denoiser(nested)
    assert host.run(p).picture == expected
    assert copies[1] == other


def test_a_second_run_of_one_object_starts_anew(host: FakeHost) -> None:
    p = host.p(PROMPT, ON)
    first = host.run(p)
    info = dict(first.info)
    second = host.run(p)
    assert second.picture == first.picture
    assert second.info == info


def test_a_model_that_cannot_be_used_is_said(host: FakeHost) -> None:
    plain = host.make(PROMPT).picture
    host.model.is_sd3 = True
    made = host.make(PROMPT, ON)
    assert made.picture == plain
    assert any("This picture is made without AlignIT" in comment for comment in made.p.comments)


def test_a_concept_without_a_class_word_is_said(host: FakeHost) -> None:
    made = host.make(PROMPT, [True])
    assert made.picture == host.make(PROMPT).picture
    assert any("<my-cat=" in comment for comment in made.p.comments)


def test_the_remembered_class_word_is_used(host: FakeHost) -> None:
    host.add_embedding("my-dog", class_word="dog")
    given = host.make("a my-dog in snow", [True, "my-dog=dog"])
    assert host.make("a my-dog in snow", [True]).picture == given.picture
    assert host.make("a <my-dog=dog> in snow", [True]).picture == given.picture
    assert host.make("a my-dog in snow").picture != given.picture


def test_attention_maps_change_no_picture(host: FakeHost) -> None:
    before = host.state()
    assert host.make(PROMPT, {"enabled": True, "class_words": "my-cat=cat", "attention_maps": True}).picture == (
        host.make(PROMPT, ON).picture
    )
    assert host.state() == before
