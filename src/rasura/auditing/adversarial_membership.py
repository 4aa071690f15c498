"""Membership by adversarial examples: training pushes the decision boundary away from the examples trained on."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from rasura.auditing.membership import LEAST_LOGIT
from rasura.errors import InputError

RIVALS = 10
"""Other classes whose boundaries are looked at: those of the highest logits."""
STEPS = 20
OVERSHOOT = 0.02
"""Each step goes this share too far, or it would never arrive."""
CHUNK = 128


def boundary_distance(
    classify: Callable[[Tensor], Tensor], points: Tensor, labels: Tensor, steps: int = STEPS
) -> np.ndarray:
    """Signed Euclidean distance `[N]` of each point from the boundary of its true class, found by DeepFool.

    Above 0: the size of the smallest change found that makes the model name another class; members lie farther from the
    boundary than unseen examples of their class. Below 0: the model names another class, and this is the change that
    makes it name the true one; members of a class that is hidden rather than erased lie nearer to it. Units are those
    of the points. The same for any model that can be differentiated: give images and the whole model, or features and
    the part of the model above them (for text, whose inputs are whole numbers).

    Exact above 0 for a linear map. Elsewhere it is the size of a change that does it, up to 2 %, and a smaller one may
    exist. It says nothing where a model's gradients vanish (a flat or rounded output).

    Args:
        classify: maps `[B, …]` to logits `[B, K]`; in eval mode, or examples disturb each other.
        points: `[N, …]`, on the device where `classify` works.
        labels: int64 `[N]`, the true classes.
        steps: at most so many linearisations; a point that is not across by then counts with how far it got.

    Raises:
        InputError: a label whose logit is cut off or has no column: the boundary is out of reach. Give the outputs from
            before the mask.

    Source: Moosavi-Dezfooli, Fawzi and Frossard, CVPR 2016, algorithm 2 (DeepFool); Del Grosso et al., CVPR 2022, and
    Li and Zhang, CCS 2021 (distance as a membership score).
    Differs: these give a misnamed example distance 0, so that all examples of a class that the model never names tie;
    here it counts below 0. The paper whose table names an "adversarial MIA" does not say what it is.
    """
    parts = zip(points.split(CHUNK), labels.split(CHUNK), strict=True)
    return torch.cat([_distances(classify, some, truth, steps) for some, truth in parts]).double().cpu().numpy()


def _distances(classify: Callable[[Tensor], Tensor], points: Tensor, labels: Tensor, steps: int) -> Tensor:
    moved = points.detach().clone()
    with torch.no_grad():
        logits = classify(moved)
    known = bool(((labels >= 0) & (labels < logits.shape[1])).all())
    if not known or (logits.gather(1, labels[:, None]) <= LEAST_LOGIT).any():
        raise InputError("labels: a class without a logit; allowed: logits from before the mask")
    right = _lead(logits, labels).amin(1) > 0
    for _ in range(steps):
        there, step = _step(classify, moved, labels, right)
        if bool(there.all()):
            break
        moved = torch.where(_beside(there, moved), moved, moved + (1 + OVERSHOOT) * step)
    distance = (moved - points).flatten(1).norm(dim=1) / (1 + OVERSHOOT)
    return torch.where(right, distance, -distance)


def _step(classify: Callable[[Tensor], Tensor], points: Tensor, labels: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Which points have crossed, and the smallest step that would take the others across if logits were linear."""
    points = points.detach().requires_grad_(True)
    with torch.enable_grad():
        lead = _lead(classify(points), labels)
        slopes = torch.stack(
            [torch.autograd.grad(column.sum(), points, retain_graph=True)[0] for column in lead.unbind(1)]
        )
    lead = lead.detach()
    there = (lead.amin(1) > 0) != right
    sizes = slopes.flatten(2).norm(dim=2).T.clamp(min=1e-12)
    # To leave its class a point crosses the nearest boundary; to enter it, first the farthest of those in between.
    rival = (lead / sizes).argmin(1)
    row = torch.arange(len(points), device=points.device)
    slope = slopes[rival, row]
    return there, _beside(-lead[row, rival] / sizes[row, rival] ** 2, points) * slope


def _lead(logits: Tensor, labels: Tensor) -> Tensor:
    """How far the true logit lies above each of its strongest rivals, `[N, R]`."""
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return logits.gather(1, labels[:, None]) - others.topk(min(RIVALS, logits.shape[1] - 1)).values


def _beside(values: Tensor, points: Tensor) -> Tensor:
    """`[N]` in a shape that multiplies `[N, …]`."""
    return values.view(-1, *[1] * (points.ndim - 1))
