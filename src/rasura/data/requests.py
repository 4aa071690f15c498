"""What is to be forgotten: whole classes, or single training examples."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rasura.data._read import text_of
from rasura.data.canaries import PREFIX, canaries_of
from rasura.data.dataset import Data, whole
from rasura.data.examples import Examples
from rasura.errors import InputError, check_seed


@dataclass(frozen=True)
class ForgetClasses:
    """Forget everything that makes these classes recognisable.

    Attributes:
        classes: names of the data's classes, or their numbers.
    """

    classes: tuple[str | int, ...]

    def __init__(self, classes: Iterable[str | int] | str | int):
        object.__setattr__(self, "classes", (classes,) if isinstance(classes, (str, int)) else tuple(classes))


@dataclass(frozen=True)
class ForgetSamples:
    """Forget that these training examples were ever seen; their classes stay.

    Attributes:
        indices: positions in the data's training examples, each once.
    """

    indices: tuple[int, ...]

    def __init__(self, indices: Iterable[int] | Tensor):
        given = indices.tolist() if isinstance(indices, Tensor) else indices
        object.__setattr__(self, "indices", tuple(_position(index) for index in given))


Request = ForgetClasses | ForgetSamples


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
        raise InputError(f"request: got {type(request).__name__}; allowed: ForgetClasses, ForgetSamples")
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
