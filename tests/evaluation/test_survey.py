"""A survey of a run says nothing of which picture is which, and its tally counts what people said, and only that."""

from __future__ import annotations

import base64
import io
import itertools
import json
import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from evaluation.__main__ import main
from evaluation.errors import EvaluationError
from evaluation.intervals import clustered, interval, wilson
from evaluation.plan import ALIGNED, CLASS_WORD, PLAIN, Shot
from evaluation.record import Record
from evaluation.survey.answers import Answer, Person, read_answers
from evaluation.survey.pairs import CONCEPT, PROMPT, QUESTIONS, Key, Pair, choose, read_key
from evaluation.survey.tally import NO_DIFFERENCE, tally, to_data
from tests.evaluation.surveys import PROMPTS, add_picture, answers_file, make_references, make_run, way_of


@pytest.fixture
def survey(tmp_path: Path) -> Path:
    """A run's folder, with a survey of all its pairs."""
    make_run(tmp_path / "run")
    assert main(command(tmp_path)) == 0
    return tmp_path / "run"


def command(folder: Path, *more: str) -> list[str]:
    references = folder / "references"
    if not references.exists():
        make_references(references)
    return ["survey", str(folder / "run"), "--references", str(references), *more]


def asked(page: Path) -> dict[str, Any]:
    """What the page's script is given."""
    (found,) = re.findall(r'<script type="application/json" id="survey">(.*?)</script>', page.read_text(), re.DOTALL)
    data: dict[str, Any] = json.loads(found)
    return data


def decoded(data: str) -> Image.Image:
    kind, content = data.split(",", 1)
    assert kind == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(content)))


def answer(pair: Pair, question: str, way: str | None, left_way: str) -> dict[str, str | None]:
    """An answer as the page writes it: what is better, and what was at the left."""
    name = {made: name for name, made in pair.pictures.items()}
    return {
        "pair": pair.name,
        "question": question,
        "left": name[left_way],
        "chosen": None if way is None else name[way],
    }


# The page


def test_page_and_key_agree_on_which_picture_is_which(survey: Path) -> None:
    key, page = read_key(survey), asked(survey / "survey.html")
    assert page["survey"] == key.survey
    assert [pair["pair"] for pair in page["pairs"]] == [pair.name for pair in key.pairs]
    assert len(key.pairs) == 12
    for pair, shown in zip(key.pairs, page["pairs"], strict=True):
        assert shown["text"] == PROMPTS[pair.prompt].replace("{}", "cat")
        assert {one["picture"]: way_of(decoded(one["data"])) for one in shown["pictures"]} == pair.pictures
        for one in shown["pictures"]:
            green = decoded(one["data"]).convert("RGB").getpixel((5, 5))[1]
            assert abs(green - (30 + 12 * pair.prompt + 3 * pair.seed)) <= 1, "of this prompt and seed"


def test_the_page_says_nothing_of_how_a_picture_was_made(survey: Path) -> None:
    page = asked(survey / "survey.html")
    assert set(page) == {"survey", "pairs", "references"}
    names = []
    for pair in page["pairs"]:
        assert set(pair) == {"pair", "text", "pictures"}
        for picture in pair["pictures"]:
            assert set(picture) == {"picture", "data"}
            file = decoded(picture["data"])
            assert not {"comment", "parameters", "exif"} & set(file.info)
            names.append((picture["picture"], way_of(file)))
    text = re.sub(r"data:image/jpeg;base64,[^\"]*", "data:", (survey / "survey.html").read_text())
    assert not re.search(rf"my-cat|{PLAIN}|made by (?!a computer)|a note on|<script>'|seed", text)
    assert not re.search(r"https?:|\bsrc=\"(?!data:)", text), "all of it is in the file"
    assert all(re.fullmatch("[0-9a-f]{12}", name) for name, _ in names)
    for file in (decoded(data) for data in page["references"]):
        assert max(file.size) <= 384
        assert "comment" not in file.info


def test_sides_and_order_are_random_and_the_seed_makes_them_again(tmp_path: Path) -> None:
    entries = list(make_run(tmp_path / "run", seeds=12).entries.values())
    pairs = choose(entries, (PLAIN, ALIGNED), 48, 1)
    assert pairs == choose(entries, (PLAIN, ALIGNED), 48, 1)
    other = choose(entries, (PLAIN, ALIGNED), 48, 2)
    assert [(pair.prompt, pair.seed) for pair in pairs] != [(pair.prompt, pair.seed) for pair in other]
    first = Counter(next(iter(pair.pictures.values())) for one in (pairs, other) for pair in one)
    assert min(first[PLAIN], first[ALIGNED]) >= 30, first
    by_name = sorted((name, way) for pair in pairs for name, way in pair.pictures.items())
    runs = sum(one[1] != two[1] for one, two in itertools.pairwise(by_name))
    assert 30 <= runs <= 65, "no name tells the way"


