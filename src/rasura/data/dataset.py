"""A data set for a classifier: training and held-out examples with named classes."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import index
from typing import Any

import torch
from torch import Tensor

from rasura.data._items import class_names_of
from rasura.data.examples import Examples, Standardise, examples_from
from rasura.data.names import matched
from rasura.data.tensors import Inputs, are_images
from rasura.errors import InputError, expect, said, unknown
from rasura.files import hash_of_json
from rasura.identity import code_of, described

MOST_CLASSES = 100_000  # labels beyond are identifiers by mistake; naming each would fill the memory
_READ_TWICE = 32
"""Items of a data set that are read twice, to find random transforms."""


@dataclass(frozen=True, eq=False)
class Data:
    """Training and held-out examples of one classification task.

    Attributes:
        train: what the original model was trained on.
        test: held out from training and from unlearning; the audit alone uses it.
        classes: the name of each class; a label is a position in this tuple.
        name: what reports call the data.
        preprocessing: the settings of a model's own preprocessing, where that made the inputs; else empty.
    """

    train: Examples
    test: Examples
    classes: tuple[str, ...]
    name: str = "unnamed"
    preprocessing: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for part in ("train", "test"):
            expect(part, getattr(self, part), Examples, "rasura.Examples (see Data.from_tensors)")
        expect("name", self.name, str, "a word")
        if not isinstance(self.classes, tuple) or not all(isinstance(one, str) for one in self.classes):
            raise InputError(f"classes: {said(self.classes)}; allowed: a tuple of names")
        _check_names(self.classes)
        for part in ("train", "test"):
            _check_examples(part, getattr(self, part), len(self.classes))
        shapes = {part: input_shape(getattr(self, part)) for part in ("train", "test")}
        if shapes["train"] != shapes["test"]:
            raise InputError(f"test: inputs of shape {shapes['test']}; allowed: as in train, {shapes['train']}")
        if len(self.classes) < 2:
            raise InputError(f"classes: {', '.join(self.classes)} alone; allowed: 2 or more")

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
    def from_datasets(
        train: Any,
        test: Any,
        classes: Sequence[str] | None = None,
        name: str = "datasets",
        standardise: Standardise | None = None,
    ) -> "Data":
        """Data from two map-style torch, torchvision or Hugging Face data sets with known labels (see `examples_from`).

        Items are read when needed, so the set may be larger than memory. They are model inputs already (put the
        transform into the data set), or pictures and bytes of one size with `standardise`.

        Args:
            train: what the model was trained on, without random transforms (a recipe augments while it trains).
            test: held-out examples.
            classes: one name per class; default: the data set's own (`.classes`, or the names of its label column).
            name: what reports call the data.
            standardise: how bytes become model inputs.

        Raises:
            InputError: labels out of range, items that do not stack, that differ when they are read again, or that are
                bytes with nothing to scale them.
        """
        parts = [examples_from(dataset, transform=standardise) for dataset in (train, test)]
        return Data(*parts, classes=_named(class_names_of(train) if classes is None else classes, parts), name=name)

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


def is_unicode(text: str) -> bool:
    """Whether every character is whole: JSON can hold halves, and names of files in another encoding become such."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def whole(value: Any) -> int | None:
    """A whole number of any library as int; None for all else, as rounding 1.7 or True would hide a mistake."""
    try:
        return None if isinstance(value, bool) else index(value)
    except TypeError:
        return None


def numbered(count: int) -> tuple[str, ...]:
    """Class names where none are known."""
    if count > MOST_CLASSES:
        raise InputError(f"labels: {count - 1} is no class number; allowed: 0 to {MOST_CLASSES - 1}")
    return tuple(str(number) for number in range(count))


def hash_of_data(data: Data) -> str:
    """A hash of all labels, class names, stored contents, and of a model's own preprocessing.

    See `identity_of_data` for what is made of these.
    """
    parts = [b"".join(part.fingerprints()).hex() + str(part.labels.tolist()) for part in (data.train, data.test)]
    own = [data.preprocessing] if data.preprocessing else []
    return hash_of_json([data.name, list(data.classes), *parts, *own])


def identity_of_data(data: Data) -> dict[str, Any]:
    """What two data sets must share to give the same results, as JSON values.

    Returns:
        `content` (see `hash_of_data`) and `preparation`, a hash of how that becomes model inputs: shapes and dtypes as
        stored, the settings and code of the transforms, and the code of the data sets behind.
    """
    parts = [
        [input_shape(part), _dtypes(part), described(part.transform), code_of(type(part.source))]
        for part in (data.train, data.test)
    ]
    return {"content": hash_of_data(data), "preparation": hash_of_json(parts)}


def _dtypes(examples: Examples) -> list[str]:
    stored = examples.stored(torch.arange(1))
    return [str(column.dtype) for column in (stored.values() if isinstance(stored, dict) else [stored])]


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
    inputs, _ = examples.batch(torch.arange(1))
    if are_images(inputs) and not inputs.is_floating_point():
        raise InputError(
            f"{part}: images of {inputs.dtype}; allowed: floats, as of Standardise(mean, std) or the data's transform"
        )
    if isinstance(examples.source, (Tensor, dict)):
        _check_finite(part, examples.source)
    else:
        _check_items(part, examples)


def _check_items(part: str, examples: Examples) -> None:
    """Random transforms would blind the hash of the data and the search for held-out examples in the training part."""
    rows = torch.linspace(0, len(examples) - 1, min(_READ_TWICE, len(examples))).long()
    few = examples.take(rows)
    _check_finite(part, few.batch(torch.arange(len(few)))[0], rows)
    for row, first, again in zip(rows.tolist(), few.fingerprints(), few.fingerprints(), strict=True):
        if first != again:
            raise InputError(
                f"{part}: example {row} differs when it is read again; allowed: data sets without random transforms "
                "(Recipe(augment=…) augments while a model trains)"
            )


def _check_finite(part: str, inputs: Inputs, rows: Tensor | None = None) -> None:
    for column in inputs.values() if isinstance(inputs, dict) else [inputs]:
        if column.is_floating_point() and not column.isfinite().all():
            at = int((~column.isfinite()).nonzero()[0, 0])
            row = at if rows is None else int(rows[at])
            raise InputError(f"{part}: example {row} holds NaN or infinite values; allowed: finite values")


def _check_names(classes: tuple[str, ...]) -> None:
    for name in classes:
        if not isinstance(name, str) or not name.strip() or not is_unicode(name):
            raise InputError(f"classes: {name!r} is no name; allowed: valid Unicode that is not blank")
    if len(set(classes)) < len(classes):
        raise InputError(f"classes: {_twice(classes)!r} is named twice; allowed: different names")


def _named(classes: Sequence[str] | None, parts: list[Examples]) -> tuple[str, ...]:
    if classes is None:
        highest = max((int(part.labels.max()) for part in parts if len(part)), default=-1)
        return numbered(highest + 1)
    expect("classes", classes, (str, list, tuple), "a list of names, one per class")
    return tuple(str(name) for name in classes)


def _twice(names: tuple[str, ...]) -> str:
    return next(name for name in names if names.count(name) > 1)
