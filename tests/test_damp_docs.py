"""docs/damp.md shows the measured numbers."""

import json
from pathlib import Path

from docs_tables import rows_between

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "damp.md").read_text(encoding="utf-8")
ABLATION = json.loads((ROOT / "results" / "damp_ablation.json").read_text(encoding="utf-8"))
COST = json.loads((ROOT / "results" / "damp_cost.json").read_text(encoding="utf-8"))["rows"]
SCORES = ("few_shot_5_above_retrained", "few_shot_10_above_retrained")


def points(value: float) -> str:
    return f"{100 * value:+.1f}"


def main_lines(methods: tuple[str, ...], classes: bool = False) -> list[str]:
    """A line per original and request, of one class each or of several."""
    rows = [row for row in ABLATION["rows"] if row["method"] in methods and (len(row["forget"]) > 1) == classes]
    return [line_of(row) for row in rows]


def line_of(row: dict) -> str:
    apart = [points(value) for value in (-row["retain_below_retrained"], *(row[name] for name in SCORES))]
    where = f" at {row['where']}" if row["where"] else ""
    asked = f"{', '.join(row['forget'])}, seed {row['seed']}"
    forget, met = f"{100 * row['forget_accuracy']:.1f} %", "yes" if row["aims_met"] else "no"
    about = [row["data"], row["net"], row["method"], asked]
    return f"| {' | '.join([*about, forget, *apart, met, row['verdict'] + where])} |"


def summary_lines(varied: bool) -> list[str]:
    """A line per method, or per changed field of the defaults or the published form: means over requests and seeds."""
    lines = [one for one in ABLATION["summary"] if one["classes"] == 1 and ("," in one["method"]) == varied]
    return [summary_line(one) for one in lines if one["rows"] > one["refused"]]


def summary_line(one: dict) -> str:
    apart = [
        points(value) for value in (-one["retain_below_retrained"]["mean"], *(one[name]["mean"] for name in SCORES))
    ]
    verdicts = ", ".join(f"{count} {name}" for name, count in one["verdicts"].items())
    forget, met = f"{100 * one['forget_accuracy']['mean']:.1f} %", f"{one['met']} of {one['rows']}"
    return f"| {' | '.join([one['data'], one['net'], one['method'], met, forget, *apart, verdicts])} |"


def effect_line(one: dict) -> str:
    about = [one["data"], one["net"], " and ".join(one["forget"]), f"{one['field']}={one['value']}"]
    apart = [points(-one["lost"]), f"{100 * one['apart']:.1f}"]
    met = f"{one['met']} of {one['rows']}"
    return f"| {' | '.join([*about, met, *apart])} |"


def front_rows() -> list[dict]:
    """The rows that are said to be beaten by no other."""
    return [row for row in crossed_rows() if place_of(row) in ABLATION["front"]]


def crossed_rows() -> list[dict]:
    return [row for row in ABLATION["rows"] if row["method"].startswith("residual=") and "error" not in row]


def place_of(row: dict) -> list:
    return [row["data"], row["net"], row["seed"], row["forget"], row["method"]]


def front_line(row: dict) -> str:
    apart = [points(value) for value in (-row["retain_below_retrained"], *(row[name] for name in SCORES))]
    about = [row["data"], row["net"], " and ".join(row["forget"]), row["method"]]
    return f"| {' | '.join([*about, *apart, 'yes' if row['aims_met'] else 'no'])} |"


def cost_line(row: dict) -> str:
    return f"| {row['model']} | {row['method']} | {row['images']:,} | {row['ratio']:.2f} | {row['peak_mib']:,.0f} |"


BLOCKS = {
    "main": lambda: main_lines(("defaults",)),
    "before": lambda: main_lines(("late",)),
    "within": lambda: main_lines(("defaults, within=0.5", "defaults, within=1.0")),
    "several": lambda: main_lines(("defaults", "late"), classes=True),
    "beside": lambda: summary_lines(False),
    "fields": lambda: summary_lines(True),
    "crossed": lambda: [effect_line(one) for one in ABLATION["effects"]],
    "front": lambda: [front_line(row) for row in front_rows()],
    "cost": lambda: [cost_line(row) for row in COST],
}
"""Tables of the page, and what they hold."""


def test_every_table_holds_the_measured_rows_and_no_other():
    for mark, lines in BLOCKS.items():
        assert lines() and sorted(rows_between(PAGE, mark)) == sorted(lines()), mark


def test_the_aims_are_met_as_often_as_is_said():
    for method in ("defaults", "late", "defaults, within=1.0", "defaults, within=0.5"):
        rows = [row for row in ABLATION["rows"] if row["method"] == method and len(row["forget"]) == 1]
        cells = list(dict.fromkeys((row["data"], row["net"]) for row in rows))
        counts = [[row["aims_met"] for row in rows if (row["data"], row["net"]) == cell] for cell in cells]
        met = ", ".join(f"{' '.join(cell)} {sum(one)} of {len(one)}" for cell, one in zip(cells, counts, strict=True))
        assert f"With `{method}`: {met}." in " ".join(PAGE.split())


def distances(row: dict) -> tuple[float, float]:
    return row["retain_below_retrained"], max(abs(row[name]) for name in SCORES)


def test_no_crossed_setting_beats_those_of_the_front_and_each_of_the_others_is_beaten():
    front = front_rows()
    for row in (one for one in crossed_rows() if one["forget_accuracy"] <= 0.02):
        beside = [distances(one) for one in front if place_of(one)[:4] == place_of(row)[:4]]
        as_good = [one for one in beside if all(mine <= its for mine, its in zip(one, distances(row), strict=True))]
        assert as_good if row not in front else as_good == [distances(row)]


def test_what_is_said_of_cost_is_so():
    whole = [row for row in COST if row["images"] == 2000]
    assert len(whole) == 6 and max(row["ratio"] for row in whole) <= 1.15
    second = json.loads((ROOT / "results" / "damp_cost_second_machine.json").read_text(encoding="utf-8"))["rows"]
    sequence, at_once = (f"{row['ratio']:.2f}" for row in second if row["images"] == 2000)
    assert f"takes {sequence} passes in sequence and {at_once} in one shot" in " ".join(PAGE.split())
    one_shot = [row for row in whole if row["method"] == "damp, one-shot"]
    assert max(row["peak_mib_twice_the_images"] / row["peak_mib"] for row in one_shot) < 4 / 3
    grows = ", ".join(f"{row['peak_mib']:,.0f} to {row['peak_mib_twice_the_images']:,.0f}" for row in one_shot)
    assert f"in MiB, {grows}." in PAGE
