"""Attention maps against a naive attention, for one layer and for a UNet of several."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from alignit.algorithm.attention import token_probabilities
from alignit.algorithm.layers import Layers
from alignit.maps.pictures import overlay, sheet
from alignit.maps.recorder import Recorder
from alignit.maps.result import MappedText, MappedToken, MappedWord, NoMapError, newest_within
from alignit.maps.words import MAX_TOKENS
from tests.bilinear import enlarged

HEADS, WIDTH, TOKENS = 3, 5, 11


def naive(queries: torch.Tensor, keys: torch.Tensor, heads: int) -> np.ndarray:
    """The mean over heads of the attention of one picture, [places, tokens], in plain loops of double precision."""
    q, k = queries.double().numpy(), keys.double().numpy()
    width = q.shape[1] // heads
    total = np.zeros((len(q), len(k)))
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        for place in range(len(q)):
            logits = [sum(a * b for a, b in zip(q[place, part], key[part], strict=True)) for key in k]
            weights = [math.exp(logit / math.sqrt(width) - max(logits) / math.sqrt(width)) for logit in logits]
            total[place] += np.array(weights) / sum(weights)
    return total / heads


@settings(deadline=None, max_examples=30)
@given(
    st.integers(1, 4),
    st.integers(1, 7),
    st.integers(1, 20),
    st.integers(1, 12),
    st.sampled_from([1, 50, 1 << 22]),
    st.integers(0, 10**6),
)
def test_probabilities_are_those_of_a_naive_attention(heads, width, places, tokens, chunk, seed) -> None:
    generator = torch.Generator().manual_seed(seed)
    q, k = (3 * torch.randn(n, heads * width, generator=generator) for n in (places, tokens))
    maps = token_probabilities(q, k, heads, torch.arange(tokens), chunk)
    assert maps.dtype is torch.float32
    np.testing.assert_allclose(maps.numpy().T, naive(q, k, heads), atol=2e-6)
    np.testing.assert_allclose(maps.sum(0).numpy(), 1, atol=1e-5)
    rows = torch.tensor([tokens - 1, 0])
    np.testing.assert_array_equal(token_probabilities(q, k, heads, rows, chunk).numpy(), maps[rows].numpy())


class Attention(torch.nn.Module):
    """A cross-attention layer: what every optimisation calls, and no more."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.heads = HEADS
        self.to_q, self.to_k = (torch.nn.Linear(4, HEADS * WIDTH, bias=False) for _ in range(2))
        self.calls: list[tuple[torch.Tensor, torch.Tensor]] = []

    def forward(self, x: torch.Tensor, context: torch.Tensor) -> None:
        q, k = self.to_q(x), self.to_k(context)
        self.calls.append((q, k))


class Block(torch.nn.Module):
    def __init__(self, layers: int, seed: int) -> None:
        super().__init__()
        self.transformer_blocks = torch.nn.ModuleList()
        for index in range(layers):
            block = torch.nn.Module()
            block.attn2 = Attention(seed + index)
            self.transformer_blocks.append(block)


class UNet(torch.nn.Module):
    """The names of SD 1's UNet, with a cross-attention at three resolutions and nothing else."""

    PLACES = (("input_blocks", "1", 1, 0), ("input_blocks", "4", 2, 1), ("output_blocks", "11", 1, 0))

    def __init__(self) -> None:
        super().__init__()
        for seed, (side, number, layers, _) in enumerate(self.PLACES):
            part = torch.nn.ModuleDict({"1": Block(layers, 10 * seed)})
            if hasattr(self, side):
                getattr(self, side)[number] = part
            else:
                setattr(self, side, torch.nn.ModuleDict({number: part}))
        self.middle_block = torch.nn.ModuleDict({"1": Block(1, 99)})

    def attentions(self) -> list[tuple[str, int, Attention]]:
        found = [
            (f"{'in' if side == 'input_blocks' else 'out'}{int(number):02}", level, block.attn2)
            for side, number, _, level in self.PLACES
            for block in getattr(self, side)[number]["1"].transformer_blocks
        ]
        return [*found, ("m00", 3, self.middle_block["1"].transformer_blocks[0].attn2)]

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor, context: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        for _, level, attention in self.attentions():
            part = x
            for _ in range(level):
                part = torch.nn.functional.interpolate(
                    part, ((part.shape[2] + 1) // 2, (part.shape[3] + 1) // 2), mode="nearest"
                )
            attention(part.flatten(2).transpose(1, 2), context)
        return x


def text(words: dict[str, list[int]], picture: int = 0, part: int = 0, name: str = "a text") -> MappedText:
    of_text = tuple(MappedWord(word, tuple(MappedToken(word, row) for row in rows)) for word, rows in words.items())
    return MappedText(picture, part, name, of_text)


def batch(rows: int, seed: int, size: tuple[int, int] = (6, 8)) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 4, *size, generator=generator), torch.randn(rows, TOKENS, 4, generator=generator)


