"""What examples are: inputs and labels addressed by index, from tensors in memory or any map-style data set."""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rasura.errors import InputError, said

Inputs = Tensor | dict[str, Tensor]
"""A batch as a model takes it: one tensor (images), or a dict of tensors (tokenised text)."""

LABEL_KEYS = ("label", "labels")

_ITEM = "tensors of one shape per item (put the transform into the data set; Hugging Face: with_format('torch'))"


@dataclass(frozen=True)
class Standardise:
    """Turn stored images into model inputs: bytes to 0..1, then `(x - mean) / std` per channel.

    Attributes:
        mean: one value per channel, in units of the 0..1 range.
        std: one value per channel, in the same units, above 0.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        finite = _are_finite(self.mean) and _are_finite(self.std)
        if not finite or len(self.mean) != len(self.std) or not all(value > 0 for value in self.std):
            shown = [value if _are_finite(value) else said(value) for value in (self.mean, self.std)]
            raise InputError(
                f"standardise: mean {shown[0]} and std {shown[1]}; allowed: one finite number of each per channel, "
                "std above 0"
            )

    def __call__(self, stored: Tensor) -> Tensor:
        """`[B, C, …]` bytes (0..255) or floats (0..1) → float32 of the same shape."""
        scaled = stored.float() / 255 if stored.dtype == torch.uint8 else stored.float()
        shape = (1, -1) + (1,) * (stored.ndim - 2)
        mean, std = (torch.tensor(value, device=stored.device).view(shape) for value in (self.mean, self.std))
        return (scaled - mean) / std


def _are_finite(values: Any) -> bool:
    return isinstance(values, (tuple, list)) and all(
        isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) for value in values
    )


@dataclass(frozen=True, eq=False)
class Examples:
    """Labelled examples. Forgetting, retaining and splitting are index expressions: see `take`.

    Attributes:
        source: where inputs are stored: a tensor `[M, …]`, a dict of such tensors, or a map-style torch `Dataset`
            whose items are `(input, label)`, a dict with a label key, or the bare input.
        labels: int64 `[N]`, the class of each example of this view.
        rows: int64 `[N]`, where each example of this view lies in `source`.
        transform: stored batch → model input; None when the store already holds model inputs.
    """

    source: Any
    labels: Tensor
    rows: Tensor
    transform: Callable[[Any], Inputs] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: Tensor) -> "Examples":
        """The examples at `index` (int64 `[n]`, or a boolean mask `[N]`), as a view that shares the store."""
        return replace(self, labels=self.labels[index], rows=self.rows[index])

    def stored(self, index: Tensor) -> Inputs:
        """The inputs at `index` as they are stored, stacked to a batch."""
        rows = self.rows[index]
        if isinstance(self.source, Tensor):
            return self.source[rows]
        if _is_columns(self.source):
            return {name: column[rows] for name, column in self.source.items()}
        return _stack([_input_of(item) for item in _items(self.source, rows.tolist())])

    def batch(self, index: Tensor) -> tuple[Inputs, Tensor]:
        """Model inputs and labels of the examples at `index`."""
        stored = self.stored(index)
        return (self.transform(stored) if self.transform else stored), self.labels[index]

    def batches(self, size: int) -> Iterator[tuple[Inputs, Tensor]]:
        """All examples in order, in batches of at most `size`."""
        for index in self._slices(size):
            yield self.batch(index)

    def fingerprints(self) -> list[bytes]:
        """A 16-byte hash of each example's stored content: the same content has the same hash under any index."""
        return [digest for index in self._slices(1024) for digest in _hashes(self.stored(index))]

    def _slices(self, size: int) -> Iterator[Tensor]:
        for start in range(0, len(self), size):
            yield torch.arange(start, min(start + size, len(self)))


def examples_from(inputs: Any, labels: Any = None, transform: Callable[[Any], Inputs] | None = None) -> Examples:
    """Examples from tensors, arrays, a dict of tensors, or a map-style torch `Dataset`.

    Args:
        inputs: `[N, …]` tensor or array, a dict of them, or a data set with `__len__` and `__getitem__`.
        labels: `[N]` whole numbers. A data set may carry them instead, as `.targets` or `.labels`, as a column named
            "label", or, the slow way, in its items.
        transform: stored batch → model input.

    Raises:
        InputError: inputs of an unknown kind; labels missing, of another length than the inputs, or not whole numbers.
    """
    source = _as_source(inputs)
    known = _labels_of(source) if labels is None else labels
    labels = _as_labels(known)
    size = _size(source)
    if len(labels) != size:
        raise InputError(f"labels: {len(labels)} labels for {size} inputs; allowed: one label per input")
    return Examples(source, labels, torch.arange(size), transform)


