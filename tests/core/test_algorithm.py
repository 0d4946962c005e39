"""The core against the paper's algorithm done by brute force (`reference.py`)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignit.algorithm.conditioning import splice
from alignit.algorithm.prompts import Chunk, Span, TargetChunk, base_chunk

from . import reference
from .reference import END, FILLER, START

torch.manual_seed(7)
CONCEPTS = {
    "<one>": torch.randn(1, reference.WIDTH),
    "<three>": torch.randn(3, reference.WIDTH),
    "<eight>": torch.randn(8, reference.WIDTH),
}
ENCODER, IDS = reference.text_encoder(CONCEPTS)
UNET = reference.UNet()

words = st.integers(1, 250)
mention = st.tuples(st.sampled_from(list(CONCEPTS)), st.lists(words, min_size=1, max_size=4))


def star(_concept: str) -> int:
    return FILLER


def target_chunk(parts: list) -> TargetChunk:
    """Build the target as a host would: placeholders of token 0 where a concept stands."""
    tokens, spans = [START], []
    for part in parts:
        if isinstance(part, int):
            tokens.append(part)
        else:
            name, class_tokens = part
            vectors = len(CONCEPTS[name])
            spans.append(Span(name, len(tokens), tuple(class_tokens), vectors, name))
            tokens += [0] * max(len(class_tokens), vectors)
    stop = len(tokens)
    tokens += [END] * (reference.LENGTH - stop)
    return TargetChunk(Chunk(tuple(tokens), (1.0,) * len(tokens)), tuple(spans), stop)


def encode_chunk(chunk: Chunk) -> torch.Tensor:
    """Encode a chunk the way a host does: embeddings replace the vectors of the tokens."""
    vectors = ENCODER.get_input_embeddings()(torch.tensor(chunk.tokens))
    for row, name in chunk.embeddings:
        vectors[row : row + len(CONCEPTS[name])] = CONCEPTS[name]
    with torch.no_grad():
        hidden = vectors + ENCODER.text_model.embeddings.position_embedding.weight
        mask = torch.full((len(chunk.tokens),) * 2, float("-inf")).triu(1)[None, None]
        for layer in ENCODER.text_model.encoder.layers:
            output = layer(hidden[None] if hidden.dim() == 2 else hidden, mask, mask)
            hidden = output[0] if isinstance(output, tuple) else output
        return ENCODER.text_model.final_layer_norm(hidden)[0]


def by_index(parts: list) -> tuple[list[int], list[tuple[list[int], list[int]]]]:
    """Build base and dummy prompts as plain token lists, from the paper's words and the documented alignment."""
    base: list[int] = []
    places: dict[str, list[int]] = {}
    width = []
    for part in parts:
        if isinstance(part, int):
            base.append(part)
            width.append((1, None))
            continue
        name, class_tokens = part
        count = max(len(class_tokens), len(CONCEPTS[name]))
        base += (class_tokens * 8)[-count:]  # whole repetitions, so the last tokens are a run that ends the class word
        start = 1 + len(base) - len(CONCEPTS[name])
        places.setdefault(name, []).extend(range(start, 1 + len(base)))
    dummies = []
    for name, indices in places.items():
        dummy = [FILLER] * len(base)
        for number, index in enumerate(indices):
            dummy[index - 1] = IDS[name][number % len(IDS[name])]
        dummies.append((dummy, indices))
    return base, dummies


def rows(parts: list) -> int:
    return sum(1 if isinstance(part, int) else max(len(part[1]), len(CONCEPTS[part[0]])) for part in parts)


prompts = st.lists(words | mention, min_size=1, max_size=12).filter(
    lambda parts: rows(parts) <= 75 and any(not isinstance(part, int) for part in parts)
)


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(prompts, st.sampled_from([1.0, 0.0, 0.5, 1.5]))
def test_unet_output_equals_overwriting_keys_and_values_by_index(parts: list, strength: float) -> None:
    target = target_chunk(parts)
    base_tokens, dummies = by_index(parts)
    generator = torch.Generator().manual_seed(3)
    x, t = torch.randn(1, 10, 4, generator=generator), torch.tensor([0.3])

    base = encode_chunk(base_chunk(target))[None]
    spliced, _ = splice(base, [[target]], star, encode_chunk, lambda _concept: strength)
    ours = UNET(x, t, context=spliced)

    encoded = [(reference.encode(ENCODER, reference.padded(tokens)), indices) for tokens, indices in dummies]
    wanted = reference.generate_by_index(
        UNET, x, t, reference.encode(ENCODER, reference.padded(base_tokens)), encoded, strength
    )
    torch.testing.assert_close(ours, wanted, rtol=2e-4, atol=2e-4)


