"""A data set for a classifier: training and held-out examples with named classes."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import index
from typing import Any

import torch
from torch import Tensor

from rasura.data.examples import Examples, Standardise, examples_from
from rasura.data.names import matched
from rasura.errors import InputError, expect, said, unknown
from rasura.files import hash_of_json

_MOST_CLASSES = 100_000  # labels beyond are identifiers by mistake; naming each would fill the memory


@dataclass(frozen=True, eq=False)
class Data:
    """Training and held-out examples of one classification task.

    Attributes:
        train: what the original model was trained on.
        test: held out from training and from unlearning; the audit alone uses it.
        classes: the name of each class; a label is a position in this tuple.
        name: what reports call the data.
    """

    train: Examples
    test: Examples
    classes: tuple[str, ...]
    name: str = "unnamed"

    def __post_init__(self) -> None:
        for part in ("train", "test"):
            expect(part, getattr(self, part), Examples, "rasura.Examples (see Data.from_tensors)")
        expect("name", self.name, str, "a word")
        if not isinstance(self.classes, tuple) or not all(isinstance(one, str) for one in self.classes):
            raise InputError(f"classes: {said(self.classes)}; allowed: a tuple of names")
        if len(set(self.classes)) < len(self.classes):
            raise InputError(f"classes: {_twice(self.classes)!r} is named twice; allowed: different names")
        for part in ("train", "test"):
            _check_examples(part, getattr(self, part), len(self.classes))
        shapes = {part: input_shape(getattr(self, part)) for part in ("train", "test")}
        if shapes["train"] != shapes["test"]:
            raise InputError(f"test: inputs of shape {shapes['test']}; allowed: as in train, {shapes['train']}")

    @staticmethod
    def from_tensors(
        train: tuple[Any, Any],
        test: tuple[Any, Any],
        classes: Sequence[str] | None = None,
        name: str = "tensors",
        standardise: Standardise | None = None,
    ) -> "Data":
        """Data from `(inputs, labels)` pairs.

        Args:
            train: inputs `[N, …]` (a tensor, array or dict of tensors) and labels `[N]`.
            test: the same for held-out examples.
            classes: one name per class; default: the numbers 0 to the largest label.
            name: what reports call the data.
            standardise: how stored images become model inputs; default: as they are.

        Raises:
            InputError: labels out of range, lengths or shapes that differ, NaN or infinite inputs, an empty part.

        >>> x, y = torch.zeros(4, 1, 8, 8), torch.tensor([0, 1, 0, 1])
        >>> Data.from_tensors((x, y), (x, y), classes=["cat", "dog"])
        Data('tensors', 2 classes, 4 training and 4 held-out examples)
        """
        for part, pair in {"train": train, "test": test}.items():
            if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                raise InputError(f"{part}: {said(pair)}; allowed: a pair (inputs, labels)")
        if isinstance(standardise, type) or not (standardise is None or callable(standardise)):
            raise InputError(f"standardise: {said(standardise)}; allowed: a rasura.Standardise, or None")
        parts = [examples_from(*pair, transform=standardise) for pair in (train, test)]
        return Data(*parts, classes=_named(classes, parts), name=name)

    @staticmethod
    def from_datasets(train: Any, test: Any, classes: Sequence[str] | None = None, name: str = "datasets") -> "Data":
        """Data from two map-style torch or Hugging Face data sets with known labels (see `examples_from`).

        Class names default to the data set's own (`.classes`, or the names of its label column). Items are read when
        needed, so the set may be larger than memory; they must be model inputs already (put the transform into it).
        """
        parts = [examples_from(dataset) for dataset in (train, test)]
        return Data(*parts, classes=_named(_own_names(train) if classes is None else classes, parts), name=name)

    def __repr__(self) -> str:
        return (
            f"Data({self.name!r}, {len(self.classes)} classes, "
            f"{len(self.train)} training and {len(self.test)} held-out examples)"
        )

    def class_numbers(self, chosen: Iterable[str | int]) -> tuple[int, ...]:
        """The numbers of classes given by name or number, in ascending order.

        A word of digits is a number where no class is called by digits; case and `_` for a space do not matter where
        one class alone can be meant.

        Raises:
            InputError: an unknown name (the message has the nearest), a number out of range, none, or all of them.
        """
        if len(self.classes) < 2:
            raise InputError(f"classes: {self.name} has {len(self.classes)}; allowed: 2 or more, some of which stay")
        numbers = sorted({self._class_number(one) for one in chosen})
        if not numbers or len(numbers) == len(self.classes):
            raise InputError(
                f"classes: {len(numbers)} of {len(self.classes)} to forget; allowed: 1 to {len(self.classes) - 1}"
            )
        return tuple(numbers)

    def _class_number(self, one: str | int) -> int:
        if isinstance(one, str) and one in self.classes:
            return self.classes.index(one)
        number = self._number_in(one) if isinstance(one, str) else whole(one)
        if number is not None and 0 <= number < len(self.classes):
            return number
        if isinstance(one, str) and (same := matched((one,), self.classes)):
            return same[0]
        raise unknown("class", one, self.classes)

    def _number_in(self, word: str) -> int | None:
        """A word of digits as a class number, where no class is called by digits."""
        is_number = re.fullmatch("[0-9]{1,9}", word) and not any(name.isdecimal() for name in self.classes)
        return int(word) if is_number else None


def whole(value: Any) -> int | None:
    """A whole number of any library as int; None for all else, as rounding 1.7 or True would hide a mistake."""
    try:
        return None if isinstance(value, bool) else index(value)
    except TypeError:
        return None


def numbered(count: int) -> tuple[str, ...]:
    """Class names where none are known."""
    if count > _MOST_CLASSES:
        raise InputError(f"labels: {count - 1} is no class number; allowed: 0 to {_MOST_CLASSES - 1}")
    return tuple(str(number) for number in range(count))


def hash_of_data(data: Data) -> str:
    """A hash of all labels, class names and stored contents."""
    parts = [b"".join(part.fingerprints()).hex() + str(part.labels.tolist()) for part in (data.train, data.test)]
    return hash_of_json([data.name, list(data.classes), *parts])


def input_shape(examples: Examples) -> tuple[int, ...] | dict[str, tuple[int, ...]]:
    """The shape of one model input, without the batch dimension."""
    inputs, _ = examples.batch(torch.arange(1))
    if isinstance(inputs, Tensor):
        return tuple(inputs.shape[1:])
    expect("transform", inputs, dict, "a function that returns a tensor, or a dict of tensors")
    return {name: tuple(column.shape[1:]) for name, column in inputs.items()}


def _check_examples(part: str, examples: Examples, classes: int) -> None:
    if not len(examples):
        raise InputError(f"{part}: 0 examples; allowed: at least 1")
    low, high = int(examples.labels.min()), int(examples.labels.max())
    if low < 0 or high >= classes:
        wrong = low if low < 0 else high
        raise InputError(f"{part}: label {wrong} is out of range; allowed: 0 to {classes - 1} ({classes} classes)")
    columns = examples.source.values() if isinstance(examples.source, dict) else [examples.source]
    for column in columns:
        if isinstance(column, Tensor) and column.is_floating_point() and not column.isfinite().all():
            row = int((~column.isfinite()).nonzero()[0, 0])
            raise InputError(f"{part}: example {row} holds NaN or infinite values; allowed: finite values")


def _own_names(dataset: Any) -> Sequence[str] | None:
    """torchvision's data sets have `.classes`; those of Hugging Face name classes in the label column's feature."""
    column = (getattr(dataset, "features", None) or {}).get("label")
    return getattr(dataset, "classes", None) or getattr(column, "names", None)


def _named(classes: Sequence[str] | None, parts: list[Examples]) -> tuple[str, ...]:
    if classes is None:
        highest = max((int(part.labels.max()) for part in parts if len(part)), default=-1)
        return numbered(highest + 1)
    expect("classes", classes, (str, list, tuple), "a list of names, one per class")
    return tuple(str(name) for name in classes)


def _twice(names: tuple[str, ...]) -> str:
    return next(name for name in names if names.count(name) > 1)
