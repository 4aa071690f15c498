"""Erasers: affine maps x → x - P (x - c) of a linear map's input, whose projection P takes directions away."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rasura.methods._class_statistics import Summary, shrunk
from rasura.methods._depth import solved
from rasura.methods._directions import ROUNDING

Eraser = Literal["oblique", "orthogonal", "leace"]


@dataclass(frozen=True, eq=False)
class Erasure:
    """P = left rightᵀ, and the centre c, which stays where it is; of a projection rightᵀ left = I.

    Attributes:
        left: the directions that vanish, `[d, r]`.
        right: how much of each an input is said to hold, `[d, r]`.
        centre: `[d]`.
    """

    left: Tensor
    right: Tensor
    centre: Tensor

    @property
    def rank(self) -> int:
        """The number of directions."""
        return self.left.shape[1]


def orthogonal(basis: Tensor, centre: Tensor) -> Erasure:
    """The nearest input without the directions: P = Q Qᵀ."""
    return Erasure(basis, basis, centre)


def oblique(basis: Tensor, metric: Tensor, centre: Tensor) -> Erasure:
    """The projection along Q that moves inputs with second moments S the least: P = Q (Qᵀ S⁻¹ Q)⁻¹ Qᵀ S⁻¹.

    Of all P with P Q = Q and rank r it minimises E ‖P x‖² over inputs x with E x xᵀ = S, and with it E ‖W P x‖² for
    every W: retained outputs change as little as they can while W' Q = 0.

    Args:
        basis: Q, `[d, r]`.
        metric: S, `[d, d]`, positive definite.
        centre: `[d]`.
    """
    reading = solved(metric, basis)
    return Erasure(basis, torch.linalg.solve(basis.T @ reading, reading.T).T, centre)


def leace(summary: Summary, tolerance: float = 1e-6) -> Erasure:
    """Least-squares concept erasure of "which forgotten class, if any": no linear probe reads it afterwards.

    Source: N. Belrose et al., "LEACE: perfect linear concept erasure in closed form", NeurIPS 2023, arXiv 2306.03819,
    theorem 4.3: P = W⁺ (W S_xz)(W S_xz)⁺ W with W = S_xx^(-1/2), which is the oblique projection along the column
    space of S_xz in the metric S_xx⁺; the centre is the mean of all. Directions in which inputs differ by no more than
    float32 rounds are left out.

    Args:
        summary: statistics of all examples.
        tolerance: shares of the largest singular value of W S_xz below which a direction counts as nothing.
    """
    total = summary.everything
    values, vectors = torch.linalg.eigh(total.covariance)
    rounding = (ROUNDING * summary.prototypes.norm(dim=1).max()) ** 2
    filled = values > max(values[-1] * len(values) * torch.finfo(values.dtype).eps, rounding)
    half = vectors * torch.where(filled, values.clamp(min=1e-300).rsqrt(), 0)  # half halfᵀ is the pseudo-inverse
    crossing = half.T @ (summary.prototypes[summary.forget] - total.mean).T
    basis, lengths, _ = torch.linalg.svd(crossing, full_matrices=False)
    basis = basis[:, lengths > tolerance * lengths.max().clamp(min=1e-300)]
    back = vectors * values.clamp(min=0).sqrt()
    return Erasure(back @ basis, half @ basis, total.mean)


def erasure(kind: Eraser, basis: Tensor, summary: Summary, ridge: float) -> Erasure:
    """The erasure of a kind. "leace" has directions of its own.

    Args:
        ridge: for "oblique", the share of the retained inputs' mean variance that is added to their covariance.
    """
    if kind == "leace":
        return leace(summary)
    if kind == "orthogonal":
        return orthogonal(basis, summary.retain.mean)
    return oblique(basis, shrunk(summary.retain.covariance, ridge), summary.retain.mean)
