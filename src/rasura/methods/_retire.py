"""The head without the forgotten classes: their outputs never win, and the others' biases fit the edited features."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rasura.errors import InputError
from rasura.methods._distributed import total
from rasura.methods._head import chosen_mask, head_rows

STEPS, SMALLEST = 50, 1e-8


def retire(head: nn.Module, classes: int, forgotten: tuple[int, ...]) -> float:
    """Put the mean of the retained rows into the forgotten ones: the mean of logits never exceeds their largest.

    Returns:
        The length of the change as a share of the weight's.

    Raises:
        InputError: the head has another number of outputs than there are classes.
    """
    rows, gone = head_rows(head), chosen_mask(classes, forgotten)
    if len(rows) != classes:
        raise InputError(
            f"model: the head has {len(rows)} outputs; allowed: {classes}, one per class, or head='project'"
        )
    before, gone = rows.detach().double().clone(), gone.to(rows.device)
    with torch.no_grad():
        rows[gone] = before[~gone].mean(0).to(rows)
        if isinstance(head.bias, Tensor):
            head.bias[gone] = head.bias[~gone].double().mean().to(head.bias)
    return ((rows.detach().double() - before).norm() / before.norm().clamp(min=1e-300)).item()


def recalibrate(head: nn.Module, inputs: Tensor, labels: Tensor, forgotten: tuple[int, ...]) -> None:
    """Fit the retained classes' biases to retained examples by maximum likelihood, and retire the others' again.

    An edit that is small for every example can still favour one class over its neighbour; a bias each undoes that.

    Args:
        head: a linear map with a bias and one row per class.
        inputs: what it is given, `[n, d]`; of several processes, each its own.
        labels: `[n]`; examples of forgotten classes are left out.
        forgotten: numbers of the forgotten classes.
    """
    bias = head.bias
    if not isinstance(bias, Tensor):
        return
    gone = chosen_mask(len(bias), forgotten)
    chosen = ~gone[labels]
    rows = head_rows(head).detach().double().flatten(1).cpu()
    logits = inputs[chosen.to(inputs.device)].double().cpu() @ rows[~gone].T + bias.detach().double().cpu()[~gone]
    places = (~gone).cumsum(0) - 1
    shift = best_biases(logits, places[labels[chosen]])
    with torch.no_grad():
        fitted = bias.detach().double().cpu()
        fitted[~gone] += shift
        fitted[gone] = fitted[~gone].mean()
        bias.copy_(fitted.to(bias))


def best_biases(logits: Tensor, labels: Tensor) -> Tensor:
    """The biases `[K]`, of sum 0, that added to logits `[n, K]` give the labels the highest likelihood.

    Newton's method on a convex function, from the biases that level the mean logits' errors; a step that would raise
    the loss is halved. A class without an example keeps its bias.
    """
    truth = F.one_hot(labels, logits.shape[1]).double()
    there = total(truth.sum(0)) > 0
    number = total(torch.tensor(float(len(logits)), dtype=torch.float64)).clamp(min=1)

    def loss(at: Tensor) -> Tensor:
        return -total(((logits + at).log_softmax(1) * truth).sum()) / number

    biases = torch.zeros(logits.shape[1], dtype=torch.float64)
    for _ in range(STEPS):
        odds = (logits + biases).softmax(1)
        slope = total((odds - truth).sum(0)) / number * there
        if slope.abs().max() < SMALLEST:
            break
        curve = torch.diag(total(odds.sum(0))) - total(odds.T @ odds)
        curve = curve / number * torch.outer(there, there) + torch.diag((~there).double())
        # Adding the same to all biases changes nothing; the ones make the step the one of sum 0.
        step = torch.linalg.solve(curve + torch.outer(there, there).double() / len(slope), slope)
        size = 1.0
        while loss(biases - size * step) > loss(biases) and size > 1e-6:
            size /= 2
        biases = biases - size * step
    return biases