def run(unet: UNet, x: torch.Tensor, context: torch.Tensor) -> None:
    with torch.no_grad():
        unet(x, torch.zeros(len(x)), context=context)


def reference(
    unet: UNet, row: int, rows: list[int], size: tuple[int, int], blocks: Any = None, calls: Any = None
) -> np.ndarray:
    """The map that is wanted, of what the layers were given, with nothing of torch in it."""
    maps = []
    for block, level, attention in unet.attentions():
        height, width = size
        for _ in range(level):
            height, width = math.ceil(height / 2), math.ceil(width / 2)
        if blocks is None or block in blocks:
            for index, (q, k) in enumerate(attention.calls):
                if calls is None or index in calls:
                    maps += [naive(q[row], k[row], HEADS)[:, t].reshape(height, width) for t in rows]
    return np.mean([enlarged(values, size) for values in maps], axis=0)


def test_a_map_is_the_mean_over_heads_layers_steps_and_tokens() -> None:
    unet, recorder = UNet(), Recorder()
    wanted = text({"ball": [3], "golden cat": [5, 6]})
    with recorder:
        for step in range(3):
            recorder.watch(unet)
            recorder.begin_step([wanted])
            run(unet, *batch(2, step))  # the second row is the negative prompt's
    maps = recorder.take()[0]
    assert maps.words == ("ball", "golden cat")
    assert maps.size == (6, 8)
    for word, rows in (("ball", [3]), ("GOLDEN cat", [5, 6])):
        np.testing.assert_allclose(maps.heat_map(word).values, reference(unet, 0, rows, (6, 8)), atol=1e-5)
    for token, row in zip(maps.token_maps("golden cat"), (5, 6), strict=True):
        np.testing.assert_allclose(token.values, reference(unet, 0, [row], (6, 8)), atol=1e-5)
    assert maps.tokens("ball") == (MappedToken("ball", 3),)
    # Not those of the other row, so that the test can fail.
    assert np.abs(maps.heat_map("ball").values - reference(unet, 1, [3], (6, 8))).max() > 1e-3


@pytest.mark.parametrize(
    ("layers", "blocks"),
    [("down", {"in01", "in04"}), ("mid", {"m00"}), ("/2", {"in04"}), ("/1 out11", {"out11"}), ("all", None)],
)
def test_layers_can_be_chosen_while_recording_and_afterwards(layers: str, blocks: set[str] | None) -> None:
    unet, chosen = UNet(), Layers.parse(layers)
    recorded = {}
    for name, recorder in (("chosen", Recorder(chosen)), ("all", Recorder())):
        with recorder:
            recorder.watch(unet)
            recorder.begin_step([text({"ball": [3]})])
            run(unet, *batch(1, 0))
        recorded[name] = recorder.take()[0]
    wanted = reference(unet, 0, [3], (6, 8), blocks, calls=[0])
    np.testing.assert_allclose(recorded["chosen"].heat_map("ball").values, wanted, atol=1e-5)
    np.testing.assert_allclose(recorded["all"].heat_map("ball", chosen).values, wanted, atol=1e-5)
    if blocks is not None:
        assert {place.block for place in recorded["chosen"].places} == blocks
        with pytest.raises(NoMapError, match="there are no maps of these layers: there are those of"):
            recorded["chosen"].heat_map("ball", Layers.parse("out03"))


