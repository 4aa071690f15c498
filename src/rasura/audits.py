"""Audits in folders: written, judged again from their scores, and shown again. No model is needed."""

from pathlib import Path
from typing import Any

from rasura.auditing import read_scores
from rasura.errors import FolderError, InputError, first_line
from rasura.files import as_json, locked, read_json, write_whole
from rasura.finding import Finding, recomputed
from rasura.sealed import RUN, replace_files, sealed

VERDICT, SCORES, PAGE = "verdict.json", "scores.parquet", "report.html"
JUDGED = ("verdict", "where", "reason", "qualifiers")


def write_audit(finding: Finding, folder: Path) -> None:
    """Write what an audit's folder holds."""
    finding.to_json(folder / VERDICT)
    finding.to_parquet(folder / SCORES)
    finding.to_html(folder / PAGE)


def judged_again(folder: Path) -> dict[str, Any]:
    """The content of an audit's `verdict.json`, after its scores were judged again and said the same.

    Raises:
        InputError: a file of the folder was changed, or its verdict is not that of its scores.
    """
    sealed(folder, "out")
    stored, finding = read_json(folder / VERDICT), _judged(folder, "out")
    for key in JUDGED:
        if stored.get(key) != finding.content[key]:
            raise FolderError(
                f"out: {folder / VERDICT} says {key} {stored.get(key)!r}, its scores {finding.content[key]!r}; "
                "allowed: a verdict that follows from its scores (rasura audit --recompute)"
            )
    return finding.content


def recompute(folder: Path) -> dict[str, Any]:
    """Judge the scores in an audit folder again, and write its verdict and page anew; the content of `verdict.json`.

    Raises:
        InputError: the folder holds no audit of this version, or files that have changed since it was written.
    """
    sealed(folder, "recompute", besides=(PAGE,))
    finding = _judged(folder, "recompute")
    written = {VERDICT: as_json(finding.content), PAGE: _page([finding.content], folder)}
    with locked(folder / RUN):
        replace_files(folder, written, sealed(folder, "recompute", besides=(PAGE,)))
    return finding.content


def _judged(folder: Path, field: str) -> Finding:
    for name in (VERDICT, SCORES):
        if not (folder / name).is_file():
            raise InputError(f"{field}: {folder} holds no {name}; allowed: a folder that rasura audit wrote")
    try:
        return recomputed(read_json(folder / VERDICT), read_scores(folder / SCORES))
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, OSError) as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise InputError(f"{field}: {folder} cannot be judged again ({reason}); allowed: ours") from error


def write_report(folder: Path) -> Path:
    """Write report.html anew from the verdicts in a folder, or in the folders below it; where it was written.

    Raises:
        InputError: there is no verdict, or a file of an audit was changed since it was written.
    """
    found = [folder / VERDICT] if (folder / VERDICT).is_file() else _verdicts_below(folder)
    if not found:
        raise InputError(f"folder: {folder} holds no {VERDICT}; allowed: a folder that rasura audit or demo wrote")
    for path in found:
        sealed(path.parent, "folder", besides=(PAGE,))
    written = _page([read_json(path) for path in found], folder)
    with locked(folder / RUN):
        if (folder / RUN).is_file():
            replace_files(folder, {PAGE: written}, sealed(folder, "folder", besides=(PAGE,)))
        else:
            write_whole(folder / PAGE, written)
    return folder / PAGE


def _page(contents: list[dict[str, Any]], folder: Path) -> bytes:
    from jinja2 import UndefinedError

    from rasura.report import page

    try:
        return page(contents).encode()
    except (KeyError, IndexError, TypeError, AttributeError, UndefinedError) as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise InputError(f"folder: a {VERDICT} in {folder} cannot be shown ({reason}); allowed: ours") from None


def _verdicts_below(folder: Path) -> list[Path]:
    """Finished ones: what a killed process left lies in folders whose names begin with a dot."""
    found = sorted(folder.rglob(VERDICT))
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
