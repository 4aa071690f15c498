"""Folders that appear whole or not at all, one writer per folder, JSON, and hashes."""

import errno
import hashlib
import json
import os
import secrets
import shutil
import stat
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from rasura.errors import FolderError, InputError, first_line, out_of_memory

POLL = 0.2
"""Seconds between two looks at a lock that another process holds."""

LARGEST_JSON = 2**28
"""Bytes; what is read into memory takes many times as many."""


def partial_of(folder: Path) -> Path:
    """Where `folder` is filled before it is renamed into place."""
    return folder.with_name(f".{folder.name}.partial")


def lock_of(folder: Path) -> Path:
    """The file that is there while `folder` is written to, and after a process that was killed then."""
    folder = folder.resolve()  # a link to a folder stays one
    return folder.with_name(f".{folder.name}.lock")


@contextmanager
def locked(folder: Path, run: str = "") -> Iterator[None]:
    """Keep other processes from writing to `folder` until the block ends.

    A process that wants the same run waits, with a word on stderr. The lock is a hidden file beside the folder, held
    by the system: that of a killed process holds nobody up.

    Args:
        folder: what is to be written, a folder or a file; it need not exist.
        run: the hash of the run; empty where any two writers may follow each other.

    Raises:
        FolderError: another run is being written there.
    """
    folder, path = folder.resolve(), lock_of(folder)
    lock = FileLock(path)
    with _parents(folder):
        holder = _holder(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            who = f"pid {holder.get('pid', 'unknown')}"
            if run and holder.get("run") and holder["run"] != run:
                raise FolderError(
                    f"out: another run is writing to {folder} ({who}); allowed: another folder, or the same run"
                ) from None
            print(f"rasura: another process is writing to {folder} ({who}); waiting for it", file=sys.stderr)
            lock.acquire(poll_interval=POLL)
        try:
            path.write_text(json.dumps({"pid": os.getpid(), "run": run}), encoding="utf-8")
            yield
        finally:
            with suppress(OSError):  # Windows removes no open file
                path.unlink()
            lock.release()


def _holder(path: Path) -> dict[str, Any]:
    """What the process that holds a lock has written into it; nothing if there is none, or not yet."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


@contextmanager
def _parents(folder: Path) -> Iterator[None]:
    """The folders above exist inside the block; of those made for it, the ones left empty go again."""
    new = [parent for parent in folder.parents if not parent.exists()]
    folder.parent.mkdir(parents=True, exist_ok=True)
    for parent in new:
        sync(parent.parent)
    try:
        yield
    finally:
        for parent in new:
            with suppress(OSError):  # it holds something
                parent.rmdir()


@contextmanager
def whole_folder(folder: Path, keep: str | None = None) -> Iterator[Path]:
    """Fill a folder under a temporary name beside it; it is renamed when the block ends, and removed if it fails.

    All of it is on the disk before it has its name: after a power cut it is whole or not there. The caller holds the
    folder's lock (`locked`), as the temporary name is always the same.

    Args:
        folder: the final place; it must not exist, or be empty (it is then removed at once, so that work which could
            not be put there is not even begun).
        keep: a file name. If the block fails and this file is there, everything else is removed but this file stays,
            so that the same work can resume from it.
    """
    folder = folder.resolve()
    _make_room(folder)
    partial = partial_of(folder)
    _clear(partial, keep)  # what a killed process left
    with _parents(folder):
        if not partial.exists():
            partial.mkdir()
        try:
            yield partial
            _sync_all(partial)
            os.replace(partial, folder)
        except BaseException:
            _clear(partial, keep)
            raise
        if keep is not None:
            (folder / keep).unlink(missing_ok=True)
        sync(folder.parent)


def _make_room(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FolderError(f"out: {folder} exists; allowed: a new or empty folder")
    if folder == Path.cwd():  # it would be replaced under the user's feet
        raise FolderError(f"out: {folder} is the current folder; allowed: a new folder")
    try:
        if folder.exists():
            folder.rmdir()
    except OSError as error:
        raise FolderError(f"out: {folder} cannot be replaced ({error.strerror}); allowed: a new folder") from None


def _clear(partial: Path, keep: str | None) -> None:
    """Remove what is in a temporary folder, and itself, but for what is to be kept. Links are never followed."""
    if not os.path.lexists(partial):
        return
    if not stat.S_ISDIR(partial.lstat().st_mode):
        raise FolderError(f"out: {partial} is a link or a file, which rasura did not make; allowed: nothing there")
    if keep is None or not (partial / keep).exists():
        shutil.rmtree(partial, ignore_errors=True)
        return
    for path in partial.iterdir():
        if path.name != keep:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def sync(path: Path) -> None:
    """Have the system put a file, or the names in a folder, onto the disk now."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that sync no folders
            raise
    finally:
        os.close(descriptor)


def _sync_all(folder: Path) -> None:
    for root, _, names in os.walk(folder):
        for name in names:
            sync(Path(root, name))
        sync(Path(root))


@contextmanager
def library_writes(path: Path) -> Iterator[None]:
    """Around a library that writes a new file: it gets the permissions of any other.

    What the library raises on a full disk becomes an error as of any file.
    """
    path.touch()
    mode = path.stat().st_mode
    try:
        yield
    except (RuntimeError, SafetensorError) as error:
        if out_of_memory(error):
            raise
        raise OSError(errno.EIO, f"not written whole, as on a full disk: {first_line(error)}", str(path)) from error
    path.chmod(stat.S_IMODE(mode))


def put(partial: Path, path: Path) -> None:
    """Give a written file its name, so that a reader sees the old content or the new, also after a power cut."""
    sync(partial)
    os.replace(partial, path)
    sync(path.parent)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with open(partial, "xb") as file:  # a name of its own, and never through a link
            file.write(content)
        put(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def as_json(content: Any) -> bytes:
    """Readable JSON. NaN is refused: JSON has none."""
    return (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def write_json(path: Path, content: Any) -> None:
    """Write readable JSON, whole or not at all."""
    write_whole(path, as_json(content))


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        InputError: no such file, one of more than 256 MiB, broken JSON, an object that names a field twice, numbers or
            nesting that no file of ours has, or no object.
    """
    if not path.is_file():
        raise InputError(f"path: {path} does not exist; allowed: an existing JSON file")
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise ValueError(f"more than {LARGEST_JSON >> 20} MiB")
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_object, parse_constant=_no_number)
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}, no object")
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else first_line(error)
        raise InputError(f"path: {path} is not readable JSON ({reason}); allowed: a file as rasura wrote it") from None
    return content


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"{twice!r} is there twice")
    return content


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


def hash_of_json(content: Any) -> str:
    """SHA-256 of a JSON value, in hexadecimal; the order of keys does not matter."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def hash_of_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