def test_pictures_of_a_batch_parts_of_and_and_calls_in_pieces() -> None:
    """Rows come image by image, in it part by part, then the negative ones; the host may cut the batch anywhere."""
    unet, recorder = UNet(), Recorder()
    rows = [
        text({"ball": [3]}, picture=7),
        text({"ball": [4]}, picture=8, part=0, name="a"),
        text({"ball": [2], "hat": [9]}, picture=8, part=1, name="b"),
        None,
        None,
    ]
    x, context = batch(5, 0)
    with recorder:
        recorder.watch(unet)
        recorder.begin_step(rows)
        run(unet, x, context)
        whole = recorder.take()
        recorder.begin_step(rows)
        for start, stop in ((0, 1), (1, 4), (4, 5)):
            run(unet, x[start:stop], context[start:stop])
        run(unet, x, context)  # beyond what was named
        pieces = recorder.take()
    assert set(whole) == set(pieces) == {7, 8}
    wanted = {
        (7, "ball"): reference(unet, 0, [3], (6, 8), calls=[0]),
        (8, "ball"): (reference(unet, 1, [4], (6, 8), calls=[0]) + reference(unet, 2, [2], (6, 8), calls=[0])) / 2,
        (8, "hat"): reference(unet, 2, [9], (6, 8), calls=[0]),
    }
    for (picture, word), values in wanted.items():
        for maps in (whole, pieces):
            np.testing.assert_allclose(maps[picture].heat_map(word).values, values, atol=1e-5)


def test_over_prompt_editing_a_word_has_the_steps_in_which_it_is_there() -> None:
    unet, recorder = UNet(), Recorder()
    first, second = text({"cat": [2], "snow": [5]}, name="a cat"), text({"dog": [2], "snow": [4]}, name="a dog")
    with recorder:
        for step, now in enumerate((first, first, second)):
            recorder.watch(unet)
            recorder.begin_step([now])
            run(unet, *batch(1, step))
    maps = recorder.take()[0]
    size = (6, 8)
    np.testing.assert_allclose(maps.heat_map("cat").values, reference(unet, 0, [2], size, calls=[0, 1]), atol=1e-5)
    np.testing.assert_allclose(maps.heat_map("dog").values, reference(unet, 0, [2], size, calls=[2]), atol=1e-5)
    snow = (2 * reference(unet, 0, [5], size, calls=[0, 1]) + reference(unet, 0, [4], size, calls=[2])) / 3
    np.testing.assert_allclose(maps.heat_map("snow").values, snow, atol=1e-5)


def test_it_sees_keys_as_hooks_set_later_leave_them() -> None:
    unet, recorder = UNet(), Recorder()
    attention = unet.attentions()[0][2]
    with recorder:
        recorder.watch(unet)
        other = attention.to_k.register_forward_hook(lambda _module, _args, keys: 3 * keys)
        recorder.watch(unet)  # at the next step
        recorder.begin_step([text({"ball": [3]})])
        run(unet, *batch(1, 0))
        other.remove()
    values = recorder.take()[0].heat_map("ball", Layers.parse("in01")).values
    np.testing.assert_allclose(values, reference(unet, 0, [3], (6, 8), {"in01"}), atol=1e-5)
    unet.attentions()[0][2].calls[:] = [(q, k / 3) for q, k in attention.calls]
    assert np.abs(values - reference(unet, 0, [3], (6, 8), {"in01"})).max() > 1e-3


@pytest.mark.parametrize("size", [(6, 8), (7, 5), (1, 9), (13, 13)])
def test_any_proportions(size: tuple[int, int]) -> None:
    unet, recorder = UNet(), Recorder()
    with recorder:
        recorder.watch(unet)
        recorder.begin_step([text({"ball": [3]})])
        run(unet, *batch(1, 0, size))
    assert not recorder.unread
    maps = recorder.take()[0]
    np.testing.assert_allclose(maps.heat_map("ball").values, reference(unet, 0, [3], size), atol=1e-5)


def test_memory_is_that_of_the_blocks_and_not_of_steps_layers_or_heads() -> None:
    unet, recorder = UNet(), Recorder()
    kept = []
    wanted = text({"ball": [3], "hat": [5, 6]})
    with recorder:
        for step in range(6):
            recorder.watch(unet)
            recorder.begin_step([wanted])
            run(unet, *batch(2, step))
            kept.append(recorder.nbytes)
    assert set(kept) == {4 * 3 * (48 + 12 + 48 + 1)}  # float32, rows, places of the blocks
    assert recorder.take()[0].nbytes == kept[0]
    assert recorder.nbytes == 0


def test_no_more_probabilities_at_once_than_allowed() -> None:
    largest = 0

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, _types, args=(), kwargs=None):
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            if function in (torch.Tensor.softmax, torch.Tensor.__matmul__, torch.Tensor.matmul):
                largest = max(largest, result.numel())
            return result

    q, k = torch.randn(4096, 40), torch.randn(77, 40)
    with Watch():
        maps = token_probabilities(q, k, 8, torch.tensor([5]), chunk=100_000)
    assert 0 < largest <= 100_000
    assert maps.shape == (1, 4096)


