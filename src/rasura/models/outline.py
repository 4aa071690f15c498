"""What a model will take, before memory is taken: counted while it is built, or built without memory."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

from rasura.errors import InputError
from rasura.memory import machine_memory

MOST_TENSORS = 20_000
"""Ten times what the deepest nets of timm have."""


class TooLargeError(InputError):
    """A model that has more values or tensors than it may."""


def room() -> int:
    """How many values a model may have: what fills a quarter of the machine's memory in single precision.

    Forgetting holds the model, a copy of it, and gradients.
    """
    return machine_memory() // 16


@contextmanager
def at_most(values: int, what: str, reason: str) -> Iterator[None]:
    """Inside the block, modules that are built may have so many values in all, in at most `MOST_TENSORS` tensors.

    Modules are stopped on the way: memory that PyTorch has reserved but not written is not taken yet.

    Args:
        values: numbers in all parameters and buffers together.
        what: the model, for the message.
        reason: where the limit comes from, for the message.

    Raises:
        TooLargeError: from the constructor of the module that goes beyond.
    """
    found = {"values": 0, "tensors": 0}

    def count(module: nn.Module, name: str, tensor: Tensor | None) -> None:
        if tensor is None or isinstance(tensor, nn.UninitializedParameter | nn.UninitializedBuffer):
            return
        found["values"] += tensor.numel()
        found["tensors"] += 1
        if found["values"] > values:
            raise TooLargeError(f"model: {what} has more than {values:,} weights; allowed: at most so many ({reason})")
        if found["tensors"] > MOST_TENSORS:
            raise TooLargeError(f"model: {what} has more than {MOST_TENSORS:,} tensors; allowed: at most so many")

    hooks = [register_module_parameter_registration_hook(count), register_module_buffer_registration_hook(count)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def outline(make: Callable[[], nn.Module]) -> dict[str, torch.Size] | None:
    """The shape of every tensor of a model by name, without the model: it is built on PyTorch's meta device.

    None if it cannot be built there, because its builder looks at values.

    Raises:
        TooLargeError: inside of `at_most`.
    """
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            return {name: tensor.shape for name, tensor in make().state_dict().items()}
    except TooLargeError:
        raise
    except (RuntimeError, TypeError, ValueError):
        return None