@pytest.mark.parametrize("count", [1, 3, 4, 6, 40])
def test_each_prompt_is_asked_about_as_often(tmp_path: Path, count: int) -> None:
    record = make_run(tmp_path / "run")
    add_picture(record, Shot(3, PROMPTS[3], 9, PLAIN))  # not there in the other ways
    pairs = choose(list(record.entries.values()), (PLAIN, ALIGNED), count, 1)
    assert len(pairs) == len({(pair.prompt, pair.seed) for pair in pairs}) == min(count, 12)
    assert 9 not in {pair.seed for pair in pairs}
    of_prompt = Counter(pair.prompt for pair in pairs)
    assert max(of_prompt.values()) - min(of_prompt[number] for number in range(4)) <= 1


def test_the_same_command_makes_the_same_survey_and_another_one_does_not_replace_it(
    tmp_path: Path, survey: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {name: (survey / name).read_bytes() for name in ("survey.html", "survey-key.json")}
    assert main(command(tmp_path)) == 0
    assert {name: (survey / name).read_bytes() for name in before} == before
    for more in (["--seed", "2"], ["--pairs", "3"], ["--compare", CLASS_WORD, PLAIN]):
        assert main(command(tmp_path, *more)) == 1
        assert "has another survey already" in capsys.readouterr().err
        assert {name: (survey / name).read_bytes() for name in before} == before
    assert main(command(tmp_path, "--seed", "2", "--output", str(tmp_path / "second"))) == 0
    assert read_key(tmp_path / "second").survey != read_key(survey).survey


def test_ways_to_compare(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    assert main(command(tmp_path, "--compare", CLASS_WORD, ALIGNED, "--pairs", "5")) == 0
    key = read_key(tmp_path / "run")
    assert key.ways == (CLASS_WORD, ALIGNED)
    assert all(set(pair.pictures.values()) == {CLASS_WORD, ALIGNED} for pair in key.pairs)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (["--pairs", "0"], "--pairs must be at least 1"),
        (["--compare", PLAIN, PLAIN], "two different ways"),
        (["--references", "/nowhere"], "no pictures in"),
        (["--output", "/proc/none"], "choose another with --output"),
    ],
)
def test_what_is_in_the_way_of_a_survey(
    tmp_path: Path, more: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "run", 1, 1)
    assert main(command(tmp_path, *more)) == 1
    assert why in capsys.readouterr().err


def test_runs_that_cannot_be_asked_about(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(tmp_path)) == 1
    assert "There is no run in" in capsys.readouterr().err
    record = Record(tmp_path / "run", {})
    add_picture(record, Shot(0, PROMPTS[0], 1, PLAIN))
    assert main(command(tmp_path)) == 1
    assert "in all ways yet" in capsys.readouterr().err
    for way in (CLASS_WORD, ALIGNED):
        add_picture(record, Shot(0, PROMPTS[0], 1, way))
    record.picture("000-1-plain").write_bytes(b"no picture")
    assert main(command(tmp_path)) == 1
    assert "000-1-plain.png can't be read" in capsys.readouterr().err


# The answers


def damaged(**changes: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        content["answers"][1].update(changes)

    return change


def test_one_answer_given_twice_and_one_with_more_in_it(tmp_path: Path, survey: Path) -> None:
    key = read_key(survey)
    one = answer(key.pairs[0], PROMPT, PLAIN, PLAIN)
    twice = answers_file(tmp_path / "1.json", key, 1, [one, {**one, "chosen": None}])
    more = answers_file(tmp_path / "2.json", key, 1, [{**one, "weight": 100}])
    with pytest.raises(EvaluationError) as raised:
        read_answers([twice, more], key)
    assert "1.json: its answer 2 is none that the page gives" in str(raised.value)
    assert "2.json: its answer 1 is none that the page gives" in str(raised.value)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (damaged(pair="0" * 12), "answer 2"),
        (damaged(pair=["x"]), "answer 2"),
        (damaged(question="beauty"), "answer 2"),
        (damaged(question=None), "answer 2"),
        (damaged(left="0" * 12), "answer 2"),
        (damaged(left=None), "answer 2"),
        (damaged(chosen="AlignIT"), "answer 2"),
        (damaged(chosen=1), "answer 2"),
        (damaged(chosen=False), "answer 2"),
        (lambda content: content["answers"].append("yes"), "answer 4"),
        (lambda content: content.update(answers=[]), "no answers"),
        (lambda content: content.update(answers={}), "damaged"),
        (lambda content: content.update(person="../../me"), "damaged"),
        (lambda content: content.update(person=None), "damaged"),
        (lambda content: content.update(survey="0" * 16), "of another survey"),
        (lambda content: content.pop("survey"), "of another survey"),
        (lambda content: content.update(format="AlignIT survey key, 1"), "no file that a survey's page wrote"),
    ],
)
def test_files_that_the_page_did_not_write(
    tmp_path: Path, survey: Path, change: Callable[[dict[str, Any]], None], why: str
) -> None:
    key = read_key(survey)
    answers = [answer(pair, PROMPT, PLAIN, PLAIN) for pair in key.pairs[:3]]
    good = answers_file(tmp_path / "good.json", key, 1, answers)
    content = json.loads(good.read_text())
    content["person"] = "f" * 32
    change(content)
    (tmp_path / "bad.json").write_text(json.dumps(content))
    people, refused = read_answers([tmp_path / "bad.json", good], key)
    assert [person.name for person in people] == [f"{1:032x}"]
    assert [one.path.name for one in refused] == ["bad.json"]
    assert why in refused[0].why


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"3", b"\xff\xfe", b"[" * 100_000, b'{"format": 1}', b" " * 5_000_000, b"9" * 10_000],
    ids=["empty", "cut off", "list", "null", "number", "no UTF-8", "nested", "other", "large", "digits"],
)
def test_files_that_are_something_else(tmp_path: Path, survey: Path, content: bytes) -> None:
    (tmp_path / "answers.json").write_bytes(content)
    with pytest.raises(EvaluationError, match=r"no answers to count.*\n.*answers\.json: it is"):
        read_answers([tmp_path / "answers.json"], read_key(survey))
    with pytest.raises(EvaluationError, match=r"none\.json: it can't be read"):
        read_answers([tmp_path / "none.json"], read_key(survey))