class SdxlLayers(torch.nn.Module):
    """The 70 cross-attention layers of SDXL, by their names, with narrow heads."""

    PLACES = (
        *((side, number, 2, 1) for side, number in [("input_blocks", 4), ("input_blocks", 5)]),
        *(("output_blocks", number, 2, 1) for number in (3, 4, 5)),
        *((side, number, 10, 2) for side, number in [("input_blocks", 7), ("input_blocks", 8)]),
        *(("output_blocks", number, 10, 2) for number in (0, 1, 2)),
    )

    def __init__(self) -> None:
        super().__init__()
        self.input_blocks, self.output_blocks = torch.nn.ModuleDict(), torch.nn.ModuleDict()
        for side, number, layers, _ in self.PLACES:
            getattr(self, side)[str(number)] = torch.nn.ModuleDict({"1": Block(layers, 0)})
        self.middle_block = torch.nn.ModuleDict({"1": Block(10, 0)})

    def forward(self, x: torch.Tensor, context: torch.Tensor) -> None:
        blocks = [(getattr(self, side)[str(number)]["1"], level) for side, number, _, level in self.PLACES]
        for block, level in [*blocks, (self.middle_block["1"], 2)]:
            part = x[:, :, :: 2**level, :: 2**level].flatten(2).transpose(1, 2)
            for layer in block.transformer_blocks:
                layer.attn2(part, context)
                layer.attn2.calls.clear()


def test_memory_on_sdxl_at_1024_by_1024() -> None:
    """As many tokens as a picture may have: what is kept is some 10 MiB, and no tensor on the way is larger than 16."""
    largest = 0

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, _types, args=(), kwargs=None):
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                largest = max(largest, result.nbytes)
            return result

    unet, recorder = SdxlLayers(), Recorder()
    wanted = text({"all": list(range(MAX_TOKENS))})
    with recorder, torch.no_grad(), Watch():
        recorder.watch(unet, levels=3)
        recorder.begin_step([wanted])
        unet(torch.randn(2, 4, 128, 128), torch.randn(2, 154, 4))
    assert recorder.nbytes == MAX_TOKENS * 4 * (5 * 64 * 64 + 6 * 32 * 32) < 10 << 20
    assert recorder.watched == 70
    assert not recorder.unread
    assert largest <= 16 << 20
    maps = recorder.take()[0]
    assert {place.block for place in maps.places} == {
        *("in04", "in05", "in07", "in08", "m00", "out00", "out01", "out02", "out03", "out04", "out05")
    }
    assert maps.size == (128, 128)


def hooks(unet: torch.nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in unet.modules())


def test_nothing_stays_behind() -> None:
    unet, recorder = UNet(), Recorder()
    with pytest.raises(ZeroDivisionError), recorder:
        recorder.watch(unet)
        recorder.watch(unet)
        assert hooks(unet) == 1 + 2 * len(unet.attentions())
        1 / 0  # noqa: B018
    assert hooks(unet) == 0
    other = UNet()
    with recorder:
        recorder.watch(unet)
        recorder.watch(other)
        assert hooks(unet) == 0
    assert hooks(other) == 0


def test_an_error_in_a_hook_costs_the_maps_and_not_the_picture() -> None:
    unet, recorder = UNet(), Recorder()
    unet.attentions()[1][2].heads = 4  # does not divide the width
    with recorder:
        recorder.watch(unet)
        recorder.begin_step([text({"ball": [3]})])
        run(unet, *batch(1, 0))
    assert recorder.error is not None
    assert recorder.take() == {}
    assert all(len(attention.calls) == 1 for _, _, attention in unet.attentions())


def test_layers_that_cannot_be_read_are_named() -> None:
    unet, recorder = UNet(), Recorder()
    x, context = batch(2, 0)
    with recorder:
        recorder.watch(unet)
        recorder.begin_step([text({"far": [TOKENS]}), None])
        run(unet, x, context)
        assert recorder.take() == {}
        recorder.begin_step([text({"ball": [3]}), None])
        with torch.no_grad():
            recorder._on_unet(unet, (x,), {})
            unet.attentions()[0][2](torch.zeros(1, 48, 4), context[:1])  # half of the batch
            unet.attentions()[1][2](torch.zeros(2, 47, 4), context)  # a prime number of places
    assert len(recorder.unread) == 2
    assert recorder.take() == {}