def _as_source(inputs: Any) -> Any:
    if isinstance(inputs, Mapping):
        return {name: _as_tensor(f"inputs[{name!r}]", column) for name, column in inputs.items()}
    if isinstance(inputs, Tensor) or (hasattr(inputs, "__array__") and not hasattr(inputs, "__getitems__")):
        return _as_tensor("inputs", inputs)
    if hasattr(inputs, "__len__") and hasattr(inputs, "__getitem__") and not isinstance(inputs, (list, tuple)):
        return inputs
    raise InputError(
        f"inputs: got {type(inputs).__name__}; allowed: a tensor, an array, a dict of them, or a map-style Dataset"
    )


def _as_tensor(field: str, values: Any) -> Tensor:
    # Arrays that are read-only or run backwards are copied: torch warns about the first and refuses the second.
    try:
        if hasattr(values, "__array__") and not isinstance(values, Tensor):
            values = np.require(values, requirements=["C", "W"])
        tensor = torch.as_tensor(values)
        return tensor.float() if tensor.dtype == torch.float64 else tensor  # NumPy's default; nets hold float32
    except (TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{field}: this {type(values).__name__} makes no tensor ({reason}); allowed: numbers"
        ) from error


def _size(source: Any) -> int:
    if isinstance(source, Tensor) and not source.ndim:
        raise InputError("inputs: a single number; allowed: one entry per example, [N, …]")
    if not isinstance(source, dict):
        return len(source)
    lengths = {name: len(column) if column.ndim else 0 for name, column in source.items()}
    if len(set(lengths.values())) != 1:
        raise InputError(f"inputs: columns of lengths {lengths}; allowed: one or more columns of one length")
    return next(iter(lengths.values()))


def _labels_of(dataset: Any) -> Any:
    if isinstance(dataset, (Tensor, dict)):
        raise InputError("labels: none are given; allowed: one whole number per input")
    for name in ("targets", "labels"):
        if hasattr(dataset, name):
            return getattr(dataset, name)
    columns = getattr(dataset, "column_names", None) or ()
    for name in LABEL_KEYS:
        if name in columns:
            return dataset[name][:]
    return [_label_in(dataset[row]) for row in range(len(dataset))]


def _label_in(item: Any) -> Any:
    if isinstance(item, Mapping):
        for name in LABEL_KEYS:
            if name in item:
                return item[name]
    if isinstance(item, Sequence) and len(item) == 2:
        return item[1]
    raise InputError(
        "labels: the data set's items carry none; allowed: items (input, label), a 'label' key, or labels="
    )


def _as_labels(labels: Any) -> Tensor:
    values = _as_tensor("labels", labels)
    if values.ndim != 1 or values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        raise InputError(
            f"labels: got {values.dtype} of shape {tuple(values.shape)}; allowed: whole numbers of shape [N]"
        )
    return values.to(torch.int64).cpu()


def _items(dataset: Any, rows: list[int]) -> Any:
    # One call per batch where the data set can (Hugging Face: ten times faster than item by item).
    if hasattr(dataset, "__getitems__"):
        return dataset.__getitems__(rows)
    return [dataset[row] for row in rows]


def _input_of(item: Any) -> Any:
    if isinstance(item, Mapping):
        return {name: value for name, value in item.items() if name not in LABEL_KEYS}
    return item[0] if isinstance(item, Sequence) and len(item) == 2 else item


def _stack(items: list[Any]) -> Inputs:
    from torch.utils.data import default_collate

    try:
        batch: Any = default_collate(items)
    except (TypeError, RuntimeError) as error:
        raise InputError(f"items: {str(error).splitlines()[0]}; allowed: {_ITEM}") from error
    columns = batch.values() if isinstance(batch, dict) else [batch]
    if not all(isinstance(column, Tensor) for column in columns):
        raise InputError(f"items: inputs that do not stack to tensors; allowed: {_ITEM}")
    return batch


def _is_columns(source: Any) -> bool:
    return isinstance(source, dict)


def _hashes(stored: Inputs) -> Iterator[bytes]:
    columns = [stored] if isinstance(stored, Tensor) else [stored[name] for name in sorted(stored)]
    # Bytes, because numpy has no bfloat16.
    arrays = [column.cpu().reshape(len(column), -1).contiguous().view(torch.uint8).numpy() for column in columns]
    for row in range(len(arrays[0])):
        digest = hashlib.blake2b(digest_size=16)
        for array in arrays:
            digest.update(array[row].tobytes())
        yield digest.digest()
