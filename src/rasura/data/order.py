"""Data in the order in which a model counts the classes."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from rasura.data.dataset import Data, numbered
from rasura.data.names import listed, matched
from rasura.data.requests import ForgetClasses, Request
from rasura.errors import InputError


def in_order(data: Data, names: Sequence[str]) -> Data:
    """The data with labels that are positions in `names`; the very data where they are already.

    A class keeps the name that the data give it; a name that no class of the data has becomes a class without examples.

    Raises:
        InputError: a class of the data is not among the names.

    >>> x, y = torch.zeros(2, 1, 8, 8), torch.tensor([0, 1])
    >>> turned = in_order(Data.from_tensors((x, y), (x, y), ["cat", "dog"]), ["Dog", "wolf", "Cat"])
    >>> turned.classes, turned.train.labels
    (('dog', 'wolf', 'cat'), tensor([2, 0]))
    """
    if tuple(names) == data.classes:
        return data
    if only_numbered(data, names):
        return replace(data, classes=_different(names, {}))
    place = matched(data.classes, names)
    lacking = [name for number, name in enumerate(data.classes) if number not in place]
    if lacking:
        raise InputError(
            f"classes: the model names no {listed(lacking)} of {data.name}, or more than once; allowed: its own names, "
            f"{listed(names)}"
        )
    spelled = {place[number]: name for number, name in enumerate(data.classes)}
    if list(place.values()) == list(range(len(names))):
        return data  # the same order, spelled otherwise
    to = torch.tensor([place[number] for number in range(len(data.classes))])
    train, test = (replace(part, labels=to[part.labels]) for part in (data.train, data.test))
    return replace(data, train=train, test=test, classes=_different(names, spelled))


def only_numbered(data: Data, names: Sequence[str]) -> bool:
    """Whether the data number their classes from 0 and name none: then only the order can say which output is which."""
    return data.classes == numbered(len(names)) and not matched(data.classes, names)


def asked_in(request: Request, data: Data, ordered: Data) -> Request:
    """A request on data, for the same data in another order. Numbers and names mean the classes of `data`.

    Raises:
        InputError: a class that neither knows.
    """
    if ordered is data or not isinstance(request, ForgetClasses):
        return request
    if set(request.classes) <= set(ordered.classes):
        return request
    return ForgetClasses(data.classes[number] for number in data.class_numbers(request.classes))


def _different(names: Sequence[str], spelled: Mapping[int, str]) -> tuple[str, ...]:
    """The names, in the spelling of `spelled` where it has one; others that occur twice get their number added."""
    whole = [spelled.get(number, name) for number, name in enumerate(names)]
    counts = Counter(whole)
    return tuple(
        name if number in spelled or counts[name] == 1 else f"{name} (output {number})"
        for number, name in enumerate(whole)
    )
