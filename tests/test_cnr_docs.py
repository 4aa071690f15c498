"""docs/cnr.md shows the measured numbers."""

import json
from pathlib import Path
from statistics import fmean

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "cnr.md").read_text(encoding="utf-8")


def result(name: str) -> dict:
    return json.loads((ROOT / "results" / name).read_text(encoding="utf-8"))


def points(score: dict) -> str:
    """What a score differs by from the retrained models' mean, in points."""
    return f"{100 * (score['model'] - fmean(score['references'])):+.1f}"


def line_of(row: dict) -> str:
    """A row of the page: what was forgotten and how, the verdict, and differences from the retrained models."""
    scores, where = row["scores"], f" at {row['where']}" if row["where"] else ""
    apart = [points(scores[name]) for name in ("retain accuracy", "forget linear", "forget few-shot")]
    forget = f"{100 * scores['forget accuracy']['model']:.1f} %"
    return f"| {name_of(row)} | {row['verdict']}{where} | {forget} | {' | '.join(apart)} |"


def name_of(row: dict) -> str:
    """The class and seed of a main row; else what is special."""
    request = ", ".join(row["request"])
    return f"{request}, seed {row['seed']}" if row["part"] in ("main", "published") else row["name"]


def rows_of(*parts: str) -> list[dict]:
    return [row for row in result("cnr_quality.json")["rows"] if row["part"] in parts]


def cost_lines() -> list[str]:
    """Shares of a retraining, in seconds and in examples, and memory."""
    lines = []
    for row in result("cnr_cost.json")["rows"]:
        for epochs, share in row["share_of_retraining"].items():
            told = (share["seconds"], share["examples forward and backward"])
            lines.append(f"| {row['net']}, {epochs} epochs | {' | '.join(f'{100 * one:.1f} %' for one in told)} |")
        lines.append(f"{row['memory_by_training']:.2f} times that of training")
    return lines


def test_every_row_is_on_the_page_as_it_was_measured():
    rows = result("cnr_quality.json")["rows"]
    assert len(rows) >= 6
    for row in rows:
        assert line_of(row) in PAGE.splitlines(), line_of(row)


def test_the_costs_are_the_measured_ones():
    for line in cost_lines():
        assert line in PAGE
