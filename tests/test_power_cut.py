"""What is said to be done is on the disk: after a power cut it is whole, and what was not done is done by the next."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from disk import Disk

from rasura.cli import main
from rasura.files import whole_folder, write_whole
from rasura.runs import make_run
from rasura.sealed import sealed

ROOT = pytest.mark.skipif(bool(Disk.why_not()), reason=Disk.why_not())


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path)
    if not made.make():
        pytest.skip("this system mounts no loop devices")
    yield made
    made.remove()


def filled(partial: Path) -> None:
    (partial / "inner").mkdir()
    (partial / "inner" / "large").write_bytes(bytes(range(256)) * 1000)
    (partial / "small").write_text("small")


@ROOT
def test_a_disk_without_power_loses_what_was_not_synced(disk: Disk) -> None:
    """So the tests below can fail."""
    (disk.folder / "file").write_text("not synced")
    os.rename(disk.folder / "file", disk.folder / "done")
    disk.lose_power()
    assert not (disk.folder / "done").exists() or (disk.folder / "done").read_text() != "not synced"


@ROOT
def test_a_run_that_is_done_outlives_a_power_cut(disk: Disk) -> None:
    make_run(disk.folder / "new" / "out", {"kind": "x"}, filled)
    disk.lose_power()
    sealed(disk.folder / "new" / "out", "out")
    assert (disk.folder / "new" / "out" / "inner" / "large").read_bytes() == bytes(range(256)) * 1000
    write_whole(disk.folder / "file", b"content")
    disk.lose_power()
    assert (disk.folder / "file").read_bytes() == b"content"


@ROOT
def test_a_trained_model_outlives_a_power_cut(disk: Disk) -> None:
    train = ["train", "--data", "digits", "--model", "convnet,width=4", "--epochs", "1", "--out"]
    assert main([*train, str(disk.folder / "out")]) == 0
    disk.lose_power()
    sealed(disk.folder / "out", "out")
    before = (disk.folder / "out" / "run.json").read_bytes()
    assert main([*train, str(disk.folder / "out")]) == 0
    assert (disk.folder / "out" / "run.json").read_bytes() == before, "it was read, not made anew"


DRIVER = """
import shutil, sys
from pathlib import Path
from disk import Disk
from disturbed import child, contents, killed_at_every
from rasura.runs import make_run
from rasura.sealed import sealed

disk, place = Disk(Path(sys.argv[1])), Path(sys.argv[1]) / "disk" / "new"

def fill(partial):
    kept = partial / "checkpoint.pt"
    if not kept.exists():
        kept.write_text("half")
    (partial / "a").write_text("a" * 5000)

def work():
    make_run(place / "out", {"kind": "x"}, fill, keep="checkpoint.pt")

times = 0
for at in killed_at_every(1, work, place):
    disk.lose_power()
    if (place / "out").exists():
        sealed(place / "out", "out")
        assert contents(place / "out")["a"] == b"a" * 5000
    assert child(work, place) == 0, at
    disk.lose_power()
    sealed(place / "out", "out")
    assert contents(place / "out").keys() == {"a", "run.json"}, at
    assert contents(place / "out")["a"] == b"a" * 5000, at
    shutil.rmtree(place)
    times += 1
print(times)
"""


@ROOT
def test_a_power_cut_at_any_write_leaves_nothing_half_done(disk: Disk, tmp_path: Path) -> None:
    command = [sys.executable, "-c", DRIVER, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 10


# ------------------------------------------------------------------------------- without a disk: the order of the calls


class Calls:
    """What was synced in which state, and what was renamed before it was."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.synced: dict[int, tuple[int, int]] = {}
        self.unsynced: list[str] = []
        self.renamed_to: list[Path] = []
        self.since: set[int] = set()
        self._sync, self._replace = os.fsync, os.replace
        monkeypatch.setattr(os, "fsync", self.sync)
        monkeypatch.setattr(os, "replace", self.replace)

    def sync(self, descriptor: int) -> None:
        found = os.fstat(descriptor)
        self.synced[found.st_ino] = (found.st_mtime_ns, found.st_size)
        self.since.add(found.st_ino)
        self._sync(descriptor)

    def replace(self, source: Any, target: Any) -> None:
        for path in [Path(source), *Path(source).rglob("*")]:
            found = path.stat()
            if self.synced.get(found.st_ino) != (found.st_mtime_ns, found.st_size):
                self.unsynced.append(str(path))
        self._replace(source, target)
        self.renamed_to.append(Path(target))
        self.since = set()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    return Calls(monkeypatch)


def check(calls: Calls, place: Path) -> None:
    """All that was renamed was synced as it was, and the folder that holds the new name after that."""
    assert calls.renamed_to[-1] == place
    assert not calls.unsynced
    assert place.parent.stat().st_ino in calls.since


def test_a_folder_is_on_the_disk_before_it_has_its_name(calls: Calls, tmp_path: Path) -> None:
    with whole_folder(tmp_path / "new" / "out") as partial:
        filled(partial)
    check(calls, tmp_path / "new" / "out")
    assert tmp_path.stat().st_ino in calls.synced, "the folder that was made for it"


def test_a_file_is_on_the_disk_before_it_has_its_name(calls: Calls, tmp_path: Path) -> None:
    write_whole(tmp_path / "file", b"content")
    check(calls, tmp_path / "file")


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(calls: Calls, tmp_path: Path) -> None:
    import torch
    from torch import nn

    from rasura import Data, Recipe, fit

    inputs, labels = torch.randn(4, 2), torch.tensor([0, 1, 0, 1])
    data = Data.from_tensors((inputs, labels), (inputs, labels))
    fit(nn.Linear(2, 2), data.train, Recipe(epochs=1), 0, checkpoint=tmp_path / "checkpoint.pt")
    check(calls, tmp_path / "checkpoint.pt")
