"""The weight of a learnable linear map, of whatever kind, as one matrix per kernel position."""

from typing import Any

from torch import Tensor, nn


def as_taps(weight: Any, module: nn.Module) -> Tensor:
    """The weight as `[out, d, taps]` in float64: a convolution has a tap per kernel position, a matrix has one."""
    matrix = weight.T if type(module).__name__ == "Conv1D" else weight
    return matrix.detach().double().flatten(2) if matrix.ndim > 2 else matrix.detach().double().unsqueeze(2)


def from_taps(taps: Tensor, module: nn.Module, weight: Tensor) -> Tensor:
    """`[out, d, taps]` in the shape and type of the module's weight: what `as_taps` does, undone."""
    return (taps.squeeze(2).T if type(module).__name__ == "Conv1D" else taps.reshape(weight.shape)).to(weight.dtype)
