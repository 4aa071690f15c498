"""Closed-form methods against independent oracles. That each keeps the contract is in `test_methods.py`'s table."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rasura import InputError, Problem, predict
from rasura.data import Examples
from rasura.methods.ssd import Ssd, dampened, importances
from rasura.testing import check_method, small_problem


def mlp(bias: bool = True) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10, bias=bias))


def problem_for(net: str, classes: tuple[int, ...] = (3,)) -> Problem:
    return small_problem(mlp() if net == "mlp" else net, classes)


def recall(model: nn.Module, examples: Examples) -> float:
    return (predict(model, examples).argmax(1) == examples.labels).double().mean().item()


def everything(examples: Examples) -> tuple[Tensor, Tensor]:
    """All model inputs, in one batch, and labels."""
    inputs, labels = examples.batch(torch.arange(len(examples)))
    assert isinstance(inputs, Tensor)
    return inputs, labels


# ------------------------------------------------------------------------------------------------- ssd


def importances_by_loop(model: nn.Module, examples: Examples) -> dict[str, Tensor]:
    """One backward pass per example, the plain way."""
    model = copy.deepcopy(model).eval()
    totals = {name: torch.zeros(parameter.shape, dtype=torch.float64) for name, parameter in model.named_parameters()}
    for image, label in zip(*everything(examples), strict=True):
        model.zero_grad(set_to_none=True)
        F.cross_entropy(model(image[None]), label[None]).backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                totals[name] += parameter.grad.double() ** 2 / len(examples)
    return totals


@pytest.mark.parametrize("net", ["convnet,width=4", "resnet8,width=4", "vit,patch=2,width=16,depth=1", "mlp"])
def test_importances_are_the_mean_squares_of_each_examples_own_gradient(net):
    problem = problem_for(net)
    some = problem.retain.take(torch.arange(0, 350, 5))  # 70: more than one chunk
    found, expected = importances(problem.model, some), importances_by_loop(problem.model, some)
    assert found.keys() == expected.keys()
    for name, importance in found.items():
        torch.testing.assert_close(importance, expected[name], rtol=1e-3, atol=1e-6 * expected[name].max().item())


class Choosy(nn.Module):
    """Control flow on a value, which cannot be batched, and a parameter that is never used."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net
        self.idle = nn.Parameter(torch.ones(3))

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images) if images.sum().item() < 1e9 else self.net(-images)


def test_a_net_that_cannot_be_batched_is_taken_one_by_one():
    problem = problem_for("mlp")
    choosy = replace(problem, model=Choosy(problem.model).eval())
    model, record = Ssd()(choosy)
    plain, plain_record = Ssd()(problem)
    assert (record["gradients"], plain_record["gradients"]) == ("one by one", "batched")
    assert torch.equal(model.get_parameter("idle"), torch.ones(3))
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(model.get_parameter(f"net.{name}"), parameter, rtol=1e-4, atol=1e-7)


def test_dampening_on_a_case_worked_out_by_hand():
    weight = torch.tensor([1.0, 2.0, -4.0, 8.0, 5.0, 7.0])
    forget = torch.tensor([10.0, 40.0, 40.0, 3.0, 1.0, 0.0], dtype=torch.float64)
    reference = torch.tensor([1.0, 1.0, 2.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    # Ten times as much is not more than ten times; nothing to compare with is all gone; no importance at all stays.
    found = dampened(weight, forget, reference, alpha=10.0, dampening=1.0)
    torch.testing.assert_close(found, torch.tensor([1.0, 2.0 / 40, -4.0 * 2 / 40, 8.0, 0.0, 7.0]))
    gentle = dampened(weight, forget, reference, alpha=2.0, dampening=5.0)
    torch.testing.assert_close(gentle, torch.tensor([0.5, 2.0 * 5 / 40, -1.0, 8.0, 0.0, 7.0]))  # never grows


@pytest.mark.parametrize("reference", ["retain", "all"])
def test_ssd_shrinks_exactly_the_weights_that_its_formula_selects(reference):
    problem = problem_for("resnet8,width=4", (3,))
    method = Ssd(alpha=4.0, dampening=0.5, reference=reference)
    model, record = method(problem)
    forget, others = (importances_by_loop(problem.model, part) for part in (problem.forget, problem.retain))
    if reference == "all":
        others = {name: (40 * forget[name] + 360 * others[name]) / 400 for name in forget}
    selected = total = 0
    for name, before in problem.model.named_parameters():
        after, ratio = model.get_parameter(name), forget[name] / others[name].clamp(min=1e-300)
        clear = (ratio / 4 - 1).abs() > 1e-2  # rounding may decide the others
        chosen = clear & (ratio > 4)
        assert torch.equal(after[clear & (ratio < 4)], before[clear & (ratio < 4)])
        expected = before.double() * 0.5 * others[name] / forget[name]
        torch.testing.assert_close(after[chosen].double(), expected[chosen], rtol=1e-2, atol=1e-9)
        selected, total = selected + int((ratio > 4).sum()), total + before.numel()
    assert 0 < selected < total
    assert record["selected"] == pytest.approx(selected / total, abs=2e-3)
    buffers = dict(problem.model.named_buffers())
    assert buffers and all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())


@pytest.mark.parametrize("net", ["convnet,width=8", "resnet8,width=4"])
def test_ssd_takes_the_class_away_and_leaves_the_others(net):
    problem = problem_for(net)
    model, _ = Ssd()(problem)
    assert recall(problem.model, problem.forget) > 0.9
    assert recall(model, problem.forget) < 0.05
    assert recall(model, problem.retain) > recall(problem.model, problem.retain) - 0.03


def test_ssd_forgets_samples_too():
    problem = problem_for("mlp")
    check_method(Ssd(calibration=30), replace(problem, forget_classes=()))


def test_ssd_against_all_examples_says_when_no_weight_can_be_selected():
    with pytest.raises(InputError, match=r"alpha: 10.0 selects no weight where 10.0% .* allowed: below 10, or"):
        Ssd(reference="all")(problem_for("mlp"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": 0.0}, "alpha: 0.0; allowed: a finite number above 0"),
        ({"alpha": float("nan")}, "alpha: nan; allowed"),
        ({"dampening": -1.0}, "dampening: -1.0; allowed"),
        ({"dampening": float("inf")}, "dampening: inf; allowed"),
        ({"reference": "retian"}, "reference: 'retian' is unknown; did you mean 'retain'"),
        ({"calibration": -1}, "calibration: -1; allowed: 1 or more, or 0 for all"),
    ],
)
def test_ssd_refuses_impossible_settings(settings, message):
    with pytest.raises(InputError, match=message):
        Ssd(**settings)
