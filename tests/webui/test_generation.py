"""The life of a generation on a processing object: all of it is there or nothing, whatever fails, and copies too."""

from __future__ import annotations

import gc
from copy import copy
from types import SimpleNamespace
from typing import Any

import pytest

import alignit.webui.settings
from alignit.webui.generation import compare, generation, job, maps
from alignit.webui.generation.arguments import Arguments
from alignit.webui.generation.generation import Generation

PLACE = slice(1, 3)
ARGUMENTS = {
    "on": Arguments(enabled=True),
    "with maps": Arguments(enabled=True, attention_maps=True),
    "compared": Arguments(enabled=True, compare=True),
    "compared with maps": Arguments(enabled=True, compare=True, attention_maps=True),
}
TAKEN = {"close", "get_conds_with_caching", "sample", "cached_c", "cached_hr_c", "init"}


class Processing:
    """A processing object: what AlignIT asks for before sampling begins."""

    def __init__(self, prompt: str = "a my-cat") -> None:
        self.all_prompts = [prompt]
        self.script_args = (0, True, "")
        self.extra_generation_params: dict[str, Any] = {}
        self.comments: list[str] = []
        self.calls: list[str] = []

    cached_c = cached_hr_c = (None, None)

    def comment(self, text: str) -> None:
        self.comments.append(text)

    def close(self) -> None:
        self.calls.append("close")

    def init(self) -> None:
        self.calls.append("init")

    def sample(self) -> None:
        self.calls.append("sample")

    def get_conds_with_caching(self, *_: Any) -> None:
        self.calls.append("get_conds")


@pytest.fixture(autouse=True)
def _none_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of other tests can live till they are collected."""
    monkeypatch.setattr(generation, "_running", [])


@pytest.fixture(autouse=True)
def reported(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was reported as an error, by a host that can do nothing else."""
    reports: list[str] = []
    life = SimpleNamespace(report=lambda message, **_: reports.append(message))
    sampling = SimpleNamespace(
        inputs=lambda _attention, rows: (rows, rows),
        networks=lambda _module: None,
        rows_of_call=lambda *_: None,
        interrupted=False,
    )
    options = SimpleNamespace(get=lambda _name, default: default)
    stub = SimpleNamespace(life=life, sampling=sampling, options=options)
    for module in (generation, job, maps, compare, alignit.webui.settings):
        monkeypatch.setattr(module, "host", lambda: stub)
    return reports


def state(p: Processing) -> dict[str, Any]:
    """All that is set on a processing object, but what was told."""
    told = ("comments", "calls", "extra_generation_params")
    return {name: value for name, value in vars(p).items() if name not in told}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_one_attribute_holds_all_of_it_and_goes_with_it(name: str, reported: list[str]) -> None:
    p = Processing()
    before = state(p)
    Generation.begin(p, ARGUMENTS[name], PLACE)
    assert not reported
    assert Generation.of(p) is not None
    assert set(state(p)) - set(before) - TAKEN == {"alignit"}
    Generation.end(p)
    assert state(p) == before
    assert Generation.of(p) is None


