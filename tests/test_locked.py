"""Two processes with one folder: the same run is waited for, another is refused, a dead one holds nobody up."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rasura.errors import FolderError, InputError
from rasura.files import locked, partial_of, whole_folder, write_whole
from rasura.runs import make_run
from rasura.sealed import sealed

WRITER = """
import sys
from pathlib import Path
from rasura.errors import InputError
from rasura.runs import make_run

folder, kind = Path(sys.argv[1]), sys.argv[2]
print("ready", flush=True)

def work(partial):
    print("working", flush=True)
    (partial / "file").write_text(kind + sys.stdin.readline())

sys.stdin.readline()
try:
    make_run(folder, {"kind": kind}, work)
    print("done", flush=True)
except InputError as error:
    print(error, flush=True)
"""


class Writer:
    """A process that makes a run when it is told to begin, and ends its work when it is told what to write."""

    def __init__(self, folder: Path, kind: str):
        command = [sys.executable, "-c", WRITER, str(folder), kind]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)

    def tell(self, word: str = "") -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def says(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def complains(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.readline().strip()


@pytest.fixture
def writers(tmp_path: Path) -> Iterator[dict[str, Writer]]:
    """Two that want the same run, and one that wants another."""
    made = {name: Writer(tmp_path / "out", kind) for name, kind in (("one", "x"), ("same", "x"), ("other", "y"))}
    assert [one.says() for one in made.values()] == ["ready"] * 3
    made["one"].tell()
    assert made["one"].says() == "working"
    yield made
    for one in made.values():
        one.process.kill()
        one.process.communicate()


def test_the_same_run_is_waited_for_and_another_refused(writers: dict[str, Writer], tmp_path: Path) -> None:
    writers["same"].tell()
    writer = f"pid {writers['one'].process.pid}"
    said = f"rasura: another process is writing to {tmp_path / 'out'} ({writer}); waiting for it"
    assert writers["same"].complains() == said
    writers["other"].tell()
    assert writers["other"].says().startswith(f"out: another run is writing to {tmp_path / 'out'} ({writer}); allowed:")
    writers["one"].tell("first")
    assert [writers[name].says() for name in ("one", "same")] == ["done", "done"]
    assert (tmp_path / "out" / "file").read_text() == "xfirst\n"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    sealed(tmp_path / "out", "out")


def test_who_waits_takes_over_from_a_killed_process(writers: dict[str, Writer], tmp_path: Path) -> None:
    writers["same"].tell()
    assert "waiting" in writers["same"].complains()
    writers["one"].process.send_signal(signal.SIGKILL)
    assert writers["same"].says() == "working"
    writers["same"].tell("second")
    assert writers["same"].says() == "done"
    assert (tmp_path / "out" / "file").read_text() == "xsecond\n"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


TRAIN = ["train", "--data", "digits", "--model", "convnet,width=4", "--epochs", "2", "--out"]


def test_two_commands_at_once_give_what_one_gives(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rasura", *TRAIN]
    pipe = subprocess.PIPE
    places = [tmp_path / "out", tmp_path / "out", tmp_path / "alone"]
    processes = [subprocess.Popen([*command, str(place)], stdout=pipe, stderr=pipe, text=True) for place in places]
    said = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], said
    weights = {(place / "model.safetensors").read_bytes() for place in places}
    assert len(weights) == 1
    sealed(tmp_path / "out", "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "out"]


def test_a_lock_file_alone_holds_nobody_up(tmp_path: Path) -> None:
    (tmp_path / ".out.lock").write_text(json.dumps({"pid": 1, "run": "of another"}))
    with locked(tmp_path / "out", "run"):
        assert json.loads((tmp_path / ".out.lock").read_text()) == {"pid": os.getpid(), "run": "run"}
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("note", ["", "{", "[]", '"x"', "\0" * 10])
def test_a_note_that_cannot_be_read_is_nobodys(note: str, tmp_path: Path) -> None:
    (tmp_path / ".out.lock").write_text(note)
    with locked(tmp_path / "out", "run"):
        pass


def test_a_lock_takes_the_folders_along_that_it_made(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), locked(tmp_path / "new" / "newer" / "out"):
        raise KeyboardInterrupt
    assert not any(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------ names and links


@pytest.mark.parametrize("keep", [None, "file"])
def test_a_link_under_the_temporary_name_is_refused_and_its_target_left(keep: str | None, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "file").write_text("mine")
    partial_of(tmp_path / "out").symlink_to(target)
    with pytest.raises(FolderError, match=r"\.out\.partial is a link"), whole_folder(tmp_path / "out", keep):
        raise AssertionError("the block must not run")
    assert (target / "file").read_text() == "mine"


def test_links_inside_of_what_was_left_are_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "file").write_text("mine")
    partial = partial_of(tmp_path / "out")
    partial.mkdir()
    (partial / "kept").write_text("kept")
    (partial / "link").symlink_to(target)
    with whole_folder(tmp_path / "out", "kept") as folder:
        assert [path.name for path in folder.iterdir()] == ["kept"]
    assert (target / "file").read_text() == "mine"


def test_a_link_under_the_lock_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / ".out.lock").symlink_to(tmp_path / "mine")
    with pytest.raises((OSError, InputError)):
        make_run(tmp_path / "out", {"kind": "x"}, lambda partial: None)
    assert (tmp_path / "mine").read_text() == "mine"


def test_no_file_is_written_through_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").write_text("mine")
    monkeypatch.setattr("secrets.token_hex", lambda _: "drawn")
    (tmp_path / ".file.drawn.partial").symlink_to(tmp_path / "mine")
    with pytest.raises(FileExistsError):
        write_whole(tmp_path / "file", b"new")
    assert (tmp_path / "mine").read_text() == "mine"
    (tmp_path / ".file.partial").symlink_to(tmp_path / "mine")
    monkeypatch.setattr("secrets.token_hex", lambda _: "again")
    write_whole(tmp_path / "file", b"new")
    assert (tmp_path / "mine").read_text() == "mine"
