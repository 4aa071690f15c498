"""Recovery rungs on request: what training or pruning brings back, of planted models whose truth is known."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from rasura.auditing import Probe, make_probe, retraining
from rasura.auditing.recovery import operator_weights
from rasura.auditing.retraining import (
    RETAINED,
    SCORED,
    Trajectory,
    last_block_finetuned,
    pruned,
    relearn_time,
    retain_only_finetuning,
)
from rasura.data import Examples, ForgetClasses, load_data
from rasura.errors import InputError
from rasura.methods.contract import Problem
from rasura.methods.retrain import Retrain
from rasura.testing import small_problem
from rasura.training import fit

FORGOTTEN = 3
TRAINED = [relearn_time, last_block_finetuned]
LAST_STAGE = {"resnet8,width=8": "layer3.", "convnet,width=8": "block3.", "vit,width=16,depth=2": "blocks.1."}
NETS = list(LAST_STAGE)


@pytest.fixture(scope="module")
def probe() -> Probe:
    return make_probe(load_data("digits"), ForgetClasses((str(FORGOTTEN),)), 0)


@pytest.fixture(scope="module")
def examples() -> Examples:
    return load_data("digits").train


@pytest.fixture(scope="module")
def problem() -> Problem:
    return small_problem("resnet8,width=8", (FORGOTTEN,))


@pytest.fixture(scope="module")
def retrained(problem: Problem) -> nn.Module:
    return Retrain()(problem)[0]


def silenced(model: nn.Module) -> nn.Module:
    """A copy with whole features whose head gives the forget class the mean of the other logits: it never wins."""
    copied = copy.deepcopy(model)
    kept = torch.arange(10) != FORGOTTEN
    with torch.no_grad():
        for tensor in (copied.head.weight, copied.head.bias):
            tensor[FORGOTTEN] = tensor[kept].mean(0)
    return copied


class Masked(nn.Module):
    """A net behind code that cuts the forget class off."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        cut = torch.arange(10) == FORGOTTEN
        return self.net(images).masked_fill(cut, -torch.inf)


# -------------------------------------------------------------------------------------- Trajectory


def test_steps_to_a_level_are_those_to_its_first_point():
    curve = Trajectory((0, 5, 10, 15), (0.1, 0.6, 0.4, 0.9), (1.0,) * 4)
    assert [curve.steps_to(level) for level in (0.1, 0.5, 0.6, 0.61, 0.95)] == [0, 5, 5, 15, None]


# -------------------------------------------------------------------------------------- relearning


@pytest.mark.parametrize("training", TRAINED)
def test_a_silenced_class_is_relearned_before_one_that_was_never_seen(training, problem, retrained, probe, examples):
    original, hidden, never = (
        training(model, examples, probe, 0, steps=30) for model in (problem.model, silenced(problem.model), retrained)
    )
    level = original.forget[0] / 2
    assert original.steps_to(level) == 0
    assert hidden.forget[0] == never.forget[0] == 0
    early, late = hidden.steps_to(level), never.steps_to(level)
    assert early is not None and late is not None
    assert early <= late - 5
    assert max(never.forget) > 0.5  # a net that never saw the class learns it: only the pace tells
    assert min(hidden.retain) > 0.8


@pytest.mark.parametrize("training", TRAINED)
@pytest.mark.parametrize("architecture", NETS)
def test_every_step_has_a_point_and_the_model_stays_as_it_was(training, architecture, probe, examples):
    model = small_problem(architecture, (FORGOTTEN,)).model.train()
    model.head.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    curve = training(model, examples, probe, 0, steps=3)
    assert curve.steps == (0, 1, 2, 3)
    assert len(curve.forget) == len(curve.retain) == 4
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(module.training and not module._forward_hooks for module in model.modules())
    assert [name for name, one in model.named_parameters() if not one.requires_grad] == ["head.weight", "head.bias"]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_first_point_is_the_model_s_own_accuracy(problem, probe, examples):
    curve = relearn_time(problem.model, examples, probe, 0, steps=1)
    few = int(probe.forget.sum())
    assert few < SCORED
    with torch.no_grad():
        inputs, labels = probe.examples.take(probe.forget).batch(torch.arange(few))
        assert curve.forget[0] == pytest.approx((problem.model(inputs).argmax(1) == labels).double().mean().item())


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Examples, dict[str, Tensor]]]:
    """The examples of every training, and the state dict after it."""
    found = []

    def watched(model: nn.Module, examples: Examples, *rest: Any, **named: Any) -> nn.Module:
        fit(model, examples, *rest, **named)
        found.append((examples, {name: tensor.clone() for name, tensor in model.state_dict().items()}))
        return model

    monkeypatch.setattr(retraining, "fit", watched)
    return found


@pytest.mark.parametrize("architecture", LAST_STAGE)
def test_only_the_last_stage_and_the_head_are_changed(architecture, probe, examples, trainings):
    model = small_problem(architecture, (FORGOTTEN,)).model
    last_block_finetuned(model, examples, probe, 0, steps=5)
    after = trainings[0][1]
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, after[name])}
    assert changed == {name for name in after if name.startswith((LAST_STAGE[architecture], "head."))}


