"""The one error a user sees: a line that names the field, the value and what is allowed."""

from collections.abc import Iterable
from difflib import get_close_matches


class InputError(ValueError):
    """What was given cannot be used. The message is one line: field, value, what is allowed."""


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
    return InputError(f"{field}: {given} is unknown; {hint}Allowed: {shown}")


def check_seed(seed: int) -> None:
    """Refuse a seed that not every generator takes.

    >>> check_seed(-1)
    Traceback (most recent call last):
    rasura.errors.InputError: seed: -1; allowed: a whole number from 0 to 4294967295
    """
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**32:
        raise InputError(f"seed: {said(seed)}; allowed: a whole number from 0 to {2**32 - 1}")


def said(value: object) -> str:
    """A value of the wrong kind, for a message: itself where it is a short word or number, its kind otherwise.

    >>> said("x"), said(None), said(int), said([0] * 99), said(10**5000)
    ("'x'", 'None', 'the class int', 'list', 'int')
    """
    if isinstance(value, type):
        return f"the class {value.__name__}"
    short = value is None or isinstance(value, float) or (isinstance(value, str) and len(value) <= 40)
    return repr(value) if short or (isinstance(value, int) and abs(value) < 10**18) else type(value).__name__


def expect(field: str, value: object, kind: type | tuple[type, ...], allowed: str) -> None:
    """Refuse a value of another kind than is wanted.

    >>> expect("data", None, dict, "a dict")
    Traceback (most recent call last):
    rasura.errors.InputError: data: got None; allowed: a dict
    """
    if not isinstance(value, kind):
        raise InputError(f"{field}: got {said(value)}; allowed: {allowed}")


def first_line(error: BaseException) -> str:
    """The first line of what an error says; its kind where it says nothing.

    >>> first_line(EOFError()), first_line(OSError("disk full\\nno space left"))
    ('EOFError', 'disk full')
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0]
