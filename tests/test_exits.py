"""How commands end: exit codes, signals, full disks and full memory; each with one line on stderr."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import rasura
from rasura import cli
from rasura.cli import main
from rasura.errors import out_of_memory, shortened
from rasura.files import library_writes
from rasura.models import fresh_model, to_card

TRAIN = ["train", "--data", "digits", "--model", "convnet,width=2", "--epochs", "1", "--out"]
SLOW_IMPORT = """
import sys, types
class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print("importing", flush=True)
            import time; time.sleep(60)
sys.meta_path.insert(0, Slow())
from rasura.__main__ import entry
entry()
"""
SLOW_WORK = """
import sys, time
from rasura import training
def wait(*arguments, **settings):
    print("training", flush=True)
    time.sleep(60)
training.write_checkpoint = wait
from rasura.__main__ import entry
entry()
"""


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[str]:
    said = capsys.readouterr()
    assert said.out == ""
    return said.err.splitlines()


def heeding() -> None:
    """A shell's background jobs ignore Ctrl-C, and so would what they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("program", [SLOW_IMPORT, SLOW_WORK])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_command_as_ctrl_c_does(program: str, number: signal.Signals, tmp_path: Path) -> None:
    """While torch is imported, and in the middle of work."""
    command = [sys.executable, "-c", program, *TRAIN, str(tmp_path / "out")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heeding)
    assert process.stdout is not None
    assert process.stdout.readline().strip() in ("importing", "training")
    process.send_signal(number)
    _, errors = process.communicate(timeout=50)
    assert process.returncode == 128 + number
    assert len(errors.splitlines()) == 1, errors
    assert "interrupted" in errors
    assert list(tmp_path.iterdir()) == []


def test_an_ignored_hangup_stays_ignored(tmp_path: Path) -> None:
    """As `nohup` asks for."""
    program = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + SLOW_WORK.replace("60", "2")
    command = [sys.executable, "-c", program, *TRAIN, str(tmp_path / "out")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heeding)
    assert process.stdout is not None
    assert process.stdout.readline() == "training\n"
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=50)
    assert process.returncode == 0


def test_a_bug_is_told_apart_from_wrong_input(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    def broken(arguments: list[str]) -> int:
        raise KeyError("what must never happen")

    monkeypatch.setitem(cli.COMMANDS, "list", broken)
    assert main(["list"]) == 3
    lines = lines_of(capsys)
    assert lines[0] == "Traceback (most recent call last):"
    assert "in broken" in "".join(lines)
    assert lines[-1].startswith("rasura: a bug (KeyError: 'what must never happen'); please report it")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried to …"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB\nGPU 0 has …"),
        OSError(errno.ENOSPC, "No space left on device", "out"),
        PermissionError(errno.EACCES, "Permission denied", "out"),
    ],
)
def test_no_room_is_one_line(error: Exception, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    def full(arguments: list[str]) -> int:
        raise error

    monkeypatch.setitem(cli.COMMANDS, "list", full)
    assert main(["list"]) == 2
    (line,) = lines_of(capsys)
    assert "; allowed: " in line


def test_memory_that_no_machine_has_is_known_as_such() -> None:
    import numpy as np
    import torch

    for ask in (lambda: np.zeros(2**58, np.uint8), lambda: torch.zeros(2**58, dtype=torch.uint8)):
        with pytest.raises((MemoryError, RuntimeError)) as raised:
            ask()
        assert out_of_memory(raised.value)
    assert not out_of_memory(RuntimeError("shapes do not fit"))


def test_what_libraries_say_of_a_full_disk_becomes_an_error_of_the_file(tmp_path: Path) -> None:
    """/dev/full is a disk without room."""
    import torch
    from safetensors.torch import save_file

    for write in (lambda: torch.save(torch.zeros(9), "/dev/full"), lambda: save_file({}, tmp_path / "none" / "x")):
        with pytest.raises(OSError, match="not written whole") as raised, library_writes(tmp_path / "x"):
            write()
        assert raised.value.filename == str(tmp_path / "x")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_results_that_cannot_be_written_to_stdout_are_one_line() -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "rasura", "list", "methods"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.parametrize("place", ["file", "function", "net"])
def test_a_users_file_that_exits_ends_in_an_error(place: str, tmp_path: Path, capsys) -> None:
    leaves = "import sys\nsys.exit(0)\n"
    (tmp_path / "mine.py").write_text(
        leaves if place == "file" else f"def made(classes=3):\n    {leaves[:10]}; {leaves[11:]}"
    )
    what = f"{tmp_path}/mine.py:made"
    data, model = ("digits", what) if place == "net" else (what, "resnet8")
    assert main(["train", "--data", data, "--model", model, "--out", str(tmp_path / "out")]) == 2
    (line,) = lines_of(capsys)
    assert "mine.py:2 does not run (SystemExit: 0)" in line


def test_exit_anywhere_else_is_no_success(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """As in a data set of the user's, of which an example is read long after."""
    monkeypatch.setitem(cli.COMMANDS, "list", lambda arguments: sys.exit(0))
    assert main(["list"]) == 3


def test_every_failed_method_is_named_and_none_left_is_no_success(tmp_path: Path, monkeypatch, capsys) -> None:
    import rasura.compare as compare

    rasura.save_model(fresh_model(to_card("convnet,width=2", rasura.load_data("digits"))), tmp_path / "model")
    command = ["compare", "--model", str(tmp_path / "model"), "--data", "digits"]
    command += ["--forget", "3", "--reference", str(tmp_path / "model"), "--out", str(tmp_path / "out"), "--json"]
    for failed, code in (({"damp": "x"}, 0), ({"damp": "x", "ssd": "y"}, 2)):
        monkeypatch.setattr(compare, "compare", lambda *given, failed=failed: ([], failed))
        assert main([*command, "--methods", "damp", "ssd"]) == code
        errors = capsys.readouterr().err.splitlines()
        assert errors[: len(failed)] == [f"rasura: {name}: no model ({why})" for name, why in failed.items()]
        assert len(errors) == len(failed) + (code == 2)


def test_long_values_are_cut_and_what_is_allowed_is_not() -> None:
    long = f"epochs: {'9' * 5000}; allowed: {'a, ' * 200}"
    short = shortened(long)
    assert short.startswith("epochs: 999") and short.endswith(f"; allowed: {'a, ' * 200}")
    assert len(short.partition("; allowed")[0]) <= 300
    assert shortened("epochs: 0; allowed: 1 or more") == "epochs: 0; allowed: 1 or more"


def test_the_process_is_prepared_before_torch_is_imported() -> None:
    """Threads that wait sleep, unless the user has said otherwise; libraries are silent."""
    program = """
import os, sys
sys.argv = ["rasura", "--version"]
from rasura.__main__ import entry
assert "torch" not in sys.modules and "rasura.public" not in sys.modules
try:
    entry()
except SystemExit:
    print(os.environ["OMP_WAIT_POLICY"], os.environ["TRANSFORMERS_VERBOSITY"], "torch" in sys.modules)
"""
    for given, expected in ({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE"):
        environment = {
            key: value for key, value in os.environ.items() if key not in ("OMP_WAIT_POLICY", "TRANSFORMERS_VERBOSITY")
        }
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment | given)
        assert done.stdout.splitlines()[-1] == f"{expected} error True", done.stderr


def test_the_package_itself_changes_nothing_of_its_process() -> None:
    program = "import os; before = dict(os.environ); import rasura; rasura.Data; print(dict(os.environ) == before)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr
