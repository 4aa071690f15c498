"""Bad inputs of every kind: one line that says what is allowed, exit code 2, nothing on stdout, nothing written."""

import os
import resource
import shlex
from pathlib import Path

import bad_inputs
import pytest

from rasura.cli import main

ROWS = bad_inputs.rows()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("w")
    bad_inputs.build(folder)
    (folder / "here").mkdir()
    return folder


@pytest.fixture(scope="module")
def seen(world: Path) -> list[dict[str, int]]:
    """What the world held when it was last looked at."""
    return [contents(world)]


def contents(folder: Path) -> dict[str, int]:
    """Every file and folder, and when it was changed, but for what Python writes beside files that it imports."""
    found: dict[str, int] = {}
    for root, folders, names in os.walk(folder):  # Path.rglob takes many times as long
        inside = [] if "__pycache__" in root else [f"{root}/{name}" for name in (*folders, *names)]
        found |= {path: os.lstat(path).st_mtime_ns for path in inside if not path.endswith(("__pycache__", "/code"))}
    return found


def test_the_table_is_long() -> None:
    assert len(ROWS) >= 1200


@pytest.mark.parametrize("row", ROWS)
def test_a_bad_input_is_refused(
    row: str,
    world: Path,
    seen: list[dict[str, int]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(world / "here")
    code = main(shlex.split(row.replace("{w}", str(world))))
    said = capsys.readouterr()
    assert code == 2, said.err
    assert said.out == ""
    assert len(said.err.splitlines()) == 1, said.err
    assert said.err.startswith("rasura: ")
    assert "allowed" in said.err.casefold()
    before, seen[0] = seen[0], contents(world)
    assert seen[0] == before


def test_no_bad_input_took_much_memory() -> None:
    """Of the whole process, after all of them."""
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 2**20  # KiB
