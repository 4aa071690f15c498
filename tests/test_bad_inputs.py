"""Bad inputs of every kind: one line that says what is allowed, exit code 2, nothing on stdout, nothing written."""

import os
import shlex
from collections.abc import Iterator
from pathlib import Path

import bad_inputs
import pytest
import torch

from rasura.cli import main
from rasura.memory import peak_memory

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


@pytest.fixture(scope="module", autouse=True)
def little_memory() -> Iterator[None]:
    """All rows together add less than half a GiB to what the process has, where the system tells."""
    with peak_memory(torch.device("cpu")) as peak:
        yield
    assert not peak or peak[0] < 512


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
