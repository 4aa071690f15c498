"""BatchNorm statistics taken anew on retained examples, as training without the class would have found them."""

import torch
from torch import Tensor, nn

from rasura.activations import Point
from rasura.methods._distributed import total


def norms_of(model: nn.Module) -> dict[Point, "NormStatistics"]:
    """One collector per BatchNorm with running statistics, by the point of its input."""
    kind = nn.modules.batchnorm._BatchNorm
    found = {name: module for name, module in model.named_modules() if isinstance(module, kind)}
    return {Point(name, "input"): NormStatistics(norm) for name, norm in found.items() if norm.running_mean is not None}


class NormStatistics:
    """Mean and variance per channel over examples and positions, in float64."""

    def __init__(self, norm: nn.modules.batchnorm._BatchNorm):
        self.norm = norm
        self.sums = torch.zeros(2, norm.num_features, dtype=torch.float64)
        self.count = torch.zeros((), dtype=torch.float64)

    def update(self, tensor: Tensor) -> None:
        """Take in `[n, C, …]`."""
        if not len(tensor):
            return
        dimensions = (0, *range(2, tensor.ndim))
        variance, mean = torch.var_mean(tensor.float(), dimensions, correction=0)
        number, mean, variance = tensor.numel() // tensor.shape[1], mean.double().cpu(), variance.double().cpu()
        self.count += number
        self.sums += number * torch.stack([mean, variance + mean.square()])

    def apply(self) -> None:
        """Put what was found, over all processes, into the running statistics."""
        mean, square = total(self.sums) / total(self.count).clamp(min=1)
        running_mean, running_var = self.norm.running_mean, self.norm.running_var
        assert running_mean is not None and running_var is not None
        running_mean.copy_(mean.to(running_mean))
        running_var.copy_((square - mean.square()).clamp(min=0).to(running_var))