@pytest.mark.parametrize("name", ARGUMENTS)
@pytest.mark.parametrize(
    ("part", "step"),
    [
        (job.Job, "__init__"),
        (job.Job, "take_over"),
        (maps.MapRecording, "__init__"),
        (compare.Comparison, "__init__"),
        (generation, "Replaced"),
    ],
)
def test_where_a_part_cannot_be_set_up_none_is(
    monkeypatch: pytest.MonkeyPatch, reported: list[str], name: str, part: Any, step: str
) -> None:
    raised = []

    def fail(*_: Any, **__: Any) -> None:
        raised.append(step)
        raise RuntimeError("as asked")

    monkeypatch.setattr(part, step, fail)
    p = Processing()
    before = state(p)
    Generation.begin(p, ARGUMENTS[name], PLACE)
    is_wanted = {maps.MapRecording: "maps" in name, compare.Comparison: "compared" in name}.get(part, True)
    assert bool(raised) == is_wanted
    assert (Generation.of(p) is None) == is_wanted
    if is_wanted:
        assert state(p) == before
        assert reported == ["AlignIT: error while setting up"]
        assert any("This picture is made without AlignIT" in comment for comment in p.comments)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_a_copy_is_none_of_its_own_and_can_begin_again(name: str) -> None:
    """As ADetailer does in mid-batch."""
    p = Processing()
    before = state(p)
    Generation.begin(p, ARGUMENTS[name], PLACE)
    ours = Generation.of(p)
    at_work = state(p)
    copied = copy(p)
    assert Generation.of(copied) is None
    p.extra_generation_params["AlignIT strength"] = "1"
    Generation.prepare(copied)
    assert state(copied) == before
    assert p.extra_generation_params == {"AlignIT strength": "1"}, "the info of the pictures that are being made"
    Generation.begin(copied, ARGUMENTS[name], PLACE)
    assert Generation.of(copied) not in (None, ours)
    Generation.end(copied)
    assert state(copied) == before
    assert Generation.of(p) is ours
    assert state(p) == at_work


@pytest.mark.parametrize("name", ARGUMENTS)
def test_the_end_of_the_processing_object_is_its_end(name: str) -> None:
    p = Processing()
    before = state(p)
    Generation.begin(p, ARGUMENTS[name], PLACE)
    p.close()
    assert p.calls == ["close"]
    assert state(p) == before


def test_one_object_for_several_generations() -> None:
    p = Processing()
    before = state(p)
    for arguments in ARGUMENTS.values():
        Generation.prepare(p)
        Generation.begin(p, arguments, PLACE)
    Generation.prepare(p)
    assert state(p) == before


def test_what_another_extension_put_on_top_stays_and_reaches_the_host() -> None:
    p = Processing()
    Generation.begin(p, ARGUMENTS["on"], PLACE)
    ours = p.sample
    p.sample = lambda: (p.calls.append("theirs"), ours())
    Generation.end(p)
    p.sample()
    assert p.calls == ["theirs", "sample"]


def test_without_a_concepts_network_nothing_is_set_up_where_it_is_off() -> None:
    p = Processing()
    before = state(p)
    Generation.begin(p, Arguments(), PLACE)
    assert state(p) == before
    Generation.settle(p)
    assert state(p) == before


@pytest.mark.parametrize("of", ["extra_network_data", "hr_extra_network_data"])
def test_networks_are_looked_for_in_each_batchs_final_prompts(of: str) -> None:
    p = Processing("a __run__")
    Generation.begin(p, Arguments(), PLACE)
    before = state(p)
    for data in (
        {"delta": ["cd-cat"]},
        {"lora": ["x"]},
        {"delta": ["cd-cat"], "lora": ["x"]},
        {},
        {"catversion": ["c"]},
    ):
        setattr(p, of, data)
        Generation.settle(p)
        named = bool({"delta", "catversion"} & set(data))
        assert (Generation.of(p) is not None) == named
        assert (set(state(p)) > {*before, of}) == named
    copied = copy(p)
    Generation.settle(copied)
    assert Generation.of(copied) is not None
    assert Generation.of(p) is not Generation.of(copied)
    copied.close()
    p.close()
    delattr(p, of)
    assert state(p) == before


def test_a_generation_with_alignit_on_is_not_ended_by_a_batch_without_networks() -> None:
    p = Processing()
    Generation.begin(p, ARGUMENTS["on"], PLACE)
    ours = Generation.of(p)
    for data in ({}, {"delta": ["cd-cat"]}, {}):
        p.extra_network_data = data
        Generation.settle(p)
        assert Generation.of(p) is ours


