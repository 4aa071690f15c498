"""How much memory the machine has, and how much a piece of work takes at its peak."""

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

UNTOLD = 16 * 2**30
"""Bytes of memory that a machine is taken to have if its system does not tell."""
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


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
