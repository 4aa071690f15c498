"""Edits of a linear map's weight in place, and what becomes of its output's mean."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rasura.methods._class_statistics import Summary
from rasura.methods._erasers import Erasure
from rasura.methods._operator import as_taps, from_taps
from rasura.methods._sites import Site

Absorbed = Literal["bias", "batch norm", ""]
ALIKE = 1e-2
"""Classes whose directions differ by less than this share are answered as one: M would grow without measure."""
SHUT = 1e-2
"""A channel that a BatchNorm scales by less than this share of its largest scale is left alone: to write through it
would take weights without measure."""


def erase(
    site: Site, erasures: Sequence[Erasure], alpha: float, writes: Sequence[Tensor] | None = None
) -> tuple[float, Tensor]:
    """W' = W (I - alpha P) + M rightᵀ in place, group by group.

    Of a convolution, P takes alike at every kernel position; M is written at the middle one, as at the borders the
    others reach beyond the map.

    Args:
        site: its weight is changed.
        erasures: one per group of channels.
        alpha: 0..1.
        writes: M, what each group's output is to hold per unit of each direction, `[out, r]`; None writes nothing.

    Returns:
        The removed share of the weight's length, and how much the output loses at the centres, `[out]`, borders not
        counted.
    """
    taps = as_taps(site.weight, site.module)
    removed = torch.empty_like(taps)
    shifts = []
    rows, middle = len(taps) // len(erasures), taps.shape[2] // 2
    for group, one in enumerate(erasures):
        part = slice(group * rows, (group + 1) * rows)
        left, right, centre = (tensor.to(taps) for tensor in (one.left, one.right, one.centre))
        removed[part] = alpha * torch.einsum("oit,ir,jr->ojt", taps[part], left, right)
        if writes is not None:
            removed[part, :, middle] -= writes[group].to(taps) @ right.T
        shifts.append(torch.einsum("oit,i->o", removed[part], centre))
    with torch.no_grad():
        site.weight.copy_(from_taps(taps - removed, site.module, site.weight))
    return (removed.norm() / taps.norm().clamp(min=1e-300)).item(), torch.cat(shifts)


def cancelling(
    model: nn.Module, site: Site, summary: Summary, erasures: Sequence[Erasure], share: float
) -> list[Tensor]:
    """What a map must write so that the sum with what a shortcut carries past loses the class: M `[out, r]` per group.

    A class differs from its target by g in the map's input, where the target is the routed mixture of retained
    prototypes, and by c in what is carried. M rightᵀ g = -share · c for every class, by least squares where the
    directions are fewer than the classes. c is divided by the scale of the BatchNorm between map and sum.

    Args:
        model: the net with the BatchNorm.
        site: the map.
        summary: its statistics, with `carried`.
        erasures: one per group of channels.
        share: of the difference that is taken out, 0..1.
    """
    assert summary.carried is not None
    gaps, carried = summary.gaps(summary.prototypes), summary.gaps(summary.carried)
    wanted = -share * carried / _scale(model, site, carried.shape[1])
    width, rows = gaps.shape[1] // len(erasures), carried.shape[1] // len(erasures)
    parts = []
    for group, one in enumerate(erasures):
        held = gaps[:, group * width : (group + 1) * width] @ one.right
        parts.append((torch.linalg.pinv(held, rtol=ALIKE) @ wanted[:, group * rows : (group + 1) * rows]).T)
    return parts


def _scale(model: nn.Module, site: Site, channels: int) -> Tensor:
    """By how much each output channel grows between map and sum; infinite where it is shut."""
    if not site.norm:
        return torch.ones(channels, dtype=torch.float64)
    norm: Any = model.get_submodule(site.norm)
    grown = (norm.running_var.double() + norm.eps).rsqrt().cpu()
    grown = grown if norm.weight is None else grown * norm.weight.detach().double().cpu()
    return torch.where(grown.abs() > SHUT * grown.abs().max(), grown, torch.inf)


def absorb(model: nn.Module, site: Site, shift: Tensor) -> Absorbed:
    """Give the output back what it lost on average, in the bias or the running mean of the BatchNorm that follows.

    Returns:
        Which of the two; empty if there is neither.
    """
    running = model.get_submodule(site.norm).running_mean if site.norm else None
    with torch.no_grad():
        if site.bias is not None:
            site.bias.copy_(site.bias.double() + shift.to(site.bias.device))
            return "bias"
        if isinstance(running, Tensor):
            running.copy_(running.double() - shift.to(running.device))
            return "batch norm"
    return ""
