"""What every model is to the rest of the package: a map from a batch to logits."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rasura.data import unusable
from rasura.data.examples import Inputs
from rasura.errors import InputError, first_line, out_of_memory


def logits_of(model: nn.Module, inputs: Inputs) -> Tensor:
    """Logits `[B, K]` of a batch. The model returns them, or more (`answer_in`), and takes a tensor or a dict.

    Inputs that are floating-point numbers are given in the precision of the model's weights.

    Raises:
        InputError: the output is not a `[B, K]` tensor.
    """
    inputs = _in_precision_of(model, inputs)
    output: Any = model(**inputs) if isinstance(inputs, dict) else model(inputs)
    logits = answer_in(output)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(f"model: {type(model).__name__} returned {shape}; allowed: logits of shape [batch, classes]")
    return logits


def answer_in(output: Any) -> Any:
    """The logits in what a model returned: what is called so, else the first `[B, K]` of a tuple, the only of a dict.

    What holds none, or several in a dict, is given back.
    """
    if isinstance(output, Tensor):
        return output
    if hasattr(output, "logits"):
        return output.logits
    named = isinstance(output, Mapping)
    if named and "logits" in output:
        return output["logits"]
    values = output.values() if named else output if isinstance(output, (tuple, list)) else ()
    tables = [one for one in values if isinstance(one, Tensor) and one.ndim == 2 and one.is_floating_point()]
    return tables[0] if tables and not (named and len(tables) > 1) else output


def _in_precision_of(model: nn.Module, inputs: Inputs) -> Inputs:
    precision = next((one.dtype for one in model.parameters() if one.is_floating_point()), None)
    if precision is None:
        return inputs
    if isinstance(inputs, dict):
        return {name: one.to(precision) if one.is_floating_point() else one for name, one in inputs.items()}
    return inputs.to(precision) if inputs.is_floating_point() else inputs


def check_weights(model: nn.Module) -> None:
    """Whether every weight is a dense real number that is there.

    Raises:
        InputError: weights that are whole numbers, complex, sparse, quantised, or without values (meta).
    """
    for name, weight in model.named_parameters():
        kind = unusable(weight) or ("" if weight.is_floating_point() else str(weight.dtype))
        if kind:
            raise InputError(f"model: {name} is a {kind} tensor; allowed: dense floating-point weights with values")
    for name, module in model.named_modules():
        if type(module).__module__.startswith("torch.ao.nn.quantized"):  # its weights are no parameters
            raise InputError(f"model: {name} is quantised; allowed: dense floating-point weights with values")


MISFITS = (RuntimeError, IndexError, TypeError, ValueError)
"""What a net raises on inputs of a shape or kind that it was not made for."""


def misfit(inputs: Inputs, error: Exception) -> Exception:
    """The error for a net that fails on inputs; an error that speaks for itself, or for the machine, stays."""
    if isinstance(error, InputError) or of_machine(error):
        return error
    shape = {k: tuple(v.shape) for k, v in inputs.items()} if isinstance(inputs, dict) else tuple(inputs.shape)
    said = f"{type(error).__name__}: {first_line(error)}"
    return InputError(
        f"data: the model cannot take inputs of shape {shape} ({said}); allowed: what its forward() takes without error"
    )


def of_machine(error: Exception) -> bool:
    """Whether memory or a device failed, and not what was given to it."""
    failed = out_of_memory(error) or isinstance(error, torch.AcceleratorError)
    return failed or any(word in str(error) for word in ("CUDA error", "CUBLAS_", "CUDNN_"))


def device_of(model: nn.Module) -> torch.device:
    """Where the model's parameters lie; the CPU for a model without any."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def to_device(inputs: Inputs, device: torch.device) -> Inputs:
    """The batch on `device`."""
    if isinstance(inputs, dict):
        return {name: column.to(device, non_blocking=True) for name, column in inputs.items()}
    return inputs.to(device, non_blocking=True)