def test_calls_with_pictures_of_another_size_are_not_recorded() -> None:
    """As an extension makes them that cuts the picture into tiles."""
    unet, recorder = UNet(), Recorder()
    wanted = text({"ball": [3]})
    with recorder:
        recorder.watch(unet)
        recorder.begin_step([wanted], (6, 8))
        run(unet, *batch(1, 0, (6, 4)))
        assert recorder.take() == {}
        recorder.begin_step([wanted], (6, 8))
        run(unet, *batch(1, 0))
        assert recorder.take()[0].size == (6, 8)


def test_the_last_maps_are_kept_within_a_limit() -> None:
    unet, recorder = UNet(), Recorder()
    with recorder:
        recorder.watch(unet)
        recorder.begin_step([text({"ball": [3]}, picture=number) for number in (3, 10, 4)])
        run(unet, *batch(3, 0))
    maps = recorder.take()
    each = maps[3].nbytes
    assert newest_within(maps, 3 * each) == [3, 4, 10]
    assert newest_within(maps, 3 * each - 1) == [4, 10]
    assert newest_within(maps, 0) == [10]
    assert newest_within({}, 5) == []


def test_unknown_words_are_refused_with_those_that_there_are() -> None:
    unet, recorder = UNet(), Recorder()
    with recorder:
        recorder.watch(unet)
        recorder.begin_step([text({"ball": [3], "cat": [4]})])
        run(unet, *batch(1, 0))
    with pytest.raises(NoMapError, match="no map of 'zebra': there are those of ball, cat"):
        recorder.take()[0].heat_map("zebra")


def test_pictures_of_maps() -> None:
    unet, recorder = UNet(), Recorder()
    with recorder:
        recorder.watch(unet)
        recorder.begin_step([text({"ball": [3]})])
        run(unet, *batch(1, 0))
    heat_map = recorder.take()[0].heat_map("ball")
    assert heat_map.relative.min() == 0
    assert heat_map.relative.max() == 1
    assert heat_map.peak == heat_map.values.max() < 1
    picture = Image.new("RGB", (64, 48), (10, 200, 30))
    assert heat_map.overlay(picture).size == (64, 48)
    left = np.zeros((6, 8), np.float32)
    left[:, :4] = 1
    pixels = np.asarray(overlay(picture, left)).astype(int)
    assert (pixels[:, -8:] == (10, 200, 30)).all(), "the picture itself where nothing is"
    assert (pixels[:, :8, 0] > 190).all(), "hot where the map is at its peak"
    flat = np.zeros((6, 8), np.float32)
    assert np.array_equal(np.asarray(overlay(picture, flat)), np.asarray(picture))


def test_a_sheet_holds_every_cell() -> None:
    from PIL import ImageFont  # noqa: PLC0415

    colours = [(20 * index + 10, 255 - 20 * index, 7) for index in range(8)]
    cells = [
        (Image.new("RGB", (70, 40), colour), "w" * index * 20 + "\nsecond line") for index, colour in enumerate(colours)
    ]
    pixels = np.asarray(sheet(cells, ImageFont.load_default())).reshape(-1, 3)
    assert all((pixels == colour).all(1).sum() == 70 * 40 for colour in colours)


def test_a_prompt_that_the_host_repeats_is_as_one_that_it_does_not() -> None:
    """Forge repeats the shorter one of prompt and negative prompt; a token's map is that of all of its copies."""
    unet, recorder = UNet(), Recorder()
    x, context = batch(2, 0)
    repeated = context.repeat(1, 3, 1)
    found = []
    with recorder:
        for given, tokens in ((context, TOKENS), (repeated, TOKENS), (repeated, None), (repeated, 2 * TOKENS)):
            recorder.watch(unet)
            recorder.begin_step([text({"ball": [3]})], tokens=tokens)
            run(unet, x, given)
            found.append(recorder.take()[0].heat_map("ball").values)
    once, copies, as_it_is, of_another_length = found
    np.testing.assert_allclose(copies, once, rtol=1e-4)
    np.testing.assert_allclose(as_it_is, once / 3, rtol=1e-4)
    np.testing.assert_array_equal(of_another_length, as_it_is)


def test_a_longer_context_that_is_no_repetition_is_taken_as_it_is() -> None:
    unet, recorder = UNet(), Recorder()
    x, context = batch(1, 0)
    padded = torch.cat([context, batch(1, 9)[1]], dim=1)
    found = []
    with recorder:
        for tokens in (TOKENS, None):
            recorder.watch(unet)
            recorder.begin_step([text({"ball": [3]})], tokens=tokens)
            run(unet, x, padded)
            found.append(recorder.take()[0].heat_map("ball").values)
    np.testing.assert_array_equal(*found)
