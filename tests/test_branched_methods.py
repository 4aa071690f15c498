"""boundary-expand and domain-adversarial: a branch beside the head, its losses against NumPy, and the effect."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rasura import InputError, Problem, predict
from rasura.data import Examples
from rasura.methods import _losses as losses
from rasura.methods._branch import Branched, branched
from rasura.methods.boundary_expand import BoundaryExpand
from rasura.methods.domain_adversarial import DomainAdversarial
from rasura.testing import small_problem
from rasura.training import Batch

FEATURES = np.array([[2.0, 0.5, -1.0], [0.0, 1.0, 3.0], [-0.5, 0.25, 0.0], [1.0, 1.5, -2.0]])
LABELS = np.array([0, 2, 1, 1])
GOING = np.array([False, True, True, False])
BORDER = 3
BATCH = Batch(torch.tensor(FEATURES), torch.tensor(LABELS), torch.tensor([5, 2, 0, 3]))
ROWS = np.array([[0.5, 0.1, 0.0], [-0.2, 1.0, 0.3], [0.0, 0.0, 1.5]])
BRANCH = np.array([0.7, -0.4, 0.2])


def linear(weight: np.ndarray, bias: float) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], len(weight)).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        layer.bias.fill_(bias)
    return layer


class Net(nn.Module):
    """Features are the inputs, scaled; the head is linear."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))
        self.head = linear(ROWS, 0.0)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.scale * inputs)


def hand_made() -> Branched:
    return Branched(Net(), "head", linear(BRANCH[None], 0.1))


def recall(model: nn.Module, examples: Examples) -> float:
    return (predict(model, examples).argmax(1) == examples.labels).double().mean().item()


def entropies(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.log(np.exp(logits).sum(1)) - logits[np.arange(len(labels)), labels]


def test_the_shadow_loss_is_the_cross_entropy_towards_the_added_class():
    shadow = FEATURES @ BRANCH + 0.1
    expected = entropies(np.column_stack([FEATURES @ ROWS.T, shadow]), np.full(4, 3)).mean()
    assert losses.shadowed(hand_made(), BATCH).item() == pytest.approx(expected, abs=1e-12)


def confusion_by_hand(scale: float) -> tuple[float, float]:
    """The retained examples' mean cross-entropy, and the mean over both sides of the judge's, of scaled features."""
    kept = entropies(scale * FEATURES @ ROWS.T, LABELS)[~GOING].mean()
    said = scale * FEATURES @ BRANCH + 0.1
    errors = np.where(GOING, np.log1p(np.exp(-said)), np.log1p(np.exp(said)))
    return kept, (errors[GOING].mean() + errors[~GOING].mean()) / 2


@pytest.mark.parametrize("reversal", [0.25, 3.0])
def test_the_confusion_loss_and_the_gradient_that_is_reversed_on_its_way_to_the_features(reversal):
    model = hand_made()
    value = losses.confusion(BORDER, reversal)(model, BATCH)
    assert value.item() == pytest.approx(sum(confusion_by_hand(1.0)), abs=1e-12)
    value.backward()
    step = 1e-6
    up, down = confusion_by_hand(1 + step), confusion_by_hand(1 - step)
    kept, judged = ((a - b) / (2 * step) for a, b in zip(up, down, strict=True))
    net: Any = model.net
    assert net.scale.grad.item() == pytest.approx(kept - reversal * judged, abs=1e-8)
    said = FEATURES @ BRANCH + 0.1
    weights = np.where(GOING, 0.5 / GOING.sum(), 0.5 / (~GOING).sum())
    slope = (weights * (1 / (1 + np.exp(-said)) - GOING)) @ FEATURES  # the judge itself descends, not reversed
    branch: Any = model.branch
    np.testing.assert_allclose(branch.weight.grad[0].numpy(), slope, atol=1e-12)


@pytest.mark.parametrize(("net", "width"), [("convnet,width=8", 32), ("vit,patch=2,width=16,depth=2", 16)])
def test_a_branch_reads_what_the_head_reads(net, width):
    problem = small_problem(net)
    inputs, _ = problem.forget.batch(torch.arange(3))
    state = torch.get_rng_state()
    made = [branched(problem.copy_of_model(), inputs, lambda d: nn.Linear(d, 1), seed) for seed in (0, 0, 1)]
    assert torch.equal(state, torch.get_rng_state())
    logits, features = made[0].read(inputs)
    assert features.shape == (3, width)
    head = made[0].net.get_submodule(made[0].head)
    torch.testing.assert_close(head(features), logits)
    first, again, other = (one.branch.state_dict()["weight"] for one in made)
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize(("method", "kept"), [(BoundaryExpand(learning_rate=0.005), 0.75), (DomainAdversarial(), 0.95)])
def test_the_class_is_forgotten_and_the_others_stay(method, kept):
    problem = small_problem()
    model, _ = method(problem)
    assert type(model) is type(problem.model)
    assert recall(model, problem.forget) <= 0.1
    assert recall(model, problem.retain) >= kept


def test_published_boundary_expand_is_too_gentle_for_so_few_images():
    problem = small_problem()
    model, _ = BoundaryExpand()(problem)
    assert recall(problem.model, problem.forget) - recall(model, problem.forget) < 0.1


def separation(model: nn.Module, problem: Problem) -> float:
    """How far apart the two sides' mean features lie, in units of their spread."""
    from rasura.activations import Point, anatomy, features

    head = anatomy(model, problem.forget.batch(torch.arange(2))[0]).head
    at = Point(head, "input")
    sides = [features(model, part, [at])[0][at] for part in (problem.forget, problem.retain)]
    spread = torch.cat([side - side.mean(0) for side in sides]).square().sum(1).mean().sqrt()
    return ((sides[0].mean(0) - sides[1].mean(0)).norm() / spread).item()


def test_the_two_domains_move_together():
    problem = small_problem()
    model, _ = DomainAdversarial(epochs=20, reversal=0.5)(problem)
    assert separation(model, problem) < 0.7 * separation(problem.model, problem)


@pytest.mark.parametrize("method", [BoundaryExpand(), DomainAdversarial()])
def test_samples_can_be_requested(method):
    problem = small_problem()
    chosen = torch.arange(360) % 18 == 0
    parts = problem.retain.take(chosen), problem.retain.take(~chosen)
    model, _ = method(replace(problem, forget=parts[0], retain=parts[1], forget_classes=()))
    assert recall(model, parts[1]) > 0.9


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        *[(BoundaryExpand, {"epochs": 0}), (BoundaryExpand, {"learning_rate": -1.0})],
        *[(DomainAdversarial, {"reversal": value}) for value in (0.0, math.inf, math.nan)],
        *[(DomainAdversarial, {"hidden": value}) for value in (0, 1.5)],
    ],
)
def test_impossible_settings_are_refused_in_one_line(kind, given):
    (field,) = given
    with pytest.raises(InputError, match=rf"^{field}: .*; allowed: [^\n]+$"):
        kind(**given)
