"""Edits of a linear map's weight in place, and what becomes of its output's mean."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from rasura.methods._erasers import Erasure
from rasura.methods._operator import as_taps, from_taps
from rasura.methods._sites import Site

Absorbed = Literal["bias", "batch norm", ""]


def erase(site: Site, erasures: Sequence[Erasure], alpha: float) -> tuple[float, Tensor]:
    """W' = W (I - alpha P) in place, group by group; of a convolution, alike at every kernel position.

    Args:
        site: its weight is changed.
        erasures: one per group of channels.
        alpha: 0..1.

    Returns:
        The removed share of the weight's length, and how much the output loses at the centres, `[out]`, borders not
        counted.
    """
    taps = as_taps(site.weight, site.module)
    removed = torch.empty_like(taps)
    shifts = []
    rows = len(taps) // len(erasures)
    for group, one in enumerate(erasures):
        part = slice(group * rows, (group + 1) * rows)
        left, right, centre = (tensor.to(taps) for tensor in (one.left, one.right, one.centre))
        removed[part] = alpha * torch.einsum("oit,ir,jr->ojt", taps[part], left, right)
        shifts.append(torch.einsum("oit,i->o", removed[part], centre))
    with torch.no_grad():
        site.weight.copy_(from_taps(taps - removed, site.module, site.weight))
    return (removed.norm() / taps.norm().clamp(min=1e-300)).item(), torch.cat(shifts)


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