def test_what_a_plot_set_for_a_cell_stays_with_that_cell() -> None:
    plot = Processing()
    cells = [copy(plot), copy(plot)]
    for number, cell in enumerate(cells):
        Generation.set_axis(cell, "Strength", {"strength": number})
        Generation.set_axis(cell, "Steps", {"end": 0.5})
        Generation.prepare(cell)
        Generation.begin(cell, ARGUMENTS["on"], PLACE)
        cell.close()
    assert Generation.axes(plot) == {}
    assert [Generation.axes(cell)["Strength"] for cell in cells] == [{"strength": 0}, {"strength": 1}]
    assert Generation.axes(copy(cells[0]))["Steps"] == {"end": 0.5}


@pytest.mark.parametrize("counted", [True, False])
def test_the_batches_of_one_object_are_counted_once(monkeypatch: pytest.MonkeyPatch, counted: bool) -> None:
    """The Batch tab of img2img counts its batches beforehand, and generates several times with one object."""
    factors = []
    monkeypatch.setattr(
        generation.host().sampling, "count_jobs", lambda factor: factors.append(factor) or counted, raising=False
    )
    monkeypatch.setattr(compare, "has_concepts", lambda *_: True)
    p = Processing()
    for _picture in range(2):
        vars(p).update(n_iter=1, do_not_save_grid=False, batch_size=1)
        Generation.prepare(p)
        Generation.begin(p, ARGUMENTS["compared"], PLACE)
        p.init()
        assert p.n_iter == 3
        assert p.all_prompts == ["a my-cat"] * 3
        p.all_prompts = ["a my-cat"]
        Generation.end(p)
        assert p.n_iter == 1
    assert p.calls == ["init", "init"]
    assert factors == ([3] if counted else [3, 3])


def inner(p: Processing | None = None) -> Processing:
    """A generation that an extension makes without AlignIT's script: a new object, or a copy of another's."""
    made = copy(p) if p is not None else Processing()
    made.extra_network_data = {}
    return made


@pytest.mark.parametrize("copied", [False, True])
def test_one_that_is_made_inside_of_another_joins_it_and_ends_with_its_sampling(copied: bool) -> None:
    outer = Processing()
    Generation.begin(outer, ARGUMENTS["compared with maps"], PLACE)
    Generation.of(outer).begin_batch(0)
    at_work = state(outer)
    p = inner(outer if copied else None)
    plain = {"all_prompts", "script_args", "extra_network_data"}
    Generation.join(p)
    ours = Generation.of(p)
    assert ours not in (None, Generation.of(outer))
    assert set(state(p)) - plain == {"alignit", *TAKEN} - {"init"}
    Generation.join(p)
    assert Generation.of(p) is ours, "the host calls for each network"
    p.sample()
    assert p.calls[-1] == "sample"
    assert set(state(p)) == plain
    assert state(outer) == at_work


@pytest.mark.parametrize("end", ["sampling", "close", "the next batch of the outer"])
def test_one_that_fails_inside_leaves_nothing(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    outer = Processing()
    Generation.begin(outer, ARGUMENTS["on"], PLACE)
    Generation.of(outer).begin_batch(0)
    p = inner()

    def fail() -> None:
        raise RuntimeError("as asked")

    monkeypatch.setattr(Processing, "sample", lambda _p: fail())
    Generation.join(p)
    if end == "sampling":
        with pytest.raises(RuntimeError, match="as asked"):
            p.sample()
    elif end == "close":
        p.close()
    assert (Generation.of(p) is None) == (end != "the next batch of the outer")
    Generation.of(outer).begin_batch(1)
    Generation.end(outer)
    assert not generation._running


def test_one_outside_of_any_has_no_part() -> None:
    over = Processing()
    Generation.begin(over, ARGUMENTS["on"], PLACE)
    Generation.join(p := inner())
    assert Generation.of(p) is None, "no picture of the other is being made yet"
    Generation.of(over).begin_batch(0)
    Generation.of(over).finish(SimpleNamespace(images=[]))
    Generation.join(p := inner())
    assert Generation.of(p) is None, "its pictures are made"
    Generation.of(over).begin_batch(0)
    del over
    gc.collect()
    Generation.join(p := inner())
    assert Generation.of(p) is None, "nobody has it any more"
