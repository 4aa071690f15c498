"""What a bench runs: a TOML file, checked whole before any work begins."""

import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from rasura.data.canaries import PREFIX
from rasura.errors import InputError, check_seed, each_once, first_line, unknown
from rasura.methods import method_class
from rasura.models.build import check_harmless
from rasura.training import Recipe
from rasura.user_code import check_trusted

LARGEST = 2**20
"""Bytes of a grid file."""


@dataclass(frozen=True)
class Grid:
    """Every combination of model, seed and request, and the methods that are compared on each.

    Attributes:
        data: a name (`rasura list data`) or a path.
        models: architectures, e.g. "resnet8,width=16".
        seeds: one original is trained per model and seed.
        forget: requests, each a list of class names.
        methods: per name on the page, a method with its settings.
        references: retrained models per model and request, shared by all seeds. Three or more are advised.
        recipe: how every model is trained.
    """

    data: str
    models: tuple[str, ...]
    seeds: tuple[int, ...]
    forget: tuple[tuple[str, ...], ...]
    methods: dict[str, Any]
    references: int = 3
    recipe: Recipe = field(default_factory=Recipe)

    def cells(self) -> Iterator["Cell"]:
        """The grid's cells, those that share an original next to each other."""
        for model in self.models:
            for seed in self.seeds:
                for forget in self.forget:
                    yield Cell(model, seed, forget)


@dataclass(frozen=True)
class Cell:
    """One original model and one request: all methods are compared on it."""

    model: str
    seed: int
    forget: tuple[str, ...]


def read_grid(path: Path, trust: Iterable[str | Path] = ()) -> Grid:
    """A grid from a TOML file.

    Keys: `data`, `models`, `seeds`, `forget` (class names, or lists of them), `references`, a table `[recipe]` with
    fields of `Recipe`, and one table `[methods.NAME]` per row of the comparison: its settings, and `method = "…"`
    where NAME is no method.

    Args:
        path: the file.
        trust: Python files that the grid may run, as data or models. It may run no others, and its models are those of
            rasura and of installed libraries, untrained: nothing is fetched for them.

    Raises:
        InputError: no such file, broken TOML, a key that is missing or unknown, settings that a method refuses, or a
            Python file or a model that the user did not allow.
    """
    content = _toml(path)
    for key in ("methods", "recipe"):
        if not isinstance(content.get(key, {}), dict):
            raise InputError(f"grid: {key} = {content[key]!r}; allowed: a table, [{key}]")
    known = [one.name for one in fields(Grid)]
    for key in content:
        if key not in known:
            raise unknown("grid", key, known)
    for key in ("data", "models", "seeds", "forget", "methods"):
        if not content.get(key):
            raise InputError(f"grid: {key!r} is missing or empty; allowed: {', '.join(known)}")
    if not isinstance(content["data"], str):
        raise InputError(f"grid: data = {content['data']!r}; allowed: a name or a path")
    models = tuple(_listed("models", content["models"], str))
    _check_harmless(f"grid: {path}", content["data"], models, list(trust))
    seeds = _listed("seeds", content["seeds"], int)
    for seed in seeds:
        check_seed(seed)
    requests = [_request(one) for one in _listed("forget", content["forget"], (str, list))]
    methods = {name: _method(name, settings) for name, settings in content["methods"].items()}
    for key, values in {"forget": [sorted(one) for one in requests], "methods": list(methods.values())}.items():
        each_once(f"grid: {key}", values)
    return Grid(
        data=content["data"],
        models=models,
        seeds=tuple(seeds),
        forget=tuple(requests),
        methods=methods,
        references=_count(content.get("references", 3)),
        recipe=_with_fields(Recipe, "recipe", content.get("recipe", {})),
    )


def _toml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"grid: {path} does not exist; allowed: an existing TOML file")
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"more than {LARGEST >> 20} MiB")
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else first_line(error)
        raise InputError(f"grid: {path} is no TOML ({reason}); allowed: an existing TOML file") from None


def _check_harmless(source: str, data: str, models: Iterable[str], trust: list[str | Path]) -> None:
    while data.startswith(PREFIX):
        data = data.removeprefix(PREFIX).partition(":")[2]
    check_trusted(source, data, trust)
    for model in models:
        check_harmless(source, model, trust)


def _listed(key: str, values: Any, kind: Any) -> list[Any]:
    if not isinstance(values, list) or not all(isinstance(one, kind) and not isinstance(one, bool) for one in values):
        raise InputError(f"grid: {key} = {values!r}; allowed: a list")
    each_once(f"grid: {key}", values)
    return values


def _request(one: str | list[str]) -> tuple[str, ...]:
    return (one,) if isinstance(one, str) else tuple(_listed("forget", one, str))


def _count(value: Any) -> int:
    if type(value) is not int or value < 1:
        raise InputError(f"grid: references = {value!r}; allowed: 1 or more")
    return value


def _method(name: str, settings: Any) -> Any:
    if not isinstance(settings, dict):
        raise InputError(f"grid: methods.{name} = {settings!r}; allowed: a table, [methods.{name}]")
    settings = dict(settings)
    kind = method_class(str(settings.pop("method", name)))
    return _with_fields(kind, f"methods.{name}", settings)


def _with_fields(kind: type, where: str, settings: dict[str, Any]) -> Any:
    known = [one.name for one in fields(kind)]
    for key in settings:
        if key not in known:
            raise unknown(where, key, known)
        default = getattr(kind(), key)
        if isinstance(settings[key], bool) and not isinstance(default, bool):  # Python would take true for 1
            raise InputError(f"grid: {where}.{key} = {settings[key]}; allowed: a value like the default, {default!r}")
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
    return kind(**given)
