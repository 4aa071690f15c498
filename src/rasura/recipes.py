"""Settings with which methods are known to forget, per data set. Found by `search_strength`, kept as data.

`recipes.json` in `rasura.data` says of each setting what it was tried on and what it did; `benchmarks/recipes.py` wrote
it. A method for which no setting was found is in it too, with the nearest.
"""

import functools
import importlib.resources
import json
from dataclasses import dataclass
from typing import Any

from rasura.errors import InputError, unknown
from rasura.methods import Method, method_class

FILE = "recipes.json"


@dataclass(frozen=True)
class Known:
    """What is known of a method on a data set.

    Accuracies are 0..1, on images that neither the original nor the method was trained on.

    Attributes:
        settings: fields that differ from the method's defaults.
        worked: whether it forgot and kept accuracy.
        forget: the class it was tried on.
        forget_accuracy: on images of that class, after.
        retain_accuracy: on images of the other classes, after.
        retain_accuracy_before: the same of the original.
    """

    settings: dict[str, Any]
    worked: bool
    forget: str
    forget_accuracy: float
    retain_accuracy: float
    retain_accuracy_before: float


def data_sets() -> list[str]:
    """Names of the data sets that settings are known for."""
    return list(_content()["data"])


def known(data: str) -> dict[str, Known]:
    """What is known on a data set, by the method's name.

    Raises:
        InputError: nothing is known on it; the message has the nearest name.

    >>> known("fashion-mini")["logit-mask"].settings
    {}
    """
    if data not in data_sets():
        raise unknown("recipe", data, data_sets())
    return {name: Known(**entry) for name, entry in _content()["data"][data]["methods"].items()}


def trained_as(data: str) -> dict[str, Any]:
    """On how many images, for how many epochs and with which augmentation the net was trained that they were found on,
    and how many images methods read.

    >>> trained_as("fashion-mini")["images"]
    6400
    """
    known(data)
    return dict(_content()["data"][data]["training"])


def method_for(name: str, data: str) -> Method:
    """A method with the settings that worked on a data set.

    Raises:
        InputError: no such method, nothing known on this data set, or nothing that worked.
    """
    kind, found = method_class(name), known(data)
    if name not in found or not found[name].worked:
        works = ", ".join(one for one, entry in found.items() if entry.worked)
        raise InputError(f"recipe: none is known to work for {name} on {data}; allowed: {works}")
    return kind(**found[name].settings)


def nearest_for(name: str, data: str) -> Method:
    """A method with the settings that worked on a data set or came nearest; its own where nothing is known of it.

    Raises:
        InputError: no such method, or a data set on which nothing is known.
    """
    found = known(data)
    return method_class(name)(**(found[name].settings if name in found else {}))


@functools.cache
def _content() -> dict[str, Any]:
    return json.loads((importlib.resources.files("rasura.data") / FILE).read_text(encoding="utf-8"))
