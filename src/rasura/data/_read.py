"""What every reader returns: images and labels of two parts, and the class names. Nothing is ever unpickled."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rasura.data.dataset import numbered
from rasura.errors import InputError

Array = NDArray[np.uint8]
MOST_BYTES = 2**26
"""Of a small text file."""
SEED = 0  # of every split made here: the same files give the same split
SHARE = 0.2  # of each class that is held out, unless another is asked for


class Part(NamedTuple):
    """Images uint8 `[N, C, H, W]` and labels `[N]`."""

    images: Array
    labels: NDArray[np.int64]


class Read(NamedTuple):
    """What a reader returns."""

    train: Part
    test: Part
    classes: tuple[str, ...]


def check_splits(source: object, held_out: float | None, splits: bool) -> None:
    """Refuse a share to hold out of data that hold a test part already.

    Raises:
        InputError: a share is given, and none is split off.
    """
    if held_out is not None and not splits:
        raise InputError(f"held-out: {held_out}; allowed: for data without a test part, and {source} has one")


def stratified(labels: NDArray[np.int64], share: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of a seeded split: about `share` of each class is held out, and at least one example stays."""
    rng = np.random.default_rng(SEED)
    held = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        mine = np.flatnonzero(labels == label)
        wanted = min(max(round(share * len(mine)), 1), len(mine) - 1)
        held[rng.permutation(mine)[:wanted]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)


def class_numbers_of(*parts: Part) -> tuple[str, ...]:
    """Class names for labels without names: their numbers."""
    return numbered(max(int(part.labels.max(initial=0)) for part in parts) + 1)


def path_of(text: str | Path) -> Path:
    """A path as it was written; ~ stands for the home folder, where there is one.

    Raises:
        InputError: no path of any system.
    """
    try:
        encoded = os.fsencode(text)
    except UnicodeEncodeError:  # half of a character
        encoded = b"\0"
    if b"\0" in encoded:
        raise InputError(f"path: {str(text)!r} can be none; allowed: a path")
    return Path(os.path.expanduser(text))


def text_of(path: Path) -> str:
    """A small text file; bytes that are no UTF-8 are replaced.

    Raises:
        InputError: no file (a pipe would never end), or a large one.
    """
    if not path.is_file() or path.stat().st_size > MOST_BYTES:
        raise InputError(f"data: {path} is no small text; allowed: files of up to {MOST_BYTES} bytes")
    return path.read_text(encoding="utf-8", errors="replace")