@pytest.mark.parametrize("shots", [1, 10])
def test_half_of_the_training_set_are_the_few_forget_examples(shots, problem, probe, examples, trainings):
    relearn_time(problem.model, examples, probe, 0, shots=shots, steps=1)
    used = trainings[0][0]
    forgotten = used.labels == FORGOTTEN
    assert len(used.rows[forgotten].unique()) == shots
    assert forgotten.double().mean().item() == pytest.approx(0.5, abs=0.01)
    assert len(used.rows[~forgotten].unique()) == int((~forgotten).sum()) == RETAINED
    assert sorted(used.labels[~forgotten].bincount().tolist()) == [0, 55, 55, 55, 55, 56, 56, 56, 56, 56]


def test_two_classes_get_so_many_labels_each(probe, examples, trainings):
    both = make_probe(load_data("digits"), ForgetClasses(("3", "5")), 0)
    model = small_problem("convnet,width=8", (3, 5)).model
    relearn_time(model, examples, both, 0, shots=4, steps=1)
    used = trainings[0][0]
    assert [len(used.rows[used.labels == number].unique()) for number in (3, 5)] == [4, 4]


def test_a_class_cut_off_by_code_is_not_relearned_and_raises_nothing(problem, probe, examples):
    curve = relearn_time(Masked(problem.model), examples, probe, 0, steps=5)
    assert set(curve.forget) == {0.0}
    assert min(curve.retain) > 0.7


@pytest.mark.parametrize("training", [*TRAINED, retain_only_finetuning])
def test_the_same_seed_gives_the_same_curve_whatever_the_global_state(training, problem, probe, examples):
    few, curves = examples.take(torch.arange(0, len(examples), 4)), []
    length = {"epochs": 1} if training is retain_only_finetuning else {"steps": 6, "shots": 5}
    for state, seed in ((1, 0), (2, 0), (2, 1)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(state)
            before = torch.get_rng_state()
            curves.append(training(problem.model, few, probe, seed, **length))
            assert torch.equal(before, torch.get_rng_state())
    assert curves[0] == curves[1] != curves[2]


# -------------------------------------------------------------------------------------- retained examples only


def test_a_class_hidden_in_running_statistics_comes_back_on_retained_examples_alone(problem, probe, examples):
    hidden = copy.deepcopy(problem.model)
    norm, telling = hidden.layer3[0].bn2, hidden.head.weight[FORGOTTEN] - hidden.head.weight.mean(0)
    with torch.no_grad():
        norm.running_mean += 6 * norm.running_var.sqrt() * telling.sign()
    curve = retain_only_finetuning(hidden, examples, probe, 0, epochs=1)
    assert curve.forget[0] == 0
    assert curve.forget[1] > 0.3


def test_a_retrained_model_gains_nothing_on_retained_examples(retrained, probe, examples, trainings):
    curve = retain_only_finetuning(retrained, examples, probe, 0, epochs=2)
    retained = examples.take(examples.labels != FORGOTTEN)
    steps = math.ceil(len(retained) / 32)
    assert curve.steps == (0, steps, 2 * steps)
    assert curve.forget == (0.0, 0.0, 0.0)
    assert torch.equal(trainings[0][0].rows, retained.rows)


# -------------------------------------------------------------------------------------- pruned


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.7, 0.999])
@pytest.mark.parametrize("architecture", NETS)
def test_pruning_is_torch_s_global_magnitude_pruning(architecture, share):
    model = small_problem(architecture, (FORGOTTEN,)).model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    oracle = copy.deepcopy(model)
    operators = [(one, "weight") for one in oracle.modules() if isinstance(one, (nn.Linear, nn.Conv2d))]
    prune.global_unstructured(operators, prune.L1Unstructured, amount=share)
    for module, name in operators:
        prune.remove(module, name)
    found, expected = pruned(model, share).state_dict(), oracle.state_dict()
    assert list(found) == list(before)
    assert all(torch.equal(found[name], expected[name]) for name in found)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_the_share_of_zeros_is_the_one_asked_for(problem):
    weights = torch.cat([weight.flatten() for weight, _ in operator_weights(pruned(problem.model, 0.3))])
    assert int((weights == 0).sum()) == round(0.3 * len(weights))


# -------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("training", TRAINED)
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"shots": 0}, "shots: 0; allowed: 1 or more"),
        ({"shots": 10**6}, r"shots: 1000000; allowed: up to \d+, the training examples of class 3"),
        ({"steps": 0}, "steps: 0; allowed: 1 or more"),
        ({"learning_rate": -1.0}, r"learning_rate: -1\.0; allowed: 0 or more"),
    ],
)
def test_settings_out_of_range_are_refused(training, wrong, message, problem, probe, examples):
    with pytest.raises(InputError, match=message):
        training(problem.model, examples, probe, 0, **wrong)


def test_fine_tuning_needs_an_epoch_and_a_retained_example(problem, probe, examples):
    with pytest.raises(InputError, match="epochs: 0; allowed: 1 or more"):
        retain_only_finetuning(problem.model, examples, probe, 0, epochs=0)
    with pytest.raises(InputError, match="examples: none of a retained class; allowed: one or more"):
        retain_only_finetuning(problem.model, examples.take(examples.labels == FORGOTTEN), probe, 0)


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_shares_out_of_range_are_refused(share, problem):
    with pytest.raises(InputError, match=r"share: .*allowed: 0 up to, not including, 1"):
        pruned(problem.model, share)
