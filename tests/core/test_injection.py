"""Finding injected rows in a UNet's context, whatever a host did to the batch on the way."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignit.algorithm.conditioning import Injected
from alignit.algorithm.injection import Injector


class Recorder(torch.nn.Module):
    """A UNet that remembers what it was given."""

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor, context: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        self.context = context
        return x


def prompt(seed: int, rows: dict[int, str], shared: torch.Tensor | None = None) -> Injected:
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(12, 6, generator=generator)
    conditioning = base.clone()
    for row in rows:
        conditioning[row] = torch.randn(6, generator=generator) if shared is None else shared
    return Injected(conditioning, base, rows)


def call(unet: Recorder, context: torch.Tensor, positional: bool = False) -> torch.Tensor:
    x, t = torch.zeros(len(context), 3, 4), torch.zeros(len(context))
    unet(x, t, context) if positional else unet(x, t, context=context)
    return unet.context


def ranged() -> Injector:
    """An injector with a range of steps to obey."""
    injector = Injector()
    injector.always_active = False
    return injector


batches = st.permutations(["a", "b", "uncond", "uncond"]).flatmap(
    lambda order: st.integers(1, 4).map(lambda n: order[:n])
)


@settings(deadline=None)
@given(batches, st.integers(0, 5), st.booleans(), st.sampled_from([torch.float32, torch.float16, torch.bfloat16]))
def test_base_rows_come_back_in_any_batch(order, padding, positional, dtype) -> None:
    prompts = {"a": prompt(1, {2: "cat", 3: "cat"}), "b": prompt(2, {7: "dog"}), "uncond": prompt(3, {})}
    injector, unet = ranged(), Recorder()
    for item in prompts.values():
        injector.injected.append(item)
    extra = torch.zeros(len(order), padding, 6)
    given_rows = torch.cat([torch.stack([prompts[name].conditioning for name in order]), extra], 1).to(dtype)
    base_rows = torch.cat([torch.stack([prompts[name].base for name in order]), extra], 1).to(dtype)
    with injector:
        injector.watch(unet)
        assert torch.equal(call(unet, given_rows, positional), given_rows)
        injector.inactive = {"cat", "dog"}
        assert torch.equal(call(unet, given_rows, positional), base_rows)


def test_rows_in_front_of_the_prompt_do_not_matter() -> None:
    item = prompt(1, {4: "cat"})
    injector, unet = ranged(), Recorder()
    injector.injected.append(item)
    injector.inactive = {"cat", "dog"}
    marker = torch.ones(1, 6)
    with injector:
        injector.watch(unet)
        seen = call(unet, torch.cat([marker, item.conditioning])[None])
        sliced = call(unet, item.conditioning[None, 3:9])
    assert torch.equal(seen[0], torch.cat([marker, item.base]))
    assert torch.equal(sliced[0], item.base[3:9])


def test_prompts_that_share_an_injected_row_get_their_own_base_rows_back() -> None:
    shared = torch.full((6,), 0.5)
    red, blue = prompt(1, {5: "cat"}, shared), prompt(2, {5: "cat"}, shared)
    injector, unet = ranged(), Recorder()
    injector.injected.append(red)
    injector.injected.append(blue)
    injector.inactive = {"cat", "dog"}
    with injector:
        injector.watch(unet)
        seen = call(unet, torch.stack([blue.conditioning, red.conditioning, blue.conditioning]))
    assert torch.equal(seen, torch.stack([blue.base, red.base, blue.base]))


def test_concepts_are_seen_one_by_one_and_then_the_hook_goes() -> None:
    first, later = prompt(1, {2: "cat"}), prompt(2, {3: "dog"})
    injector, unet = Injector(), Recorder()
    injector.injected.append(first)
    injector.injected.append(later)
    injector.expected = {"cat", "dog"}
    with injector:
        injector.watch(unet)
        call(unet, first.conditioning[None])
        assert injector.seen == {"cat"}
        injector.watch(unet)
        call(unet, later.conditioning[None] * 1.0001)
        assert injector.seen == {"cat"}
        call(unet, later.conditioning[None])
        assert injector.seen == {"cat", "dog"}
        injector.watch(unet)
        assert not unet._forward_pre_hooks


def test_the_hook_follows_a_changed_model_and_never_stays() -> None:
    injector, base, refiner = ranged(), Recorder(), Recorder()
    with pytest.raises(RuntimeError, match="interrupted"), injector:
        injector.watch(base)
        injector.watch(base)
        assert len(base._forward_pre_hooks) == 1
        injector.watch(refiner)
        assert not base._forward_pre_hooks
        assert len(refiner._forward_pre_hooks) == 1
        raise RuntimeError("interrupted")
    assert not refiner._forward_pre_hooks


def test_a_unet_without_context_is_left_alone() -> None:
    injector, unet = ranged(), Recorder()
    injector.injected.append(prompt(1, {2: "cat"}))
    injector.inactive = {"cat", "dog"}
    with injector:
        injector.watch(unet)
        unet(torch.zeros(1, 3, 4), torch.zeros(1), context=None)
    assert unet.context is None


def test_a_negative_prompt_that_begins_with_the_concept_is_left_alone() -> None:
    """A text encoder's row depends on what precedes it alone: it has the dummy prompt's row, and another after it."""
    item, negative = prompt(1, {1: "cat", 2: "cat"}), prompt(2, {}).conditioning
    negative[:3] = item.conditioning[:3]
    injector, unet = ranged(), Recorder()
    injector.injected.append(item)
    injector.expected = {"cat"}
    injector.inactive = {"cat", "dog"}
    with injector:
        injector.watch(unet)
        assert torch.equal(call(unet, negative[None])[0], negative)
        assert not injector.seen
        seen = call(unet, torch.stack([item.conditioning, negative]))
        assert injector.seen == {"cat"}
    assert torch.equal(seen, torch.stack([item.base, negative]))


def test_a_concept_at_the_very_end_of_a_sliced_context_is_found() -> None:
    item = prompt(1, {4: "cat"})
    injector, unet = ranged(), Recorder()
    injector.injected.append(item)
    injector.inactive = {"cat", "dog"}
    with injector:
        injector.watch(unet)
        assert torch.equal(call(unet, item.conditioning[None, :5])[0], item.base[:5])


def test_prompts_encoded_for_a_model_of_another_width_are_passed_over() -> None:
    injector, unet = ranged(), Recorder()
    injector.injected.append(prompt(1, {2: "cat"}))
    injector.expected = {"cat"}
    injector.inactive = {"cat", "dog"}
    context = torch.ones(1, 12, 8)
    with injector:
        injector.watch(unet)
        assert torch.equal(call(unet, context), context)
    assert not injector.seen
