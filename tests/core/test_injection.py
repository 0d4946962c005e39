"""Line 4 as a host drives it, whatever it did to the batch on the way to the UNet."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignit.algorithm.conditioning import Injected
from alignit.algorithm.controls import Controls
from alignit.algorithm.injection import EncodedBatch, Injection, row_strength
from alignit.concepts.concept import Dense, KeyValueWeights
from alignit.concepts.layer_names import layer_of
from alignit.concepts.weight_change import Change

from . import reference


class Recorder(torch.nn.Module):
    """A UNet that remembers what it was given."""

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor, context: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        self.context = context
        return x


def prompt(seed: int, rows: dict[int, str], shared: torch.Tensor | None = None, width: int = 6) -> Injected:
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(12, width, generator=generator)
    conditioning = base.clone()
    for row in rows:
        conditioning[row] = torch.randn(width, generator=generator) if shared is None else shared
    return Injected(conditioning, base, rows)


def call(unet: Recorder, context: torch.Tensor, positional: bool = False) -> torch.Tensor:
    x, t = torch.zeros(len(context), 3, 4), torch.zeros(len(context))
    unet(x, t, context) if positional else unet(x, t, context=context)
    return unet.context


EARLY, LATE = 0.0, 0.5


def ranged(*prompts: Injected) -> Injection:
    """An injection in the first half of the steps."""
    half = Controls().with_options("steps 0-0.5")
    return Injection(EncodedBatch(prompts, {"cat": half, "dog": half}))


batches = st.permutations(["a", "b", "uncond", "uncond"]).flatmap(
    lambda order: st.integers(1, 4).map(lambda n: order[:n])
)


@settings(deadline=None)
@given(batches, st.integers(0, 5), st.booleans(), st.sampled_from([torch.float32, torch.float16, torch.bfloat16]))
def test_base_rows_come_back_in_any_batch(order, padding, positional, dtype) -> None:
    prompts = {"a": prompt(1, {2: "cat", 3: "cat"}), "b": prompt(2, {7: "dog"}), "uncond": prompt(3, {})}
    injection, unet = ranged(*prompts.values()), Recorder()
    extra = torch.zeros(len(order), padding, 6)
    given_rows = torch.cat([torch.stack([prompts[name].conditioning for name in order]), extra], 1).to(dtype)
    base_rows = torch.cat([torch.stack([prompts[name].base for name in order]), extra], 1).to(dtype)
    with injection:
        injection.step(unet, EARLY)
        assert torch.equal(call(unet, given_rows, positional), given_rows)
        injection.step(unet, LATE)
        assert torch.equal(call(unet, given_rows, positional), base_rows)


def test_rows_in_front_of_the_prompt_do_not_matter() -> None:
    item = prompt(1, {4: "cat"})
    injection, unet = ranged(item), Recorder()
    marker = torch.ones(1, 6)
    with injection:
        injection.step(unet, LATE)
        seen = call(unet, torch.cat([marker, item.conditioning])[None])
        sliced = call(unet, item.conditioning[None, 3:9])
    assert torch.equal(seen[0], torch.cat([marker, item.base]))
    assert torch.equal(sliced[0], item.base[3:9])


def test_prompts_that_share_an_injected_row_get_their_own_base_rows_back() -> None:
    shared = torch.full((6,), 0.5)
    red, blue = prompt(1, {5: "cat"}, shared), prompt(2, {5: "cat"}, shared)
    injection, unet = ranged(red, blue), Recorder()
    with injection:
        injection.step(unet, LATE)
        seen = call(unet, torch.stack([blue.conditioning, red.conditioning, blue.conditioning]))
    assert torch.equal(seen, torch.stack([blue.base, red.base, blue.base]))


def test_concepts_are_seen_one_by_one_and_then_the_hook_goes() -> None:
    first, later = prompt(1, {2: "cat"}), prompt(2, {3: "dog"})
    injection, unet = Injection(EncodedBatch((first, later))), Recorder()
    with injection:
        injection.step(unet)
        assert injection.lost == {"cat", "dog"}
        call(unet, first.conditioning[None])
        assert injection.lost == {"dog"}
        injection.step(unet)
        call(unet, later.conditioning[None] * 1.0001)
        assert injection.lost == {"dog"}
        call(unet, later.conditioning[None])
        assert not injection.lost
        injection.step(unet)
        assert not unet._forward_pre_hooks


def test_the_hook_follows_a_changed_model_and_never_stays() -> None:
    injection, base, refiner = ranged(prompt(1, {2: "cat"})), Recorder(), Recorder()
    with pytest.raises(RuntimeError, match="interrupted"), injection:
        injection.step(base)
        injection.step(base)
        assert len(base._forward_pre_hooks) == 1
        injection.step(refiner)
        assert not base._forward_pre_hooks
        assert len(refiner._forward_pre_hooks) == 1
        raise RuntimeError("interrupted")
    assert not refiner._forward_pre_hooks


def test_a_unet_without_context_is_left_alone() -> None:
    injection, unet = ranged(prompt(1, {2: "cat"})), Recorder()
    with injection:
        injection.step(unet, LATE)
        unet(torch.zeros(1, 3, 4), torch.zeros(1), context=None)
    assert unet.context is None


def test_a_negative_prompt_that_begins_with_the_concept_is_left_alone() -> None:
    """A text encoder's row depends on what precedes it alone: it has the dummy prompt's row, and another after it."""
    item, negative = prompt(1, {1: "cat", 2: "cat"}), prompt(2, {}).conditioning
    negative[:3] = item.conditioning[:3]
    injection, unet = ranged(item), Recorder()
    with injection:
        injection.step(unet, LATE)
        assert torch.equal(call(unet, negative[None])[0], negative)
        assert injection.lost == {"cat"}
        seen = call(unet, torch.stack([item.conditioning, negative]))
        assert not injection.lost
    assert torch.equal(seen, torch.stack([item.base, negative]))


def test_a_concept_at_the_very_end_of_a_sliced_context_is_found() -> None:
    item = prompt(1, {4: "cat"})
    injection, unet = ranged(item), Recorder()
    with injection:
        injection.step(unet, LATE)
        assert torch.equal(call(unet, item.conditioning[None, :5])[0], item.base[:5])


def test_prompts_encoded_for_a_model_of_another_width_are_passed_over() -> None:
    injection, unet = ranged(prompt(1, {2: "cat"})), Recorder()
    context = torch.ones(1, 12, 8)
    with injection:
        injection.step(unet, LATE)
        assert torch.equal(call(unet, context), context)
    assert injection.lost == {"cat"}


def test_each_pass_has_to_see_the_concepts_anew_and_lost_is_known_after_the_hooks_are_gone() -> None:
    first, hires = prompt(1, {2: "cat"}), prompt(2, {3: "cat", 4: "dog"})
    injection, unet = Injection(EncodedBatch((first,))), Recorder()
    with injection:
        injection.step(unet)
        call(unet, first.conditioning[None])
        assert not injection.lost
        injection.begin_pass()
        assert not injection.lost, "no step has begun"
        injection.use(EncodedBatch((hires,)))
        injection.step(unet)
        call(unet, first.conditioning[None])
        assert injection.lost == {"cat", "dog"}
        call(unet, hires.conditioning[None])
        assert not injection.lost
        injection.begin_pass()
        injection.step(unet)
    assert injection.lost == {"cat", "dog"}
    assert not unet._forward_pre_hooks


def test_a_concept_seen_before_the_conditioning_changed_in_mid_pass_is_not_lost() -> None:
    base, refined = prompt(1, {2: "cat"}), prompt(2, {2: "dog"})
    injection, unet = Injection(EncodedBatch((base,))), Recorder()
    with injection:
        injection.step(unet)
        call(unet, base.conditioning[None])
        injection.use(EncodedBatch((refined,)))
        injection.step(unet)
        assert injection.lost == {"dog"}


def test_where_it_is_not_known_which_conditioning_came_any_is_looked_for() -> None:
    one, two = EncodedBatch((prompt(1, {2: "cat"}),)), EncodedBatch((prompt(2, {3: "dog"}),))
    injection, unet = Injection(), Recorder()
    with injection:
        injection.use(EncodedBatch.joined([one, two]))
        injection.step(unet)
        call(unet, torch.cat([one.prompts[0].conditioning, two.prompts[0].conditioning])[None])
        assert not injection.lost


UNET = reference.UNet()
WEIGHTS = {
    f"model.diffusion_model.{name}": weight.detach() + 0.2 * torch.randn(weight.shape)
    for name, weight in UNET.named_parameters()
    if layer_of(name)
}
CHANGE = Change(KeyValueWeights(True, {layer_of(name): Dense(weight) for name, weight in WEIGHTS.items()}))
PARTS = {"": "kv", "keys": "k", "values": "v"}
BLOCKS = {"": (1, 2, 4), "layers in01 in04": (1, 4), "layers /1": (1, 2)}


@pytest.mark.slow
@settings(deadline=None, max_examples=80)
@given(
    st.booleans(),
    st.sampled_from([0.0, 0.5, 1.0, 1.7]),
    st.sampled_from(["", "falling", "rising"]),
    st.sampled_from([(0.0, 1.0), (0.0, 0.5), (0.25, 0.75)]),
    st.sampled_from(list(PARTS)),
    st.sampled_from(list(BLOCKS)),
    st.lists(st.integers(0, 3), min_size=1, max_size=4),
)
def test_whatever_is_asked_for_equals_overwriting_by_index(
    changed, strength, schedule, steps, parts, layers, fractions
) -> None:
    """Rows as `row_strength` has them written, and what `Injection` does in the UNet, make line 4 together."""
    steps_text = f"steps {steps[0]}-{steps[1]}"
    controls = Controls().with_options("; ".join([str(strength), schedule, steps_text, parts, layers]))
    generator = torch.Generator().manual_seed(1)
    base, dummy, uncond = torch.randn(3, 12, reference.WIDTH, generator=generator)
    rows = {4: "cat", 5: "cat"}
    conditioning = base.clone()
    for row in rows:
        conditioning[row] = torch.lerp(base[row], dummy[row], row_strength(controls, changed))
    prompts = (Injected(conditioning, base, rows),)
    injection = Injection(EncodedBatch(prompts, {"cat": controls}, {"cat": CHANGE} if changed else {}))
    x, t = torch.randn(2, 10, 4, generator=generator), torch.full((2,), 0.3)
    with torch.no_grad(), injection:
        for fraction in (number / 4 for number in fractions):
            injection.step(UNET, fraction)
            ours = UNET(x, t, context=torch.stack([conditioning, uncond]))
            part = (fraction - steps[0]) / (steps[1] - steps[0])
            at_step = strength * {"": 1, "falling": 1 - part, "rising": part}[schedule]
            if not (steps[0] <= fraction and (fraction < steps[1] or steps[1] == 1)):
                at_step = 0
            wanted = reference.generate_by_index(
                UNET,
                x[:1],
                t[:1],
                base,
                [(dummy, [4, 5])],
                at_step,
                WEIGHTS if changed else None,
                PARTS[parts],
                BLOCKS[layers],
            )
            torch.testing.assert_close(ours[:1], wanted, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(ours[1:], UNET(x[1:], t[1:], context=uncond[None]), rtol=1e-4, atol=1e-4)
        assert not injection.lost
        assert not injection.waiting
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in UNET.modules())


def test_concepts_of_every_kind_in_one_prompt() -> None:
    """One whose row is all there is to it, one that changes W, one that is put in as keys alone."""
    generator = torch.Generator().manual_seed(2)
    base, plain, weighted, keys = torch.randn(4, 12, reference.WIDTH, generator=generator)
    rows = {2: "plain", 5: "weighted", 8: "keys"}
    conditioning = base.clone()
    for row, dummy in zip(rows, (plain, weighted, keys), strict=True):
        conditioning[row] = dummy[row]
    controls = {"keys": Controls(values=False)}
    injection = Injection(EncodedBatch((Injected(conditioning, base, rows),), controls, {"weighted": CHANGE}))
    x, t = torch.randn(1, 10, 4, generator=generator), torch.full((1,), 0.3)
    with torch.no_grad(), injection:
        injection.step(UNET)
        ours = UNET(x, t, context=conditioning[None])
    wanted = overwritten(x, t, base, {2: (plain, None, "kv"), 5: (weighted, WEIGHTS, "kv"), 8: (keys, None, "k")})
    torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-4)


def overwritten(x, t, base, by_row) -> torch.Tensor:
    """Algorithm 1 for concepts of several kinds, which `reference.generate_by_index` has one of at a time."""
    for number, enter, attention in zip(reference.ATTENTION_BLOCKS, UNET.enter, UNET.attentions, strict=True):
        x = torch.tanh(enter(x) + t[:, None, None])
        made = []
        for part, weight in (("k", attention.to_k.weight), ("v", attention.to_v.weight)):
            result = base @ weight.T
            name = f"model.diffusion_model.input_blocks.{number}.1.transformer_blocks.0.attn2.to_{part}.weight"
            for row, (dummy, customised, parts) in by_row.items():
                if part in parts:
                    result[row] = (customised or {}).get(name, weight) @ dummy[row]
            made.append(result[None])
        x = x + attention.attend(x, *made)
    return UNET.leave(x)


def test_a_conditioning_that_is_made_anew_with_the_same_content_costs_nothing(monkeypatch) -> None:
    """Hires fix encodes the prompt of its second pass once more."""
    computed = []
    apply = Change.apply
    monkeypatch.setattr(Change, "apply", lambda *args: computed.append(args[1]) or apply(*args))
    first, other = prompt(1, {4: "cat"}, width=reference.WIDTH), prompt(2, {4: "cat"}, width=reference.WIDTH)
    again = Injected(first.conditioning.clone(), first.base.clone(), dict(first.rows))
    x, t = torch.randn(1, 10, 4), torch.full((1,), 0.3)
    with torch.no_grad(), Injection() as injection:
        for item, times in ((first, 1), (first, 1), (again, 1), (again, 1), (other, 2), (first, 3)):
            injection.use(EncodedBatch((item,), {}, {"cat": CHANGE}))
            injection.begin_pass()
            injection.step(UNET)
            assert injection.lost
            UNET(x, t, context=item.conditioning[None])
            assert len(computed) == 6 * times
            assert not injection.lost


def test_other_weights_in_the_same_modules_are_computed_with_anew() -> None:
    generator = torch.Generator().manual_seed(3)
    base, dummy = torch.randn(2, 12, reference.WIDTH, generator=generator)
    conditioning = base.clone()
    conditioning[4] = dummy[4]
    half = {"cat": Controls().with_options("0.5; keys")}
    given_rows = EncodedBatch((Injected(conditioning, base, {4: "cat"}),), half)
    unet = reference.UNet()
    x, t = torch.randn(1, 10, 4, generator=generator), torch.full((1,), 0.3)
    with torch.no_grad(), Injection() as injection:
        for checkpoint in ("first", "second"):
            injection.use(given_rows, checkpoint)
            injection.step(unet)
            ours = unet(x, t, context=conditioning[None])
            wanted = reference.generate_by_index(unet, x, t, base, [(dummy, [4])], 0.5, parts="k")
            torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-4)
            for parameter in unet.parameters():
                parameter.add_(0.1)
