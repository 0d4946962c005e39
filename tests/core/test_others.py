"""A LoRA's other layers where its concept is attended to: the equation of `alignit.algorithm.others`, written out."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import pytest
import torch

from alignit.algorithm.conditioning import Injected
from alignit.algorithm.controls import Controls, ControlsError, Others
from alignit.algorithm.injection import EncodedBatch, Injection
from alignit.algorithm.others import COVERED

WIDTH, CONTEXT, TOKENS, HEADS, SIDE = 8, 6, 10, 2, 6


class Attention(torch.nn.Module):
    def __init__(self, context: int) -> None:
        super().__init__()
        self.heads = HEADS
        self.to_q = torch.nn.Linear(WIDTH, WIDTH, bias=False)
        self.to_k = torch.nn.Linear(context, WIDTH, bias=False)
        self.to_v = torch.nn.Linear(context, WIDTH, bias=False)

    def probabilities(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        queries, keys = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in (self.to_q(x), self.to_k(context)))
        return (queries @ keys.mT / math.sqrt(WIDTH / HEADS)).softmax(-1)

    def forward(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        values = self.to_v(context).unflatten(-1, (HEADS, -1)).transpose(1, 2)
        return (self.probabilities(x, context) @ values).transpose(1, 2).flatten(2)


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn2 = Attention(CONTEXT)


class Transformer(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj_in = torch.nn.Linear(WIDTH, WIDTH)
        self.transformer_blocks = torch.nn.ModuleList([Block()])


class UNet(torch.nn.Module):
    """One transformer block of LDM's names, on the latents as they are and on half of their size."""

    def __init__(self) -> None:
        super().__init__()
        self.time_embed = torch.nn.Linear(1, WIDTH)
        self.lift = torch.nn.Conv2d(4, WIDTH, 1)
        self.input_blocks = torch.nn.ModuleList(
            torch.nn.ModuleList([torch.nn.Identity(), Transformer()]) for _ in range(3)
        )

    def forward(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        x = self.lift(x) + self.time_embed(x.new_ones(len(x), 1))[..., None, None]
        for number in (1, 2):
            block = self.input_blocks[number][1]
            tokens = block.proj_in(x.flatten(2).mT)
            tokens = tokens + block.transformer_blocks[0].attn2(tokens, context)
            x = tokens.mT.unflatten(2, x.shape[2:])
            if number == 1:
                x = torch.nn.functional.avg_pool2d(x, 2)
        return x


LAYERS = ("input_blocks.1.1.proj_in", "input_blocks.2.1.proj_in", "lift", "time_embed")


@dataclass(frozen=True)
class Change:
    """A random change of `LAYERS`."""

    seed: int

    def layers(self, unet: torch.nn.Module) -> Iterable[str]:
        return (name for name, _ in unet.named_modules() if name in LAYERS)

    def matrix(self, layer: str, into: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(self.seed * 100 + LAYERS.index(layer))
        return 0.5 * torch.randn(WIDTH, into, generator=generator, dtype=torch.float64)

    def difference(self, layer: str, inputs: torch.Tensor) -> torch.Tensor:
        if layer == "lift":
            return torch.nn.functional.conv2d(inputs, self.matrix(layer, 4)[..., None, None])
        return inputs @ self.matrix(layer, inputs.shape[-1]).T


@pytest.fixture
def unet() -> UNet:
    torch.manual_seed(0)
    return UNet().double().requires_grad_(requires_grad=False)


def prompt(rows: dict[int, str], seed: int = 1) -> Injected:
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(TOKENS, CONTEXT, generator=generator, dtype=torch.float64)
    conditioning = base.clone()
    conditioning[list(rows)] = torch.randn(len(rows), CONTEXT, generator=generator, dtype=torch.float64)
    return Injected(conditioning, base, rows)


def latents(seed: int, count: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 4, SIDE, SIDE, generator=generator, dtype=torch.float64)


NEGATIVE = torch.randn(TOKENS, CONTEXT, generator=torch.Generator().manual_seed(99), dtype=torch.float64)


def wanted(unet: UNet, x: torch.Tensor, context: torch.Tensor, weights: dict, changes: dict) -> tuple:
    """One row of a batch by the equation: the result, and the sum of A over layers, by their grids.

    weights: by concept, m of the grid [SIDE, SIDE], or a number where it is the same everywhere.
    """

    def added(layer: str, inputs: torch.Tensor, side: int | None) -> torch.Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for concept, change in changes.items():
            m = weights.get(concept, 0.0)
            if isinstance(m, torch.Tensor):
                if side is None:
                    continue
                step = SIDE // side
                m = m.reshape(side, step, side, step).mean((1, 3))
                m = m if layer == "lift" else m.flatten()[:, None]
            total = total + m * change.difference(layer, inputs)
        return total

    attended = []
    one = torch.ones(1, 1, dtype=torch.float64)
    time = unet.time_embed(one) + added("time_embed", one, None)
    h = unet.lift(x[None])[0] + added("lift", x, SIDE) + time[0][:, None, None]
    for number, side in ((1, SIDE), (2, SIDE // 2)):
        block = unet.input_blocks[number][1]
        tokens = h.flatten(1).T
        tokens = block.proj_in(tokens) + added(f"input_blocks.{number}.1.proj_in", tokens, side)
        attention = block.transformer_blocks[0].attn2
        attended.append(attention.probabilities(tokens[None], context[None])[0].mean(0))  # [places, tokens]
        tokens = tokens + attention(tokens[None], context[None])[0]
        h = tokens.T.unflatten(1, (side, side))
        if number == 1:
            h = torch.nn.functional.avg_pool2d(h, 2)
    return h, attended


def masks_of(attended: list[torch.Tensor], rows: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    a = {}
    for concept, of_concept in rows.items():
        fine, coarse = (maps[:, of_concept].mean(1) for maps in attended)
        up = torch.nn.functional.interpolate(coarse.reshape(1, 1, SIDE // 2, SIDE // 2), (SIDE, SIDE), mode="bilinear")
        a[concept] = (fine.reshape(SIDE, SIDE) + up[0, 0]) / 2
    count = round(COVERED * SIDE * SIDE)
    top = {c: a[c] >= a[c].flatten().sort(descending=True).values[count - 1] for c in a}
    return {c: torch.where(top[c], a[c] / sum(a[o] * top[o] for o in a), torch.zeros_like(a[c])) for c in a}


def run(unet: UNet, batch: EncodedBatch, steps: list[tuple[torch.Tensor, torch.Tensor]]) -> list[torch.Tensor]:
    results = []
    with Injection(batch) as injection:
        for number, (x, context) in enumerate(steps):
            injection.step(unet, number / len(steps))
            results.append(unet(x, context=context))
        assert not injection.unplaced
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in unet.modules())
    return results


CHANGES = {"cat": Change(1), "dog": Change(2)}


@pytest.mark.parametrize("rows", [{2: "cat", 3: "cat"}, {2: "cat", 3: "cat", 6: "dog"}])
def test_masked_by_the_step_before(unet: UNet, rows: dict[int, str]) -> None:
    of_prompt = prompt(rows)
    controls = {"cat": Controls(others_strength=0.8), "dog": Controls(strength=0.5)}
    batch = EncodedBatch((of_prompt,), controls, others=CHANGES)
    strengths = {"cat": 0.8, "dog": 0.5}
    named = {concept: [row for row, of in rows.items() if of == concept] for concept in rows.values()}
    steps = []
    expected: list[torch.Tensor] = []
    found: list[dict] = [{}, {}]
    for number in range(3):
        x = latents(number, 2)
        both = torch.cat([x, x])
        context = torch.stack([of_prompt.conditioning] * 2 + [NEGATIVE] * 2)
        steps.append((both, context))
        weights = [{c: strengths[c] * m for c, m in found[picture].items()} for picture in (0, 1, 0, 1)]
        made = [wanted(unet, both[row], context[row], weights[row], CHANGES) for row in range(4)]
        expected.append(torch.stack([h for h, _ in made]))
        found = [masks_of(made[picture][1], named) for picture in (0, 1)]
    for ours, theirs in zip(run(unet, batch, steps), expected, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)
    plain = unet(*steps[2])
    assert (expected[2] - plain).abs().max() > 0.1


def test_halves_that_are_given_one_after_the_other(unet: UNet) -> None:
    of_prompt = prompt({2: "cat"})
    batch = EncodedBatch((of_prompt,), others=CHANGES)
    contexts = torch.stack([of_prompt.conditioning] * 2), torch.stack([NEGATIVE] * 2)
    together, apart = [], []
    with Injection(batch) as injection:
        for number in range(3):
            injection.step(unet)
            x = latents(number, 2)
            together.append(unet(torch.cat([x, x]), context=torch.cat(contexts)))
    with Injection(batch) as injection:
        for number in range(3):
            injection.step(unet)
            x = latents(number, 2)
            apart.append(torch.cat([unet(x, context=context) for context in contexts]))
    assert torch.allclose(torch.stack(together), torch.stack(apart))
    assert not torch.allclose(together[2][2:], unet(latents(2, 2), contexts[1]), atol=1e-2)


def test_on_is_everywhere_where_the_concept_is_in_the_prompt(unet: UNet) -> None:
    with_cat, without = prompt({2: "cat"}), prompt({}, 5)
    controls = {"cat": Controls(others=Others.ON, others_strength=0.7)}
    batch = EncodedBatch((with_cat,), controls, others=CHANGES)
    x = latents(0, 2)
    both, context = torch.cat([x, x]), torch.stack([with_cat.conditioning, without.conditioning, NEGATIVE, NEGATIVE])
    (ours,) = run(unet, batch, [(both, context)])
    weights = [{"cat": 0.7}, {}, {"cat": 0.7}, {}]
    theirs = [wanted(unet, both[row], context[row], weights[row], CHANGES)[0] for row in range(4)]
    assert torch.allclose(ours, torch.stack(theirs))


@pytest.mark.parametrize(
    "controls",
    [Controls(others=Others.OFF), Controls(others_strength=0), Controls(strength=0)],
)
def test_off_leaves_the_model_alone(unet: UNet, controls: Controls) -> None:
    of_prompt = prompt({2: "cat"})
    batch = EncodedBatch((of_prompt,), {"cat": controls}, others=CHANGES)
    x, context = latents(0), of_prompt.conditioning[None]
    for ours in run(unet, batch, [(x, context)] * 3):
        assert torch.equal(ours, unet(x, context))


def test_a_concept_that_is_not_in_the_prompt_has_no_effect(unet: UNet) -> None:
    batch = EncodedBatch((prompt({2: "cat"}),), others=CHANGES)
    x, context = latents(0), prompt({}, 5).conditioning[None]
    for ours in run(unet, batch, [(x, context)] * 3):
        assert torch.equal(ours, unet(x, context))


def test_layers_whose_places_are_unknown_are_named(unet: UNet) -> None:
    of_prompt = prompt({2: "cat"})
    handle = unet.input_blocks[1][1].proj_in.register_forward_pre_hook(lambda _module, args: (args[0][:, :-1],))
    try:
        with Injection(EncodedBatch((of_prompt,), others=CHANGES)) as injection:
            injection.step(unet)
            with pytest.raises(RuntimeError):
                unet(latents(0), context=of_prompt.conditioning[None])
            assert injection.unplaced == {"input_blocks.1.1.proj_in"}
            injection.release()
            assert injection.unplaced == {"input_blocks.1.1.proj_in"}
            injection.begin_pass()
            assert not injection.unplaced
    finally:
        handle.remove()


@pytest.mark.parametrize(
    ("text", "others", "strength"),
    [
        ("others off", Others.OFF, 1.0),
        ("others ON 0.5", Others.ON, 0.5),
        ("others masked", Others.MASKED, 1.0),
        ("others masked 2", Others.MASKED, 2.0),
    ],
)
def test_the_option(text: str, others: Others, strength: float) -> None:
    controls = Controls().with_options(text)
    assert (controls.others, controls.others_strength) == (others, strength)


@pytest.mark.parametrize("text", ["others", "others 0.5", "others masked 3", "others everywhere"])
def test_an_option_that_cannot_be_used(text: str) -> None:
    with pytest.raises(ControlsError):
        Controls().with_options(text)
