"""One vector per example of whatever a layer gives: maps, tokens or vectors."""

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules import batchnorm, conv, instancenorm, pooling

from rasura.activations.taps import Point, is_operator, tap

_MAPS = (
    conv._ConvNd,
    batchnorm._BatchNorm,
    instancenorm._InstanceNorm,
    nn.GroupNorm,
    pooling._MaxPoolNd,
    pooling._AvgPoolNd,
    pooling._AdaptiveMaxPoolNd,
    pooling._AdaptiveAvgPoolNd,
)
_VECTORS = (nn.LayerNorm, nn.RMSNorm, nn.MultiheadAttention, nn.Embedding, nn.RNNBase)


def pooled(tensor: Tensor, channels_first: bool | None = None) -> Tensor:
    """One vector per example.

    `[B, d]` stays; maps `[B, C, …]` or `[B, H, W, C]` give the mean over pixels `[B, C]`; tokens `[B, T, d]` give the
    first token beside the mean over tokens, `[B, 2d]`: a class token holds what the mean does not.

    Args:
        tensor: `[B, …]`.
        channels_first: whether the channels are the second dimension, as the layer that made the tensor has them
            (`pooling`). Where nobody knows: three dimensions are tokens, `[B, H, H, C]` has them last, others first.
    """
    if tensor.ndim <= 2:
        return tensor.reshape(len(tensor), -1)
    if channels_first is None:
        square = tensor.ndim == 4 and tensor.shape[1] == tensor.shape[2] != tensor.shape[3]
        channels_first = tensor.ndim > 3 and not square
    if channels_first:
        return tensor.flatten(2).mean(2)
    if tensor.ndim == 3:
        return torch.cat([tensor[:, 0], tensor.mean(1)], dim=1)
    return tensor.mean(tuple(range(1, tensor.ndim - 1)))


@contextlib.contextmanager
def pooling_of(model: nn.Module) -> Iterator[Callable[[Tensor], Tensor]]:
    """Inside the block, a `pooled` that knows where channels are: as the last layer that made such a shape has them.

    A convolution has them first, a linear map last; nothing is concluded from the sizes.
    """
    told: dict[torch.Size, bool] = {}

    def note(first: bool) -> Callable[[Tensor], None]:
        return lambda tensor: told.__setitem__(tensor.shape, first)

    layers = {name: _channels_first(module) for name, module in model.named_modules()}
    with tap(model, {Point(name): note(first) for name, first in layers.items() if first is not None}):
        yield lambda tensor: pooled(tensor, told.get(tensor.shape))


def _channels_first(layer: nn.Module) -> bool | None:
    """Where a layer has the channels of its output; None for one that does not say, such as an activation."""
    of_maps = isinstance(layer, _VECTORS) and type(layer).__name__.endswith("2d")  # timm's LayerNorm2d is a LayerNorm
    if isinstance(layer, _MAPS) or of_maps:
        return True
    return False if isinstance(layer, _VECTORS) or is_operator(layer) else None
