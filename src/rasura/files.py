"""Folders that appear whole or not at all, JSON, and hashes."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from rasura.errors import InputError, first_line, out_of_memory


def partial_of(folder: Path) -> Path:
    """Where `folder` is filled before it is renamed into place."""
    return folder.with_name(f".{folder.name}.partial")


@contextmanager
def whole_folder(folder: Path, keep: str | None = None) -> Iterator[Path]:
    """Fill a folder under a temporary name beside it; it is renamed when the block ends, and removed if it fails.

    Args:
        folder: the final place; it must not exist, or be empty (it is then removed at once, so that work which could
            not be put there is not even begun).
        keep: a file name. If the block fails and this file is there, everything else is removed but this file stays,
            so that the same work can resume from it.
    """
    folder = folder.resolve()  # a link to a folder stays one
    _make_room(folder)
    partial = partial_of(folder)
    _clear(partial, keep)  # what a killed process left
    new = [parent for parent in partial.parents if not parent.exists()]
    partial.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
        os.replace(partial, folder)
        if keep is not None:
            (folder / keep).unlink(missing_ok=True)
    except BaseException:
        _clear(partial, keep)
        for parent in new:
            if not any(parent.iterdir()):
                parent.rmdir()
        raise


def _make_room(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"out: {folder} exists; allowed: a new or empty folder")
    if folder == Path.cwd():  # it would be replaced under the user's feet
        raise InputError(f"out: {folder} is the current folder; allowed: a new folder")
    try:
        if folder.exists():
            folder.rmdir()
    except OSError as error:
        raise InputError(f"out: {folder} cannot be replaced ({error.strerror}); allowed: a new folder") from None


def _clear(partial: Path, keep: str | None) -> None:
    if keep is None or not (partial / keep).exists():
        shutil.rmtree(partial, ignore_errors=True)
        return
    for path in partial.iterdir():
        if path.name != keep:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def library_writes(path: Path) -> Iterator[None]:
    """Around a library that writes a file: what it raises on a full disk becomes an error as of any file."""
    try:
        yield
    except (RuntimeError, SafetensorError) as error:
        if out_of_memory(error):
            raise
        raise OSError(errno.EIO, f"not written whole, as on a full disk: {first_line(error)}", str(path)) from error


def write_json(path: Path, content: Any) -> None:
    """Write readable JSON, whole or not at all. NaN is refused: JSON has none."""
    write_whole(path, (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON file; a missing or broken one is an `InputError`."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"path: {path} does not exist; allowed: an existing JSON file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"path: {path} is not readable JSON ({error}); allowed: a file as rasura wrote it") from None


def hash_of_json(content: Any) -> str:
    """A 16-digit hash of a JSON value; the order of keys does not matter."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def hash_of_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
