"""docs/methods.md says what is so: its tables are those of the committed results, and every method is in them."""

import json
from pathlib import Path

import pytest
from docs_tables import rows_between

from rasura import methods
from rasura.recipes import data_sets, known

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
LINES = PAGE.splitlines()


def result(name: str) -> dict:
    return json.loads((ROOT / "results" / name).read_text(encoding="utf-8"))


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def line_of(table: str, name: str) -> str:
    """A method's row in one of the page's tables."""
    (line,) = (row for row in rows_between(PAGE, table) if row.startswith(f"| `{name}` |"))
    return line


@pytest.mark.parametrize("row", result("methods_cost.json")["rows"][1:], ids=lambda row: row["method"])
def test_the_costs_are_the_measured_ones(row):
    assert line_of("methods", row["method"]).endswith(f"| {row['epochs']:.2f} | {row['memory_mib']} |")


@pytest.mark.parametrize("row", result("comparison.json")["methods"], ids=lambda row: row["method"])
def test_the_comparison_is_the_measured_one(row):
    cells = []
    for key in ("distance", "forget accuracy", "retain accuracy", "few-shot area outside"):
        mean, half = row[key]["mean"], row[key]["half_width"]
        cells.append(f"{100 * mean:.1f}" + ("" if half is None else f" ± {100 * half:.1f}"))
    verdicts = ", ".join(f"{count} {verdict}" for verdict, count in row["verdicts"].items())
    assert f"| `{row['method']}` | {verdicts} | {' | '.join(cells)} | {row['seconds']:.1f} |" in LINES


@pytest.mark.parametrize("row", result("strength.json")["rows"], ids=lambda row: row["method"])
def test_what_the_search_found_is_the_measured(row):
    line = line_of("strength", row["method"])
    for trial in (row["as_it_is"], row["chosen"]):
        lost = row["before"]["retain"] - trial["retain_accuracy"]
        assert f" {trial['setting']:g} | {percent(trial['forget_accuracy'])}, {-100 * lost:+.1f} |" in line
    assert row["reached"]


@pytest.mark.parametrize("data", data_sets())
def test_the_recipes_are_those_of_the_package(data):
    for name, entry in known(data).items():
        line = line_of("recipes", name)
        lost = entry.retain_accuracy_before - entry.retain_accuracy
        said = f": {percent(entry.forget_accuracy)}, {-100 * lost:+.1f}" + ("" if entry.worked else " ✗")
        assert f"{said} |" in line, (name, data)


@pytest.mark.parametrize("name", methods.names())
def test_every_method_is_listed_with_what_it_reads_and_its_strength(name):
    kind = methods.method_class(name)
    line = line_of("methods", name)
    assert f"| {' + '.join(kind.reads) or 'neither'} |" in line
    strength = getattr(kind, "strength", None)
    assert strength is None or f"`{strength.field}` {strength.weakest:g} to {strength.strongest:g}" in line
