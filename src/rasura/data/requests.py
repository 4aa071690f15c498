"""What is to be forgotten: whole classes, or single training examples."""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from rasura.data._read import text_of
from rasura.data.canaries import PREFIX, canaries_of
from rasura.data.dataset import Data, whole
from rasura.data.examples import Examples
from rasura.errors import InputError, check_seed, said


@dataclass(frozen=True)
class ForgetClasses:
    """Forget everything that makes these classes recognisable.

    Attributes:
        classes: names of the data's classes, or their numbers.

    Raises:
        InputError: something that is neither a name nor a number, nor a list of them.
    """

    classes: tuple[str | int, ...]

    def __init__(self, classes: Iterable[str | int] | str | int):
        single = isinstance(classes, str) or whole(classes) is not None
        given: Any = (classes,) if single else _several("classes", classes, "names or numbers of classes")
        object.__setattr__(self, "classes", tuple(_name_or_number(one) for one in given))


@dataclass(frozen=True)
class ForgetSamples:
    """Forget that these training examples were ever seen; their classes stay.

    Attributes:
        indices: positions in the data's training examples, each once.

    Raises:
        InputError: something else than a list of whole numbers.
    """

    indices: tuple[int, ...]

    def __init__(self, indices: Iterable[int] | Tensor):
        given = _several("indices", indices, "positions in the training examples")
        object.__setattr__(self, "indices", tuple(_position(index) for index in given))


Request = ForgetClasses | ForgetSamples


def as_request(given: Any) -> Request:
    """A request as it is given, or the names or numbers of classes, which are a `ForgetClasses`.

    Raises:
        InputError: anything else.

    >>> as_request(["Shirt", 3])
    ForgetClasses(classes=('Shirt', 3))
    """
    if isinstance(given, (ForgetClasses, ForgetSamples)):
        return given
    if isinstance(given, (list, tuple, set, frozenset)):
        return ForgetClasses(given)
    raise _no_request(given)


def read_samples(text: str, data: Data) -> ForgetSamples:
    """A sample request from words: `3,17,99` (positions), `ids.txt` (one position per line), `1%` or `1%@7` (a random
    share of the training examples, drawn with seed 0 or 7), `canaries:100@7` (those of the data of this name).

    Positions count from 0 in the training part as it is loaded, `data.train`. They are not lines of the file that the
    data come from: where a test part was split off, the examples behind one that went there have moved up.

    Raises:
        InputError: none of these, or a share that leaves no example.
    """
    share = re.fullmatch(r"(\d{1,18}(?:\.\d+)?)%(?:@(\d{1,99}))?", text)
    if share:
        count = round(float(share[1]) / 100 * len(data.train))
        if not 0 < count < len(data.train):
            raise InputError(f"samples: {text} is {count} of {len(data.train)} examples; allowed: at least 1, not all")
        seed = int(share[2] or 0)
        check_seed(seed)
        order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))
        return ForgetSamples(order[:count].sort().values)
    if re.fullmatch(r"\d{1,18}(,\d{1,18})*", text):
        return ForgetSamples(int(one) for one in text.split(","))
    canaries = canaries_of(text.removeprefix(PREFIX)) if text.startswith(PREFIX) else None
    if canaries:
        return ForgetSamples(canaries.positions(data))
    if not os.path.isfile(text):  # also where it is too long to be a name
        ways = "3,17,99, a file with a position per line, 1%, 1%@SEED or canaries:COUNT@SEED"
        raise InputError(f"samples: {text!r} is no file; allowed: {ways}")
    return ForgetSamples(_line(line, text) for line in text_of(Path(text)).split())


def _line(line: str, path: str) -> int:
    if not re.fullmatch(r"\d{1,18}", line):
        raise InputError(f"samples: {line[:20]!r} in {path} is no position; allowed: whole numbers, one per line")
    return int(line)


@dataclass(frozen=True, eq=False)
class Parts:
    """A request resolved against data: which training examples go and which stay.

    Attributes:
        forget: training examples to forget.
        retain: training examples to keep.
        forget_rows: int64, positions of the examples to forget in the training data.
        forget_classes: numbers of the classes that go as a whole; empty for a sample request.
    """

    forget: Examples
    retain: Examples
    forget_rows: Tensor
    forget_classes: tuple[int, ...]


