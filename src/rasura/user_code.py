"""Python files that the user names: the only code from outside that ever runs."""

import hashlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterable, Iterator
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


def check_trusted(source: str, words: str, trust: Iterable[str | Path]) -> None:
    """Refuse `FILE.py:FUNCTION` in a file from someone else, unless the user named FILE.py as one that may run.

    Args:
        source: the file that says it, for the message.
        words: what it says; words that name no Python file pass.
        trust: the Python files that may run.

    Raises:
        InputError: a file that the user does not trust, or a trusted one that is not there.
    """
    trusted = [_whole(path) for path in trust]
    for path in trusted:
        if path.suffix != ".py" or not path.is_file():
            raise InputError(f"trust: {path} is no Python file; allowed: an existing FILE.py")
    file = words.rpartition(":")[0]
    if ".py:" in words and file_in(words) not in trusted:
        raise InputError(f"trust: {source} wants to run {file}; allowed: with --trust {file}, if you trust it")


def file_in(words: str) -> Path:
    """The file that `FILE.py:FUNCTION` means, wherever it is asked for."""
    return _whole(words.rpartition(":")[0])


def _whole(path: str | Path) -> Path:
    return Path(os.path.expanduser(path)).resolve()


_FOLDERS: list[str] = []
"""Those of the files that ran, the last one first."""


@contextmanager
def beside(path: Path) -> Iterator[None]:
    """Imports inside the block look in a file's own folder first, as those of a script do.

    Later ones, inside its functions, look there after all that is installed, which stays unhidden. A neighbour that
    another file had imported under the same name, from its own folder, is forgotten, so that this file gets its own.
    """
    folder = str(path.resolve().parent)
    if folder in sys.path and folder not in _FOLDERS:
        yield
        return
    _forget_neighbours(folder)
    _FOLDERS[:] = [folder, *(one for one in _FOLDERS if one != folder)]
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path[:] = [one for one in sys.path if one not in _FOLDERS] + _FOLDERS


def _forget_neighbours(folder: str) -> None:
    for name, module in list(sys.modules.items()):
        home = str(Path(getattr(module, "__file__", None) or "").parent)
        if home in _FOLDERS and home != folder and (Path(folder) / f"{name}.py").is_file():
            del sys.modules[name]


@contextmanager
def running(field: str, path: Path) -> Iterator[None]:
    """Around code of a user's file, which finds its neighbours. All that it raises becomes an `InputError`.

    That of `sys.exit()` too: no file ends a command as if it were done.
    """
    try:
        with beside(path):
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
