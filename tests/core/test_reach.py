"""What concepts do beyond their own rows, against brute force (`reference.generate_with`)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignit.algorithm.conditioning import EncodersDisagreeError, Injected, Placed, splice
from alignit.algorithm.controls import Controls
from alignit.algorithm.injection import EncodedBatch, Injection, row_strength
from alignit.algorithm.options import ControlsError
from alignit.algorithm.prompts import base_chunk, class_word_chunk, dummy_chunk
from alignit.algorithm.reach import Context, Reach, ReachKind
from alignit.algorithm.rows import locate, occurrences

from . import reference
from .reference import FILLER, LENGTH, WIDTH
from .test_algorithm import ENCODER, IDS, UNET, by_index, encode_chunk, prompts, star, target_chunk
from .test_injection import BLOCKS, CHANGE, PARTS, WEIGHTS

REACHES = ["paper", "difference", "difference 0.5", "target padding 1.5", "target padding", "padding", "whole 0.7"]


@dataclass
class Asked:
    """What is asked for of a concept."""

    reach: str = "paper"
    context: str = "stars"
    strength: float = 1.0
    steps: tuple[float, float] = (0.0, 1.0)
    schedule: str = ""
    parts: str = ""
    layers: str = ""
    changes: bool = False

    @property
    def controls(self) -> Controls:
        steps = f"steps {self.steps[0]}-{self.steps[1]}"
        options = [f"reach {self.reach}", f"context {self.context}", str(self.strength), steps]
        return Controls().with_options("; ".join([*options, self.schedule, self.parts, self.layers]))

    def at(self, fraction: float) -> float:
        start, end = self.steps
        if not (start <= fraction and (fraction < end or end == 1)):
            return 0.0
        part = (fraction - start) / (end - start)
        return self.strength * {"": 1.0, "falling": 1 - part, "rising": part}[self.schedule]


asked = st.builds(
    Asked,
    st.sampled_from(REACHES),
    st.sampled_from(["stars", "prompt"]),
    st.sampled_from([0.0, 0.5, 1.0, 1.7]),
    st.sampled_from([(0.0, 1.0), (0.0, 0.5), (0.25, 0.75)]),
    st.sampled_from(["", "", "falling", "rising"]),
    st.sampled_from(["", *PARTS]),
    st.sampled_from(["", *BLOCKS]),
    st.booleans(),
)
each_asked = st.fixed_dictionaries(dict.fromkeys(IDS, asked))


def encoded(tokens: list[int]) -> torch.Tensor:
    return reference.encode(ENCODER, reference.padded(tokens))


def by_hand(parts: list, each: dict[str, Asked], fraction: float) -> tuple[torch.Tensor, list[reference.Concept]]:
    """What `reference.generate_with` takes, from whole token lists."""
    base_tokens, dummies = by_index(parts)
    names = list(dict.fromkeys(part[0] for part in parts if not isinstance(part, int)))
    base, concepts = encoded(base_tokens), []
    for name, (dummy, indices) in zip(names, dummies, strict=True):
        of = each[name]
        at = [index - 1 for index in indices]
        in_prompt = [dummy[i] if i in at else token for i, token in enumerate(base_tokens)]
        around = dummy if of.context == "stars" else in_prompt
        with_class_word = [base_tokens[i] if i in at else token for i, token in enumerate(around)]
        kind, _, factor = of.reach.rpartition(" ") if of.reach[-1].isdigit() else (of.reach, "", "1")
        plus, minus = {
            "paper": (dummy, base_tokens),
            "difference": (around, with_class_word),
            "target padding": (in_prompt, base_tokens),
            "padding": (around, base_tokens),
            "whole": (around, base_tokens),
        }[kind]
        ends = range(1 + len(base_tokens), LENGTH)
        concepts.append(
            reference.Concept(
                encoded(around),
                indices,
                [] if kind == "paper" else [*([0] if kind == "whole" else []), *ends],
                encoded(plus),
                encoded(minus),
                float(factor),
                of.at(fraction),
                WEIGHTS if of.changes else None,
                PARTS[of.parts],
                BLOCKS[of.layers],
            )
        )
    return base, concepts


def injected(parts: list, each: dict[str, Asked]) -> Injected:
    target = target_chunk(parts)
    base = encode_chunk(base_chunk(target))[None]
    spliced, (placed,) = splice(
        base,
        [[target]],
        lambda name: FILLER if each[name].context == "stars" else None,
        encode_chunk,
        lambda name: row_strength(each[name].controls, each[name].changes),
        lambda name: each[name].controls,
    )
    return Injected(spliced[0], base[0], placed.rows, placed.reached, placed.among_words)


def batch_of(item: Injected, each: dict[str, Asked]) -> EncodedBatch:
    return EncodedBatch(
        (item,),
        {name: of.controls for name, of in each.items()},
        {name: CHANGE for name, of in each.items() if of.changes},
    )


@pytest.mark.slow
@settings(deadline=None, max_examples=80)
@given(prompts, each_asked, st.lists(st.integers(0, 3), min_size=1, max_size=3))
def test_whatever_is_asked_for_of_each_concept_equals_brute_force(parts: list, each: dict, fractions: list) -> None:
    """Also that no other prompt is taken for the prompt, not even one that is the base prompt but for its last word."""
    item = injected(parts, each)
    generator = torch.Generator().manual_seed(3)
    others = torch.stack([encoded([3, 4, 5]), encoded([*by_index(parts)[0][:-1], 251])])
    context = torch.cat([others, item.conditioning[None]])
    x, t = torch.randn(3, 10, 4, generator=generator), torch.full((3,), 0.3)
    with torch.no_grad(), Injection(batch_of(item, each)) as injection:
        for fraction in (number / 4 for number in fractions):
            injection.step(UNET, fraction)
            ours = UNET(x, t, context=context)
            wanted = reference.generate_with(UNET, x[2:], t[:1], *by_hand(parts, each, fraction))
            torch.testing.assert_close(ours[2:], wanted, rtol=2e-4, atol=2e-4)
            torch.testing.assert_close(ours[:2], UNET(x[:2], t[:2], context=others), rtol=1e-4, atol=1e-4)
        assert not injection.lost
        assert not injection.waiting


def test_brute_force_would_notice() -> None:
    """Each reach and context is another picture."""
    parts, fraction = [5, ("<one>", [9]), 7, 8], 0.0
    x, t = torch.ones(1, 10, 4), torch.tensor([0.3])
    made = [
        reference.generate_with(UNET, x, t, *by_hand(parts, {"<one>": Asked(reach, context)}, fraction))
        for reach in ("paper", "difference", "difference 0.5", "target padding", "padding")
        for context in ("stars", "prompt")
    ]
    # With the prompt's own words around the concept, three of these are one: see `ReachKind`.
    assert all(
        (one - made[j]).abs().max() > 0.01 for i, one in enumerate(made) for j in range(i) if not {i, j} <= {3, 7, 9}
    )


@pytest.mark.slow
@settings(deadline=None, max_examples=30)
@given(prompts)
def test_with_the_prompts_own_words_three_reaches_are_one(parts: list) -> None:
    first, *others = (
        injected(parts, {name: Asked(reach, "prompt") for name in IDS})
        for reach in ("difference", "target padding", "padding")
    )
    for other in others:
        torch.testing.assert_close(first.conditioning, other.conditioning, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@settings(deadline=None, max_examples=30)
@given(prompts, st.sampled_from(REACHES[1:]))
def test_what_is_not_asked_for_is_the_papers_to_the_bit(parts: list, reach: str) -> None:
    target = target_chunk(parts)
    base = encode_chunk(base_chunk(target))[None]
    paper, (placed,) = splice(base, [[target]], star, encode_chunk)
    assert placed.reached == {}
    for each in (Asked(), Asked(f"{reach.rstrip('0123456789. ')} 0")):
        item = injected(parts, dict.fromkeys(IDS, each))
        assert item.reached == {}
        assert torch.equal(item.conditioning, paper[0])
    # Nor does a reach touch the text's rows.
    item = injected(parts, {name: Asked(reach) for name in IDS})
    assert torch.equal(item.conditioning[1 : target.text_stop], paper[0, 1 : target.text_stop])
    # At strength 0 nothing of a concept is there.
    nothing = injected(parts, {name: Asked(reach, strength=0.0) for name in IDS})
    assert torch.equal(nothing.conditioning, base[0])


@settings(deadline=None, max_examples=30)
@given(prompts)
def test_the_prompts_around_a_concept(parts: list) -> None:
    target = target_chunk(parts)
    base_tokens, dummies = by_index(parts)
    assert class_word_chunk(target, target.concepts()[0], None) == base_chunk(target)
    for name, (dummy, indices) in zip(target.concepts(), dummies, strict=True):
        with_class_word = [base_tokens[i] if i + 1 in indices else token for i, token in enumerate(dummy)]
        assert list(class_word_chunk(target, name, FILLER).tokens) == reference.padded(with_class_word)
        in_prompt = [dummy[i] if i + 1 in indices else token for i, token in enumerate(base_tokens)]
        torch.testing.assert_close(
            encode_chunk(dummy_chunk(target, name, None)), encoded(in_prompt), rtol=1e-4, atol=1e-4
        )


def test_the_prompts_own_words_keep_their_emphasis_and_plain_embeddings() -> None:
    target = target_chunk([1, ("<one>", [9]), 2, 3])
    chunk = replace(
        target.chunk,
        multipliers=(1.0, 1.3, 1.2, 1.4, *target.chunk.multipliers[4:]),
        embeddings=((4, "<one>"),),
    )
    target = replace(target, chunk=chunk)
    around = dummy_chunk(target, "<one>", None)
    assert around.multipliers == chunk.multipliers
    assert sorted(around.embeddings) == [(2, "<one>"), (4, "<one>")]
    assert class_word_chunk(target, "<one>", FILLER).multipliers[:5] == (1.0, 1.0, 1.2, 1.0, 1.0)
    assert class_word_chunk(target, "<one>", FILLER).embeddings == ()


def test_each_chunk_of_a_long_prompt_has_its_own_end_and_padding() -> None:
    first, second = target_chunk([1, ("<one>", [9])]), target_chunk([4, 5])
    base = torch.stack([encode_chunk(base_chunk(chunk)) for chunk in (first, second)]).flatten(0, 1)[None]
    _, (placed,) = splice(
        base, [[first, second]], star, encode_chunk, controls=lambda _: Controls().with_options("reach whole")
    )
    assert list(placed.reached) == [0, *range(3, LENGTH)]
    _, (placed,) = splice(
        base, [[second, first]], star, encode_chunk, controls=lambda _: Controls().with_options("reach difference")
    )
    assert list(placed.reached) == list(range(LENGTH + 3, 2 * LENGTH))


@pytest.mark.parametrize("changes", [False, True])
def test_where_a_host_repeats_the_last_row_it_is_that_row(changes: bool) -> None:
    """The WebUI does so where another part of AND has more chunks."""
    parts = [5, ("<one>", [9]), 7]
    each = {"<one>": Asked("difference", steps=(0.0, 0.5), changes=changes)}
    item = injected(parts, each)
    repeat = 4
    context = torch.cat([item.conditioning, item.conditioning[-1:].expand(repeat, -1)])[None]
    x, t = torch.randn(1, 10, 4, generator=torch.Generator().manual_seed(3)), torch.tensor([0.3])
    with torch.no_grad(), Injection(batch_of(item, each)) as injection:
        for fraction in (0.0, 0.5):
            injection.step(UNET, fraction)
            base, (concept,) = by_hand(parts, each, fraction)
            longer = {
                name: torch.cat([value, value[-1:].expand(repeat, -1)])
                for name, value in (("dummy", concept.dummy), ("plus", concept.plus), ("minus", concept.minus))
            }
            concept = replace(concept, **longer, reached=[*concept.reached, *range(LENGTH, LENGTH + repeat)])
            base = torch.cat([base, base[-1:].expand(repeat, -1)])
            wanted = reference.generate_with(UNET, x, t, base, [concept])
            torch.testing.assert_close(UNET(x, t, context=context), wanted, rtol=1e-4, atol=1e-4)


def test_a_negative_prompt_that_begins_as_the_prompt_does_keeps_its_start() -> None:
    """Custom Diffusion changes the start token's key and value, and its row is every prompt's."""
    item = injected([5, ("<one>", [9]), 7], {"<one>": Asked("whole", changes=True)})
    negative = torch.cat([item.conditioning[:2], encoded([5, 6])[2:]])
    found = occurrences(torch.stack([negative, item.conditioning]), item)
    assert {one.batch for one in found} == {1}
    assert {one.row for one in found} == {0, 2, *range(4, LENGTH)}
    assert set(locate(torch.stack([negative, item.conditioning]), [item])) == {
        (1, row) for row in (0, 2, *range(4, 77))
    }


@pytest.mark.parametrize("reach", ["paper", "difference"])
def test_a_negative_prompt_that_begins_as_the_target_prompt_does_is_the_users_own(reach: str) -> None:
    """With the prompt's own words around the concept, all rows up to it are the negative prompt's too."""
    item = injected([5, ("<one>", [9]), 7], {"<one>": Asked(reach, "prompt")})
    negative = encoded([5, *IDS["<one>"], 8])
    negative[1:3] = item.conditioning[1:3]  # these are the same but for rounding
    torch.testing.assert_close(negative, encoded([5, *IDS["<one>"], 8]), rtol=1e-4, atol=1e-4)
    assert {one.batch for one in occurrences(torch.stack([negative, item.conditioning]), item)} == {1}


def test_the_rows_of_two_encoders_stand_side_by_side() -> None:
    one = injected([5, ("<one>", [9]), 7], {"<one>": Asked("difference")})
    first = Placed(one.rows, one.reached)
    both = Placed.joined([first, first])
    assert both.reached.keys() == one.reached.keys()
    (addition,) = both.reached[5]
    assert addition.row.shape == addition.instead.shape == (2 * WIDTH,)
    other = injected([5, ("<one>", [9]), 7, 8], {"<one>": Asked("difference")})
    less = injected([5, ("<one>", [9]), 7], {"<one>": Asked("difference 0.5")})
    for disagreeing in (other, less):
        with pytest.raises(EncodersDisagreeError):
            Placed.joined([first, Placed(disagreeing.rows, disagreeing.reached)])
    assert first == Placed(one.rows, dict(one.reached))
    assert first != Placed(less.rows, less.reached)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("reach difference", Reach(ReachKind.DIFFERENCE)),
        ("Reach  Difference .5", Reach(ReachKind.DIFFERENCE, 0.5)),
        ("reach target  padding 2", Reach(ReachKind.TARGET_PADDING, 2)),
        ("reach padding", Reach(ReachKind.PADDING)),
        ("reach whole 0.25", Reach(ReachKind.WHOLE, 0.25)),
        ("reach difference; reach paper", Reach()),
    ],
)
def test_reach(text: str, wanted: Reach) -> None:
    assert Controls().with_options(text).reach == wanted


def test_context() -> None:
    assert Controls().with_options("context prompt").context is Context.PROMPT
    assert Controls().with_options("context prompt; context stars") == Controls()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("reach far", "no reach 'far': write paper, difference"),
        ("reach paper 0.5", "no reach 'paper 0.5'"),
        ("reach difference 2.5", r"factor 2\.5 of the reach is not from 0 to 2"),
        ("reach", "'reach' is no option"),
        ("context words", "'context words' is no option"),
    ],
)
def test_what_cannot_be_used_is_said(text: str, said: str) -> None:
    with pytest.raises(ControlsError, match=said):
        Controls().with_options(text)
