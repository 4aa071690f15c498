"""Which examples closed-form edits read: every class has some, however few there are."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from rasura import InputError, Problem, predict
from rasura.data import Examples, examples_from
from rasura.methods._orders import HELD_OUT, calibration_of
from rasura.methods.damp import Damp
from rasura.testing import small_problem


def with_few(problem: Problem, number: int, count: int) -> Problem:
    """The problem with only so many retained examples of one class."""
    labels = problem.retain.labels
    surplus = (labels == number).nonzero()[count:, 0]
    keep = torch.ones(len(labels), dtype=torch.bool).index_fill(0, surplus, False)
    return replace(problem, retain=problem.retain.take(keep))


def counts(labels: Tensor, classes: int) -> list[int]:
    return labels.bincount(minlength=classes).tolist()


def of_classes(each: int, classes: int) -> Examples:
    labels = torch.arange(classes).repeat_interleave(each)
    return examples_from(torch.zeros(len(labels), 2), labels)


def test_where_a_random_draw_has_every_class_it_is_taken_as_it_is():
    problem = small_problem()
    generator = torch.Generator().manual_seed(problem.seed)
    order = [torch.randperm(len(part), generator=generator)[:200] for part in (problem.forget, problem.retain)]
    rows = torch.cat([problem.forget.rows[order[0]], problem.retain.rows[order[1]]])
    mixed = torch.randperm(len(rows), generator=generator)
    found = calibration_of(problem, 200)
    assert torch.equal(found.examples.rows, rows[mixed])
    assert torch.equal(found.held_out, torch.arange(len(rows)) % HELD_OUT == 0)


@pytest.mark.parametrize("most", [8, 300, 1000])
def test_many_classes_are_all_read(most):
    problem = replace(small_problem(), retain=of_classes(5, 200), forget=of_classes(5, 1), classes=200)
    found = calibration_of(problem, most)
    each = counts(found.examples.labels, 200)
    assert min(each) >= 2 and sum(each[1:]) <= max(most, 400)
    fitted, scored = (counts(found.examples.labels[part], 200) for part in (~found.held_out, found.held_out))
    assert min(fitted) >= 1 and min(scored) >= 1


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("order", ["sequential", "one-shot"])
def test_a_class_of_one_example_is_fitted(seed, order):
    problem = with_few(replace(small_problem(), seed=seed), 7, 1)
    Damp(order=order)(problem)


def test_a_class_of_three_examples_is_told_apart():
    problem = small_problem()
    _, record = Damp()(replace(problem, forget=problem.forget.take(torch.arange(3))))
    assert max(one["separability"] for one in record["operators"]) > 0.5


def test_the_two_sides_may_have_sources_of_their_own():
    problem = small_problem()
    inputs, labels = problem.retain.batch(torch.arange(len(problem.retain)))
    apart = replace(problem, retain=examples_from(inputs, labels))
    together, separate = (predict(Damp()(one)[0], problem.forget) for one in (problem, apart))
    assert torch.equal(together, separate)


class Constant(nn.Module):
    """What its layers are given differs by less than float32 can say."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(torch.full((len(images), 4), 0.1) + 1e-8 * images.flatten(1)[:, 10:14]))


@pytest.mark.parametrize("eraser", ["oblique", "orthogonal", "leace"])
def test_no_eraser_takes_rounding_for_a_direction(eraser):
    problem = replace(small_problem(), model=Constant().eval())
    with pytest.raises(InputError, match="no map could be projected"):
        Damp(eraser=eraser, depth="constant")(problem)
