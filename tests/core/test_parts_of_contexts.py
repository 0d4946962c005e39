"""Line 4 in whatever a layer's projections are given: regions, extended contexts, calls by other code, changed weights.

What a projection returns is checked row by row against the paper's definition, whose keys and values are computed here
from the rows' provenance: no place of a concept is looked for.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from alignit.algorithm.conditioning import Injected
from alignit.algorithm.controls import Controls
from alignit.algorithm.injection import EncodedBatch, Injection, row_strength
from alignit.concepts.concept import Dense, KeyValueWeights
from alignit.concepts.layer_names import layer_of
from alignit.concepts.weight_change import Change

from . import reference

LENGTH = 12
ROWS = {4: "cat", 5: "cat", 9: "dog"}
GENERATOR = torch.Generator().manual_seed(1)
BASE, DUMMY, NEGATIVE = torch.randn(3, LENGTH, reference.WIDTH, generator=GENERATOR)
UNET = reference.UNet()
NAMES = [f"input_blocks.{number}.1.transformer_blocks.0.attn2" for number in reference.ATTENTION_BLOCKS]
WEIGHTS = {
    layer_of(f"model.diffusion_model.{name}"): weight.detach() + 0.2 * torch.randn(weight.shape, generator=GENERATOR)
    for name, weight in UNET.named_parameters()
    if layer_of(name)
}
CHANGE = Change(KeyValueWeights(True, {layer: Dense(weight) for layer, weight in WEIGHTS.items()}))
DELTA = Change(KeyValueWeights(False, {layer: Dense(weight) for layer, weight in WEIGHTS.items()}))


def injected(controls: dict[str, Controls], changes: dict[str, Change]) -> Injected:
    conditioning = BASE.clone()
    for row, name in ROWS.items():
        conditioning[row] = torch.lerp(BASE[row], DUMMY[row], row_strength(controls[name], name in changes))
    return Injected(conditioning, BASE, ROWS)


def wanted(
    name: str, part: str, weight: torch.Tensor, at: int, controls: dict[str, Controls], changes: dict[str, Change]
) -> torch.Tensor:
    """K_p[i] or V_p[i] of the prompt's row i after line 4."""
    plain = weight @ BASE[at]
    if at not in ROWS:
        return plain
    control, change = controls[ROWS[at]], changes.get(ROWS[at])
    custom = WEIGHTS[layer_of(f"{name}.{part}")]
    changed = weight if change is None else custom if change is CHANGE else weight + custom
    asked = control.keys if part == "to_k" else control.values
    return plain + (control.strength if asked else 0) * (changed @ DUMMY[at] - plain)


# A piece of a context: rows of the prompt, of the negative prompt, or others.
pieces = st.tuples(st.sampled_from(["prompt", "negative", "noise"]), st.integers(0, LENGTH), st.integers(0, LENGTH))
calls = st.lists(st.lists(pieces, min_size=1, max_size=3), min_size=1, max_size=5)


def laid_out(call: list[tuple[str, int, int]]) -> list[tuple[str, int]]:
    """The rows of a context, each with where it is from."""
    rows: list[tuple[str, int]] = []
    for kind, one, two in call:
        start, stop = min(one, two), max(one, two)
        rows += [(kind, number) for number in range(start, stop)]
    return rows


