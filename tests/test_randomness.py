"""Seeding ends with its block, and reaches no device but the one that is worked on."""

import ast
from pathlib import Path

import pytest
import torch
from torch import nn

import rasura
from rasura.models import reinitialised
from rasura.randomness import seeded


def test_the_same_seed_draws_the_same_and_leaves_the_state_as_it_was() -> None:
    before = torch.get_rng_state()
    with seeded(3):
        drawn = torch.rand(4)
    with pytest.raises(ZeroDivisionError), seeded(3):
        _ = torch.rand(4) / (1 // 0)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(drawn, torch.rand(4, generator=torch.Generator().manual_seed(3)))


def forbidden(*_: object) -> None:
    raise AssertionError("the generators of GPUs are none of our business here")


def test_work_on_the_cpu_seeds_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """`torch.manual_seed` would call these, and nothing would put back what they do."""
    for name in ("manual_seed", "manual_seed_all"):
        monkeypatch.setattr(torch.cuda, name, forbidden)
    with seeded(0):
        net = nn.Linear(2, 2)
    reinitialised(net, seed=1)
    inputs, labels = torch.randn(4, 2), torch.tensor([0, 1, 0, 1])
    data = rasura.Data.from_tensors((inputs, labels), (inputs, labels))
    rasura.fit(net, data.train, rasura.Recipe(epochs=1), seed=0)


def test_work_on_a_gpu_seeds_that_one_and_puts_it_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """With stand-ins for what torch asks of CUDA, as no GPU need be here."""
    states = {torch.device("cuda", 0): "first", torch.device("cuda", 1): "second"}
    current = [torch.device("cuda", 0)]

    class Current:
        def __init__(self, device: torch.device):
            self.device = device

        def __enter__(self) -> None:
            current.append(self.device)

        def __exit__(self, *_: object) -> None:
            current.pop()

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "device", Current)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: states[device])
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: states.update({device: state}))
    monkeypatch.setattr(torch.cuda, "manual_seed", lambda seed: states.update({current[-1]: f"seeded {seed}"}))
    monkeypatch.setattr(torch.cuda, "manual_seed_all", forbidden)
    with seeded(5, torch.device("cuda", 1)):
        assert list(states.values()) == ["first", "seeded 5"]
    assert list(states.values()) == ["first", "second"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_that_is_worked_on_is_left_as_it_was() -> None:
    before = torch.cuda.get_rng_state()
    with seeded(0):
        pass
    with seeded(0, torch.device("cuda", 0)):
        drawn = torch.rand(3, device="cuda")
    with seeded(0, torch.device("cuda", 0)):
        assert torch.equal(drawn, torch.rand(3, device="cuda"))
    assert torch.equal(torch.cuda.get_rng_state(), before)


def test_the_global_generators_are_seeded_in_one_place() -> None:
    for path in Path(rasura.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.manual_seed", "torch.random.fork_rng"):
                assert path.name == "randomness.py", f"{path}:{node.lineno}"
