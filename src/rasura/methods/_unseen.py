"""What a model would say of examples that it had never seen: a guess, without the time that retraining takes."""

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from rasura.methods._losses import divergence, frozen
from rasura.methods.contract import Problem
from rasura.models import logits_of, reinitialised
from rasura.training import Batch, Loss, fit, predict

SHRINK = 0.4
"""What is left of every weight of two or more dimensions."""
NOISE = 0.1
"""Share of freshly drawn weights that is added to them."""
APART = 1_000_003
"""Added to the seed of the draw: a model trained with the same seed began with the weights that seed gives."""


def said_unseen(problem: Problem, steps: int, closed: tuple[int, ...]) -> Tensor:
    """What a net says of the examples to forget, after some passes over the retained ones: logits `[N, K]`.

    It starts from the original, shrunk and perturbed (Ash and Adams 2020, "On warm-starting neural network training",
    arXiv 1910.08475), and learns what the original says of retained examples without the closed classes. From nothing,
    as few passes make a worse net than retraining does, and its answers would be too unsure. What the original learned
    of the examples to forget fades but need not vanish: traces may stay where it knew them by heart.

    Args:
        steps: at least so many in whole passes over the retained examples, if the recipe has as many.
        closed: classes that nothing is to be answered with: minus infinity.
    """
    batches = math.ceil(len(problem.retain) / problem.recipe.batch_size)
    recipe = replace(problem.recipe, epochs=min(math.ceil(steps / batches), problem.recipe.epochs))
    net = _loosened(problem)
    loss = _repeating(frozen(problem.model), closed)
    fit(net, problem.retain, recipe, problem.seed, loss, progress=problem.progress, label="learning without them")
    return _without(predict(net, problem.forget), closed)


def _loosened(problem: Problem) -> nn.Module:
    net, fresh = problem.copy_of_model(), reinitialised(problem.model, problem.seed + APART)
    with torch.no_grad():
        for weight, drawn in zip(net.parameters(), fresh.parameters(), strict=True):
            if weight.ndim > 1:  # the scales of norms and the biases stay: without them nothing gets through at first
                weight.mul_(SHRINK).add_(drawn, alpha=NOISE)
    return net


def _repeating(teacher: nn.Module, closed: tuple[int, ...]) -> Loss:
    def loss(model: nn.Module, batch: Batch) -> Tensor:
        with torch.no_grad():
            said = _without(logits_of(teacher, batch.inputs), closed)
        return divergence(said, logits_of(model, batch.inputs)).mean()

    return loss


def _without(logits: Tensor, closed: tuple[int, ...]) -> Tensor:
    return logits.index_fill(1, torch.tensor(closed, dtype=torch.int64, device=logits.device), -torch.inf)
