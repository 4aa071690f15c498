"""Findings as a table on the terminal."""

import sys
from typing import Any


def qualified(content: dict[str, Any]) -> str:
    """The verdict's qualifiers in brackets, with a space before; nothing if there are none."""
    return f" ({', '.join(content['qualifiers'])})" if content["qualifiers"] else ""


def print_findings(findings: list[dict[str, Any]]) -> None:
    """Print one row per audited model, and one for the mean of the retrained models, on stdout."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"Forget {findings[0]['request']['forget']} ({findings[0]['data']['name']}, held-out images)")
    for name in ("model", "verdict", "where", "forget acc.", "retain acc.", "linear probe", "few-shot area"):
        table.add_column(name, justify="left" if name in ("model", "verdict", "where") else "right")
    for one in findings:
        outputs = one["outputs"]["model"]
        shares = [outputs["forget"]["point"], outputs["retain"]["point"], *_primary(one, "model")]
        cells = [f"{share:.1%}" if share is not None else "–" for share in shares]
        table.add_row(one["name"], one["verdict"] + qualified(one), one["where"], *cells)
    references = [name for name in findings[0]["outputs"] if name.startswith("reference")]
    if references:
        outputs = [findings[0]["outputs"][name] for name in references]
        shares = [sum(row[part]["point"] for row in outputs) / len(outputs) for part in ("forget", "retain")]
        shares += [sum(each) / len(each) for each in _primary(findings[0], "references")]
        table.add_row(
            f"mean of {len(references)} retrained", "", "", *[f"{share:.1%}" for share in shares], style="dim"
        )
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def _primary(finding: dict[str, Any], which: str) -> list[Any]:
    primary = [one[which] for one in finding["comparisons"] if one["primary"]]
    return primary or [None, None]
