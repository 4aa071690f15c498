"""Commands that are killed at chosen moments: in children of one process, which imports only once.

    python tests/disturbed.py one-by-one|at-once FOLDER MOMENTS ARGUMENTS

runs `rasura ARGUMENTS --out FOLDER/out` again and again, each killed right before one of the moments (a JSON list of
changes of the disk, such as "os.rename .out.partial"; a star stands for any letters) and the last not at all. Each goes
on with what the one before has left; with at-once it was already waiting for it. The result must be what a command that
nobody disturbed gives.
"""

import fnmatch
import importlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

Work = Callable[[], Any]

CHANGES = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree", "os.chmod"}
"""What Python announces before it happens (sys.audit) and changes a disk."""
MEASURED = {"seconds", "seconds_per_block", "memory_mib"}


def changed(event: str, arguments: tuple[Any, ...], below: Path) -> str:
    """Which change of something in a folder an event is: its name and the path there; nothing if it is none."""
    if event not in CHANGES or not isinstance(arguments[0], (str, bytes, os.PathLike)):
        return ""
    writes = event != "open" or bool(arguments[2] & (os.O_WRONLY | os.O_RDWR))
    path = os.fsdecode(arguments[0])
    return f"{event} {os.path.relpath(path, below)}" if writes and str(below) in path else ""


def begun(work: Work, below: Path, at: int | str | None = None, ends: int = signal.SIGKILL, stderr: int = 2) -> int:
    """Begin work in a child process, whose number this is.

    Args:
        work: returns nothing or an exit code.
        below: the folder whose changes are counted.
        at: right before its change of this number or name, the process gets a signal.
        ends: the signal.
        stderr: where its errors go.
    """
    number = os.fork()
    if number:
        return number
    steps = 0

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal steps
        if change := changed(event, arguments, below):
            if steps == at or (isinstance(at, str) and fnmatch.fnmatchcase(change, at)):
                os.kill(os.getpid(), ends)
            steps += 1

    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(stderr, 2)
    sys.addaudithook(count)
    try:
        os._exit(int(work() or 0))
    finally:
        os._exit(99)  # an exception


def ended(number: int) -> int:
    """Wait for a child process; its exit status (−9 if it was killed)."""
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


def child(work: Work, below: Path, at: int | str | None = None) -> int:
    """Do work in a child process, which is killed right before a change; its exit status."""
    return ended(begun(work, below, at))


def killed_at_every(step: int, work: Work, below: Path) -> Iterator[int]:
    """Kill the work at its first, (1 + step)-th, … change of the disk, until it ends before it is killed."""
    at = 0
    while (status := child(work, below, at)) == -signal.SIGKILL:
        yield at
        at += step
    assert status == 0, status


def one_by_one(moments: list[str], work: Work, below: Path) -> Iterator[str]:
    """Do the same in one process after the other, each but the last killed at its moment, which is yielded then."""
    for moment in moments:
        assert child(work, below, moment) == -signal.SIGKILL, moment
        yield moment
    assert child(work, below) == 0


def at_once(moments: list[str], work: Work, below: Path) -> Iterator[str]:
    """The same, but the next process is begun before one is killed, and waits for it."""
    runs = begun(work, below, moments[0], signal.SIGSTOP)
    for moment, following in zip(moments, [*moments[1:], None], strict=True):
        assert os.WIFSTOPPED(os.waitpid(runs, os.WUNTRACED)[1]), moment
        reads, writes = os.pipe()
        waits = begun(work, below, following, signal.SIGSTOP, stderr=writes)
        os.close(writes)
        said = os.fdopen(reads, encoding="utf-8")  # not closed: the process may have more to say
        assert any(line.endswith("waiting for it\n") for line in iter(said.readline, "")), moment
        os.kill(runs, signal.SIGKILL)
        assert ended(runs) == -signal.SIGKILL
        yield moment
        runs = waits
    assert ended(runs) == 0


def contents(folder: Path) -> dict[str, Any]:
    """What a folder's files hold, but for what took how long, pages that show it, and digests of these."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".html"):
        held: Any = path.read_bytes()
        if path.suffix == ".json":
            held = without_times(json.loads(held))
        if path.name == "run.json":
            held = {key: held[key] for key in ("format", "spec", "hash")} | {"files": sorted(held["files"])}
        found[str(path.relative_to(folder))] = held
    return found


def without_times(value: Any) -> Any:
    """JSON values without what a clock or the memory's size has a say in."""
    if isinstance(value, dict):
        return {key: without_times(one) for key, one in value.items() if key not in MEASURED}
    return [without_times(one) for one in value] if isinstance(value, list) else value


def undisturbed(work: Work, folder: Path) -> None:
    """Do work in a child, and import what it imported: those that follow begin with that."""
    names = folder / "modules"

    def and_told() -> int:
        status = int(work() or 0)
        names.write_text("\n".join(sys.modules))
        return status

    assert child(and_told, folder) == 0
    for name in names.read_text().splitlines():
        with suppress(ImportError):
            importlib.import_module(name)
    names.unlink()


def main(how: str, folder: Path, moments: list[str], arguments: list[str]) -> None:
    """See the top of this file."""
    from rasura import cli
    from rasura.sealed import sealed

    def work(place: Path) -> Work:
        return lambda: cli.main([*arguments, "--out", str(place)])

    undisturbed(work(folder / "undisturbed"), folder)
    for _ in {"one-by-one": one_by_one, "at-once": at_once}[how](moments, work(folder / "out"), folder):
        for record in folder.rglob("run.json"):
            if not any(part.startswith(".") for part in record.relative_to(folder).parts):
                sealed(record.parent, "out")
    assert contents(folder / "out") == contents(folder / "undisturbed")
    assert {path.name for path in folder.iterdir()} == {"out", "undisturbed"}


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3]), sys.argv[4:])
