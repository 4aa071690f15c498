"""What there is: methods, models, data and decoders by name, with a line each."""

import inspect
from collections.abc import Callable

from rasura.auditing import DECODERS, ON_REQUEST
from rasura.data import DATA_SOURCES
from rasura.methods import method_class, names
from rasura.models import FAMILIES, TEXT_ZOO, ZOO
from rasura.recipes import data_sets, known


def _first_line(thing: object) -> str:
    return (inspect.getdoc(thing) or "").split("\n")[0]


def _working(data: str) -> str:
    found = known(data)
    working = [name for name, one in found.items() if one.worked]
    return f"settings with which {len(working)} of {len(found)} methods forget: {', '.join(working)}"


LISTS: dict[str, Callable[[], dict[str, str]]] = {
    "methods": lambda: {name: _first_line(method_class(name)) for name in names()},
    "models": lambda: {name: _first_line(build) for name, build in (ZOO | TEXT_ZOO).items()} | FAMILIES,
    "data": lambda: dict(DATA_SOURCES),
    "decoders": lambda: dict(DECODERS),
    "on-request": lambda: dict(ON_REQUEST),
    "recipes": lambda: {name: _working(name) for name in data_sets()},
}
"""What `rasura list` can show."""