def test_a_person_counts_once_with_the_fullest_file(tmp_path: Path, survey: Path) -> None:
    key = read_key(survey)
    answers = [answer(pair, PROMPT, ALIGNED, PLAIN) for pair in key.pairs]
    early = answers_file(tmp_path / "1.json", key, 7, answers[:2])
    late = answers_file(tmp_path / "2.json", key, 7, answers)
    people, refused = read_answers([early, late, late], key)
    assert [len(person.answers) for person in people] == [12]
    assert sorted(one.path.name for one in refused) == ["1.json", "2.json"]
    assert "the same person's" in refused[0].why


def test_keys_that_are_damaged(survey: Path) -> None:
    path = survey / "survey-key.json"
    content = path.read_text()
    for bad in ("", "[]", content.replace(ALIGNED, PLAIN), content.replace('"pairs"', '"pair"'), content[:-9]):
        path.write_text(bad)
        with pytest.raises(EvaluationError, match="is damaged"):
            read_key(survey)
    path.unlink()
    with pytest.raises(EvaluationError, match="no key of a survey"):
        read_key(survey)


# The figures


def test_wilsons_interval() -> None:
    # R. G. Newcombe, Statistics in Medicine 17 (1998), table I: method 3.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0, 0.1611), abs=5e-5)
    assert wilson(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


def test_the_bootstrap_over_people_and_prompts_is_that_of_a_loop() -> None:
    rng = random.Random(3)
    counts = np.array([[rng.randint(0, 4) for _ in range(8)] for _ in range(6)])
    hits = np.array([[rng.randint(0, count) for count in row] for row in counts.tolist()])
    samples = []
    for _ in range(4_000):
        people, prompts = rng.choices(range(6), k=6), rng.choices(range(8), k=8)
        drawn = sum(int(counts[p, q]) for p in people for q in prompts)
        if drawn:
            samples.append(sum(int(hits[p, q]) for p in people for q in prompts) / drawn)
    assert clustered(hits, counts, 4_000) == pytest.approx(interval(samples), abs=0.015)
    assert clustered(counts, counts) == (1, 1)


def test_answers_of_one_person_are_not_as_good_as_those_of_many(survey: Path) -> None:
    key = read_key(survey)
    names = {pair.name: {way: name for name, way in pair.pictures.items()} for pair in key.pairs}

    def said(way: str) -> tuple[Answer, ...]:
        return tuple(Answer(pair.name, PROMPT, names[pair.name][way], names[pair.name][way]) for pair in key.pairs)

    # Six of ten say always the one, the others always the other: ten opinions, not 120.
    people = [Person(f"{i:032x}", said(ALIGNED if i < 6 else PLAIN)) for i in range(10)]
    share = tally(people, key).results[PROMPT].shares[ALIGNED]
    assert share.value == pytest.approx(0.6)
    assert share.low <= 0.35
    assert share.high >= 0.85


def test_the_command_counts_and_says_what_it_does_not(
    tmp_path: Path, survey: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = read_key(survey)
    folder = tmp_path / "sent back"
    folder.mkdir()
    first = [answer(pair, question, ALIGNED, PLAIN) for pair in key.pairs for question in QUESTIONS]
    second = [answer(pair, PROMPT, PLAIN if i < 3 else None, PLAIN) for i, pair in enumerate(key.pairs)]
    answers_file(folder / "1.json", key, 1, first)
    answers_file(folder / "2.json", key, 2, second)
    answers_file(folder / "3.json", key, 3, second, survey="0" * 16)
    assert main(["tally", str(survey), str(folder)]) == 0
    out, err = capsys.readouterr()
    assert "3.json: it is of another survey" in err
    table = (survey / "survey-table.md").read_text()
    assert table in out
    # 24 answers: 12 AlignIT, 3 plain, 9 neither; and 12 for AlignIT.
    low, high = wilson(12, 15)
    line = next(line for line in table.splitlines() if "follows the prompt" in line)
    assert re.match(
        r"\| Which follows the prompt better\? \| 50\.0 % .* \| 12\.5 % .* \| 37\.5 % .* \| 80\.0 % .*\| 24", line
    )
    assert re.search(r"\| 100\.0 % \(75\.8 to 100\.0\) \| 12 \|$", table, re.MULTILINE), "Wilson's, where all agree"
    assert "People: 2, of whom 1 did not answer all." in table
    assert "Files that are not counted: 1." in table
    data = json.loads((survey / "survey-table.json").read_text())
    prompt = data["questions"][PROMPT]
    assert prompt["counts"] == {ALIGNED: 12, PLAIN: 3, NO_DIFFERENCE: 9}
    value, below, above = prompt["AlignIT of those who chose"]
    assert value == pytest.approx(0.8)
    assert below <= low < high <= above
    # Always PLAIN at the left: chosen by the second person alone, in 3 of 27 choices.
    assert data["left of those who chose"][0] == pytest.approx(3 / 27)
    assert data["not counted"] == [{"file": "3.json", "why": "it is of another survey: tally it with that one's run"}]

    (folder / "2.json").unlink()
    (folder / "1.json").unlink()
    assert main(["tally", str(survey), str(folder)]) == 1
    assert "of another survey" in capsys.readouterr().err


def test_a_question_that_nobody_answered(survey: Path) -> None:
    key = read_key(survey)
    pair = key.pairs[0]
    said = Answer(pair.name, PROMPT, next(iter(pair.pictures)), None)
    counted = tally([Person("0" * 32, (said,))], key)
    assert counted.results[CONCEPT].chosen.value is None
    assert counted.results[PROMPT].chosen.value is None
    assert counted.results[PROMPT].shares[NO_DIFFERENCE].value == 1
    json.dumps(to_data(counted, key, []), allow_nan=False)


KEY = Key(
    "survey",
    (PLAIN, ALIGNED),
    tuple(Pair(f"pair{i}", i % 3, i // 3, {f"{i}a": PLAIN, f"{i}b": ALIGNED}) for i in range(7)),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    opinions=st.lists(
        st.dictionaries(
            st.tuples(st.integers(0, 6), st.sampled_from(QUESTIONS)),
            st.sampled_from([PLAIN, ALIGNED, None]),
            min_size=1,
        ),
        min_size=1,
        max_size=5,
    ),
    seed=st.integers(0, 2**32),
)
def test_sides_and_order_change_nothing_but_the_share_of_the_left(
    tmp_path: Path, opinions: list[dict[tuple[int, str], str | None]], seed: int
) -> None:
    rng = random.Random(seed)
    tallies = []
    for attempt in range(2):
        # Another survey of the same pairs: other names, other order, other sides, other order of people.
        names = {pair.name: [f"{rng.getrandbits(48):012x}" for _ in pair.pictures] for pair in KEY.pairs}
        pairs = [
            Pair(pair.name, pair.prompt, pair.seed, dict(zip(names[pair.name], rng.sample(KEY.ways, 2), strict=True)))
            for pair in KEY.pairs
        ]
        key = Key(f"survey {attempt}", KEY.ways, tuple(rng.sample(pairs, len(pairs))))
        paths = []
        for number, opinion in enumerate(opinions):
            answers = [
                answer(pairs[pair], question, way, rng.choice(KEY.ways)) for (pair, question), way in opinion.items()
            ]
            path = tmp_path / f"{number}.json"
            paths.append(answers_file(path, key, number, rng.sample(answers, len(answers))))
        people, refused = read_answers(rng.sample(paths, len(paths)), key)
        assert not refused
        tallies.append(tally(people, key))
    assert tallies[0].results == tallies[1].results
    assert tallies[0].unfinished == tallies[1].unfinished
    for question in QUESTIONS:
        said = Counter(way for opinion in opinions for (_, asked), way in opinion.items() if asked == question)
        expected = {PLAIN: said[PLAIN], ALIGNED: said[ALIGNED], NO_DIFFERENCE: said[None]}
        assert tallies[0].results[question].counts == expected
