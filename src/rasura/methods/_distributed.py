"""Sums over the processes of a data-parallel run (torch.distributed, `accelerate launch`); alone, nothing happens."""

import torch
import torch.distributed as dist
from torch import Tensor

from rasura.activations import Moments


def processes() -> tuple[int, int]:
    """This process's number and how many there are: (0, 1) outside of a data-parallel run."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def total(tensor: Tensor) -> Tensor:
    """The sum of the processes' tensors, the same bits in each of them."""
    if processes()[1] == 1:
        return tensor
    # NCCL sums on the GPU only.
    summed = tensor.cuda() if dist.get_backend() == "nccl" else tensor.clone()
    dist.all_reduce(summed)
    return summed.to(tensor.device)


def merged(moments: Moments) -> Moments:
    """Moments of all processes' vectors together (Chan, Golub and LeVeque, 1983)."""
    if processes()[1] == 1:
        return moments
    device, dimension = moments.mean.device, len(moments.mean)
    count = total(torch.tensor([moments.count], device=device))
    found = Moments(dimension, moments.scatter is not None, device)
    found.count = int(count)
    found.mean = total(moments.count * moments.mean) / max(found.count, 1)
    if moments.scatter is not None:
        step = moments.mean - found.mean
        found.scatter = total(moments.scatter + moments.count * torch.outer(step, step))
    return found
