"""Custom Diffusion against the paper's algorithm done by brute force, and against changed weights in place."""

from __future__ import annotations

import copy
import math
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from alignit.algorithm.conditioning import Injected
from alignit.algorithm.controls import Controls
from alignit.algorithm.injection import EncodedBatch, Injection
from alignit.concepts.concept import Dense, Factors, KeyValueWeights
from alignit.concepts.layer_names import layer_of
from alignit.concepts.weight_change import Change

from . import reference

UNET = reference.UNet()
PREFIX = "model.diffusion_model."


def customised(seed: int = 5) -> dict[str, torch.Tensor]:
    """Full weights by LDM name, somewhat away from the base model's."""
    generator = torch.Generator().manual_seed(seed)
    return {
        f"{PREFIX}{name}": weight.detach() + 0.2 * torch.randn(weight.shape, generator=generator)
        for name, weight in UNET.named_parameters()
        if layer_of(name)
    }


def full(weights: dict[str, torch.Tensor]) -> KeyValueWeights:
    return KeyValueWeights(True, {layer_of(name): Dense(weight) for name, weight in weights.items()})


def deltas(weights: dict[str, torch.Tensor]) -> KeyValueWeights:
    base = dict(UNET.named_parameters())
    return KeyValueWeights(
        False,
        {layer_of(name): Dense(weight - base[name.removeprefix(PREFIX)].detach()) for name, weight in weights.items()},
    )


def inputs(batch: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(batch, 10, 4, generator=torch.Generator().manual_seed(3)), torch.full((batch,), 0.3)


def prompt(seed: int, rows: dict[int, str]) -> tuple[Injected, torch.Tensor]:
    """An injected prompt, and the conditioning of its dummy prompt."""
    generator = torch.Generator().manual_seed(seed)
    base, dummy = torch.randn(2, 12, reference.WIDTH, generator=generator)
    conditioning = base.clone()
    conditioning[list(rows)] = dummy[list(rows)]
    return Injected(conditioning, base, rows), dummy


def at_concepts(
    injected: list[Injected], changes: dict[str, Change], controls: dict[str, Controls] | None = None
) -> Injection:
    return Injection(EncodedBatch(tuple(injected), controls or {}, changes))


def for_every_token(changes: list[Change]) -> Injection:
    return Injection(EncodedBatch(everywhere=tuple(changes)))


@pytest.mark.parametrize("strength", [1.0, 0.4, 1.6])
@pytest.mark.parametrize("kind", [full, deltas])
def test_unet_output_equals_overwriting_with_the_customised_models_keys_and_values(kind, strength: float) -> None:
    weights = customised()
    injected, dummy = prompt(1, {4: "<new1>", 5: "<new1>"})
    x, t = inputs()
    with (
        torch.no_grad(),
        at_concepts([injected], {"<new1>": Change(kind(weights))}, {"<new1>": Controls(strength)}) as hooks,
    ):
        hooks.step(UNET)
        ours = UNET(x, t, context=injected.conditioning[None])
        again = UNET(x, t, context=injected.conditioning[None].clone())
    wanted = reference.generate_by_index(UNET, x, t, injected.base, [(dummy, [4, 5])], strength, weights)
    torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-4)
    assert torch.equal(ours, again)
    plain = reference.generate_by_index(UNET, x, t, injected.base, [(dummy, [4, 5])], strength)
    assert (plain - wanted).abs().max() > 0.01


def test_strength_of_the_change_and_sparse_and_factored_deltas() -> None:
    weights = customised()
    base = {PREFIX + name: weight.detach() for name, weight in UNET.named_parameters()}
    chosen = sorted(weights)[:3]
    generator = torch.Generator().manual_seed(8)
    factors = {
        name: (torch.randn(weights[name].shape[0], 2, generator=generator), torch.randn(2, 32, generator=generator))
        for name in chosen
    }
    half = {name: base[name] + 0.5 * (left @ right) for name, (left, right) in factors.items()}
    change = Change(KeyValueWeights(False, {layer_of(name): Factors(*pair) for name, pair in factors.items()}), 0.5)
    half_full = {name: torch.lerp(base[name], weight, 0.5) for name, weight in weights.items()}
    injected, dummy = prompt(1, {4: "a"})
    x, t = inputs()
    for changes, wanted_weights in ((change, half), (Change(full(weights), 0.5), half_full)):
        with torch.no_grad(), at_concepts([injected], {"a": changes}) as hooks:
            hooks.step(UNET)
            ours = UNET(x, t, context=injected.conditioning[None])
        wanted = reference.generate_by_index(UNET, x, t, injected.base, [(dummy, [4])], 1.0, wanted_weights)
        torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-4)


