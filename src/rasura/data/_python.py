"""Data that a function of a user's Python file returns."""

import inspect
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rasura.data._read import path_of
from rasura.data._text import TEST_NAMES
from rasura.data.dataset import Data
from rasura.errors import InputError
from rasura.user_code import imported, running


def data_from_file(file: str, function: str) -> Data:
    """What a function of a user's file returns, as data.

    Raises:
        InputError: no such file or function, one that needs arguments, or one that returns something else.
    """
    path = _python_file(file)
    make = getattr(imported("data", path), function, None)
    if not callable(make):
        raise InputError(f"data: {path} has no function {function!r}; allowed: a function of that file")
    try:
        inspect.signature(make).bind()
    except TypeError as error:
        raise InputError(f"data: {function} of {path} needs arguments ({error}); allowed: one without") from None
    with running("data", path):
        made = make()
    return _as_returned(made, f"{function} of {path}", path.stem)


def _as_returned(made: Any, where: str, name: str) -> Data:
    if isinstance(made, Data):
        return made
    parts = made
    if isinstance(made, Mapping):
        held_out = next((key for key in TEST_NAMES if key in made), "")
        parts = tuple(made[key] for key in ("train", held_out) if key in made)
    if not isinstance(parts, tuple) or len(parts) != 2:
        kind = f"parts {', '.join(map(str, made))}" if isinstance(made, Mapping) else type(made).__name__
        raise InputError(
            f"data: {where} returned {kind}; allowed: a rasura.Data, a pair (train, test) of data sets, or a dict of "
            f"train and one of {', '.join(TEST_NAMES)}"
        )
    return Data.from_datasets(*parts, name=name)


def _python_file(file: str) -> Path:
    path = path_of(file)
    if not os.path.isfile(path):
        raise InputError(f"data: {path} does not exist; allowed: an existing Python file")
    return path.resolve()
