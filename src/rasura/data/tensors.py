"""Tensors as models take them: what kind they are, and what they hold."""

import hashlib
from collections.abc import Iterator
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor

from rasura.errors import InputError, first_line

Inputs = Tensor | dict[str, Tensor]
"""A batch as a model takes it: one tensor (images), or a dict of tensors (tokenised text)."""


def are_images(inputs: Inputs) -> TypeGuard[Tensor]:
    """Whether a batch is images `[B, C, H, W]`: tokens and columns come as dicts, rows of numbers in other shapes."""
    return isinstance(inputs, Tensor) and inputs.ndim == 4


def unusable(tensor: Tensor) -> str:
    """What no net can be run or trained on: the kind of a complex, sparse, nested, quantised or empty (meta) tensor.

    >>> unusable(torch.zeros(2, dtype=torch.complex64)), unusable(torch.zeros(2))
    ('complex', '')
    """
    kinds = {
        "meta": tensor.is_meta,
        "quantised": tensor.is_quantized,
        "nested": tensor.is_nested,
        "sparse": tensor.layout != torch.strided,
        "complex": tensor.is_complex(),
    }
    return next((kind for kind, found in kinds.items() if found), "")


def as_tensor(field: str, values: Any) -> Tensor:
    """Numbers of any library as a tensor; float64 becomes float32, as nets hold it.

    Raises:
        InputError: no numbers, or a tensor of an unusable kind; the message begins with `field`.
    """
    # Arrays that are read-only or run backwards are copied: torch warns about the first and refuses the second.
    try:
        if hasattr(values, "__array__") and not isinstance(values, Tensor):
            values = np.require(values, requirements=["C", "W"])
        tensor = torch.as_tensor(values).detach()
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise InputError(
            f"{field}: this {type(values).__name__} makes no tensor ({first_line(error)}); allowed: numbers"
        ) from error
    kind = unusable(tensor)
    if kind:
        raise InputError(f"{field}: a {kind} tensor; allowed: a dense tensor of real numbers that holds its values")
    tensor = tensor.cpu()  # where the rows of batches lie
    return tensor.float() if tensor.dtype == torch.float64 else tensor


def hashes(stored: Inputs) -> Iterator[bytes]:
    """A 16-byte hash of each example of a batch."""
    columns = [stored] if isinstance(stored, Tensor) else [stored[name] for name in sorted(stored)]
    # Bytes, because numpy has no bfloat16.
    arrays = [column.cpu().reshape(len(column), -1).contiguous().view(torch.uint8).numpy() for column in columns]
    for row in range(len(arrays[0])):
        digest = hashlib.blake2b(digest_size=16)
        for array in arrays:
            digest.update(array[row].tobytes())
        yield digest.digest()
