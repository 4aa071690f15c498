"""A bench: a grid is checked whole before work begins, what is there is read, and the summary adds up."""

import json
from pathlib import Path

import pytest

from rasura.bench import read_grid, run_grid, summarise
from rasura.bench.engine import run_cell
from rasura.cli import main
from rasura.errors import InputError
from rasura.methods import Damp, LogitMask
from rasura.progress import silent
from rasura.report.comparison_page import ranked
from rasura.runs import make_run

GRID = """
data = "digits"
models = ["convnet,width=4"]
seeds = [0, 1]
forget = ["3", ["4", "9"]]
references = 2

[recipe]
epochs = 2

[methods.logit-mask]

[methods."damp, wide"]
method = "damp"
energy = 0.9
"""
SMALL = GRID.replace("references = 2", "references = 1").replace("seeds = [0, 1]", "seeds = [0]")


def written(folder: Path, text: str) -> Path:
    (folder / "grid.toml").write_text(text, encoding="utf-8")
    return folder / "grid.toml"


def test_a_grid_is_read(tmp_path):
    grid = read_grid(written(tmp_path, GRID))
    assert (grid.data, grid.models, grid.seeds, grid.references) == ("digits", ("convnet,width=4",), (0, 1), 2)
    assert grid.forget == (("3",), ("4", "9"))
    assert grid.methods == {"logit-mask": LogitMask(), "damp, wide": Damp(energy=0.9)}
    assert grid.recipe.epochs == 2
    assert [(cell.seed, cell.forget) for cell in grid.cells()] == [
        (0, ("3",)),
        (0, ("4", "9")),
        (1, ("3",)),
        (1, ("4", "9")),
    ]


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('data = "digits"', "", "grid: 'data' is missing or empty"),
        ("seeds =", "sedes =", "grid: 'sedes' is unknown; did you mean 'seeds'"),
        ("seeds = [0, 1]", "seeds = 3", "grid: seeds = 3; allowed: a list"),
        ("seeds = [0, 1]", "seeds = [true]", "grid: seeds = .*; allowed: a list"),
        ("references = 2", "references = 0", "grid: references = 0; allowed: 1 or more"),
        ("epochs = 2", "epoch = 2", "recipe: 'epoch' is unknown; did you mean 'epochs'"),
        ("epochs = 2", "epochs = 0", "epochs: 0; allowed"),
        ("[methods.logit-mask]", "[methods.logit-msak]", "'logit-msak' is unknown; did you mean 'logit-mask'"),
        ("energy = 0.9", "enrgy = 0.9", "methods.damp, wide: 'enrgy' is unknown; did you mean 'energy'"),
        ("energy = 0.9", "energy = 9.0", "energy: 9.0"),
        ("[recipe]", "[recipe", "grid: .* is no TOML"),
        ("energy = 0.9", 'energy = "high"', "energy: 'high'; allowed: a number"),
        ("[methods.logit-mask]", "[methods]\nlogit-mask = 1", "grid: methods.logit-mask = 1; allowed: a table"),
    ],
)
def test_a_broken_grid_is_refused_before_any_work(tmp_path, old, new, complaint):
    assert old in GRID
    with pytest.raises(InputError, match=complaint):
        read_grid(written(tmp_path, GRID.replace(old, new)))


def test_a_missing_grid_and_an_unknown_class_are_named(tmp_path):
    with pytest.raises(InputError, match=r"grid: .* does not exist"):
        read_grid(tmp_path / "none.toml")
    grid = read_grid(written(tmp_path, GRID.replace('"3", ', '"thirteen", ')))
    with pytest.raises(InputError, match="class: 'thirteen' is unknown"):
        run_grid(grid, tmp_path / "out", "local", silent)
    grid = read_grid(written(tmp_path, GRID.replace('"convnet,width=4"', '"convnet,width=4", "nosuchnet"')))
    with pytest.raises(InputError, match="model: 'nosuchnet' is unknown"):
        run_grid(grid, tmp_path / "out", "local", silent)
    assert not (tmp_path / "out").exists()


