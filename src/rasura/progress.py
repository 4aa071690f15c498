"""Progress of long work, as a callback: `(label, done, total)`; the terminal's bar is one such callback."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rasura.errors import printable

Progress = Callable[[str, int, int], None]
"""Called with a label, the steps done and the steps in all. It may be called often and must be cheap."""

PATIENCE = 2.0
"""Seconds of work after which a bar appears; shorter work stays silent."""

PLAIN_INTERVAL = 15.0
"""Seconds between two lines where stderr is not a terminal."""


def silent(label: str, done: int, total: int) -> None:
    """Show nothing."""


@contextmanager
def terminal() -> Iterator[Progress]:
    """Bars with the remaining time on stderr, for work of more than two seconds; plain lines in a log file."""
    if not sys.stderr.isatty():
        yield _plain_lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    bars = Bars(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    tasks, begun = {}, {}

    def report(label: str, done: int, total: int) -> None:
        if label not in tasks:
            begun.setdefault(label, time.monotonic())
            if time.monotonic() - begun[label] < PATIENCE or done >= total:
                if done >= total:
                    begun.pop(label)
                return
            bars.start()
            tasks[label] = bars.add_task(printable(label), total=total, completed=done)
        bars.update(tasks[label], completed=done, total=total)
        if done >= total:
            bars.remove_task(tasks.pop(label))
            begun.pop(label)

    try:
        yield report
    finally:
        bars.stop()


@contextmanager
def reporting(progress: Progress | None) -> Iterator[Progress]:
    """The given callback, or the terminal's bars where none was given."""
    if progress is not None:
        yield progress
        return
    with terminal() as report:
        yield report


def _plain_lines() -> Progress:
    begun: dict[str, float] = {}
    spoken: dict[str, float] = {}

    def report(label: str, done: int, total: int) -> None:
        now = time.monotonic()
        start = begun.setdefault(label, now)
        if done >= total:
            begun.pop(label)
            spoken.pop(label, None)
        elif done and now - spoken.get(label, start) >= PLAIN_INTERVAL:
            spoken[label] = now
            left = (now - start) / done * (total - done)
            print(f"{printable(label)}: {done}/{total}, about {left:.0f} s left", file=sys.stderr, flush=True)

    return report
