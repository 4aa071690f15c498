"""What examples are: inputs and labels addressed by index, from tensors in memory or any map-style data set."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rasura.data._items import hashes_of_items, image_key, labels_of, stored_inputs, untransformed
from rasura.data.tensors import Inputs, as_tensor, hashes
from rasura.errors import InputError, said


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
        """`[B, C, …]` bytes (0..255) or floats (0..1) → float32 of the same shape.

        Raises:
            InputError: another number of channels.
        """
        if stored.ndim < 2 or stored.shape[1] != len(self.mean):
            raise InputError(
                f"standardise: {len(self.mean)} means for inputs of shape {tuple(stored.shape[1:])}; "
                "allowed: one per channel"
            )
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
        if isinstance(self.source, dict):
            return {name: column[rows] for name, column in self.source.items()}
        return stored_inputs(self.source, rows.tolist())

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
        return [digest for index in self._slices(1024) for digest in hashes(self.stored(index))]

    def origins(self) -> list[bytes]:
        """As `fingerprints`, but of the examples before their data set's own transform, where it is one of torchvision
        or Hugging Face: one photograph, cropped here in one way and there in another, has one hash.
        """
        source = untransformed(self.source)
        if source is self.source:
            return self.fingerprints()
        slices = (self.rows[index].tolist() for index in self._slices(256))
        return [digest for rows in slices for digest in hashes_of_items(source, rows)]

    def _slices(self, size: int) -> Iterator[Tensor]:
        for start in range(0, len(self), size):
            yield torch.arange(start, min(start + size, len(self)))


def examples_from(inputs: Any, labels: Any = None, transform: Callable[[Any], Inputs] | None = None) -> Examples:
    """Examples from tensors, arrays, a dict of tensors, or a map-style torch `Dataset`.

    Args:
        inputs: `[N, …]` tensor or array, a dict of them, or a data set with `__len__` and `__getitem__`.
        labels: `[N]` whole numbers. A data set may carry them instead, as `.targets` or `.labels`, as a column named
            "label" or the only one with named classes, or, the slow way, in its items.
        transform: stored batch → model input.

    Items that are dicts with an image ("pixel_values", "image" or "img") give that image. Pictures of Pillow become
    bytes `[C, H, W]`.

    Raises:
        InputError: inputs of an unknown kind; labels missing, of another length than the inputs, or not whole numbers.
    """
    source = _as_source(inputs)
    labels = _as_labels(_labels_in(source) if labels is None else labels)
    size = _size(source)
    if len(labels) != size:
        raise InputError(f"labels: {len(labels)} labels for {size} inputs; allowed: one label per input")
    return Examples(source, labels, torch.arange(size), transform)


def _as_source(inputs: Any) -> Any:
    if isinstance(inputs, Mapping):
        columns = {name: as_tensor(f"inputs[{name!r}]", column) for name, column in inputs.items()}
        image = image_key(columns)
        return columns[image] if image else columns
    if isinstance(inputs, Tensor) or (hasattr(inputs, "__array__") and not hasattr(inputs, "__getitems__")):
        return as_tensor("inputs", inputs)
    if hasattr(inputs, "__len__") and hasattr(inputs, "__getitem__") and not isinstance(inputs, (list, tuple)):
        return inputs
    raise InputError(
        f"inputs: got {type(inputs).__name__}; allowed: a tensor, an array, a dict of them, or a map-style Dataset"
    )


def _size(source: Any) -> int:
    if isinstance(source, Tensor) and not source.ndim:
        raise InputError("inputs: a single number; allowed: one entry per example, [N, …]")
    if not isinstance(source, dict):
        return len(source)
    lengths = {name: len(column) if column.ndim else 0 for name, column in source.items()}
    if len(set(lengths.values())) != 1:
        raise InputError(f"inputs: columns of lengths {lengths}; allowed: one or more columns of one length")
    return next(iter(lengths.values()))


def _labels_in(source: Any) -> Any:
    if isinstance(source, (Tensor, dict)):
        raise InputError("labels: none are given; allowed: one whole number per input")
    return labels_of(source)


def _as_labels(labels: Any) -> Tensor:
    values = as_tensor("labels", labels)
    truths = isinstance(labels, (list, tuple)) and any(isinstance(one, bool) for one in labels)
    if values.ndim != 1 or values.is_floating_point() or values.dtype == torch.bool or truths:
        kind = torch.bool if truths else values.dtype
        raise InputError(f"labels: got {kind} of shape {tuple(values.shape)}; allowed: whole numbers of shape [N]")
    return values.to(torch.int64).cpu()
