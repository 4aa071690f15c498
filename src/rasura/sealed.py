"""`run.json`: what a finished run was, with a digest of every file of its folder, checked by whoever reads it."""

import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from rasura.errors import FolderError, first_line
from rasura.files import as_json, hash_of_file, hash_of_json, write_json, write_whole

RUN, FORMAT = "run.json", 2
CHECKPOINT = "checkpoint.pt"
"""Of an unfinished run; one that was killed at the very end may leave it."""


def seal(folder: Path, record: dict[str, Any]) -> None:
    """Write `run.json`: a record with the digests of all files that are in the folder now."""
    _write(folder, record | {"files": {name: hash_of_file(folder / name) for name in _files(folder)}})


def sealed(folder: Path, field: str, besides: Collection[str] = ()) -> dict[str, Any]:
    """The record of a finished run whose files are all as they were written.

    Digests show damage and edits. Whoever writes `run.json` anew as well goes unseen: against that helps only a
    signature, made with a key that lies elsewhere.

    Args:
        folder: of the run.
        field: what the user gave it as, for the message.
        besides: files that may have changed.

    Raises:
        FolderError: no run, one of an older format, or a file that was changed, removed or added.
    """
    record, allowed = _record(folder, field), "allowed: the folder as rasura wrote it"
    before, found = record.get("replaced", {}), set(_files(folder))
    for name in sorted({*record["files"], *(() if record.get("shared") else found)} - set(besides)):
        if name not in record["files"]:
            raise FolderError(f"{field}: {folder / name} was added since the run was written; {allowed}")
        digest = _digest(folder / name) if name in found else None
        if digest not in (record["files"][name], before.get(name, "")):
            what = "changed" if name in found else "removed"
            raise FolderError(f"{field}: {folder / name} was {what} since it was written; {allowed}")
    return record


def _digest(path: Path) -> str | None:
    return hash_of_file(path) if path.is_file() else None


def shared(folder: Path, kind: str) -> dict[str, Any]:
    """The record of a folder that holds many runs, and files of its own about them; a new one if there is none yet.

    Raises:
        FolderError: it holds something of another kind, or one of its own files was changed or removed.
    """
    if not (folder / RUN).exists():
        spec = {"kind": kind}
        return {"hash": hash_of_json(spec), "spec": spec, "shared": True, "files": {}}
    record = sealed(folder, "out")
    if record["spec"].get("kind") != kind:
        raise FolderError(
            f"out: {folder} holds another run ({record['spec'].get('kind')}); allowed: a folder of {kind}"
        )
    return record


def check_model_folder(folder: Path) -> None:
    """Refuse a model folder that is a run whose files have changed; one without digests has its card's alone."""
    if (folder / RUN).is_file() and not _is_old(folder / RUN):
        sealed(folder, "model")


def replace_files(folder: Path, contents: Mapping[str, bytes], record: dict[str, Any]) -> None:
    """Replace files of a finished run, or add some, and their digests with them.

    A process that is killed on the way leaves each file old or new, and `run.json` knows both.

    Args:
        folder: of the run.
        contents: by file name.
        record: what `sealed` or `shared` returned.
    """
    new = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    found = {name: _digest(folder / name) for name in contents}
    done = {key: value for key, value in record.items() if key != "replaced"} | {"files": record["files"] | new}
    if found == new and record == done:
        return
    _write(folder, done | {"replaced": found})
    for name, content in contents.items():
        write_whole(folder / name, content)
    _write(folder, done)


def _write(folder: Path, record: dict[str, Any]) -> None:
    content = {"format": FORMAT} | {key: value for key, value in record.items() if key != "sha256"}
    write_json(folder / RUN, content | {"sha256": hash_of_json(content)})


def _record(folder: Path, field: str) -> dict[str, Any]:
    path = folder / RUN
    if not path.is_file():
        raise FolderError(f"{field}: {folder} holds no {RUN}; allowed: the folder of a finished run")
    if _is_old(path):
        raise FolderError(f"{field}: {folder} was written by an older rasura, without digests; allowed: a new run")
    try:
        written = path.read_bytes()
        record = json.loads(written)
        content = {key: value for key, value in record.items() if key != "sha256"}
        whole = as_json(record) == written and record["sha256"] == hash_of_json(content)
        whole = whole and record["hash"] == hash_of_json(record["spec"]) and _is_record(record)
    except (ValueError, KeyError, AttributeError, RecursionError) as error:
        raise FolderError(f"{field}: {path} is damaged ({first_line(error)}); allowed: as rasura wrote it") from None
    if not whole:
        raise FolderError(f"{field}: {path} was changed since it was written; allowed: the file as rasura wrote it")
    return record


def _is_record(record: dict[str, Any]) -> bool:
    """Whether a `run.json` with the right hashes has the fields that are read, each of its kind."""
    spec, files, replaced = record["spec"], record["files"], record.get("replaced", {})
    digests = all(isinstance(one, str) for one in files.values())
    return isinstance(spec, dict) and digests and isinstance(replaced, dict) and record["format"] == FORMAT


def _is_old(path: Path) -> bool:
    """Whether a `run.json` says that it is of a format without digests."""
    try:
        content = json.loads(path.read_bytes())
        return content.get("format") == 1 and "files" not in content
    except (ValueError, AttributeError, RecursionError):
        return False


def _files(folder: Path) -> Iterator[str]:
    """The files of a run: no hidden ones, none of other runs below it."""
    for root, folders, names in os.walk(folder):
        inside = [one for one in folders if not one.startswith(".") and not (Path(root, one) / RUN).is_file()]
        folders[:] = inside
        for name in names:
            path = Path(root, name).relative_to(folder)
            if not name.startswith(".") and str(path) not in (RUN, CHECKPOINT):
                yield path.as_posix()
