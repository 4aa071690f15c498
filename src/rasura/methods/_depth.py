"""How strongly each linear map is edited: how readable the class is there, and how deep the map lies."""

from typing import Literal

import torch
from torch import Tensor

from rasura.activations import Moments

Depth = Literal["last", "late", "probe", "probe*ramp", "probe^2", "constant"]
RIDGE = 1e-3
RISE, RISE_IN_STREAM = (0.6, 0.8), (0.3, 0.55)
"""Where "late" begins to rise from 0, and where it reaches 1, as shares of the maps before the head. In a transformer
what an early map writes passes by all later ones to the head, so the rise begins earlier (measured)."""
CANCELLED, CANCELLED_IN_STREAM = 1.0, 0.4
"""Share of a class's difference that the last map takes out of what a shortcut carries past it. Nothing but a norm and
a mean lie between a transformer's stream and the head: without any of the difference there, few labels find less of the
class than in retrained models. A ReLU behind a sum of maps brings some of it back (both measured)."""


def alpha(
    rule: Depth, separability: float, place: int, count: int, in_stream: bool = False, last: bool = False
) -> float:
    """The strength of an edit, 0..1.

    Args:
        rule: "last": 1 in the last maps, before them "late" times s², where s is the separability: where the class
            cannot be told apart its direction is one of the others' too, and an edit costs them more than it takes from
            the class; "late": 0 in the first maps, rising to 1 in the later ones; "probe": s; "probe^2": s squared;
            "probe*ramp": s times the relative depth; "constant": 1.
        separability: 0..1.
        place: the map's number, counted from 1.
        count: how many maps there are, the head among them.
        in_stream: whether the map reads a transformer's tokens.
        last: whether no other map but the head takes its output up.

    >>> [alpha("late", 0.9, place, 11) for place in (5, 8, 11)], alpha("probe*ramp", 0.5, 8, 10)
    ([0.0, 1.0, 1.0], 0.4)
    """
    if rule == "constant" or (rule == "last" and last):
        return 1.0
    if rule == "last":
        return separability**2 * alpha("late", separability, place, count, in_stream)
    if rule == "late":
        low, high = RISE_IN_STREAM if in_stream else RISE
        return min(1.0, max(0.0, (place / max(count - 1, 1) - low) / (high - low)))
    if rule == "probe^2":
        return separability**2
    return separability * (place / count if rule == "probe*ramp" else 1.0)


def discriminant(forget: Moments, retain: Moments) -> tuple[Tensor, Tensor]:
    """Fisher's linear discriminant between two groups from their moments: a direction `[d]` and a threshold.

    Both groups weigh the same (balanced), and a ridge of a thousandth of the mean variance keeps it solvable.
    """
    within = forget.covariance + retain.covariance
    ridge = RIDGE * within.diagonal().mean() + 1e-12
    within = within + ridge * torch.eye(len(within), dtype=within.dtype, device=within.device)
    direction = solved(within, (forget.mean - retain.mean).unsqueeze(1))[:, 0]
    return direction, direction @ (forget.mean + retain.mean) / 2


def solved(metric: Tensor, right: Tensor) -> Tensor:
    """X of `metric` X = `right` `[d, n]`, for a positive definite metric: half the work of a general solver."""
    return torch.cholesky_solve(right, torch.linalg.cholesky(metric))


def separability(confusion: Tensor) -> float:
    """2 · balanced accuracy - 1, cut off at 0, from counts `[truth, said]`."""
    balanced = (confusion.diagonal() / confusion.sum(1).clamp(min=1)).mean().item()
    return min(1.0, max(0.0, 2 * balanced - 1))
