"""Memory that runs out, and errors that have nothing to do with what was asked, are never taken for something else."""

from typing import Any

import pytest
import torch
from torch import nn

from rasura.auditing.illustrations import heat_maps
from rasura.data import examples_from
from rasura.errors import InputError
from rasura.methods._generator import trained_pair
from rasura.methods.ssd import importances
from rasura.models import misfit, of_machine
from rasura.training import DivergedError, Recipe, fit, predict

CPU = RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory")
MACHINE = [torch.OutOfMemoryError("CUDA out of memory"), CPU, MemoryError(), RuntimeError("CUDA error: assert")]


class Failing(nn.Module):
    """A net that fails when it runs."""

    def __init__(self, error: Exception):
        super().__init__()
        self.stage, self.head, self.error = nn.Conv2d(1, 2, 3), nn.LazyLinear(3), error

    def forward(self, images):
        raise self.error


def images(count: int = 4) -> Any:
    return examples_from(torch.rand(count, 1, 8, 8), torch.arange(count) % 3)


@pytest.mark.parametrize("error", MACHINE, ids=repr)
def test_memory_that_ran_out_is_no_fault_of_the_data(error):
    assert of_machine(error)
    with pytest.raises(type(error)) as raised:
        predict(Failing(error), images())
    assert raised.value is error


@pytest.mark.parametrize("error", [RuntimeError("shapes"), TypeError("no tensor"), ValueError("size")], ids=repr)
def test_what_a_net_says_of_its_inputs_is_told_with_its_kind(error):
    assert not of_machine(error)
    with pytest.raises(InputError, match=rf"\({type(error).__name__}: {error}\); allowed: what its forward"):
        predict(Failing(error), images())
    assert str(misfit(torch.zeros(2, 3), error)).startswith("data: the model cannot take inputs of shape (2, 3)")


class WithoutBatches(nn.Module):
    """Fails while examples are batched by vmap, and only then."""

    def __init__(self, error: Exception):
        super().__init__()
        self.head, self.error = nn.Linear(64, 3), error

    def forward(self, images):
        if torch._C._functorch.is_functorch_wrapped_tensor(images):
            raise self.error
        return self.head(images.flatten(1))


def test_importances_go_one_by_one_where_a_net_cannot_be_batched_and_only_there():
    found = importances(WithoutBatches(RuntimeError("data-dependent control flow")), images())
    assert all(bool(one.isfinite().all()) for one in found.values())
    with pytest.raises(torch.OutOfMemoryError):
        importances(WithoutBatches(torch.OutOfMemoryError("CUDA out of memory")), images())
    with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
        importances(WithoutBatches(CPU), images())


class Mapped(nn.Module):
    """A small net of one map, which may round it so that no gradient passes, or fail on the way back."""

    def __init__(self, way: str):
        super().__init__()
        self.stage, self.head, self.way = nn.Conv2d(1, 2, 3), nn.Linear(2, 3), way

    def forward(self, images):
        found = self.stage(images)
        if self.way == "rounded":
            found = found.detach().round()
        if self.way == "no memory":
            found.register_hook(self.fail)
        return self.head(found.mean((2, 3)))

    def fail(self, _):
        raise CPU


def test_pictures_are_missing_only_where_there_is_no_gradient():
    pytest.importorskip("captum")
    inputs = torch.rand(2, 1, 8, 8)
    assert len(heat_maps(Mapped("plain"), inputs, 1, "stage")) == 2
    assert heat_maps(Mapped("rounded"), inputs, 1, "stage") == []
    with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
        heat_maps(Mapped("no memory"), inputs, 1, "stage")


def test_a_stored_generator_that_is_none_is_refused_in_one_line(tmp_path):
    real = 2 * torch.rand(4, 1, 8, 8) - 1
    trained_pair(real, features=4, epochs=1, rate=1e-3, seed=0, store=str(tmp_path))
    (stored,) = tmp_path.iterdir()
    stored.write_bytes(b"something else")
    with pytest.raises(InputError, match="is not a stored generator") as refused:
        trained_pair(real, features=4, epochs=1, rate=1e-3, seed=0, store=str(tmp_path))
    assert "\n" not in str(refused.value)


def test_only_divergence_is_called_so(monkeypatch):
    from rasura.methods import _generator

    def fails(*_: Any, **__: Any) -> None:
        raise InputError("folder: full; allowed: an empty one")

    monkeypatch.setattr(_generator, "fit", fails)
    with pytest.raises(InputError, match="folder: full"):
        trained_pair(torch.rand(4, 1, 8, 8), features=4, epochs=1, rate=1e-3, seed=0)
    with pytest.raises(DivergedError, match="learning_rate"):
        fit(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), images(), Recipe(epochs=9, optimiser="sgd", clip=0), 0, boom)


def boom(model: nn.Module, batch: Any) -> torch.Tensor:
    return model(batch.inputs).sum() * float("inf")
