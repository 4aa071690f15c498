"""Alarms: each from hand-made answers, and none where all is well."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rasura import InputError
from rasura.data import examples_from
from rasura.methods._effect import alarms, measure_effect

CLASSES = ("cat", "dog", "hen")


class Says(nn.Module):
    """Logits by table: example number → logits."""

    def __init__(self, table: Tensor):
        super().__init__()
        self.table = nn.Parameter(table)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.table[inputs[:, 0].long()]


LABELS = torch.tensor([0] * 20 + [1] * 40 + [2] * 40)
BEFORE = 8.0 * nn.functional.one_hot(LABELS, 3)
FORGET, RETAIN = torch.arange(20), torch.arange(20, 100)


def said(answers: Tensor) -> list[str]:
    everything = examples_from(torch.arange(100.0)[:, None], LABELS)
    nets = Says(BEFORE), Says(8.0 * nn.functional.one_hot(answers, 3))
    effect = measure_effect(*nets, everything.take(FORGET), everything.take(RETAIN), 0)
    return list(alarms(effect, True, CLASSES))


def answers(forgotten: int, dogs: int, hens: int) -> Tensor:
    """So many of each class named rightly, of 20, 40, 40; the wrong ones are called the next class."""
    wrong = (LABELS + 1) % 3
    right = torch.cat([torch.arange(size) < count for size, count in [(20, forgotten), (40, dogs), (40, hens)]])
    return torch.where(right, LABELS, wrong)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((0, 40, 40), []),
        ((1, 38, 38), []),
        ((20, 40, 40), ["no effect: accuracy on the examples to forget is 100.0%, was 100.0%"]),
        ((11, 40, 40), ["no effect: accuracy on the examples to forget is 55.0%"]),
        ((3, 40, 40), ["weak effect: accuracy on the examples to forget is 15.0%"]),
        ((0, 34, 34), ["damage: accuracy on the examples to keep is 85.0%, was 100.0%"]),
        ((0, 10, 10), ["collapse: accuracy on the examples to keep is 25.0%"]),
        ((20, 0, 0), ["no effect", "collapse"]),
    ],
)
def test_alarms_of_class_requests(given, expected):
    found = said(answers(*given))
    assert len(found) == len(expected)
    assert all(line.startswith(start) for line, start in zip(found, expected, strict=True))


def test_a_mean_does_not_hide_the_loss_of_one_class():
    many = torch.cat([LABELS[:20], torch.full((400,), 1), torch.full((40,), 2)])
    data = examples_from(torch.arange(460.0)[:, None], many)
    after = many.clone()
    after[:20] = 1
    after[420:446] = 1  # 26 of 40 hens, of 440 retained examples
    nets = [Says(8.0 * nn.functional.one_hot(one, 3)) for one in (many, after)]
    effect = measure_effect(*nets, data.take(torch.arange(20)), data.take(torch.arange(20, 460)), 0)
    assert effect["retain_accuracy_after"] > 0.9
    assert list(alarms(effect, True, CLASSES)) == ["damage: accuracy on hen is 35.0%, was 100.0%; try gentler settings"]


def effect_on_samples(after: Tensor) -> dict[str, float]:
    data = examples_from(torch.arange(100.0)[:, None], LABELS)
    return measure_effect(Says(BEFORE), Says(after), data.take(FORGET), data.take(RETAIN), 0)


def test_samples_keep_their_accuracy_but_not_their_outputs():
    still = effect_on_samples(BEFORE + 1e-3 * torch.randn(BEFORE.shape, generator=torch.Generator().manual_seed(0)))
    assert next(alarms(still, False, CLASSES)).startswith("no effect: outputs on the samples moved by 0.00%")
    softer = effect_on_samples(0.5 * BEFORE)
    assert softer["forget_accuracy_after"] == 1 and not list(alarms(softer, False, CLASSES))
    shares = [(scale * BEFORE[FORGET]).double().softmax(1)[:, 0] for scale in (1.0, 0.5)]
    assert softer["output_change"] == pytest.approx((shares[0] - shares[1]).mean().item(), abs=1e-6)


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_outputs_that_are_no_numbers_are_refused(broken):
    after = BEFORE.clone()
    after[50, 1] = broken
    with pytest.raises(InputError, match="outputs became NaN or infinite; allowed: gentler settings"):
        effect_on_samples(after)


# ------------------------------------------------------------------------------------ one class among many


def changed(classes: int, each: int, seed: int, flips: float, lost: float = 0.0) -> list[str]:
    """Alarms on two nets that name 85 % of each class and differ in a share of answers; one loses more of class 1."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes + 1), each)
    drawn, again = generator.random((2, len(labels))) < 0.85
    after = np.where(generator.random(len(labels)) < flips, again, drawn)
    after &= (labels != 1) | (generator.random(len(labels)) >= lost)
    said = (torch.tensor(np.where(one, labels, (labels + 1) % classes + 1)) for one in (drawn, after))
    data = examples_from(torch.arange(len(labels))[:, None].float(), torch.tensor(labels))
    nets = (Says(nn.functional.one_hot(one, classes + 2).float()) for one in said)
    forget, retain = (data.take(torch.tensor(labels == 0) == side) for side in (True, False))
    effect = measure_effect(*nets, forget, retain, seed)
    return [line for line in alarms(effect, False, tuple(map(str, range(classes + 2)))) if line.startswith("damage")]


@pytest.mark.parametrize(("classes", "each"), [(10, 60), (100, 110), (1000, 2)])
def test_no_class_of_many_is_called_damaged_where_all_kept_their_accuracy(classes, each):
    """Two nets as different as independent ones. 5 % of 30 trials are 1.5; more than 4 have a chance of 1.6 %."""
    assert sum(bool(changed(classes, each, seed, flips=1.0)) for seed in range(30)) <= 4


@pytest.mark.parametrize(("classes", "most"), [(10, 1), (100, 5)])
def test_a_class_that_lost_thirty_points_is_found_among_many(classes, most):
    """Of 100 classes the sample holds five examples each: those that lost most are looked at again."""
    found = [changed(classes, 150, seed, flips=0.1, lost=0.35) for seed in range(20)]
    assert sum(not any("accuracy on 1 is" in line for line in one) for one in found) <= most
