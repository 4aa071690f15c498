"""Forget directions: what sets the forgotten classes' prototypes apart from the retained ones."""

from typing import Literal

import torch
from torch import Tensor

Residual = Literal["routed", "centred", "span"]
ROUNDING = 1e-6
"""Activations are float32: a share of a prototype's length that small says nothing."""


def directions(
    prototypes: Tensor,
    forget: Tensor,
    residual: Residual,
    energy: float = 1.0,
    routing: Tensor | None = None,
    tolerance: float = 1e-3,
) -> Tensor:
    """Orthonormal basis `[d, r]` of the forget-specific directions, r at most the number of forget classes.

    Args:
        prototypes: one mean per class, `[K, d]`, float64.
        forget: numbers of the forget classes, `[F]`, ascending.
        residual: what is left of a forget prototype: "routed": less the mixture of retained prototypes that `routing`
            names; "centred": less the retained mean, outside of the principal directions of the retained prototypes;
            "span": outside of the retained prototypes' span.
        energy: for "centred", the share of the retained prototypes' variance that the principal directions hold.
        routing: for "routed", `[F, K - F]`, rows sum to 1.
        tolerance: residuals shorter than this share of the largest deviation from the retained mean count as nothing,
            and so do those that are rounding errors of the prototypes.
    """
    keep = torch.ones(len(prototypes), dtype=torch.bool)
    keep[forget] = False
    going, staying = prototypes[~keep], prototypes[keep]
    mean = staying.mean(0)
    least = max(tolerance * (prototypes - mean).norm(dim=1).max(), ROUNDING * prototypes.norm(dim=1).max())
    if residual == "routed":
        assert routing is not None
        left = going - routing @ staying
    elif residual == "centred":
        left = _outside(going - mean, _row_space(staying - mean, energy))
    else:
        left = _outside(going, _row_space(staying, 1.0))
    _, lengths, rows = torch.linalg.svd(left, full_matrices=False)
    return rows[lengths > least].T


def _outside(rows: Tensor, basis: Tensor) -> Tensor:
    return rows - rows @ basis @ basis.T


def _row_space(rows: Tensor, energy: float) -> Tensor:
    """Leading right singular vectors `[d, r]` of `[n, d]` that hold a share `energy` of the squared length."""
    _, lengths, vectors = torch.linalg.svd(rows, full_matrices=False)
    filled = lengths > 1e-7 * lengths.max().clamp(min=1e-300)
    share = lengths.square().cumsum(0) / lengths.square().sum().clamp(min=1e-300)
    needed = int((share < energy - 1e-12).sum()) + 1
    return vectors[: min(needed, int(filled.sum()))].T
