"""Copies of anyone's nets that share nothing with them: no weight, no hook, no class."""

import copy
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm


def copy_of(model: nn.Module) -> nn.Module:
    """A deep copy; what hooks computed with a gradient, which torch does not copy, is there as plain values."""
    attributes = [value for module in model.modules() for value in vars(module).values()]
    computed: dict[int, Any] = {
        id(one): one.detach().clone() for one in attributes if isinstance(one, Tensor) and not one.is_leaf
    }
    return copy.deepcopy(model, computed)


def settle_weight(module: nn.Module) -> None:
    """Make the weight a parameter that nothing computes: not a parametrization, nor a hook of `torch.nn.utils`."""
    if parametrize.is_parametrized(module, "weight"):
        # Copies share the class that holds the weight as a property, and a removal takes it out of that class.
        kind = type(module)
        module.__class__ = type(kind.__name__, kind.__bases__, dict(vars(kind)))  # pyright: ignore
        parametrize.remove_parametrizations(module, "weight")
    for hook in list(module._forward_pre_hooks.values()):
        if isinstance(hook, WeightNorm) and hook.name == "weight":
            nn.utils.remove_weight_norm(module)
        elif isinstance(hook, SpectralNorm) and hook.name == "weight":
            nn.utils.remove_spectral_norm(module)
        elif isinstance(hook, prune.BasePruningMethod) and hook._tensor_name == "weight":
            prune.remove(module, "weight")


def unwrapped(model: nn.Module) -> nn.Module:
    """The net itself inside what compiles it or spreads it over devices, which show no layers or several of each."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner
