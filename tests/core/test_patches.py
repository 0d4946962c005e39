"""Attributes of objects that are others for a while."""

from __future__ import annotations

from copy import copy

import pytest

from alignit.patches import Replaced, replaced


class Target:
    """An object of a host's: one attribute of its own, one of its class, one that cannot be set."""

    of_class = "class"

    def __init__(self) -> None:
        self.own = "own"

    @property
    def fixed(self) -> str:
        return "fixed"


NEW = {"own": "new", "of_class": "new", "added": "new"}


def test_after_a_block_the_instance_is_as_it_was() -> None:
    target = Target()
    with pytest.raises(RuntimeError, match="as asked"), Replaced(target, NEW):
        assert vars(target) == NEW
        assert Target.of_class == "class"
        target.own = "something else"
        del target.added
        raise RuntimeError("as asked")
    assert vars(target) == {"own": "own"}


def test_blocks_in_blocks() -> None:
    target = Target()
    with replaced(target, "own", 1):
        with replaced(target, "own", 2):
            assert target.own == 2
        assert target.own == 1
    assert vars(target) == {"own": "own"}


def test_where_one_cannot_be_replaced_none_is() -> None:
    target = Target()
    with pytest.raises(AttributeError):
        Replaced(target, {"own": "new", "fixed": "new"})
    assert vars(target) == {"own": "own"}


def test_what_other_code_set_in_the_meantime_stays() -> None:
    target = Target()
    taken = Replaced(target, NEW)
    target.own = "theirs"
    taken.give_back()
    assert vars(target) == {"own": "theirs"}
    taken.give_back()
    assert vars(target) == {"own": "theirs"}


def test_a_copy_is_given_back_for_itself() -> None:
    target = Target()
    taken = Replaced(target, NEW)
    copied = copy(target)
    taken.give_back(copied)
    assert vars(copied) == {"own": "own"}
    assert vars(target) == NEW