def known_by_its_neighbours(rows: list[tuple[str, int]]) -> bool:
    """Whether each concept's row is known as the prompt's, and not that of a negative prompt that begins like it."""
    for place, (kind, number) in enumerate(rows):
        if kind == "prompt" and number in ROWS:
            start = {4: 4, 5: 4, 9: 9}[number]
            stop = {4: 6, 5: 6, 9: 10}[number]
            before, after = place - number + start - 1, place - number + stop
            with_before = before >= 0 and rows[before] == ("prompt", start - 1)
            if not (with_before or after >= len(rows) or rows[after] == ("prompt", stop)):
                return False
    return True


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(
    calls,
    st.sampled_from(["", "keys", "values", "0.4", "0.4; keys"]),
    st.sampled_from(["none", "full", "delta"]),
    st.booleans(),
    st.booleans(),
)
def test_each_row_gets_its_own_keys_and_values(contexts, options, kind, within, repeated) -> None:
    """Whether inside of `attn2` or not, sliced, extended, or several times."""
    laid = [rows for call in contexts if (rows := laid_out(call))]
    assume(laid and all(map(known_by_its_neighbours, laid)))
    controls = {"cat": Controls().with_options(options), "dog": Controls()}
    changes = {"none": {}, "full": {"cat": CHANGE}, "delta": {"cat": DELTA, "dog": DELTA}}[kind]
    prompt = injected(controls, changes)
    noise = torch.randn(LENGTH, reference.WIDTH, generator=GENERATOR)
    tables = {"prompt": prompt.conditioning, "negative": NEGATIVE, "noise": noise}
    whole = torch.stack([prompt.conditioning, NEGATIVE])
    with torch.no_grad(), Injection(EncodedBatch((prompt,), controls, changes)) as injection:
        for step in range(2):
            injection.step(UNET, step / 2)
            UNET(torch.zeros(2, 3, 4), torch.zeros(2), context=whole)
            for rows in laid * (2 if repeated else 1):
                part_of_it = torch.stack([tables[table][number] for table, number in rows])[None]
                for name, attention in zip(NAMES, UNET.attentions, strict=True):
                    got = projected(attention, part_of_it, whole if within else None)
                    for part, result in got.items():
                        weight = getattr(attention, part).weight
                        expected = torch.stack(
                            [
                                wanted(name, part, weight, number, controls, changes)
                                if table == "prompt"
                                else weight @ tables[table][number]
                                for table, number in rows
                            ]
                        )
                        torch.testing.assert_close(result[0], expected, rtol=1e-4, atol=1e-4)
        assert not injection.missing
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in UNET.modules())


