"""Every method and every kind of request: it keeps the contract, or refuses before any work."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rasura import ForgetSamples, InputError, Problem, forget, load_data, methods
from rasura.testing import check_method, small_problem

CLASSES_ONLY = {
    "cnr",
    "bias-shift",
    "damp",
    "head-reset",
    "linear-filtration",
    "logit-mask",
    "svd-projection",
    "unsir",
}
"""Methods that need a class as a whole."""
LEAST = {"epochs": 1, "max_epochs": 1, "calibration": 40}


class Unused(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        raise AssertionError("work was begun")


def samples(architecture: str) -> Problem:
    """Twenty examples of all classes are to be forgotten, and the class as a whole is not."""
    problem = small_problem(architecture)
    chosen = torch.arange(len(problem.retain)) % 18 == 0
    some, rest = problem.retain.take(chosen), problem.retain.take(~chosen)
    return replace(problem, forget=some, retain=rest, forget_classes=())


def shortened(name: str) -> Any:
    method: Any = methods.method_class(name)()
    return replace(method, **{key: value for key, value in LEAST.items() if hasattr(method, key)})


@pytest.mark.parametrize("net", ["convnet,width=4", "resnet8,width=4"])
@pytest.mark.parametrize("name", [name for name in methods.names() if name not in CLASSES_ONLY])
def test_methods_that_take_samples_keep_the_contract_with_them(name, net):
    check_method(shortened(name), samples(net))


@pytest.mark.parametrize("name", sorted(CLASSES_ONLY))
def test_methods_for_classes_refuse_samples_before_any_work(name):
    problem = replace(samples("convnet,width=4"), model=Unused())
    with pytest.raises(InputError, match=f"^request: {name} cannot forget samples; allowed: ForgetClasses$"):
        methods.method_class(name)()(problem)


@pytest.mark.parametrize("name", methods.names())
def test_a_request_for_nothing_is_refused_before_any_work(name):
    with pytest.raises(InputError, match="forget: the request leaves 0 training examples to forget"):
        forget(Unused(), load_data("digits"), ForgetSamples([]), methods.method_class(name)())
