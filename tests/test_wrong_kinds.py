"""Python objects of the wrong kind: every public function works with them or says in one line what it wants."""

from collections.abc import Callable
from dataclasses import fields, make_dataclass
from typing import Any

import pytest
import torch
from torch import nn

import rasura
from rasura.auditing import Shadows
from rasura.data import as_request
from rasura.errors import InputError
from rasura.methods import Damp, LogitMask, method_class, names
from rasura.progress import silent
from rasura.testing.methods import small_problem

WRONG: dict[str, Any] = {
    "None": None,
    "a number": 3,
    "a negative number": -1,
    "a fraction": 0.5,
    "a word": "x",
    "bytes": b"x",
    "an object": object(),
    "an empty list": [],
    "a list": ["x", 3],
    "an empty dict": {},
    "a dict": {"x": 3},
    "a class": nn.Linear,
    "another class": Damp,
    "a function": len,
    "a tensor": torch.zeros(2, 2),
    "a number as a tensor": torch.tensor(3),
    "a net": nn.Identity(),
    "True": True,
}


def net() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def data() -> rasura.Data:
    images, labels = torch.rand(60, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 10
    return rasura.Data.from_tensors((images, labels), (images, labels), name="noise")


def given_to(function: Callable[..., Any], **usual: Any) -> dict[str, Callable[[Any], Any]]:
    """One call per parameter, which gets the wrong object while all others get what they want."""
    name = function.__name__
    return {f"{name}, {key}": lambda wrong, key=key: function(**{**usual, key: wrong}) for key in usual}


def calls() -> dict[str, Callable[[Any], Any]]:
    here, pair = data(), (torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 0, 1]))
    usual = {"data": here, "request": rasura.ForgetClasses([3]), "seed": 0}
    found = given_to(rasura.forget, model=net(), method=LogitMask(), **usual)
    found |= given_to(rasura.search_strength, model=net(), method=rasura.methods.Ssd(), search=None, **usual)
    audited = {"original": net(), "references": (), "goal": "retrain-equivalent", "also": (), "shadows": Shadows()}
    found |= given_to(rasura.audit, model=net(), **usual, **audited)
    found |= given_to(rasura.audit_all, models={"one": net()}, **usual, **audited)
    found |= given_to(rasura.predict, model=net(), examples=here.test, batch_size=8)
    found |= given_to(rasura.fit, model=net(), examples=here.train, recipe=rasura.Recipe(epochs=1), seed=0)
    found |= given_to(rasura.save_model, model=net(), folder="somewhere")
    found |= given_to(rasura.load_model, path="somewhere", architecture=None, like=None)
    found |= given_to(rasura.load_data, spec="digits")
    found |= given_to(rasura.build_model, architecture="convnet", classes=3, channels=1, size=8)
    found |= given_to(rasura.Data, train=here.train, test=here.test, classes=here.classes, name="noise")
    found |= given_to(rasura.Data.from_tensors, train=pair, test=pair, classes=["a", "b"], name="n", standardise=None)
    datasets = [torch.utils.data.TensorDataset(*pair) for _ in range(2)]
    found |= given_to(rasura.Data.from_datasets, train=datasets[0], test=datasets[1], classes=["a", "b"], name="n")
    found |= given_to(rasura.Standardise, mean=(0.5,), std=(0.5,))
    found |= given_to(rasura.ForgetClasses, classes=[3])
    found |= given_to(rasura.ForgetSamples, indices=[3])
    for kind in (rasura.Recipe, rasura.Search, *map(method_class, names())):
        found |= given_to(kind, **{one.name: getattr(kind(), one.name) for one in fields(kind)})
    return found


CALLS = calls()


@pytest.mark.parametrize("place", CALLS)
def test_objects_of_the_wrong_kind_work_or_are_refused_in_one_line(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for kind, wrong in WRONG.items():
        refused = said_of(CALLS[place], wrong)
        assert not refused or (";" in refused and "\n" not in refused and len(refused) < 500), (kind, refused)


def said_of(call: Callable[[Any], Any], wrong: Any) -> str:
    """The message of an InputError; every other error is a failure."""
    try:
        call(wrong)
    except InputError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("request_", [["3"], ["3", 4], (3,), {3}, rasura.ForgetClasses("3")], ids=str)
@pytest.mark.parametrize("method", ["logit-mask", LogitMask, LogitMask()], ids=str)
def test_lists_of_classes_and_names_of_methods_will_do(request_, method):
    problem, digits = small_problem(), rasura.load_data("digits")
    outcome = rasura.forget(problem.model, digits, request_, method, progress=silent)
    assert outcome.record["method"] == "logit-mask"
    assert outcome.record["request"]["classes"] == sorted({int(one) for one in as_request(request_).classes})


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("logit-msk", "method: 'logit-msk' is unknown; did you mean 'logit-mask'"),
        (3, "method: got 3; allowed: a method of rasura.methods, its name"),
        (nn.Linear, "method: got the class Linear; allowed: a method"),
        (rasura.Recipe, "method: got the class Recipe; allowed: a method"),
        (rasura.Recipe(), "method: got Recipe; allowed: a method"),
    ],
)
def test_what_is_no_method_is_refused(method, message):
    with pytest.raises(InputError, match=message):
        rasura.forget(net(), data(), ["3"], method)


def method_that(returns: Callable[[rasura.Problem], Any]) -> Any:
    """A method that declares forget examples, and returns what it is told to."""
    content = {"reads": ("forget",), "__call__": lambda self, problem: returns(problem)}
    return make_dataclass("Own", [], frozen=True, namespace=content)()


@pytest.mark.parametrize("returned", [None, 3, (net(),), (net(), None), ({}, net()), [net(), {}]], ids=str)
def test_a_method_that_returns_something_else_is_refused(returned):
    with pytest.raises(InputError, match=r"own: returned .*; allowed: a model and a dict of JSON values"):
        rasura.forget(net(), data(), [3], method_that(lambda _: returned))


def test_a_method_that_returns_the_model_it_was_given_is_refused():
    with pytest.raises(InputError, match="own: returned another net, or the one it was given; allowed: a changed copy"):
        rasura.forget(net(), data(), [3], method_that(lambda problem: (problem.model, {})))


@pytest.mark.parametrize("use", [len, lambda examples: examples.labels, lambda examples: examples.take])
def test_examples_that_a_method_does_not_declare_say_so_when_they_are_used(use):
    with pytest.raises(InputError, match=r"reads: own uses problem\.retain; allowed: what it declares"):
        rasura.forget(net(), data(), [3], method_that(lambda problem: use(problem.retain)))
