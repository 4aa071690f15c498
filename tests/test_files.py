"""Files and folders appear whole or not at all, whatever happens while they are written."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rasura.errors import InputError
from rasura.files import hash_of_file, hash_of_json, partial_of, read_json, whole_folder, write_json, write_whole


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_appears_when_the_block_ends(tmp_path):
    out = tmp_path / "a" / "out"
    with whole_folder(out) as partial:
        (partial / "one").write_text("1")
        assert not out.exists()
    assert names(out) == ["one"]
    assert names(out.parent) == ["out"]


def test_an_empty_folder_is_filled_and_a_full_one_refused(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    with whole_folder(out) as partial:
        (partial / "one").write_text("1")
    with pytest.raises(InputError, match=r"out: .*out exists; allowed: a new or empty folder"), whole_folder(out):
        raise AssertionError("the block must not run")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="allowed: a new or empty folder"), whole_folder(tmp_path / "file"):
        raise AssertionError("the block must not run")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_failure_takes_the_folders_along_that_it_made(tmp_path):
    (tmp_path / "old").mkdir()
    with pytest.raises(KeyboardInterrupt):
        fail_in(tmp_path / "old" / "new" / "newer" / "out", None)
    assert names(tmp_path) == ["old"]
    assert names(tmp_path / "old") == []
    with pytest.raises(KeyboardInterrupt):
        fail_in(tmp_path / "new" / "out", "checkpoint")
    assert names(tmp_path / "new" / ".out.partial") == ["checkpoint"]


def fail_in(folder: Path, keep: str | None) -> None:
    with whole_folder(folder, keep) as partial:
        (partial / "one").write_text("1")
        (partial / "inner").mkdir()
        if keep:
            (partial / keep).write_text("kept")
        raise KeyboardInterrupt


def test_a_failure_leaves_nothing_but_the_checkpoint(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fail_in(tmp_path / "out", None)
    assert names(tmp_path) == []
    with pytest.raises(KeyboardInterrupt):
        fail_in(tmp_path / "out", "checkpoint")
    assert names(partial_of(tmp_path / "out")) == ["checkpoint"]
    with whole_folder(tmp_path / "out", "checkpoint") as partial:
        assert (partial / "checkpoint").read_text() == "kept"
    assert names(tmp_path / "out") == []


KILLED = """
import sys, time
from pathlib import Path
from rasura.files import whole_folder
with whole_folder(Path(sys.argv[1])) as partial:
    (partial / "half").write_text("half")
    print("ready", flush=True)
    time.sleep(60)
"""


def test_what_a_killed_process_left_is_cleared(tmp_path):
    out = tmp_path / "out"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(out)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=30)
    process.stdout.close()
    assert not out.exists()
    assert names(partial_of(out)) == ["half"]
    with whole_folder(out) as partial:
        (partial / "whole").write_text("whole")
    assert names(out) == ["whole"]
    assert names(tmp_path) == ["out"]


def test_a_file_is_old_or_new_and_never_a_part(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_whole(path, b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(OSError, match="No space"):
            write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"


def test_json_is_readable_and_refuses_what_json_does_not_have(tmp_path):
    path = tmp_path / "a.json"
    content = {"name": "T-shirt/top – é", "numbers": [1, 0.5, None]}
    write_json(path, content)
    assert read_json(path) == content == json.loads(path.read_text(encoding="utf-8"))
    assert "é" in path.read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"nan": float("nan")})
    assert read_json(path) == content


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b""])
def test_broken_json_is_named(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError, match=r"path: .*a\.json is not readable JSON"):
        read_json(tmp_path / "a.json")
    with pytest.raises(InputError, match=r"path: .*b\.json does not exist"):
        read_json(tmp_path / "b.json")


JSON_BOMBS = {
    "nested lists": ("[" * 100_000 + "]" * 100_000, "nested too deep"),
    "nested objects": ('{"a":' * 100_000, "nested too deep"),
    "a long number": ('{"a": ' + "9" * 5000 + "}", "limit"),
    "a list": ("[1]", "it holds a list, no object"),
    "a number": ("3", "it holds a int, no object"),
    "a field twice": ('{"a": 1, "b": {"c": 1, "c": 2}}', "'c' is there twice"),
    "no number": ('{"a": NaN}', "NaN is no JSON"),
    "too much of it": (" " * (2**20 + 1), "more than 1 MiB"),
}


@pytest.mark.parametrize("what", JSON_BOMBS)
def test_json_that_no_file_of_ours_holds_is_refused_in_one_line(what, tmp_path, monkeypatch):
    monkeypatch.setattr("rasura.files.LARGEST_JSON", 2**20)
    content, match = JSON_BOMBS[what]
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(InputError, match=rf"^path: .*a\.json is not readable JSON \(.*{match}.*\); allowed") as said:
        read_json(tmp_path / "a.json")
    assert "\n" not in str(said.value)


def test_a_pipe_or_a_folder_is_no_json(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(InputError, match="does not exist; allowed: an existing JSON file"):
            read_json(path)


def test_hashes_know_content_and_nothing_else(tmp_path):
    assert hash_of_json({"a": 1, "b": [1, 2]}) == hash_of_json({"b": [1, 2], "a": 1})
    assert hash_of_json({"a": 1}) != hash_of_json({"a": 2})
    two_quotes = "12ae32cb1ec02d01eda3581b127c1fee3b0dc53572ed6baf239721a03d82e126"
    assert hash_of_json("") == two_quotes
    (tmp_path / "empty").write_bytes(b"")
    # FIPS 180-4: SHA-256 of nothing.
    assert hash_of_file(tmp_path / "empty") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    before = time.time()
    os.utime(tmp_path / "empty", (before - 100, before - 100))
    assert hash_of_file(tmp_path / "empty").startswith("e3b0c442")
