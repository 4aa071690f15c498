"""Stages of two models are compared under one name, whatever the modules around them are called."""

import pytest

from rasura.activations import Anatomy
from rasura.auditing.stages import stage_names


def parts(*stages: str, head: str = "head") -> Anatomy:
    return Anatomy(stages, (*stages, head), (head,), {})


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (parts("block1", "block2"), ["block1", "block2"]),
        (parts("net.block1", "net.block2", head="net.head"), ["block1", "block2"]),
        (parts("0.block1", "0.block2", "0.head", head="1"), ["block1", "block2", "head"]),
        (parts("a.b.block1", "extra", head="head"), ["block1", "extra"]),
        (parts("first", "second"), ["block1", "block2"]),  # as many, and none known: in order
        (parts("first", "second", "third"), ["first", "second", "third"]),
        (parts("block1", "other"), ["block1", "other"]),  # one is known: the other is another
    ],
)
def test_stages_go_by_the_originals_names(found, expected):
    assert list(stage_names(found, ("block1", "block2")).values()) == expected


def test_without_an_original_the_modules_that_all_lie_in_are_left_out():
    assert stage_names(parts("net.0", "net.1", head="net.2")) == {"net.0": "0", "net.1": "1"}
