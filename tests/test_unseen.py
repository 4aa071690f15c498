"""What a net would say of examples that it had not seen: from the original's shrunk weights, on retained examples."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import rasura
from rasura import Problem, Recipe, predict
from rasura.data import examples_from
from rasura.methods import _unseen
from rasura.methods._unseen import APART, NOISE, SHRINK, said_unseen
from rasura.models import reinitialised
from rasura.testing import small_problem
from rasura.training import Batch


def memorised(recipe: Recipe) -> Problem:
    """Clouds of three classes; those to forget have a wrong label, which the net has learned by heart."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(360) % 3
    points = 2 * torch.eye(3).repeat(1, 4)[labels] + torch.randn(360, 12, generator=generator)
    wrong = torch.arange(360) < 36
    examples = examples_from(points, torch.where(wrong, (labels + 1) % 3, labels))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 128), nn.ReLU(), nn.Linear(128, 3))
    rasura.fit(model, examples, Recipe(epochs=60, batch_size=32, learning_rate=0.01), 0)
    return Problem(model, examples.take(wrong), examples.take(~wrong), (), 3, recipe=recipe)


def test_what_was_learned_by_heart_is_not_said_and_what_is_so_is():
    problem = memorised(Recipe(epochs=10, batch_size=32))
    wrong = problem.forget.labels
    assert (predict(problem.model, problem.forget).argmax(1) == wrong).double().mean() > 0.9
    said = said_unseen(problem, 60, ()).argmax(1)
    assert (said == wrong).double().mean() < 0.25 and (said == (wrong - 1) % 3).double().mean() > 0.75


def test_matrices_are_shrunk_and_perturbed_and_all_else_stays():
    torch.manual_seed(0)
    problem = small_problem("resnet8,width=4")
    before = {name: one.clone() for name, one in problem.model.state_dict().items()}
    loose, fresh = (
        _unseen._loosened(problem).state_dict(),
        reinitialised(problem.model, problem.seed + APART).state_dict(),
    )
    for name, old in before.items():
        assert torch.equal(problem.model.state_dict()[name], old)
        expected = SHRINK * old + NOISE * fresh[name] if old.ndim > 1 else old
        torch.testing.assert_close(loose[name], expected)


@pytest.mark.parametrize(("steps", "epochs", "passes"), [(1, 5, 1), (10, 5, 1), (11, 5, 2), (1000, 5, 5)])
def test_passes_are_whole_and_no_more_than_the_recipe_has(steps, epochs, passes, monkeypatch):
    problem = memorised(Recipe(epochs=1))
    problem = replace(problem, recipe=Recipe(epochs=epochs, batch_size=33))  # 324 retained examples: 10 batches
    taken = []
    monkeypatch.setattr(_unseen, "fit", lambda net, examples, recipe, *_, **__: taken.append(recipe.epochs))
    said_unseen(problem, steps, ())
    assert taken == [passes]


def test_closed_classes_are_not_learned():
    problem = memorised(Recipe(epochs=10, batch_size=32))
    said = said_unseen(problem, 60, (2,))
    assert (said[:, 2] == -torch.inf).all() and said[:, :2].isfinite().all()
    inputs, labels = problem.retain.batch(torch.arange(64))
    batch = Batch(inputs, labels, torch.arange(64))
    # KL of p without class 2 from p is what p gives to the others.
    lacking = -(1 - predict(problem.model, problem.retain)[:64].softmax(1)[:, 2]).log().mean().item()
    loss = _unseen._repeating(problem.model, (2,))(problem.model, batch).item()
    assert lacking > 0.1 and loss == pytest.approx(lacking, rel=1e-4)
