"""README and docs say what is so: numbers come from committed results, and what they show runs."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import rasura
from rasura.auditing import VERDICTS
from rasura.cli import COMMANDS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def result(name: str) -> dict:
    return json.loads((ROOT / "results" / name).read_text(encoding="utf-8"))


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def test_the_table_of_the_demo_is_the_measured_one():
    for found in result("main_job.json")["findings"]:
        linear, area = found["primary"]
        accuracies = (found["forget_accuracy"]["point"], found["retain_accuracy"]["point"])
        scores = " | ".join(percent(share) for share in (*accuracies, linear["model"], area["model"]))
        where = f" at {found['where']}" if found["where"] else ""
        assert f"| {found['model']} | {found['verdict']}{where} | {scores} |" in README
    retrained = [sum(one["references"]) / len(one["references"]) for one in (linear, area)]
    assert f"| {percent(retrained[0])} | {percent(retrained[1])} |" in README


def test_the_calibration_is_the_measured_one():
    for row in result("calibration.json")["rows"]:
        if "references" not in row:
            continue
        erased = row["verdicts"].get("ERASED", 0) / sum(row["verdicts"].values())
        accused = percent(row["accused"]["point"])
        assert f"| {row['data']} | {row['references']} | {accused} | {percent(erased)} |" in README


def test_the_decoders_are_as_near_to_the_library_as_is_said():
    rows = [row for row in result("decoders.json")["rows"] if "library_accuracy" in row]
    times = [row["seconds"] / row["library_seconds"] for row in rows]
    less = [row["library_accuracy"] - row["accuracy"] for row in rows]
    doc = " ".join((ROOT / "docs" / "audit.md").read_text(encoding="utf-8").split())
    assert f"they take {min(times):.2f} to {max(times):.1f} times as long" in doc
    assert f"right between {100 * max(less):.1f} points less and {-100 * min(less):.1f} points more often" in doc


def test_what_is_said_of_the_comparison_is_so():
    honest = {"INCONCLUSIVE", "ERASED"}
    rows = result("comparison.json")["methods"]
    assert len(rows) == 24 and {row["n"] for row in rows} == {6}
    passed = {row["method"]: sum(row["verdicts"].get(one, 0) for one in honest) for row in rows}
    ranked = sorted((name for name in passed if passed[name]), key=lambda name: -passed[name])
    damp = (ROOT / "docs" / "damp.md").read_text(encoding="utf-8")
    assert passed["damp"] == 4 and "it is accused twice in six" in damp
    assert f"Not accused of six times: {', '.join(f'`{name}` {passed[name]}' for name in ranked)}." in README


def test_the_costs_are_the_measured_ones():
    for row in result("main_job.json")["rows"]:
        said = f"{row['ratio']:.2f}" if "ratio" in row else f"{row['seconds']:.0f} s"
        assert f"| {said} |" in README, row["what"]


def test_every_verdict_is_explained_and_every_command_is_known():
    for verdict in VERDICTS:
        assert f"| {verdict} |" in README
    for command in re.findall(r"^rasura (\w+)", README, re.MULTILINE):
        assert command in COMMANDS


def test_links_lead_to_files():
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_names_in_the_readme_exist():
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert code
    for dotted in re.findall(r"\brasura((?:\.\w+)+)\(", code[1]):
        found = rasura
        for name in dotted.strip(".").split("."):
            found = getattr(found, name)
        assert callable(found)


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_examples_run(example, tmp_path):
    environment = os.environ | {"PYTHONWARNINGS": "error"}
    done = subprocess.run(
        [sys.executable, str(example)], cwd=tmp_path, capture_output=True, text=True, env=environment, timeout=500
    )
    assert done.returncode == 0, done.stderr
    assert any(verdict in done.stdout for verdict in VERDICTS)


def test_example_grids_can_be_read():
    from rasura.bench import read_grid

    for path in (ROOT / "examples").glob("*.toml"):
        assert len(list(read_grid(path).cells())) >= 1
