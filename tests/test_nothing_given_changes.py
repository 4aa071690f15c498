"""What is handed to a public function stays as it is: models, their classes and hooks, data, requests, generators."""

import contextlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import rasura
from rasura import Data, ForgetClasses, ForgetSamples, InputError, Recipe, Search
from rasura.activations import Point, anatomy, features
from rasura.auditing.recovery import plain_copy, quantised
from rasura.auditing.retraining import pruned
from rasura.compare import compare
from rasura.data import hash_of_data
from rasura.methods import method_class, names
from rasura.models import copy_of, hash_of_model, logits_of, reinitialised
from rasura.progress import silent
from rasura.testing._watched import portrait_of
from rasura.training import fit

CLASSES, EACH, HELD_OUT = 4, 30, 24


def legacy(make: Callable[..., nn.Module], *arguments: Any) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return make(*arguments)


class Images(nn.Module):
    """A net with every way that torch has to compute a weight, with hooks and attributes of its owner's."""

    def __init__(self) -> None:
        super().__init__()
        self.lower = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten())
        self.normed = parametrizations.weight_norm(nn.Linear(96, 12))
        self.spectral = parametrizations.spectral_norm(nn.Linear(12, 12))
        self.old = legacy(nn.utils.weight_norm, nn.Linear(12, 12))
        self.older = legacy(nn.utils.spectral_norm, nn.Linear(12, 12))
        self.pruned = nn.Linear(12, 12)
        prune.l1_unstructured(self.pruned, "weight", amount=0.2)
        self.head = nn.Linear(12, CLASSES)
        self.notes = {"owner": "somebody"}
        self.register_buffer("scale", torch.ones(1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.normed(self.lower(images)).relu()
        hidden = self.spectral(hidden).relu() + self.old(hidden) + self.older(hidden)
        return self.head(self.pruned(hidden).relu()) * self.scale


@dataclass(frozen=True, eq=False)
class Given:
    """What a caller hands in."""

    model: nn.Module
    references: list[nn.Module]
    data: Data
    request: ForgetClasses
    samples: ForgetSamples


def tensors() -> Data:
    generator = torch.Generator().manual_seed(0)
    pattern = torch.randn(CLASSES, 1, 4, 4, generator=generator)
    parts = []
    for each in (EACH, HELD_OUT):
        labels = torch.arange(CLASSES).repeat_interleave(each)
        parts.append((pattern[labels] + 0.7 * torch.randn(len(labels), 1, 4, 4, generator=generator), labels))
    return Data.from_tensors(*parts, classes=["a", "b", "c", "d"])


@pytest.fixture(scope="module")
def given() -> Given:
    data = tensors()
    kept = data.train.take(data.train.labels != 3)
    recipe = Recipe(epochs=6, batch_size=16, optimiser="adamw", learning_rate=0.01)
    made = []
    for seed in range(3):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made.append(fit(Images(), kept if seed else data.train, recipe, seed))
    model, *references = made
    model.register_forward_hook(lambda *_: None)
    model.head.register_full_backward_hook(lambda *_: None)
    model.lower[0].bias.requires_grad_(False)
    logits_of(model.train(), data.train.batch(torch.arange(20))[0]).sum().backward()  # with gradients, in training mode
    model.older.eval()
    return Given(model, references, data, ForgetClasses("d"), ForgetSamples(range(0, 60, 3)))


def everything(given: Given) -> dict[str, Any]:
    """All of it, by what to call it."""
    found: dict[str, Any] = {"data": hash_of_data(given.data), "request": (given.request, given.samples)}
    for part in (given.data.train, given.data.test):
        found[f"storage {id(part)}"] = part.source.data_ptr(), part.source._version, part.rows._version
    for at, model in enumerate([given.model, *given.references]):
        found[f"answers of {at}"] = rasura.predict(model, given.data.test).numpy().tobytes()  # hooks compute weights
        found |= {f"{name} of {at}": value for name, value in portrait_of(model).items()}
        found |= {f"order of {name} of {at}": list(vars(module)) for name, module in model.named_modules()}
    _, keys, *rest = np.random.get_state(legacy=True)
    found["torch's generator"] = torch.get_rng_state().numpy().tobytes()
    found["NumPy's generator"] = np.asarray(keys).tobytes(), rest
    return found


def audited(given: Given, _: Path, request: Any = None, also: tuple[str, ...] = ()) -> None:
    request = request or given.request
    rasura.audit(given.references[0], given.data, request, given.model, given.references[1:], also=also)


def compared(given: Given, folder: Path) -> None:
    methods = {"finetune": method_class("finetune")()}
    compare(given.model, given.data, given.request, methods, given.references, folder / "out", silent)


def searched(given: Given, _: Path) -> None:
    rasura.search_strength(given.model, given.data, given.request, method_class("gradient-ascent")(), Search(2))


def read_inside(given: Given, _: Path) -> None:
    parts = anatomy(given.model, given.data.test.batch(torch.arange(2))[0])
    features(given.model, given.data.test, [*parts.points, Point(parts.head)])


ON_REQUEST = ("last-block", "pruning", "code-length", "procrustes", "adversarial-membership")
CALLS: dict[str, Callable[[Given, Path], Any]] = {
    "predict": lambda given, _: rasura.predict(given.model, given.data.test),
    "save_model": lambda given, folder: rasura.save_model(given.model, folder / "model"),
    "hash_of_model": lambda given, _: hash_of_model(given.model),
    "copy_of": lambda given, _: copy_of(given.model),
    "plain_copy": lambda given, _: plain_copy(given.model),
    "quantised": lambda given, _: quantised(given.model, 4),
    "pruned": lambda given, _: pruned(given.model, 0.5),
    "reinitialised": lambda given, _: reinitialised(given.model, 3),
    "features": read_inside,
    "audit": audited,
    "audit of samples": lambda given, folder: audited(given, folder, given.samples),
    "audit, more on request": lambda given, folder: audited(given, folder, also=ON_REQUEST),
    "compare": compared,
    "search_strength": searched,
} | {
    f"forget {name}": lambda given, _, name=name: rasura.forget(
        given.model, given.data, given.request, method_class(name)()
    )
    for name in names()
}


SLOW = "compare", "audit, more on request"


@pytest.mark.parametrize("name", [pytest.param(one, marks=pytest.mark.slow) if one in SLOW else one for one in CALLS])
def test_nothing_that_is_given_changes(name, given, tmp_path):
    before = everything(given)
    refusing = name.startswith("forget ") or name == "reinitialised"
    with contextlib.suppress(InputError) if refusing else contextlib.nullcontext():  # which leaves no trace either
        CALLS[name](given, tmp_path)
    after = everything(given)
    assert [key for key in before if before[key] != after.get(key)] == []
    assert before.keys() == after.keys()


def test_a_plain_copy_leaves_the_class_that_parametrized_modules_share():
    net = nn.Sequential(nn.Flatten(), parametrizations.weight_norm(nn.Linear(4, 3)))
    inputs = torch.randn(2, 4)
    before = net(inputs)
    copied = plain_copy(net)
    assert type(copied[1]) is nn.Linear
    assert torch.equal(net(inputs), before)
    torch.testing.assert_close(copied(inputs), before)


def kinds() -> list[nn.Module]:
    """A map whose weight something else computes, in every way that torch has."""
    made = [parametrizations.weight_norm, parametrizations.spectral_norm, parametrizations.orthogonal]
    found = [make(nn.Linear(6, 6)) for make in made]
    found += [legacy(make, nn.Linear(6, 6)) for make in (nn.utils.weight_norm, nn.utils.spectral_norm)]
    return [*found, prune.l1_unstructured(nn.Linear(6, 6), "weight", amount=0.3)]


@pytest.mark.parametrize("at", range(6))
@pytest.mark.parametrize("frozen", [False, True])
def test_a_plain_copy_answers_alike_with_weights_of_its_own(at, frozen):
    net, inputs = nn.Sequential(kinds()[at]), torch.randn(5, 6)
    net(inputs).sum().backward()
    net.eval().requires_grad_(not frozen)
    copied = plain_copy(net)
    assert isinstance(copied[0].weight, nn.Parameter)
    torch.testing.assert_close(copied(inputs), net(inputs))
    with torch.no_grad():
        copied[0].weight.zero_()
    assert torch.equal(copied(inputs), copied[0].bias.expand(5, 6))
    assert net[0].weight.abs().sum() > 0


def test_seeding_reaches_no_generator_of_another_device(monkeypatch, given):
    """`torch.manual_seed` starts those of all devices anew, and only some were put back."""
    reached = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", reached.append)
    net = fit(reinitialised(nn.Sequential(nn.Flatten(), nn.Linear(16, CLASSES)), 0), given.data.train, Recipe(1), 0)
    rasura.forget(net, given.data, given.request, method_class("head-reset")())
    assert not reached
