"""Methods by their names: one file of this folder is one method."""

import importlib
import pkgutil
from pathlib import Path
from typing import Any

from rasura.errors import unknown


def names() -> list[str]:
    """The names of all methods: one per file of this folder that does not start with an underscore."""
    folder = str(Path(__file__).parent)
    files = [module.name for module in pkgutil.iter_modules([folder])]
    return sorted(name.replace("_", "-") for name in files if not name.startswith("_") and name != "contract")


def method_class(name: str) -> type:
    """The dataclass of a method by its name, e.g. "logit-mask" → `LogitMask`.

    Raises:
        InputError: no such method; the message has the nearest name.

    >>> method_class("logit-mask").__name__
    'LogitMask'
    """
    if name not in names():
        raise unknown("method", name, names())
    module = importlib.import_module(f"rasura.methods.{name.replace('-', '_')}")
    return getattr(module, class_name(name))


def class_name(name: str) -> str:
    """`logit-mask` → `LogitMask`."""
    return "".join(part.capitalize() for part in name.replace("_", "-").split("-"))


def name_of(method: Any) -> str:
    """`LogitMask()` → `logit-mask`; a user's own class keeps its module's name out."""
    letters = type(method).__name__
    return "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in letters).removeprefix("-")
