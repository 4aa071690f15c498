"""A process that is killed loses nothing: the same command goes on and makes what an undisturbed one makes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = """
import json, shutil, sys
from pathlib import Path
import rasura.cli, rasura.runs, rasura.compare, rasura.bench, rasura.recipes, rasura.tables, rasura.report
from disturbed import child, contents, killed_at_every
from rasura.sealed import sealed

kind, folder, step, arguments = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4])

def work(out):
    def layer():
        def fill(partial):
            kept = partial / "checkpoint.pt"
            if not kept.exists():
                kept.write_text("half")
            (partial / "inner").mkdir()
            (partial / "inner" / "a").write_text("a")
            rasura.runs.write_json(partial / "b", {"b": kept.read_text()})
        rasura.runs.make_run(out, {"kind": "x"}, fill, keep="checkpoint.pt")
    return layer if kind == "layer" else lambda: rasura.cli.main([*arguments, "--out", str(out)])

assert child(work(folder / "undisturbed"), folder) == 0
expected = contents(folder / "undisturbed")
times = 0
for at in killed_at_every(step, work(folder / "out"), folder):
    out = folder / "out"
    if (out / "run.json").exists():
        sealed(out, "out")
    found = {name: held for name, held in contents(out).items() if name != "checkpoint.pt"}
    assert kind in ("compare", "bench") or not out.exists() or found == expected, at
    assert child(work(out), folder) == 0, at
    assert contents(out) == expected, at
    left = {path.name for path in folder.iterdir()} - {"undisturbed", "out"}
    assert left <= {".out.lock"}, left  # of a process that was killed when all was done
    times += 1
    shutil.rmtree(out)
assert times >= 5, times
print(times)
"""


def disturb(kind: str, folder: Path, arguments: list[str], step: int = 1) -> int:
    """How often a command was killed; each time the same command then gave what an undisturbed one gives."""
    command = [sys.executable, "-W", "ignore", "-c", DRIVER, kind, str(folder), str(step), json.dumps(arguments)]
    environment = {"PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1", "PATH": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


ON_DIGITS = ["--data", "digits", "--forget", "3"]
TRAIN = ["train", "--data", "digits", "--model", "convnet,width=4", "--epochs", "2"]


def test_a_run_that_is_killed_before_any_of_its_writes_is_done_by_the_next(tmp_path: Path) -> None:
    assert disturb("layer", tmp_path, []) > 15


@pytest.mark.slow
def test_a_training_that_is_killed_while_it_writes_gives_the_same_bits(tmp_path: Path) -> None:
    assert disturb("train", tmp_path, TRAIN, step=4) > 6


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from rasura.cli import main

    folder = tmp_path_factory.mktemp("models")
    assert main([*TRAIN, "--out", str(folder / "original")]) == 0
    for seed in ("1", "2"):
        assert main([*TRAIN, "--without", "3", "--seed", seed, "--out", str(folder / f"reference-{seed}")]) == 0
    return folder


def of(models: Path) -> list[str]:
    return ["--model", str(models / "original"), *ON_DIGITS]


@pytest.mark.slow
def test_a_forgetting_that_is_killed_while_it_writes_gives_the_same_bits(models: Path, tmp_path: Path) -> None:
    assert disturb("forget", tmp_path, ["forget", "damp", *of(models)], step=4) > 4


@pytest.mark.slow
def test_an_audit_that_is_killed_while_it_writes_gives_the_same_bits(models: Path, tmp_path: Path) -> None:
    audit = ["audit", *of(models), "--original", str(models / "original"), "--reference", str(models / "reference-1")]
    assert disturb("audit", tmp_path, audit, step=2) > 4


@pytest.mark.slow
def test_a_comparison_that_is_killed_while_it_writes_gives_the_same_bits(models: Path, tmp_path: Path) -> None:
    compare = ["compare", *of(models), "--reference", str(models / "reference-1"), "--methods", "logit-mask"]
    assert disturb("compare", tmp_path, compare, step=11) > 4


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


@pytest.mark.slow
def test_a_bench_that_is_killed_while_it_writes_gives_the_same_bits(tmp_path: Path) -> None:
    (tmp_path / "grid").mkdir()
    (tmp_path / "grid" / "grid.toml").write_text(GRID)
    (tmp_path / "runs").mkdir()
    assert disturb("bench", tmp_path / "runs", ["bench", str(tmp_path / "grid" / "grid.toml")], step=17) > 4
