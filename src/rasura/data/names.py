"""Names of classes: which of two lists mean the same."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence


def matched(ours: Sequence[str], theirs: Sequence[str]) -> dict[int, int]:
    """Positions in `ours` → positions in `theirs` of the same name.

    Names are the same as they stand; else without case and with `_` for a space; else if one of the synonyms that a
    comma divides is, as in ImageNet's "tabby, tabby cat". A name that could be two of the other side's is none of them.

    >>> matched(["dog", "Tabby_cat", "wolf"], ["tabby, tabby cat", "dog"])
    {0: 1, 1: 0}
    """
    found: dict[int, int] = {}
    for keys in (_exact, _folded, _synonyms):
        here, there = _by_key(ours, keys, found.keys()), _by_key(theirs, keys, found.values())
        pairs = {(*here[key], *there[key]) for key in here.keys() & there.keys()}
        single = {pair for pair in pairs if len(pair) == 2}
        left, right = (Counter(pair[side] for pair in single) for side in (0, 1))
        found |= {one: other for one, other in single if left[one] == right[other] == 1}
    return dict(sorted(found.items()))


def listed(names: Iterable[str], most: int = 10) -> str:
    """Names for a message of one line.

    >>> listed(["cat", "dog", "wolf"], most=2)
    "'cat', 'dog', … (3 in all)"
    """
    shown = [repr(name) for name in names]
    return ", ".join(shown[:most]) + (f", … ({len(shown)} in all)" if len(shown) > most else "")


def _by_key(names: Sequence[str], keys: Callable[[str], set[str]], taken: Iterable[int]) -> dict[str, list[int]]:
    """Key → positions of the names that have it, without those in `taken`."""
    found: dict[str, list[int]] = {}
    for number in sorted(set(range(len(names))) - set(taken)):
        for key in keys(names[number]):
            found.setdefault(key, []).append(number)
    return found


def _exact(name: str) -> set[str]:
    return {name}


def _folded(name: str) -> set[str]:
    return {" ".join(name.replace("_", " ").casefold().split())}


def _synonyms(name: str) -> set[str]:
    return set().union(*(_folded(part) for part in name.split(",")))
