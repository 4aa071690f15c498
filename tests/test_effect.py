"""Alarms: each from hand-made answers, and none where all is well."""

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