def test_in_a_batch_only_the_rows_of_the_concept_change_and_each_prompt_gets_its_own() -> None:
    weights = customised()
    one, one_dummy = prompt(1, {4: "a"})
    two, two_dummy = prompt(2, {2: "a", 7: "plain"})
    uncond = torch.randn(12, reference.WIDTH, generator=torch.Generator().manual_seed(9))
    x, t = inputs(3)
    with torch.no_grad(), at_concepts([one, two], {"a": Change(full(weights))}, {"a": Controls(0.7)}) as hooks:
        hooks.step(UNET)
        ours = UNET(x, t, context=torch.stack([two.conditioning, uncond, one.conditioning]))
    for index, (base, injections) in enumerate(
        [(two.base.clone(), [(two_dummy, [2])]), (uncond, []), (one.base, [(one_dummy, [4])])]
    ):
        if index == 0:
            base[7] = two.conditioning[7]  # a concept without weights: its row is all there is to it
        wanted = reference.generate_by_index(UNET, x[index : index + 1], t[:1], base, injections, 0.7, weights)
        torch.testing.assert_close(ours[index : index + 1], wanted, rtol=1e-4, atol=1e-4)


def test_outside_the_range_of_steps_there_is_nothing_to_change() -> None:
    injected, _ = prompt(1, {4: "a"})
    x, t = inputs()
    half = {"a": Controls().with_options("steps 0-0.5")}
    with torch.no_grad(), at_concepts([injected], {"a": Change(full(customised()))}, half) as injection:
        injection.step(UNET, 0.5)
        ours = UNET(x, t, context=injected.conditioning[None])
    assert torch.equal(ours, UNET(x, t, context=injected.base[None]))


def test_custom_diffusion_itself_equals_changed_weights_and_changes_no_weight() -> None:
    first, second = customised(5), customised(6)
    changed = copy.deepcopy(UNET)
    for name, weight in changed.named_parameters():
        if layer_of(name):
            base = weight.detach().clone()
            weight.data = base + (first[PREFIX + name] - base) + 0.5 * (second[PREFIX + name] - base)
    before = {name: weight.detach().clone() for name, weight in UNET.named_parameters()}
    context = torch.randn(2, 12, reference.WIDTH, generator=torch.Generator().manual_seed(9))
    x, t = inputs(2)
    with torch.no_grad(), for_every_token([Change(full(first)), Change(deltas(second), 0.5)]) as hooks:
        hooks.step(UNET)
        ours = UNET(x, t, context=context)
    torch.testing.assert_close(ours, changed(x, t, context=context), rtol=1e-4, atol=1e-4)
    assert all(torch.equal(weight, before[name]) for name, weight in UNET.named_parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in UNET.modules())


class NoCopies(TorchDispatchMode):
    """Fails where something makes a tensor of the shape of a projection's weight, or writes to a weight of the model.

    Views are let through: they share the memory of what they are views of.
    """

    def __init__(self, unet: torch.nn.Module) -> None:
        super().__init__()
        weights = {name: weight.detach() for name, weight in unet.named_parameters()}
        self.owned = {weight.untyped_storage().data_ptr() for weight in weights.values()}
        shapes = [tuple(weight.shape) for name, weight in weights.items() if layer_of(name)]
        self.shapes = {*shapes, *(shape[::-1] for shape in shapes), *((math.prod(shape),) for shape in shapes)}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = [tensor for tensor in tree_flatten((args, kwargs))[0] if isinstance(tensor, torch.Tensor)]
        written = [
            value
            for index, argument in enumerate(func._schema.arguments)
            if argument.alias_info is not None and argument.alias_info.is_write
            for value in [args[index] if index < len(args) else (kwargs or {}).get(argument.name)]
            if isinstance(value, torch.Tensor)
        ]
        assert not any(tensor.untyped_storage().data_ptr() in self.owned for tensor in written), f"{func} writes"
        result = func(*args, **(kwargs or {}))
        known = {tensor.untyped_storage().data_ptr() for tensor in given}
        for tensor in tree_flatten(result)[0]:
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in known:
                assert tuple(tensor.shape) not in self.shapes, f"{func} makes a tensor {tuple(tensor.shape)}"
        return result


