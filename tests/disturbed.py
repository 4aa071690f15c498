"""Commands that are killed at a chosen step of what they write: in children of one process, which imports only once."""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

CHANGES = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree", "os.chmod"}
"""What Python announces before it happens (sys.audit) and changes a disk."""
MEASURED = {"seconds", "seconds_per_block", "memory_mib"}


def changes_disk(event: str, arguments: tuple[Any, ...], below: Path) -> bool:
    """Whether an event is a change of something in a folder."""
    if event not in CHANGES or not isinstance(arguments[0], (str, bytes, os.PathLike)):
        return False
    writes = event != "open" or bool(arguments[2] & (os.O_WRONLY | os.O_RDWR))
    return writes and str(below) in os.fsdecode(arguments[0])


def child(work: Callable[[], Any], below: Path, kill_at: int | None = None) -> int:
    """Do work in a child process that is killed before its step `kill_at`; its exit status (−9 if it was killed)."""
    number = os.fork()
    if number:
        return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])
    steps = 0

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal steps
        if changes_disk(event, arguments, below):
            if steps == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            steps += 1

    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.addaudithook(count)
    try:
        os._exit(int(work() or 0))
    finally:
        os._exit(99)  # an exception


def killed_at_every(step: int, work: Callable[[], Any], below: Path) -> Iterator[int]:
    """Kill the work at its first, (1 + step)-th, … change of the disk, until it ends before it is killed."""
    at = 0
    while (status := child(work, below, at)) == -signal.SIGKILL:
        yield at
        at += step
    assert status == 0, status


def contents(folder: Path) -> dict[str, Any]:
    """What a folder's visible files hold, but for what took how long, pages that show it, and digests of these."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder)
        if any(part.startswith(".") for part in name.parts) or path.suffix == ".html":
            continue
        held: Any = path.read_bytes()
        if path.suffix == ".json":
            held = without_times(json.loads(held))
        if path.name == "run.json":
            held = {key: held[key] for key in ("format", "spec", "hash")}
        found[str(name)] = held
    return found


def without_times(value: Any) -> Any:
    """JSON values without what a clock or the memory's size has a say in."""
    if isinstance(value, dict):
        return {key: without_times(one) for key, one in value.items() if key not in MEASURED}
    return [without_times(one) for one in value] if isinstance(value, list) else value