def test_reference_would_notice_an_index_off_by_one() -> None:
    parts = [5, ("<one>", [9]), 7, 8]
    base_tokens, [(dummy, [index])] = by_index(parts)
    base, dummy_rows = (reference.encode(ENCODER, reference.padded(tokens)) for tokens in (base_tokens, dummy))
    x, t = torch.ones(1, 10, 4), torch.tensor([0.3])
    right = reference.generate_by_index(UNET, x, t, base, [(dummy_rows, [index])])
    wrong = reference.generate_by_index(UNET, x, t, base, [(dummy_rows, [index + 1])])
    assert (right - wrong).abs().max() > 0.01


@settings(deadline=None, max_examples=60)
@given(prompts)
def test_rows_of_other_tokens_are_the_base_models(parts: list) -> None:
    target = target_chunk(parts)
    base = encode_chunk(base_chunk(target))[None]
    before = base.clone()
    spliced, (placed,) = splice(base, [[target]], star, encode_chunk)
    assert torch.equal(base, before)
    untouched = [row for row in range(reference.LENGTH) if row not in placed.rows]
    assert torch.equal(spliced[0, untouched], base[0, untouched])
    assert sorted(placed.rows) == sorted(index for _, indices in by_index(parts)[1] for index in indices)


@settings(deadline=None)
@given(prompts)
def test_base_and_dummy_prompt_have_the_targets_length(parts: list) -> None:
    target = target_chunk(parts)
    base_tokens, dummies = by_index(parts)
    assert list(base_chunk(target).tokens) == reference.padded(base_tokens)
    seen = []

    def note(chunk: Chunk) -> torch.Tensor:
        tokens = list(chunk.tokens)
        for row, name in chunk.embeddings:
            tokens[row : row + len(IDS[name])] = IDS[name]
        seen.append(tokens)
        return torch.zeros(reference.LENGTH, reference.WIDTH)

    splice(torch.zeros(1, reference.LENGTH, reference.WIDTH), [[target]], star, note)
    assert seen == [reference.padded(dummy) for dummy, _ in dummies]


def test_a_prompt_of_several_chunks_is_spliced_in_each() -> None:
    first, second = target_chunk([1, ("<one>", [9])]), target_chunk([("<three>", [9, 10]), 4])
    base = torch.stack([encode_chunk(base_chunk(chunk)) for chunk in (first, second)]).flatten(0, 1)[None]
    spliced, (placed,) = splice(base, [[first, second]], star, encode_chunk)
    assert placed.rows == {2: "<one>", 78: "<three>", 79: "<three>", 80: "<three>"}
    dummy = reference.encode(ENCODER, reference.padded([*IDS["<three>"], FILLER]))
    torch.testing.assert_close(spliced[0, 78:81], dummy[1:4], rtol=1e-4, atol=1e-4)


def test_equal_dummy_prompts_are_encoded_once() -> None:
    target = target_chunk([1, ("<one>", [9]), 2])
    other = target_chunk([3, ("<one>", [9]), 4])
    calls = []

    def encode(chunk: Chunk) -> torch.Tensor:
        calls.append(chunk)
        return encode_chunk(chunk)

    base = torch.zeros(2, reference.LENGTH, reference.WIDTH)
    splice(base, [[target], [other]], star, encode)
    assert len(calls) == 1


def test_emphasis_stays_at_the_concept_in_its_dummy_prompt() -> None:
    target = target_chunk([1, ("<one>", [9]), 2])
    weighted = TargetChunk(
        Chunk(target.chunk.tokens, (1.0, 1.3, 1.2, 1.4, *target.chunk.multipliers[4:])), target.spans, target.text_stop
    )
    seen = []
    splice(
        torch.zeros(1, 77, 32),
        [[weighted]],
        star,
        lambda chunk: seen.append(chunk.multipliers) or encode_chunk(chunk),
    )
    assert seen[0][:5] == (1.0, 1.0, 1.2, 1.0, 1.0)
    assert base_chunk(weighted).multipliers[:5] == (1.0, 1.3, 1.2, 1.4, 1.0)


@pytest.mark.parametrize(
    ("class_tokens", "vectors", "tokens", "concept_rows"),
    [
        ((7,), 1, [7], [4]),
        ((7,), 3, [7, 7, 7], [4, 5, 6]),
        ((7, 8), 1, [7, 8], [5]),
        ((7, 8), 3, [8, 7, 8], [4, 5, 6]),
        ((7, 8, 9), 2, [7, 8, 9], [5, 6]),
        ((7,), 0, [7], []),
    ],
)
def test_class_word_and_concept_end_together(class_tokens, vectors, tokens, concept_rows) -> None:
    span = Span("c", 4, class_tokens, vectors, None)
    target = TargetChunk(
        Chunk((START, 1, 2, 3, *[0] * len(tokens), END), (1.0,) * (5 + len(tokens))), (span,), span.stop
    )
    assert base_chunk(target).tokens == (START, 1, 2, 3, *tokens, END)
    assert list(span.concept_rows) == concept_rows