def resolve(request: Request, data: Data, taken: Tensor | None = None) -> Parts:
    """Split the training examples by the request.

    Args:
        request: what is to be forgotten.
        data: whose training examples are split.
        taken: a mask `[N]` of training examples that earlier requests took: they are not retained.

    Raises:
        InputError: unknown class (with the nearest name), index outside the training set or given twice, nothing to
            forget, nothing left to retain, or samples that are all of a class, or all that earlier requests left of it.
    """
    if isinstance(request, ForgetClasses):
        chosen = data.class_numbers(request.classes)
        going = torch.isin(data.train.labels, torch.tensor(chosen))
    elif isinstance(request, ForgetSamples):
        chosen = ()
        going = mask_of(request.indices, len(data.train))
    else:
        raise _no_request(request)
    staying = ~going if taken is None else ~(going | taken)
    if not chosen:
        _check_no_class_is_emptied(data, going, taken)
    forget, retain = _filled("forget", data.train.take(going)), _filled("retain", data.train.take(staying))
    return Parts(forget, retain, going.nonzero()[:, 0], chosen)


def describe(request: Request, data: Data) -> str:
    """The request in words, for records and pages."""
    if isinstance(request, ForgetClasses):
        return ", ".join(data.classes[number] for number in data.class_numbers(request.classes))
    return f"{len(request.indices)} training example{'s' * (len(request.indices) != 1)}"


def _no_request(given: Any) -> InputError:
    wanted = "a list of classes, ForgetClasses([…]), ForgetSamples([…])"
    return InputError(f"request: got {said(given)}; allowed: {wanted}")


def _several(field: str, given: Any, what: str) -> list[Any]:
    """The members of a list, an array, a range or the like; single words and tables are none."""
    if isinstance(given, (Tensor, np.ndarray)) and given.ndim == 1:
        return given.tolist()
    if not isinstance(given, Iterable) or isinstance(given, (str, bytes, Mapping, Tensor, np.ndarray, type)):
        raise InputError(f"{field}: got {said(given)}; allowed: a list of {what}")
    return list(given)


def _name_or_number(one: Any) -> str | int:
    number = whole(one)
    if not isinstance(one, str) and number is None:
        raise InputError(f"classes: {said(one)} is no class; allowed: names or numbers of classes")
    return one if isinstance(one, str) else cast("int", number)


def _position(index: int) -> int:
    number = whole(index)
    if number is None:
        raise InputError(f"indices: {index!r} is no position; allowed: whole numbers (of a mask: mask.nonzero()[:, 0])")
    return number


def mask_of(indices: tuple[int, ...], size: int) -> Tensor:
    """Positions as a boolean mask `[size]`.

    Raises:
        InputError: a position outside, or given twice.
    """
    wrong = [index for index in indices if not 0 <= index < size]
    if wrong:
        raise InputError(f"indices: {wrong[0]} is not in the training set; allowed: 0 to {size - 1}")
    if len(set(indices)) < len(indices):
        raise InputError(f"indices: {len(indices) - len(set(indices))} given twice; allowed: each index once")
    mask = torch.zeros(size, dtype=torch.bool)
    mask[torch.tensor(indices, dtype=torch.int64)] = True
    return mask


def _check_no_class_is_emptied(data: Data, going: Tensor, taken: Tensor | None) -> None:
    """Of a class that earlier requests took whole, samples may still go; of one that they took a part of, not the rest.

    Here no class is taken whole but by `ForgetClasses`, so a class with no example left before this request was.
    """
    left = torch.ones_like(going) if taken is None else ~taken
    before, after = (set(data.train.labels[rows].tolist()) for rows in (left, left & ~going))
    emptied = before - after
    if emptied:
        name = data.classes[min(emptied)]
        raise InputError(
            f"indices: class {name!r} would keep no training example; allowed: some of a class, or ForgetClasses"
        )


def _filled(field: str, examples: Examples) -> Examples:
    if not len(examples):
        raise InputError(f"{field}: the request leaves 0 training examples to {field}; allowed: at least 1")
    return examples
