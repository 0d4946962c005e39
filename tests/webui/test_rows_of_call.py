"""Whose the rows of a call of the UNet are: as the WebUI has them, and as its forks say."""

from __future__ import annotations

from typing import Any

import pytest

from alignit.webui.host.a1111.sampling import A1111Sampling


def forks_calls(pictures: int, parts: int, room: int, negative: bool) -> tuple[list[str], list[dict[str, Any]]]:
    """The rows as AlignIT names them, and calls as the forks' `calc_cond_uncond_batch` makes them.

    Args:
        pictures: The pictures of a batch.
        parts: The parts of AND.
        room: How many chunks fit into a call.
        negative: Whether there is a negative prompt.
    """
    rows = [f"{picture}.{part}" for picture in range(pictures) for part in range(parts)]
    to_run = [([f"{picture}.{part}" for picture in range(pictures)], 0) for part in range(parts)]
    to_run += [([None] * pictures, 1)] * negative
    calls = []
    while to_run:
        of_call = [to_run.pop() for _ in range(min(room, len(to_run)))]
        calls.append(
            {
                "rows": [row for chunk, _ in of_call for row in chunk],
                "call": {"transformer_options": {"cond_or_uncond": [kind for _, kind in of_call]}},
            }
        )
    return rows, calls


@pytest.mark.parametrize("pictures", [1, 3])
@pytest.mark.parametrize("parts", [1, 2, 4])
@pytest.mark.parametrize("room", [1, 2, 9])
@pytest.mark.parametrize("negative", [True, False])
def test_the_forks_say_what_a_call_has(pictures: int, parts: int, room: int, negative: bool) -> None:
    to_come, calls = forks_calls(pictures, parts, room, negative)
    for call in calls:
        of_call, to_come = A1111Sampling().rows_of_call(to_come, len(call["rows"]), call["call"])
        assert of_call == call["rows"]
    assert to_come == []


def test_rows_beyond_those_that_are_known_are_nobodys() -> None:
    call = {"transformer_options": {"cond_or_uncond": [1, 0, 0]}}
    assert A1111Sampling().rows_of_call(["a"], 3, call) == ([None, "a", None], [])
    assert A1111Sampling().rows_of_call([], 3, call) == ([None, None, None], [])


@pytest.mark.parametrize("call", [{}, {"transformer_options": None}, {"transformer_options": {}}])
def test_the_webui_has_the_positive_rows_first(call: dict[str, Any]) -> None:
    assert A1111Sampling().rows_of_call(["a", "b", "c"], 2, call) == (["a", "b"], ["c"])
    assert A1111Sampling().rows_of_call(["c"], 4, call) == (["c"], [])