@pytest.mark.parametrize(
    "act",
    [
        lambda attention: attention.to_k.weight.clone(),
        lambda attention: attention.to_v.weight.T.contiguous(),
        lambda attention: attention.to_v.weight.flatten() + 1,
        lambda attention: torch.lerp(attention.to_k.weight, torch.zeros_like(attention.to_k.weight), 0.5),
        copy.deepcopy,
        lambda attention: attention.to_k.weight.half(),
        lambda attention: attention.to_k.weight.data.add_(1),
        lambda attention: attention.to_k.weight.data[:1].zero_(),
        lambda attention: attention.to_q.weight.data.copy_(torch.zeros(())),
        lambda attention: torch.mul(torch.zeros(()), 1, out=attention.to_k.weight.data[0, 0]),
    ],
)
def test_copies_of_weights_and_writes_to_them_would_be_seen(act) -> None:
    before = copy.deepcopy(UNET.state_dict())
    with torch.no_grad(), pytest.raises(AssertionError, match=r"writes|makes a tensor"), NoCopies(UNET):
        act(UNET.attentions[0])
    assert all(torch.equal(weight, before[name]) for name, weight in UNET.state_dict().items())


def low_rank(weights: dict[str, torch.Tensor]) -> KeyValueWeights:
    generator = torch.Generator().manual_seed(8)
    return KeyValueWeights(
        False,
        {
            layer_of(name): Factors(
                torch.randn(weight.shape[0], 2, generator=generator),
                torch.randn(2, weight.shape[1], generator=generator),
            )
            for name, weight in weights.items()
        },
    )


@pytest.mark.parametrize("strength", [1.0, 0.4])
@pytest.mark.parametrize("kind", [full, deltas, low_rank])
@pytest.mark.parametrize("everywhere", [False, True])
def test_activating_a_concept_clones_no_weight(kind, strength: float, everywhere: bool) -> None:
    change = Change(kind(customised()), strength)
    injected, _ = prompt(1, {4: "a", 5: "a"})
    uncond = torch.randn(12, reference.WIDTH, generator=torch.Generator().manual_seed(9))
    context = torch.stack([injected.conditioning, uncond])
    x, t = inputs(2)
    before = copy.deepcopy(UNET.state_dict())
    with torch.no_grad():
        plain = UNET(x, t, context=context)
        with NoCopies(UNET):
            hooks = (
                for_every_token([change, change])
                if everywhere
                else at_concepts([injected], {"a": change}, {"a": Controls(strength)})
            )
            with hooks:
                hooks.step(UNET)
                for _step in range(2):
                    ours = UNET(x, t, context=context.clone())
        assert torch.equal(UNET(x, t, context=context), plain)
    assert not torch.equal(ours[:1], plain[:1])
    assert not hooks.waiting
    assert all(torch.equal(weight, before[name]) for name, weight in UNET.state_dict().items())


