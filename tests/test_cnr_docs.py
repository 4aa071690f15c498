"""docs/cnr.md shows the measured numbers."""

import json
from pathlib import Path
from statistics import fmean

from docs_tables import rows_between

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "cnr.md").read_text(encoding="utf-8")


BLOCKS = {
    "main": ("main",),
    "retained": ("retained",),
    "published": ("published",),
    "ablation": ("ablation",),
    "sensitivity": ("sensitivity",),
    "several": ("several", "continual"),
    "scenarios": ("scarce", "limits"),
}
"""Tables of the page, and what they hold."""
BY_CLASS = ("main", "retained", "published")
"""Parts with a row for each class."""


def result(name: str) -> dict:
    return json.loads((ROOT / "results" / name).read_text(encoding="utf-8"))


def points(score: dict) -> str:
    """What a score differs by from the retrained models' mean, in points."""
    return f"{100 * (score['model'] - fmean(score['references'])):+.1f}"


def line_of(row: dict, papers: dict[str, dict]) -> str:
    """A row of the page: what was forgotten and how, the verdict, and differences from the retrained models."""
    scores, where = row["scores"], f" at {row['where']}" if row["where"] else ""
    apart = [points(scores[name]) for name in ("retain accuracy", "forget linear", "forget few-shot")]
    forget = f"{100 * scores['forget accuracy']['model']:.1f} %"
    first, last = ends_of(row, papers)
    return f"| {' | '.join([*first, row['verdict'] + where, forget, *apart, *last])} |"


def ends_of(row: dict, papers: dict[str, dict]) -> tuple[list[str], list[str]]:
    """First and last cells: class and similarity to another, or what is special and what the paper says of it."""
    if row["part"] in BY_CLASS:
        return [row["data"], f"{', '.join(row['request'])}, seed {row['seed']}", f"{row['similarity']:.2f}"], []
    said = papers.get(row["name"])
    name = f"{row['name']}: {', '.join(row['request'])}" if row["part"] in ("several", "continual") else row["name"]
    return [name], [f"{said['probe']:.3f} | {said['retain']:.3f}" if said else "– | –"]


def papers_of(content: dict) -> dict[str, dict]:
    """What the paper says of a setting, by its name."""
    return {line["name"]: line["paper"] for line in content["summary"] if "paper" in line}


def lines_of(*parts: str) -> list[str]:
    content = result("cnr_quality.json")
    papers, rows = papers_of(content), [row for row in content["rows"] if row["part"] in parts]
    return [line_of(row, papers) for row in rows]


def cost_lines() -> list[str]:
    """Shares of a retraining, in seconds and in examples, and memory."""
    lines = []
    for row in result("cnr_cost.json")["rows"]:
        for epochs, share in row["share_of_retraining"].items():
            told = (share["seconds"], share["examples forward and backward"])
            lines.append(f"| {row['net']}, {epochs} epochs | {' | '.join(f'{100 * one:.1f} %' for one in told)} |")
        lines.append(f"{row['memory_by_training']:.2f} times that of training")
    return lines


def test_every_table_holds_the_measured_rows_and_no_other():
    for mark, parts in BLOCKS.items():
        lines = lines_of(*parts)
        assert lines and sorted(rows_between(PAGE, mark)) == sorted(lines), mark
    measured = {row["part"] for row in result("cnr_quality.json")["rows"]}
    assert measured == {part for parts in BLOCKS.values() for part in parts}


def test_what_the_page_says_of_the_tables_holds():
    for row in result("cnr_quality.json")["rows"]:
        if row["part"] not in BY_CLASS:
            assert (row["data"], row["seed"]) == ("fashion-mini", 0)
        if row["part"] in ("ablation", "sensitivity", "scarce", "limits"):
            assert row["request"] == ["T-shirt/top"]


def test_the_costs_are_the_measured_ones():
    for line in cost_lines():
        assert line in PAGE
