"""A process that is killed loses nothing: the same command goes on and makes what an undisturbed one makes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import disturbed
import pytest

from rasura.cli import main

EVERY_WRITE = """
import shutil, sys
from pathlib import Path
from disturbed import child, contents, killed_at_every
from rasura.files import write_json
from rasura.runs import make_run
from rasura.sealed import sealed

def fill(partial):
    kept = partial / "checkpoint.pt"
    if not kept.exists():
        kept.write_text("half")
    (partial / "inner").mkdir()
    (partial / "inner" / "a").write_text("a")
    write_json(partial / "b", {"b": kept.read_text()})

def work(out):
    return lambda: make_run(out, {"kind": "x"}, fill, keep="checkpoint.pt")

folder = Path(sys.argv[1])
out, times = folder / "out", 0
assert child(work(folder / "undisturbed"), folder) == 0
expected = contents(folder / "undisturbed")
for at in killed_at_every(1, work(out), folder):
    if out.exists():
        sealed(out, "out")
        assert {name: held for name, held in contents(out).items() if name != "checkpoint.pt"} == expected, at
    assert child(work(out), folder) == 0, at
    assert contents(out) == expected, at
    assert {path.name for path in folder.iterdir()} == {"undisturbed", "out"}, at
    times += 1
    shutil.rmtree(out)
print(times)
"""


def said_by(*command: str) -> str:
    """What a program says that kills its children and checks what is left."""
    environment = {"PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1", "PATH": ""}
    command = (sys.executable, "-W", "ignore", *command)  # of processes with threads that are copied
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_run_that_is_killed_before_any_of_its_writes_is_done_by_the_next(tmp_path: Path) -> None:
    assert int(said_by("-c", EVERY_WRITE, str(tmp_path))) > 15


TRAIN = ["train", "--data", "digits", "--model", "convnet,width=4", "--epochs", "2"]
GRID = """
data = "digits"
models = ["convnet,width=4"]
seeds = [0]
forget = ["3"]
references = 1
[recipe]
epochs = 1
[methods.logit-mask]
"""


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    folder = tmp_path_factory.mktemp("models")
    original, reference = str(folder / "original"), str(folder / "reference")
    assert main([*TRAIN, "--out", original]) == 0
    assert main([*TRAIN, "--without", "3", "--seed", "1", "--out", reference]) == 0
    (folder / "grid.toml").write_text(GRID)
    of = ["--model", original, "--data", "digits", "--forget", "3"]
    return {
        "train": TRAIN,
        "forget": ["forget", "damp", *of],
        "audit": ["audit", *of, "--original", original, "--reference", reference],
        "compare": ["compare", *of, "--reference", reference, "--methods", "logit-mask"],
        "bench": ["bench", str(folder / "grid.toml")],
    }


BEFORE_WORK, BEFORE_NAME, DONE = "os.mkdir .out.partial", "os.rename .out.partial", "os.remove .out.lock"
FIRST_KEPT, NEXT_NOT = "os.remove .out.partial/.checkpoint.pt.*", "open .out.partial/.checkpoint.pt.*"
WEIGHTS_WRITTEN, SEALED = "open .out.partial/.model.json.*", "os.remove .out.partial/.run.json.*"
MOMENTS = {
    "train": [BEFORE_WORK, FIRST_KEPT, NEXT_NOT, WEIGHTS_WRITTEN, SEALED, BEFORE_NAME, DONE],
    "forget": [BEFORE_WORK, "open .out.partial/.record.json.*", WEIGHTS_WRITTEN, SEALED, BEFORE_NAME, DONE],
    "audit": [BEFORE_WORK, DONE],
    "compare": [
        "open out/.logit-mask.partial/.model.json.*",
        "os.rename out/.bias-shift.partial",
        "os.remove out/audits/.logit-mask.lock",
        "os.rename out/.comparison.json.*",
    ],
    "bench": [
        "os.remove out/*/.original-0.partial/.checkpoint.pt.*",
        "os.rename out/*/.reference-1000.partial",
        "os.remove out/*/.logit-mask.lock",
        "os.remove out/*/audits/.logit-mask.lock",
        "os.rename out/.summary.json.*",
    ],
}
"""When a command is killed: of an audit, only where little is lost, as each takes seconds."""


LONG = ("audit", "compare", "bench")
COMMANDS = [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in MOMENTS]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_is_killed_on_its_way_gives_the_same_bits(command: str, commands: Any, tmp_path: Path) -> None:
    said_by(disturbed.__file__, "one-by-one", str(tmp_path), json.dumps(MOMENTS[command]), *commands[command])


@pytest.mark.slow
def test_an_audit_that_is_killed_while_it_is_written_gives_the_same_bits(commands: Any, tmp_path: Path) -> None:
    moments = ["open .out.partial/.verdict.json.*", "os.rename .out.partial/.report.html.*", SEALED, BEFORE_NAME]
    said_by(disturbed.__file__, "one-by-one", str(tmp_path), json.dumps(moments), *commands["audit"])


@pytest.mark.parametrize("command", COMMANDS)
def test_who_waits_for_a_command_that_is_killed_goes_on_to_the_same_bits(
    command: str, commands: Any, tmp_path: Path
) -> None:
    said_by(disturbed.__file__, "at-once", str(tmp_path), json.dumps(MOMENTS[command]), *commands[command])
