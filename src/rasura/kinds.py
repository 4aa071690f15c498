"""Settings of another kind than their fields say are refused in one line."""

import types
from collections.abc import Callable
from dataclasses import fields
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from rasura.errors import InputError, said

Settings = TypeVar("Settings", bound=type)

_WORDS = {int: "a whole number", float: "a number", str: "a word", bool: "True or False"}


def checked_kinds(kind: Settings) -> Settings:
    """Decorate a dataclass of settings: a value that is no whole number, number, word … as its field is annotated.

    What `__post_init__` has to say of numbers and words comes first, for it knows their range.

    >>> from dataclasses import dataclass
    >>> @checked_kinds
    ... @dataclass(frozen=True)
    ... class Gentle:
    ...     rate: float = 0.1
    >>> Gentle(rate="high")
    Traceback (most recent call last):
    rasura.errors.InputError: rate: 'high'; allowed: a number
    """
    own: Callable[[Any], None] = getattr(kind, "__post_init__", lambda _: None)

    def checked(self: Any) -> None:
        _check(self, _may_be_out_of_range)
        own(self)
        _check(self, lambda value, kind: False)

    kind.__post_init__ = checked
    return kind


def _check(settings: Any, spared: Callable[[Any, Any], bool]) -> None:
    hints = get_type_hints(type(settings))
    for one in fields(settings):
        value, kind = getattr(settings, one.name), hints[one.name]
        if not _fits(value, kind) and not spared(value, kind):
            raise InputError(f"{one.name}: {said(value)}; allowed: {_in_words(kind)}")


def _may_be_out_of_range(value: Any, kind: Any) -> bool:
    if get_origin(kind) is tuple and isinstance(value, tuple):
        return all(_may_be_out_of_range(one, get_args(kind)[0]) for one in value)
    return isinstance(value, (int, float)) if kind in (int, float) else isinstance(value, str) and _is_choice(kind)


def _is_choice(kind: Any) -> bool:
    return get_origin(kind) is Literal


def _fits(value: Any, kind: Any) -> bool:
    origin = get_origin(kind)
    if _is_choice(kind):
        return value in get_args(kind)
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in get_args(kind))
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(one, get_args(kind)[0]) for one in value)
    if kind in (int, float):
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    return isinstance(value, kind)


def _in_words(kind: Any) -> str:
    if _is_choice(kind):
        return ", ".join(map(str, get_args(kind)))
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(_in_words(one) for one in get_args(kind))
    if get_origin(kind) is tuple:
        return f"a tuple of {_in_words(get_args(kind)[0]).removeprefix('a ')}s"
    return "None" if kind is types.NoneType else _WORDS.get(kind) or f"a {kind.__name__}"