def test_a_bench_runs_resumes_and_sums_up(tmp_path, capsys):
    grid, out = written(tmp_path, SMALL), tmp_path / "out"
    assert main(["bench", str(grid), "--out", str(out), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert {row["method"] for row in said["rows"]} == {"logit-mask", "damp, wide"}
    assert all(row["cells"] == 2 for row in said["rows"])
    stored = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert stored == {"format": 2, "rows": said["rows"], "failed": []}
    verdicts = sorted(out.rglob("verdict.json"))
    assert len(verdicts) == 4
    found = [json.loads(path.read_text(encoding="utf-8")) for path in verdicts]
    for row in said["rows"]:  # as `rasura compare` measures it
        apart = [ranked([one], {})[0].distance for one in found if one["name"] == row["method"]]
        assert row["distance"] == pytest.approx(sum(apart) / len(apart), abs=1e-5)
    weights = sorted(out.rglob("model.safetensors"))
    assert len(weights) == 1 + 2 + 4  # an original, a reference per request, a result per method and request
    before = {path: path.stat().st_mtime_ns for path in [*verdicts, *weights]}
    assert main(["bench", str(grid), "--out", str(out)]) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    stored["rows"][0]["verdicts"] = {"ERASED": 2}
    (out / "summary.json").write_text(json.dumps(stored), encoding="utf-8")
    capsys.readouterr()
    assert main(["bench", str(grid), "--out", str(out)]) == 2
    said = capsys.readouterr()
    assert "summary.json was changed since it was written" in said.err and said.out == ""


ERRORS = [MemoryError("30 GiB"), RuntimeError("CUDA out of memory. Tried to allocate 30.00 GiB"), KeyError("a bug")]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_method_that_fails_costs_its_own_cells_only(error, tmp_path, capsys, monkeypatch):
    damp = Damp.__call__

    def fails_for_3(method, problem):
        if problem.forget_classes == (3,):
            raise error
        return damp(method, problem)

    monkeypatch.setattr(Damp, "__call__", fails_for_3)
    monkeypatch.setattr("rasura.bench.engine.audit_runs", audited_at_once)
    out = tmp_path / "out"
    assert main(["bench", str(written(tmp_path, SMALL)), "--out", str(out), "--json"]) == 0
    said = capsys.readouterr()
    rows = {row["method"]: row for row in json.loads(said.out)["rows"]}
    assert [(rows[name]["cells"], rows[name]["failed"]) for name in ("logit-mask", "damp, wide")] == [(2, 0), (2, 1)]
    assert rows["damp, wide"]["verdicts"] == {"ERASED": 1}
    complaint = next(line for line in said.err.splitlines() if "damp" in line)
    assert (
        complaint.startswith("rasura: damp, wide (convnet,width=4, seed 0, 3): no finding (")
        and str(error) in complaint
    )
    failed = json.loads((out / "summary.json").read_text(encoding="utf-8"))["failed"]
    reason = f"{type(error).__name__}: {error}"
    cell = {"model": "convnet,width=4", "seed": 0, "forget": ["3"]}
    assert failed == [{"method": "damp, wide", **cell, "reason": reason}]
    monkeypatch.setattr(Damp, "__call__", damp)
    assert main(["bench", str(written(tmp_path, SMALL)), "--out", str(out), "--json"]) == 0
    assert not json.loads(capsys.readouterr().out)["failed"], "it is tried again"


def audited_at_once(models, *_, **__):
    return {name: finding(name, 0.0, 0.0) for name in models}


def test_a_training_that_fails_costs_the_findings_of_its_cell(tmp_path):
    grid = read_grid(written(tmp_path, SMALL.replace("epochs = 2", "epochs = 2\nlearning_rate = 1e30\nclip = 0.0")))
    found = run_cell(grid, next(grid.cells()), tmp_path / "out")
    assert [one["name"] for one in found] == ["logit-mask", "damp, wide"]
    assert all(one["failed"].startswith("learning_rate: 1e+30 made the loss") for one in found)


def test_a_bench_whose_cells_all_fail_is_refused_in_a_line(tmp_path, capsys, monkeypatch):
    def fails(method, problem):
        raise MemoryError("30 GiB")

    for kind in (Damp, LogitMask):
        monkeypatch.setattr(kind, "__call__", fails)
    assert main(["bench", str(written(tmp_path, SMALL)), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr()
    assert said.err.splitlines()[-1].startswith("rasura: grid: every cell failed (MemoryError: 30 GiB); allowed: ")
    assert said.out == "" and not (tmp_path / "out" / "summary.json").exists()


def test_a_bench_leaves_a_folder_of_something_else_alone(tmp_path):
    make_run(tmp_path / "out", {"kind": "x"}, lambda partial: None)
    with pytest.raises(InputError, match="holds another run"):
        run_grid(read_grid(written(tmp_path, SMALL)), tmp_path / "out", "local", silent)


def test_without_ray_its_engine_is_refused_in_a_line(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(InputError, match="engine: ray is not installed; allowed: local"):
        run_grid(read_grid(written(tmp_path, GRID)), tmp_path / "out", "ray", silent)


def finding(name: str, retain: float, linear: float) -> dict:
    """Scores of 0.5 ± what is given, beside retrained models that all score 0.5."""
    band = {"low": 0.5, "high": 0.5}

    def compared(decoder: str, layer: str, excess: float) -> dict:
        place = {"decoder": decoder, "layer": layer, "primary": True}
        return place | {"model": 0.5 + excess, "excess": {"point": excess}, "reference_summary": band}

    return {
        "name": name,
        "verdict": "MASKED" if linear > 0.1 else "ERASED",
        "qualifiers": [],
        "outputs": {"model": {"forget": {"point": 0.0}}},
        "retain": [compared("output", "output", retain)],
        "comparisons": [compared("linear", "head input", linear), compared("few-shot area", "head input", 0.0)],
        "routing": {"distance": None},
    }


def test_the_summary_adds_up_and_puts_the_nearest_to_retrained_first():
    rows = summarise(
        [finding("far", 0.0, 0.3), finding("far", 0.0, 0.5), finding("near", 0.01, 0.02), finding("near", -0.01, 0.04)]
    )
    assert [row["method"] for row in rows] == ["near", "far"]
    near, far = rows
    assert far["verdicts"] == {"MASKED": 2}
    # The mean over cells of the mean over three measures of how far each lies outside of the retrained models' range.
    assert far["distance"] == pytest.approx((0.3 + 0.5) / 6, abs=1e-5)
    assert near["distance"] == pytest.approx((0.01 + 0.02 + 0.01 + 0.04) / 6, abs=1e-5)
    assert near["verdicts"] == {"ERASED": 2}
    # Two values a, b: the half width is t(0.975, 1) · |a − b| / 2, and t(0.975, 1) = 12.7062.
    assert far["linear_probe_difference"] == {"mean": 0.4, "half_width": pytest.approx(12.7062 * 0.1, abs=1e-4)}
    assert near["retain_difference"] == {"mean": 0.0, "half_width": pytest.approx(12.7062 * 0.01, abs=1e-4)}
    assert summarise([finding("one", 0.0, 0.3)])[0]["linear_probe_difference"] == {"mean": 0.3, "half_width": None}
