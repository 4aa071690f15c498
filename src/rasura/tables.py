"""Findings as a table on the terminal. Names of classes and models are shown as they are, never read as markup."""

import sys
from typing import Any

from rasura.errors import printable

COSTS = ("seconds", 1), ("memory_mib", 0)
"""What a method took, and with how many digits it is shown."""


def qualified(content: dict[str, Any]) -> str:
    """The verdict's qualifiers in brackets, with a space before; nothing if there are none."""
    return f" ({', '.join(content['qualifiers'])})" if content["qualifiers"] else ""


def print_findings(findings: list[dict[str, Any]]) -> None:
    """Print one row per audited model, and one for the mean of the retrained models, on stdout."""
    title = f"Forget {findings[0]['request']['forget']} ({findings[0]['data']['name']}, held-out images)"
    primary = ("linear probe", "few-shot area") if findings[0]["request"]["classes"] else ("attack", "RMIA")
    rows = []
    for one in findings:
        outputs = one["outputs"]["model"]
        shares = [outputs["forget"]["point"], outputs["retain"]["point"], *_primary(one, "model")]
        rows.append([one["name"], one["verdict"] + qualified(one), one["where"], *map(_percent, shares)])
    references = [name for name in findings[0]["outputs"] if name.startswith("reference")]
    if references:
        outputs = [findings[0]["outputs"][name] for name in references]
        shares = [sum(row[part]["point"] for row in outputs) / len(outputs) for part in ("forget", "retain")]
        shares += [sum(each) / len(each) if each else None for each in _primary(findings[0], "references")]
        rows.append([f"mean of {len(references)} retrained", "", "", *map(_percent, shares)])
    _print(title, ["model", "verdict", "where"], ["forget acc.", "retain acc.", *primary], rows, 120)


def _primary(finding: dict[str, Any], which: str) -> list[Any]:
    primary = [one[which] for one in finding["comparisons"] if one["primary"]]
    return primary or [None, None]


def _percent(share: float | None) -> str:
    """A share; a dash where nothing could be compared."""
    return "–" if share is None else f"{share:.1%}"


def print_summary(rows: list[dict[str, Any]]) -> None:
    """Print one row per method of a bench on stdout: means over cells with the half width of their 95 % interval."""
    title = f"Nearest to retrained first ({rows[0]['cells']} cells; differences in points from retrained)"
    measures = [key for key, value in rows[0].items() if isinstance(value, dict) and "mean" in value]
    cells = []
    for row in rows:
        verdicts = ", ".join(f"{count} {verdict}" for verdict, count in row["verdicts"].items())
        verdicts += f", {row['failed']} failed" if row["failed"] else ""
        cells.append([row["method"], verdicts, *(_plus_minus(row[measure]) for measure in measures)])
    _print(title, ["method", "verdicts"], [measure.replace("_", " ") for measure in measures], cells, 140)


def print_comparison(rows: list[dict[str, Any]]) -> None:
    """Print one row per method of a comparison on stdout."""
    title = "Nearest to retrained first (distance in points outside of the retrained models' range)"
    numbers = ["distance", *(one["name"] for one in rows[0]["measures"]), "seconds", "MiB"]
    cells = []
    for row in rows:
        shares = [f"{one['value']:.1%}" for one in row["measures"]]
        costs = ["–" if row[cost] is None else f"{row[cost]:.{digits}f}" for cost, digits in COSTS]
        verdict = row["verdict"] + qualified(row)
        cells.append([row["name"], verdict, f"{100 * row['distance']:.1f}", *shares, *costs])
    _print(title, ["method", "verdict"], numbers, cells, 140)


def _print(title: str, texts: list[str], numbers: list[str], rows: list[list[str]], width: int) -> None:
    """A table with texts on the left and numbers on the right, so wide where stdout is no terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=printable(title))
    for name in (*texts, *numbers):
        table.add_column(printable(name), justify="left" if name in texts else "right")
    for row in rows:
        table.add_row(*map(printable, row))
    Console(width=None if sys.stdout.isatty() else width, markup=False, emoji=False, highlight=False).print(table)


def _plus_minus(value: dict[str, float | None]) -> str:
    mean, half = value["mean"], value["half_width"]
    assert mean is not None
    return f"{100 * mean:.1f}" if half is None else f"{100 * mean:.1f} ± {100 * half:.1f}"
