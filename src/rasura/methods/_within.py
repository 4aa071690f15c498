"""Single examples of a forgotten class: what they differ in among themselves, and where they would go without it."""

import torch

from rasura.methods._class_statistics import Summary, shrunk
from rasura.methods._depth import solved
from rasura.methods._erasers import Erasure

HELD = 0.3
"""Weight of the retained examples, which are to stay, beside the forgotten ones, which are to go (measured)."""


def dispersal(erased: Erasure, summary: Summary, ridge: float) -> Erasure:
    """The map x → x + B (I - P)(x - c) that sends each forgotten example to the retained class it is named as.

    An edit that moves a class's mean to its target moves all of its examples by the same step: they stay a cluster of
    their own around a place where no retrained net would put any of them. Behind the projection P, an example differs
    from its class by v, and the prototype that it is named as from the class's target by u. B is the ridge regression
    of u - v on v, with retained inputs held in place: B = E[(u - v) vᵀ] (E[v vᵀ] + h S)⁻¹, the minimiser of
    E‖v + B v - u‖² over forgotten examples plus h E‖B x‖² over retained ones, whose second moments are S.

    Args:
        erased: P and the centre c.
        summary: of a map whose single examples were read.
        ridge: share of the retained inputs' mean variance that is added to S.
    """
    assert summary.own is not None and summary.named is not None
    identity = torch.eye(len(erased.left), dtype=erased.left.dtype)
    kept = identity - erased.left @ erased.right.T
    own, named, retain = (kept @ moment @ kept.T for moment in (summary.own, summary.named, summary.retain.covariance))
    moved = solved(own + HELD * shrunk(retain, ridge), (named - own).T).T
    return Erasure(-moved @ kept, identity, erased.centre)
