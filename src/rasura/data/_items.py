"""What the items of data sets hold (of torch, torchvision and Hugging Face): inputs, labels, and their originals."""

import copy
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Subset, default_collate

from rasura.data.tensors import Inputs, unusable
from rasura.errors import InputError, first_line

LABEL_KEYS = ("label", "labels")
IMAGE_KEYS = ("pixel_values", "image", "img")
"""What items that are dicts call their image; the first that an item has is the input, and all else is left out."""

_STACKED = "tensors of one shape per item (put the transform into the data set; Hugging Face: with_format('torch'))"

# -------------------------------------------------------------------------------------------------- labels


def labels_of(dataset: Any) -> Any:
    """The labels of all items, as the data set carries them; where it carries none, its items are read one by one."""
    known = _known_labels(dataset)
    return [_label_in(dataset[row]) for row in range(len(dataset))] if known is None else known


def label_columns(dataset: Any) -> tuple[str, ...]:
    """Columns of a Hugging Face data set that hold labels: called so, or with named classes. The first is the label."""
    columns = getattr(dataset, "column_names", None) or ()
    features = getattr(dataset, "features", None) or {}
    named = [name for name in columns if getattr(features.get(name), "names", None)]
    return tuple(dict.fromkeys([name for name in LABEL_KEYS if name in columns] + named))


def class_names_of(dataset: Any) -> Sequence[str] | None:
    """torchvision's data sets have `.classes`; those of Hugging Face name classes in the label column's feature."""
    if isinstance(dataset, Subset):
        return class_names_of(dataset.dataset)
    column = next(iter(label_columns(dataset)), None)
    return getattr(dataset, "classes", None) or (column and getattr(dataset.features.get(column), "names", None))


def _known_labels(dataset: Any) -> Any:
    if isinstance(dataset, Subset):
        whole = _known_labels(dataset.dataset)
        return None if whole is None else [whole[row] for row in dataset.indices]
    for name in ("targets", "labels"):
        if hasattr(dataset, name):
            change = getattr(dataset, "target_transform", None)
            return [change(one) for one in getattr(dataset, name)] if change else getattr(dataset, name)
    columns = label_columns(dataset)
    if len(columns) > 1 and columns[0] not in LABEL_KEYS:
        raise InputError(f"labels: columns {', '.join(columns)}; allowed: one of them renamed to 'label'")
    return dataset.with_format(None)[columns[0]][:] if columns else None


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


# -------------------------------------------------------------------------------------------------- inputs


def image_key(columns: Mapping[str, Any]) -> str | None:
    """The name of the image among named columns; None where there is none, or where it goes with tokens."""
    return None if "input_ids" in columns else next((name for name in IMAGE_KEYS if name in columns), None)


def stored_inputs(dataset: Any, rows: list[int]) -> Inputs:
    """The inputs of these items, stacked to a batch.

    Raises:
        InputError: they do not stack, or are no real numbers.
    """
    try:
        batch: Any = default_collate([_as_tensors(one) for one in _inputs(dataset, rows)])
    except InputError:
        raise
    except (TypeError, RuntimeError, KeyError, ValueError) as error:
        raise InputError(f"items: {first_line(error)}; allowed: {_STACKED}") from error
    columns = batch.values() if isinstance(batch, dict) else [batch]
    if not all(isinstance(column, Tensor) and not unusable(column) for column in columns):
        raise InputError(f"items: inputs that do not stack to tensors of real numbers; allowed: {_STACKED}")
    return batch


def untransformed(dataset: Any) -> Any:
    """The data set without its own transform, where it is one of torchvision or Hugging Face; else the same object."""
    if isinstance(dataset, Subset):
        inner = untransformed(dataset.dataset)
        return dataset if inner is dataset.dataset else Subset(inner, dataset.indices)
    if hasattr(dataset, "column_names") and hasattr(dataset, "with_format"):
        return dataset.with_format(None)
    if getattr(dataset, "transforms", None) is None or not hasattr(dataset, "transform"):  # torchvision's have both
        return dataset
    bare = copy.copy(dataset)
    bare.transform = bare.transforms = None
    return bare


def hashes_of_items(dataset: Any, rows: list[int]) -> list[bytes]:
    """A 16-byte hash of each item's input, which may be anything: pictures of different sizes, words."""
    return [_hash(one) for one in _inputs(dataset, rows)]


def _inputs(dataset: Any, rows: list[int]) -> list[Any]:
    # One call per batch where the data set can (Hugging Face: ten times faster than item by item).
    items = dataset.__getitems__(rows) if hasattr(dataset, "__getitems__") else [dataset[row] for row in rows]
    left_out = (*LABEL_KEYS, *label_columns(dataset))
    return [_input_in(item, left_out) for item in items]


def _input_in(item: Any, left_out: Sequence[str]) -> Any:
    if not isinstance(item, Mapping):
        return item[0] if isinstance(item, Sequence) and len(item) == 2 else item
    image = image_key(item)
    return item[image] if image else {name: value for name, value in item.items() if name not in left_out}


def _as_tensors(value: Any) -> Any:
    """Pictures of Pillow as bytes `[C, H, W]`; all else as it is."""
    if not hasattr(value, "getbands"):
        return value
    if value.mode not in ("L", "RGB"):
        raise InputError(f"items: a picture of mode {value.mode}; allowed: L or RGB (convert it in the transform)")
    pixels = torch.from_numpy(np.array(value))
    return pixels[None] if value.mode == "L" else pixels.permute(2, 0, 1)


def _hash(inputs: Any) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(inputs.items()) if isinstance(inputs, Mapping) else [("", inputs)]:
        is_array = hasattr(value, "__array__") or hasattr(value, "__array_interface__")  # Pillow's have the latter
        array = np.asarray(value) if is_array else np.array(repr(value))
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.digest()
