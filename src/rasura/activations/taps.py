"""The only hooks of the package: what goes into a module, or comes out of it, is handed over, or replaced."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rasura.errors import InputError


@dataclass(frozen=True, order=True)
class Point:
    """A place in a net: what goes into a module, or what comes out of it."""

    module: str
    side: Literal["input", "output"] = "output"


def is_operator(module: nn.Module) -> bool:
    """Whether a module is a learnable linear map."""
    linear = isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))
    return linear or (type(module).__name__ == "Conv1D" and hasattr(module, "nf"))


@contextlib.contextmanager
def tap(model: nn.Module, receive: Mapping[Point, Callable[[Tensor], Tensor | None]]) -> Iterator[None]:
    """While the block runs, each forward pass hands the tensor at every point to its function.

    A function that returns a tensor puts it in the place of the one it was given. Hooks are removed when the block
    ends, however it ends.

    Raises:
        InputError: a point names a module that the model does not have.
    """
    modules, handles = dict(model.named_modules()), []
    fast = torch.backends.mha.get_fastpath_enabled()
    try:
        # PyTorch's fused attention skips the modules inside a transformer layer, and their hooks with them.
        torch.backends.mha.set_fastpath_enabled(False)
        for point, function in receive.items():
            if point.module not in modules:
                raise InputError(f"layer: the model has no module {point.module!r}; allowed: a name of named_modules()")
            handles.append(_attach(modules[point.module], point, function))
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for handle in handles:
            handle.remove()


def _attach(module: nn.Module, point: Point, function: Callable[[Tensor], Tensor | None]) -> Any:
    if point.side == "input":

        def before(_: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
            if arguments and isinstance(arguments[0], Tensor):
                changed = function(arguments[0])
                return None if changed is None else ((changed, *arguments[1:]), named)
            first = next((key for key, value in named.items() if isinstance(value, Tensor)), None)
            changed = None if first is None else function(named[first])
            return None if changed is None else (arguments, {**named, first: changed})

        return module.register_forward_pre_hook(before, with_kwargs=True)

    def after(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        tensor = _tensor_in(output)
        changed = None if tensor is None else function(tensor)
        return None if changed is None else _with_tensor(output, changed)

    return module.register_forward_hook(after)


def _tensor_in(output: Any) -> Tensor | None:
    """The tensor that a module's output is, or begins with: blocks of Hugging Face models return tuples or dicts."""
    if isinstance(output, Tensor):
        return output
    values = output.values() if isinstance(output, Mapping) else output if isinstance(output, (tuple, list)) else ()
    return next((value for value in values if isinstance(value, Tensor)), None)


def _with_tensor(output: Any, changed: Tensor) -> Any:
    if isinstance(output, Tensor):
        return changed
    if isinstance(output, (tuple, list)):
        at = next(k for k, value in enumerate(output) if isinstance(value, Tensor))
        values = [*output[:at], changed, *output[at + 1 :]]
        return type(output)(*values) if hasattr(output, "_fields") else type(output)(values)
    key = next(key for key, value in output.items() if isinstance(value, Tensor))
    output[key] = changed
    return output
