"""Python files that the user names: the only code from outside that ever runs."""

import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from rasura.errors import InputError, first_line


def imported(field: str, path: Path) -> ModuleType:
    """Run a file and return it as a module.

    Args:
        field: what the user gave it as, for the message.
        path: an existing Python file.

    Raises:
        InputError: the file does not run; with its line, and the file's own error as the cause.
    """
    path = path.resolve()
    # Named by its path, so that it can hide no other module; registered, because dataclasses look their module up.
    name = f"rasura_user_{path.stem}_{hashlib.blake2b(bytes(path), digest_size=6).hexdigest()}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        with running(field, path):
            spec.loader.exec_module(module)
    except InputError:
        del sys.modules[name]
        raise
    return module


@contextmanager
def running(field: str, path: Path) -> Iterator[None]:
    """Around code of a user's file: whatever it raises is an `InputError` with its line, and so is `sys.exit()`."""
    try:
        yield
    except InputError:  # says itself what is wrong
        raise
    except (Exception, SystemExit) as error:
        where = f"{path}{_line(error, path)}"
        raise InputError(f"{field}: {where} does not run ({_said(error)}); allowed: a file that runs") from error


def _line(error: BaseException, path: Path) -> str:
    """`:12`, the last line of the file itself on the way to the error."""
    if isinstance(error, SyntaxError):
        return f":{error.lineno}"
    inside = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == path]
    return f":{inside[-1]}" if inside else ""


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {first_line(error)}"
