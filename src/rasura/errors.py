"""The one error a user sees: a line that names the field, the value and what is allowed."""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any


class InputError(ValueError):
    """What was given cannot be used. The message is one line: field, value, what is allowed."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.splitlines()))  # names and words of others may hold line breaks


class FolderError(InputError):
    """A folder holds something else than it should: another run, a changed file, somebody's own work."""


def unknown(field: str, value: object, allowed: Iterable[str]) -> InputError:
    """An error for a name that is not among the allowed ones; it leads with the nearest name.

    >>> print(unknown("class", "Shrit", ["Shirt", "Coat"]))
    class: 'Shrit' is unknown; did you mean 'Shirt'? Allowed: Shirt, Coat
    """
    names = [str(name) for name in allowed]
    folded = {name.casefold(): name for name in reversed(names)}
    close = get_close_matches(str(value).casefold(), folded, n=1, cutoff=0.5)
    hint = f"did you mean {folded[close[0]]!r}? " if close else ""
    given = repr(value) if isinstance(value, str) else said(value)
    shown = ", ".join(names[:40]) + (f", … ({len(names)} in all)" if len(names) > 40 else "")
    return InputError(f"{field}: {given} is unknown; {hint}{'Allowed' if close else 'allowed'}: {shown}")


def check_seed(seed: int) -> None:
    """Refuse a seed that not every generator takes.

    >>> check_seed(-1)
    Traceback (most recent call last):
    rasura.errors.InputError: seed: -1; allowed: a whole number from 0 to 4294967295
    """
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**32:
        raise InputError(f"seed: {said(seed)}; allowed: a whole number from 0 to {2**32 - 1}")


@contextmanager
def isolated(name: str, failed: dict[str, str] | None) -> Iterator[None]:
    """What goes wrong inside ends this one piece of many: it is put into `failed` with its reason.

    It is raised again where `failed` is None, and where it concerns all pieces: a full disk, a folder of somebody else.
    """
    try:
        yield
    except Exception as error:
        if failed is None or isinstance(error, (OSError, FolderError)):
            raise
        kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
        failed[name] = kind + first_line(error)


def said(value: object) -> str:
    """A value of the wrong kind, for a message: itself where it is a short word or number, its kind otherwise.

    >>> said("x"), said(None), said(int), said([0] * 99), said(10**5000)
    ("'x'", 'None', 'the class int', 'list', 'int')
    """
    if isinstance(value, type):
        return f"the class {value.__name__}"
    short = value is None or isinstance(value, float) or (isinstance(value, str) and len(value) <= 40)
    return repr(value) if short or (isinstance(value, int) and abs(value) < 10**40) else type(value).__name__


def expect(field: str, value: object, kind: type | tuple[type, ...], allowed: str) -> None:
    """Refuse a value of another kind than is wanted.

    >>> expect("data", None, dict, "a dict")
    Traceback (most recent call last):
    rasura.errors.InputError: data: got None; allowed: a dict
    """
    if not isinstance(value, kind):
        raise InputError(f"{field}: got {said(value)}; allowed: {allowed}")


def each_once(field: str, given: Sequence[Any]) -> Sequence[Any]:
    """What was given for a field that takes several, unless one is there twice.

    >>> each_once("seeds", [0, 1, 0])
    Traceback (most recent call last):
    rasura.errors.InputError: seeds: 0 is given twice; allowed: each once
    """
    twice = next((one for place, one in enumerate(given) if one in given[:place]), None)
    if twice is not None:
        raise InputError(f"{field}: {twice} is given twice; allowed: each once")
    return given


def first_line(error: BaseException) -> str:
    """The first line of what an error says; its kind where it says nothing.

    >>> first_line(EOFError()), first_line(OSError("disk full\\nno space left"))
    ('EOFError', 'disk full')
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def printable(text: str) -> str:
    """Text for a terminal: control characters, which would move its cursor or paint it, are shown as escapes.

    >>> print(printable("a\\x1b[31m[red]\\nb"))
    a\\x1b[31m[red]\\nb
    """
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def shortened(line: str, most: int = 300) -> str:
    """A line whose field and value take so many letters at most: what is allowed stays whole.

    >>> shortened("epochs: " + 500 * "9" + "; allowed: 1 or more", most=24)
    'epochs: 99999999…9999999; allowed: 1 or more'
    """
    end = next((found.start() for found in re.finditer(r"; (?:did you mean|allowed)", line, re.IGNORECASE)), len(line))
    if end <= most:
        return line
    return f"{line[: 2 * most // 3]}…{line[end - most // 3 + 1 : end]}{line[end:]}"


def out_of_memory(error: BaseException) -> bool:
    """Whether Python, NumPy or torch, on any device, had no memory left; on the CPU torch raises a plain RuntimeError.

    >>> out_of_memory(MemoryError()), out_of_memory(RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"))
    (True, True)
    """
    reason = str(error).casefold() if isinstance(error, RuntimeError) else ""
    return isinstance(error, MemoryError) or "out of memory" in reason or "defaultcpuallocator" in reason