def projected(attention: Any, rows: torch.Tensor, context: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """Call the projections alone, or from an attention that is given a context and uses other rows."""
    got: dict[str, torch.Tensor] = {}

    def forward(*_: Any, **__: Any) -> None:
        got.update(to_k=attention.to_k(rows), to_v=attention.to_v(rows))

    if context is None:
        forward()
        return got
    attention.forward = forward
    try:
        attention(torch.zeros(2, 3, 16), context=context)
    finally:
        del attention.forward
    return got


def test_rows_of_more_or_fewer_dimensions() -> None:
    controls = {"cat": Controls(values=False), "dog": Controls()}
    prompt = injected(controls, {"cat": CHANGE})
    attention = UNET.attentions[0]
    with torch.no_grad(), Injection(EncodedBatch((prompt,), controls, {"cat": CHANGE})) as injection:
        injection.step(UNET)
        batch = attention.to_k(prompt.conditioning[None])[0]
        assert torch.equal(attention.to_k(prompt.conditioning), batch)
        four = attention.to_k(prompt.conditioning.expand(2, 1, LENGTH, -1))
        assert four.shape == (2, 1, *batch.shape)
        torch.testing.assert_close(four[1, 0], batch)


@pytest.mark.parametrize("change", [CHANGE, DELTA])
@pytest.mark.parametrize("options", ["", "0.4", "values", "falling"])
@pytest.mark.parametrize("how", ["in place", "by another tensor", "by another parameter", "by the forward", "no"])
def test_weights_that_change_in_mid_sampling_count_from_then_on(change: Change, options: str, how: str) -> None:
    """LoRAs with strengths by step; functional ones are in the module's forward, not in its weight."""
    unet = reference.UNet()
    controls = {"cat": Controls().with_options(options), "dog": Controls()}
    prompt = injected(controls, {"cat": change})
    shift = 0.0

    def forward(module: torch.nn.Linear, rows: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(rows, module.weight + shift)

    injection = Injection(EncodedBatch((prompt,), controls, {"cat": change}), networks=lambda _module: shift)
    with torch.no_grad(), injection:
        for step in range(4):
            injection.step(unet, step / 4)
            if step == 2 and how != "no":
                shift = 0.1 if how == "by the forward" else 0.0
                for attention in unet.attentions:
                    for module in (attention.to_k, attention.to_v):
                        if how == "in place":
                            module.weight.add_(0.1)
                        elif how == "by another tensor":
                            module.weight.data = module.weight.data + 0.1
                        elif how == "by another parameter":
                            module.weight = torch.nn.Parameter(module.weight + 0.1)
                        else:
                            module.forward = forward.__get__(module)
            for name, attention in zip(NAMES, unet.attentions, strict=True):
                for part in ("to_k", "to_v"):
                    got = getattr(attention, part)(prompt.conditioning[None])[0]
                    weight = getattr(attention, part).weight + shift
                    strength = controls["cat"].strength_at(step / 4)
                    now = {**controls, "cat": Controls(strength, keys=controls["cat"].keys)}
                    expected = [wanted(name, part, weight, row, now, {"cat": change}) for row in range(LENGTH)]
                    torch.testing.assert_close(got, torch.stack(expected), rtol=1e-4, atol=1e-4)


def test_deltas_for_every_token_follow_weights_that_change() -> None:
    unet = reference.UNet()
    context = torch.stack([BASE, NEGATIVE])
    with torch.no_grad(), Injection(EncodedBatch(everywhere=(DELTA,))) as injection:
        for step in range(3):
            injection.step(unet)
            if step:
                unet.attentions[0].to_k.weight.mul_(0.5)
            got = unet.attentions[0].to_k(context)
            weight = unet.attentions[0].to_k.weight + WEIGHTS[layer_of(f"{NAMES[0]}.to_k")]
            torch.testing.assert_close(got, context @ weight.T, rtol=1e-4, atol=1e-4)


def hyper(rows: torch.Tensor) -> torch.Tensor:
    return rows * 1.7 + 0.3


@pytest.mark.parametrize("applied", [True, False])
def test_hypernetworks_where_they_are_applied_and_where_an_extension_leaves_them_out(applied: bool) -> None:
    """Rows that a hypernetwork prepared are nowhere in a conditioning: the context says where the concept stands."""
    controls = {"cat": Controls().with_options("0.4"), "dog": Controls()}
    prompt = injected(controls, {"cat": CHANGE})
    context = torch.stack([NEGATIVE, prompt.conditioning])
    given_rows = hyper(context) if applied else context.clone()
    attention, name = UNET.attentions[1], NAMES[1]
    batch = EncodedBatch((prompt,), controls, {"cat": CHANGE})
    with torch.no_grad(), Injection(batch, prepare=lambda _layer, rows: (hyper(rows), hyper(rows))) as injection:
        injection.step(UNET)
        for _call in range(2):
            got = projected(attention, given_rows, context)
            for part, result in got.items():
                weight = getattr(attention, part).weight
                plain = given_rows @ weight.T
                base = (hyper(BASE) if applied else BASE) @ weight.T
                dummy = (hyper(DUMMY) if applied else DUMMY) @ WEIGHTS[layer_of(f"{name}.{part}")].T
                for row in (4, 5):
                    plain[1, row] = torch.lerp(base[row], dummy[row], 0.4)
                torch.testing.assert_close(result, plain, rtol=1e-4, atol=1e-4)


def test_a_layer_that_a_concept_does_not_come_to_is_told_of() -> None:
    controls = {"cat": Controls().with_options("steps 0.5-1"), "dog": Controls()}
    prompt = injected(controls, {"cat": CHANGE})
    attention = UNET.attentions[1]
    x, t = torch.zeros(1, 3, 4), torch.zeros(1)

    def forward(x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        return attention.attend(x, attention.to_k(context * 1.01), attention.to_v(context))

    with torch.no_grad(), Injection(EncodedBatch((prompt,), controls, {"cat": CHANGE})) as injection:
        injection.step(UNET, 0.0)
        UNET(x, t, context=prompt.conditioning[None])
        assert not injection.missing, "it is not wanted in this step"
        attention.forward = forward
        try:
            injection.step(UNET, 0.5)
            UNET(x, t, context=prompt.conditioning[None])
        finally:
            del attention.forward
        assert injection.missing == {"cat": {f"{NAMES[1]}.to_k"}}
        injection.release()
        assert injection.missing == {"cat": {f"{NAMES[1]}.to_k"}}
        injection.begin_pass()
        injection.step(UNET, 0.5)
        UNET(x, t, context=prompt.conditioning[None])
        assert not injection.missing
        assert not injection.lost
