"""The studies measure what they say: scores, rules, intervals and what is kept of an interrupted run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("diffusers")

from alignit.algorithm.controls import Controls
from alignit.concepts.formats import load_concept
from miniature.concepts import CONCEPTS, CONCEPTS_FOLDER, concept_file
from miniature.customization import METHODS
from miniature.demo import Subject
from miniature.studies import controls, lengths, manipulation, rows, strong, table
from miniature.studies.bench import Bench, surroundings
from miniature.studies.pages import Page, run_study
from miniature.weights import FOLDER
from miniature.world import HELD_OUT, Look

LOOK = Look("car", "yellow", "striped", "black")
AS_IT_SHOULD = {"class": "car", "colour": "yellow", "pattern": "striped", "second": "black"}


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench()


def test_surroundings_are_all_different_and_the_seed_orders_them() -> None:
    assert len(set(surroundings(30, 1))) == 30
    assert surroundings(30, 1) != surroundings(30, 2)
    assert surroundings(5, 1) == surroundings(30, 1)[:5]


def test_reported_prompts_are_apart_from_those_of_validation() -> None:
    reported = table.reported_prompts()
    assert len(set(reported)) == table.PROMPTS
    assert not set(reported) & set(table.validation_prompts())
    assert not set(table.TEST) & set(table.VALIDATION)


def test_text_and_image_alignment_of_pictures() -> None:
    around = table.reported_prompts()[0]
    right = AS_IT_SHOULD | around.values()
    no_ball = right | {"companion": "none"}
    other = right | {"second": "white"}
    scores = table.score([right, no_ball, other, right], around, LOOK)
    assert scores.text == pytest.approx(11 / 12)
    assert scores.image == pytest.approx(3 / 4)
    assert (scores.right["companion"], scores.right["second"], scores.right["class"]) == (3 / 4, 3 / 4, 1)


@given(st.lists(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=3, max_size=3), min_size=1, max_size=4))
def test_an_interval_holds_its_number_where_all_scores_are_equal_and_stays_in_their_range(
    values: list[list[tuple[float, float]]],
) -> None:
    group = {("c", i): [table.Scores(*one) for one in of_concept] for i, of_concept in enumerate(values)}
    (samples,) = table.bootstrap([group], samples=40)
    texts = [one[0] for of_concept in values for one in of_concept]
    found = table.with_interval(table.means(list(group.values()))[0], [one[0] for one in samples])
    assert min(texts) - 1e-9 <= found.low <= found.high <= max(texts) + 1e-9
    if len(set(texts)) == 1:
        assert found.low == pytest.approx(found.value) == pytest.approx(found.high)


def test_groups_are_compared_within_each_bootstrap_sample() -> None:
    plain = {("c", i): [table.Scores(i / 10 + j / 100, 0.5) for j in range(5)] for i in range(4)}
    better = {key: [table.Scores(one.text + 0.1, 0.5) for one in of_key] for key, of_key in plain.items()}
    first, second = table.bootstrap([plain, better], samples=50)
    assert len({round(one[0], 6) for one in first}) > 10
    for one, other in zip(first, second, strict=True):
        assert other[0] - one[0] == pytest.approx(0.1)


def test_a_run_goes_on_after_a_line_that_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    every = list(table.units(["my-car"], 1, 2))
    results = table.Results(path)
    for unit in every[:2]:
        results.add(unit, table.Scores(0.5, 0.25))
    path.write_bytes(path.read_bytes()[:-9])
    again = table.Results(path)
    assert list(again.scores) == [every[0].key]
    again.add(every[1], table.Scores(1.0, 0.0))
    assert table.Results(path).scores == {every[0].key: table.Scores(0.5, 0.25), every[1].key: table.Scores(1.0, 0.0)}


def test_the_page_of_a_run_says_what_alignit_changes() -> None:
    every = list(table.units(["my-car", "my-cat"], 2, 3))
    results = table.Results(Path("/nonexistent"))
    for unit in every:
        text = {"plain": 0.5, "AlignIT": 0.6, table.CLASS_WORD: 0.9}[unit.way]
        image = 0.0 if unit.way == table.CLASS_WORD else 0.8
        results.scores[unit.key] = table.Scores(text, image, {"companion": text, "pattern": image})
    page = table.make_page(results, every, 5)
    assert "| Textual Inversion + AlignIT | 0.600 (0.600 to 0.600) | 0.800" in page.text
    assert "| CatVersion | +0.200 (+0.200 to +0.200) | +0.082 | +0.000" in page.text
    assert "| CatVersion + AlignIT | 0.600 | 0.800 |" in page.text
    assert page.numbers["rows"]["Class word"]["text"] == pytest.approx([0.9] * 3)
    for name, picture in page.pictures.items():
        assert f"table{name}.png" in page.text
        low, high = picture.convert("L").getextrema()
        assert low < 100 < high


def test_parts_make_all_units_and_share_no_trained_concept() -> None:
    every = list(table.units(table.TEST, 3, 2))
    parts = [table.part_of(every, number, 2) for number in (1, 2)]
    assert sorted(unit.key for part in parts for unit in part) == sorted(unit.key for unit in every)
    first, second = ({(unit.concept, unit.method, unit.training) for unit in part} for part in parts)
    assert not first & second
    assert abs(len(parts[0]) - len(parts[1])) <= len(every) / 10


def test_results_of_other_settings_are_not_mixed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table.keep_settings(tmp_path, table.settings_of(FOLDER, 3))
    table.keep_settings(tmp_path, table.settings_of(FOLDER, 3))
    assert table.main(["--work", str(tmp_path), "--seeds", "4"]) == 1
    assert "of other settings: choose another --work" in capsys.readouterr().err


@pytest.mark.parametrize("part", ["0/2", "3/2", "one", "1"])
def test_a_part_that_is_none_is_refused(part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        table.main(["--part", part, "--work", str(tmp_path)])
    assert "write 1/2" in capsys.readouterr().err


@pytest.mark.parametrize("case", [*lengths.LONGER, *lengths.SHORTER], ids=lambda case: case.mark)
def test_rules_of_alignment_place_as_many_words_as_they_say(case: lengths.Case) -> None:
    assert case.is_longer == (case in lengths.LONGER)
    for rule in lengths.RULES[case.is_longer].values():
        placed = rule(case)
        assert len(placed.dummy) <= len(placed.base)
        assert all(placed.dummy[row] != lengths.STAR or rule is lengths.stars for row in placed.rows)
        assert placed.base[-1] == case.class_words[-1]


@pytest.mark.parametrize("case", [lengths.LONGER[2], lengths.SHORTER[2]], ids=lambda case: case.mark)
def test_alignits_own_rule_is_alignit(bench: Bench, case: lengths.Case) -> None:
    where = surroundings(2, 0)
    rows = lengths.spliced(bench, lengths.repeated(case), where)
    ours = bench.conditioning([around.around(case.mark) for around in where], bench.aligned())
    assert torch.allclose(ours, rows, atol=1e-5)
    assert not torch.allclose(lengths.spliced(bench, lengths.first(case), where), rows, atol=1e-2)


def test_rows_stand_where_a_rule_says() -> None:
    at = [rows.places(4, 1, 0), rows.places(1, 2, 3)]  # "a photo of a X", "a X X in the snow"
    base, target, dummy = torch.zeros(2, 77, 1), torch.ones(2, 77, 1), torch.full((2, 77, 1), 100.0)
    sums = {name: rows.mixed(base, target, dummy, rule, at).sum(dim=(1, 2)) for name, rule in rows.RULES.items()}
    assert [found.tolist() for found in sums.values()] == [
        [0, 0], [100, 200], [1, 2], [5, 6], [71, 70], [1, 1], [200, 300], [7200, 7200], [7300, 7300], [171, 270],
        [77, 77],
    ]  # fmt: skip
    aligned = rows.mixed(base, target, dummy, rows.RULES[rows.ALIGNIT], at)
    assert aligned.nonzero()[:, :2].tolist() == [[0, 5], [1, 2], [1, 3]]


@pytest.mark.parametrize("method", METHODS)
def test_the_rule_of_alignit_is_alignit(bench: Bench, method: str) -> None:
    spec, where = CONCEPTS[1], surroundings(2, rows.AROUND)
    subject = Subject(load_concept(concept_file(CONCEPTS_FOLDER, spec, method)), spec.look.kind)
    marked = [around.around(subject.mark) for around in where]
    aligned = bench.aligned(subject.concept)
    ways = rows.ways(bench, subject, where)

    def differ(name: str, wanted: torch.Tensor) -> float:
        made = rows.pictures(bench, subject, ways[name], [1, 2])
        return (made.int() - wanted.int()).abs().float().mean().item()

    alone = bench.pictures(marked, [1, 2], aligned, align=False)
    with_alignit = bench.pictures(marked, [1, 2], aligned)
    none = bench.pictures(marked, [1, 2], aligned, concept_strength=0.0)
    assert differ(rows.ALIGNIT, with_alignit) < 0.1  # of 255: rounding of bfloat16
    assert differ(rows.ALONE, alone) < 0.1
    assert differ(rows.NONE, none) < 0.1
    assert differ(rows.ALIGNIT, none) > 1
    assert differ(rows.ALONE, none) > 1
    prompts = [around.around(subject.class_word) for around in where]
    if method == "catversion":
        assert torch.allclose(ways[rows.NONE].conditioning, bench.miniature.encode(prompts), atol=1e-4)
    assert bench.pictures(marked, [1, 2], aligned).equal(with_alignit)  # no hook is left


@pytest.mark.parametrize("strength", [0.0, 1.0, 2.5])
def test_a_strength_moves_the_weights_from_the_models_own(bench: Bench, strength: float) -> None:
    path = concept_file(CONCEPTS_FOLDER, CONCEPTS[0], "custom_diffusion")
    trained = torch.load(path, weights_only=True)["state_dict"]
    concept = strong.at_strength(load_concept(path), bench.pipe.unet, strength)
    assert concept.weights is not None
    model = bench.pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2
    for name, module in (("to_k", model.to_k), ("to_v", model.to_v)):
        layer = f"middle_block.1.transformer_blocks.0.attn2.{name}"
        moved = trained[f"model.diffusion_model.{layer}.weight"].float() - module.weight.detach()
        (got,) = concept.weights.matrices[layer].tensors
        torch.testing.assert_close(got, module.weight.detach() + strength * moved, atol=1e-5, rtol=1e-4)


def test_what_a_swap_did() -> None:
    swap = next(swap for swap in manipulation.SWAPS if swap.attribute == "class")
    base = [{"class": swap.at, "colour": "red", "background": "snow"}] * 2
    did = manipulation.outcome(swap, base, [base[0] | {"class": swap.concept}, base[1] | {"colour": "blue"}])
    assert (did.changed, did.kept, did.rest) == (0.5, 0.5, 0.75)


@pytest.mark.parametrize("swap", manipulation.SWAPS, ids=lambda swap: swap.mark)
def test_swaps_are_of_words_that_the_base_prompt_has(bench: Bench, swap: manipulation.Swap) -> None:
    around = surroundings(1, 0)[0]
    base, mark = swap.prompt(swap.at, around), swap.prompt(swap.mark, around)
    row = 1 + base.replace(",", " ,").split().index(swap.at)
    ours = bench.conditioning([mark], bench.aligned())[0]
    changed = (ours - bench.miniature.encode([base])[0]).abs().amax(dim=-1).gt(1e-4).nonzero().flatten()
    assert changed.tolist() == [row]


def test_a_study_writes_its_page_and_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def study(_bench: Bench, count: int) -> Page:
        return Page("small", "# Small", {"pictures": count})

    assert run_study(None, study, 3, ["--output", str(tmp_path / "made")]) == 0
    assert json.loads((tmp_path / "made" / "small.json").read_text()) == {"pictures": 3}
    (tmp_path / "file").write_text("")
    assert run_study(None, study, 3, ["--output", str(tmp_path / "file")]) == 1
    assert "choose another with --output" in capsys.readouterr().err
    assert run_study(None, study, 3, ["--weights", str(tmp_path), "--output", str(tmp_path)]) == 1
    assert str(tmp_path) in capsys.readouterr().err


def test_all_values_of_the_controls_can_be_used() -> None:
    for _, values in controls.CONTROLS.values():
        for value in values:
            if value != controls.PLAIN:
                Controls().with_options(value)


def test_concepts_of_the_table_are_held_out() -> None:
    assert all(table._spec(name).look in HELD_OUT for name in (*table.TEST, *table.VALIDATION))
