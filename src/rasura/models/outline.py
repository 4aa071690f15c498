"""What a model will take, before memory is taken: counted while it is built, or built without memory."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

from rasura.errors import InputError
from rasura.memory import machine_memory
from rasura.randomness import seeded

MOST_TENSORS = 10_000
"""A residual net of 1,202 layers has 7,200."""


class TooLargeError(InputError):
    """A model that has more values or tensors than it may."""


@dataclass(frozen=True)
class Limit:
    """How many values all parameters and buffers of a model may have together, and where this comes from."""

    values: int
    reason: str


def room() -> Limit:
    """What fills a quarter of the machine's memory in single precision: forgetting holds a model, a copy, gradients."""
    return Limit(machine_memory() // 16, "a quarter of this machine's memory")


def filled_by(shapes: Iterable[torch.Size], source: str) -> Limit:
    """About what files of weights declare (a net has tensors of its own that are not stored), if there is room."""
    declared = sum(shape.numel() for shape in shapes)
    return min(room(), Limit(2 * declared + 2**20, f"what {source} can fill"), key=lambda limit: limit.values)


@contextmanager
def at_most(limit: Limit, what: str) -> Iterator[None]:
    """Inside the block, modules that are built may have so many values in all, in at most `MOST_TENSORS` tensors.

    Args:
        limit: of one model.
        what: the model, for the message.

    Raises:
        TooLargeError: from the constructor of the module that goes beyond.
    """
    found = {"values": 0, "tensors": 0}

    def count(module: nn.Module, name: str, tensor: Tensor | None) -> None:
        if tensor is None or isinstance(tensor, nn.UninitializedParameter | nn.UninitializedBuffer):
            return
        found["values"] += tensor.numel()
        found["tensors"] += 1
        if found["values"] > limit.values:
            allowed = f"at most so many ({limit.reason})"
            raise TooLargeError(f"model: {what} has more than {limit.values:,} weights; allowed: {allowed}")
        if found["tensors"] > MOST_TENSORS:
            raise TooLargeError(f"model: {what} has more than {MOST_TENSORS:,} tensors; allowed: at most so many")

    hooks = [register_module_parameter_registration_hook(count), register_module_buffer_registration_hook(count)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def outline(make: Callable[[], nn.Module], limit: Limit, what: str) -> dict[str, torch.Size] | None:
    """The shape of every tensor of a model by name, without the model: it is built on PyTorch's meta device.

    None if it cannot be built there: its builder looks at values, or fails.

    Raises:
        TooLargeError: it is beyond the limit.
    """
    try:
        with seeded(0), torch.device("meta"), at_most(limit, what):
            return {name: tensor.shape for name, tensor in make().state_dict().items()}
    except TooLargeError:
        raise
    except (RuntimeError, TypeError, ValueError, OverflowError):
        return None
