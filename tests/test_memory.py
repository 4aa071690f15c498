"""Peak memory: what a block allocates is seen, also after earlier work that took more."""

import sys

import pytest
import torch

from rasura.memory import peak_memory

CPU = torch.device("cpu")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_the_peak_is_what_was_held_at_most_inside():
    torch.ones(100 * 2**18).sum()  # 100 MiB, freed again
    with peak_memory(CPU) as peak:
        held = torch.ones(40 * 2**18)
        del held
        torch.ones(20 * 2**18)
    with peak_memory(CPU) as nothing:
        pass
    assert peak[0] == pytest.approx(40, abs=12)
    assert nothing[0] < 5


def test_where_the_system_does_not_tell_there_is_no_number(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    with peak_memory(CPU) as peak:
        pass
    assert peak == []