@pytest.fixture
def applied(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often a change was computed, by layer."""
    counts: Counter[str] = Counter()
    apply = Change.apply

    def counted(self: Change, layer: str, *args: torch.Tensor) -> torch.Tensor:
        counts[layer] += 1
        return apply(self, layer, *args)

    monkeypatch.setattr(Change, "apply", counted)
    return counts


@pytest.mark.parametrize("strength", [1.0, 0.4])
def test_what_is_injected_is_computed_once_for_all_calls_batches_and_images(applied, strength: float) -> None:
    injected, dummy = prompt(1, {4: "a", 5: "a"})
    uncond = torch.randn(12, reference.WIDTH, generator=torch.Generator().manual_seed(9))
    weights = customised()
    batches = [
        [injected.conditioning, uncond],
        [injected.conditioning, injected.conditioning, uncond, uncond],  # a batch of two images
        [injected.conditioning, uncond],
        [uncond, injected.conditioning],  # another order
    ]
    with (
        torch.no_grad(),
        at_concepts([injected], {"a": Change(deltas(weights))}, {"a": Controls(strength)}) as hooks,
    ):
        hooks.step(UNET)
        for batch in batches:
            x, t = inputs(len(batch))
            for _step in range(3):
                ours = UNET(x, t, context=torch.stack(batch))
    assert sorted(applied.values()) == [1] * 6
    wanted = reference.generate_by_index(UNET, x[1:], t[1:], injected.base, [(dummy, [4, 5])], strength, weights)
    torch.testing.assert_close(ours[1:], wanted, rtol=1e-4, atol=1e-4)


def test_for_other_weights_it_is_computed_again(applied) -> None:
    injected, _ = prompt(1, {4: "a"})
    x, t = inputs()
    other = reference.UNet()
    with torch.no_grad(), at_concepts([injected], {"a": Change(deltas(customised()))}) as hooks:
        for unet in (UNET, other, UNET):
            hooks.step(unet)
            unet(x, t, context=injected.conditioning[None])
    assert sorted(applied.values()) == [3] * 6


def test_rows_that_come_later_are_computed_when_they_come(applied) -> None:
    """Prompt editing: the two prompts alternate."""
    one, one_dummy = prompt(1, {4: "a"})
    two, two_dummy = prompt(2, {2: "a"})
    weights = customised()
    x, t = inputs()
    with torch.no_grad(), at_concepts([one, two], {"a": Change(full(weights))}) as hooks:
        hooks.step(UNET)
        for injected, dummy, row in [(one, one_dummy, 4), (two, two_dummy, 2)] * 3:
            ours = UNET(x, t, context=injected.conditioning[None])
            wanted = reference.generate_by_index(UNET, x, t, injected.base, [(dummy, [row])], 1.0, weights)
            torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-4)
    assert sorted(applied.values()) == [2] * 6


def test_custom_diffusion_itself_is_computed_once_while_its_input_stays(applied) -> None:
    weights = customised()
    changed = copy.deepcopy(UNET)
    for name, weight in changed.named_parameters():
        if layer_of(name):
            weight.data = weights[PREFIX + name]
    first, second = torch.randn(2, 1, 12, reference.WIDTH, generator=torch.Generator().manual_seed(9))
    x, t = inputs()
    with torch.no_grad(), for_every_token([Change(full(weights))]) as hooks:
        hooks.step(UNET)
        for count, context in ((1, first), (2, second), (2, first)):  # both come in this step
            for given in (context, context.clone(), context):
                torch.testing.assert_close(
                    UNET(x, t, context=given), changed(x, t, context=context), rtol=1e-4, atol=1e-4
                )
            assert sorted(applied.values()) == [count] * 6
        for context in (second, second, second, first):  # the other one is forgotten after a step without it
            hooks.step(UNET)
            UNET(x, t, context=context)
        assert sorted(applied.values()) == [3] * 6
        first += 1  # by an extension, in the tensor that the last call was given
        torch.testing.assert_close(UNET(x, t, context=first), changed(x, t, context=first), rtol=1e-4, atol=1e-4)


def test_custom_diffusion_itself_does_not_mind_slices_nor_an_attention_that_scales_its_keys_in_place() -> None:
    weights = customised()
    change = Change(full(weights))
    name, attention = next((name, module) for name, module in UNET.named_modules() if name.endswith(".attn2"))
    wanted = weights[f"{PREFIX}{name}.to_k.weight"].T
    context = torch.randn(1, 12, reference.WIDTH, generator=torch.Generator().manual_seed(9))
    with torch.no_grad(), for_every_token([change]) as hooks:
        hooks.step(UNET)
        for part in (context[:, :6], context[:, 6:], context, context, context.clone()):
            keys = attention.to_k(part)
            torch.testing.assert_close(keys, part @ wanted)
            keys *= 0


def test_hooks_follow_a_changed_model_and_never_stay() -> None:
    other = reference.UNet()
    with pytest.raises(RuntimeError, match="interrupted"), for_every_token([Change(full(customised()))]) as hooks:
        hooks.step(UNET)
        hooks.step(other)
        assert not any(module._forward_hooks for module in UNET.modules())
        assert sum(len(module._forward_hooks) for module in other.modules()) == 6
        raise RuntimeError("interrupted")
    assert not any(module._forward_hooks for module in other.modules())


def test_a_loaded_checkpoint_of_custom_diffusion_is_injected_as_its_authors_would_load_it(tmp_path: Path) -> None:
    from alignit.concepts.formats import load_concept  # noqa: PLC0415

    weights = customised()
    file = tmp_path / "delta_epoch=000004.ckpt"
    torch.save({"state_dict": {**weights, "embed": torch.randn(1, reference.WIDTH)}}, file)
    concept = load_concept(file)
    assert [token.name for token in concept.tokens] == ["<new1>"]
    injected, dummy = prompt(1, {4: "<new1>"})
    x, t = inputs()
    with torch.no_grad(), at_concepts([injected], {"<new1>": Change(concept.weights)}) as hooks:
        hooks.step(UNET)
        ours = UNET(x, t, context=injected.conditioning[None])
    wanted = reference.generate_by_index(UNET, x, t, injected.base, [(dummy, [4])], 1.0, weights)
    torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("change", [False, True])
@pytest.mark.parametrize(
    ("options", "parts", "blocks", "strengths"),
    [
        ("keys", "k", (1, 2, 4), [1, 1, 1]),
        ("values", "v", (1, 2, 4), [1, 1, 1]),
        ("layers in01 in04", "kv", (1, 4), [1, 1, 1]),
        ("layers /1; 0.5; keys", "k", (1, 2), [0.5, 0.5, 0.5]),
        ("2; rising", "kv", (1, 2, 4), [0, 0.5, 1]),
        ("falling; steps 0-0.5", "kv", (1, 2, 4), [1, 0.5, 0]),
    ],
)
def test_controls_are_obeyed_in_each_layer_and_step(
    options: str, parts: str, blocks: tuple[int, ...], strengths: list[float], change: bool
) -> None:
    weights = customised() if change else None
    changes = {"a": Change(full(weights))} if weights else {}
    injected, dummy = prompt(1, {4: "a"})
    x, t = inputs()
    with torch.no_grad(), at_concepts([injected], changes, {"a": Controls().with_options(options)}) as hooks:
        hooks.step(UNET)
        for step, strength in enumerate(strengths):
            hooks.step(UNET, step / 4)
            ours = UNET(x, t, context=injected.conditioning[None].clone())
            wanted = reference.generate_by_index(
                UNET, x, t, injected.base, [(dummy, [4])], strength, weights, parts, blocks
            )
            torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-4)


def test_where_something_else_attends_in_a_layers_place_its_rows_are_found_all_the_same() -> None:
    """As an IP-Adapter in Forge: it calls to_k and to_v with the context, and not the layer."""
    injected, _ = prompt(1, {4: "<new1>", 5: "<new1>"})
    other, _ = prompt(2, {2: "<new1>"})
    change = Change(full(customised()), 1.0)
    attentions = [module for name, module in UNET.named_modules() if name.endswith("attn2")]

    def projected(attention: reference.CrossAttention, context: torch.Tensor, called: bool) -> list[torch.Tensor]:
        seen: list[torch.Tensor] = []
        watch = [
            part.register_forward_hook(lambda *it: seen.append(it[2])) for part in (attention.to_k, attention.to_v)
        ]
        if called:
            attention(torch.zeros(1, 3, attention.to_q.in_features), context)
        else:
            attention.to_k(context)
            attention.to_v(context)
        for handle in watch:
            handle.remove()
        return seen

    with torch.no_grad(), at_concepts([injected, other], {"<new1>": change}) as injection:
        injection.step(UNET)
        for first, second in ((injected, other), (other, injected)):
            for attention in attentions:
                base = [linear.forward(first.conditioning[None]) for linear in (attention.to_k, attention.to_v)]
                wanted = projected(attention, first.conditioning[None], called=True)
                assert not torch.equal(wanted[0], base[0])
                # Another context in between, so that what stands from the call before would be wrong.
                projected(attention, second.conditioning[None], called=False)
                for ours, right in zip(projected(attention, first.conditioning[None], False), wanted, strict=True):
                    torch.testing.assert_close(ours, right)
