"""How much memory the machine has, whether a file may take what it asks for, and what a piece of work takes at most."""

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from rasura.errors import InputError

UNTOLD = 16 * 2**30
"""Bytes of memory that a machine is taken to have if its system does not tell."""
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
LARGE = 2**30
"""Bytes up to which a file may unpack to whatever it says."""
MOST_TIMES = 100
"""Beyond, a file may unpack to so many times its size: images pack to a tenth at best, bombs to a thousandth."""


def check_room(field: str, size: int, packed: int | None = None) -> None:
    """Whether a file may take the memory that it declares; to be asked before it is taken.

    Args:
        field: who asks, as the message begins.
        size: bytes, once they are unpacked.
        packed: bytes of the file that they are unpacked from; None for what is not packed.

    Raises:
        InputError: more bytes than the machine has memory, or more than 1 GiB and a hundred times the packed ones.

    >>> check_room("npz: a.npz", 30 * 2**30, packed=30 * 2**20)
    Traceback (most recent call last):
    rasura.errors.InputError: npz: a.npz unpacks to 30.0 GiB, 1024 times its size; allowed: 100 times beyond 1 GiB
    """
    if packed is not None and size > LARGE and size > MOST_TIMES * packed:
        times = size // max(packed, 1)
        raise InputError(
            f"{field} unpacks to {_gibibytes(size)}, {times} times its size; allowed: {MOST_TIMES} times beyond 1 GiB"
        )
    if size > machine_memory():
        raise InputError(
            f"{field} takes {_gibibytes(size)} of memory; allowed: the {_gibibytes(machine_memory())} of this machine"
        )


def _gibibytes(size: int) -> str:
    return f"{size / LARGE:.1f} GiB"


def machine_memory() -> int:
    """Bytes of the machine's memory."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError):  # Windows has no such call
        return UNTOLD


@contextlib.contextmanager
def peak_memory(device: torch.device) -> Iterator[list[float]]:
    """By how many MiB the memory in use grows at most inside the block: one number in the list, after it.

    On a GPU it is what torch holds there. On the CPU it is the resident memory of the whole process, which only Linux
    can be asked for: elsewhere the list stays empty. Freed memory is handed back to the system first, so that earlier
    work does not hide what this takes.
    """
    found: list[float] = []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield found
        found.append((torch.cuda.max_memory_allocated(device) - before) / 2**20)
    elif sys.platform == "linux" and _reset_peak():
        before = _resident("VmRSS")
        yield found
        found.append(max(0.0, _resident("VmHWM") - before))
    else:
        yield found


def _reset_peak() -> bool:
    """Hand freed memory back and begin a new peak; whether the system lets us."""
    with contextlib.suppress(AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)
    try:
        RESET.write_text("5")
    except OSError:
        return False
    return True


def _resident(field: str) -> float:
    """A line of the process's status, in MiB."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024
