"""docs/rfa.md shows the measured numbers."""

import json
from pathlib import Path
from statistics import fmean

from docs_tables import rows_between

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "rfa.md").read_text(encoding="utf-8")

SWEEPS = ("gamma", "rank", "layers")


def result(name: str) -> dict:
    return json.loads((ROOT / "results" / name).read_text(encoding="utf-8"))


def points(one: dict) -> str:
    """A difference of shares in points, with its interval where there are several runs."""
    ends = f" ({100 * one['low']:+.1f} to {100 * one['high']:+.1f})" if one["n"] > 1 else ""
    return f"{100 * one['mean']:+.1f}{ends}"


def mean_of(shares: list[float]) -> str:
    return f"{100 * fmean(shares):.1f} %"


def asked(row: dict) -> str:
    return row["request"] + (", thorough" if row["part"] == "thorough" else "")


def quality_rows() -> list[str]:
    """A line per setting and request: what the original said, differences to retrained, and the audit's verdicts."""
    found = result("rfa_quality.json")
    rows = []
    for one in found["summary"]:
        forget, retain = one["forget less retrained"], one["retain less retrained"]
        pairs = one.get("membership less retrained")
        apart = one.get("distance less full fine-tuning")
        told = f"{pairs['mean']:+.3f}" if pairs else "–"
        moved = f"{apart['mean']:+.3f}" if apart else "–"
        about = [one["setting"], one["net"].partition(",")[0], asked(one), str(forget["n"])]
        cells = [mean_of(one["forget accuracy"]["original"]), points(forget), points(retain), told, moved]
        rows.append(f"| {' | '.join([*about, *cells])} |")
    return rows


def verdict_rows() -> list[str]:
    rows = []
    for row in result("rfa_quality.json")["rows"]:
        if row["audit"] and row["part"] not in SWEEPS:
            about = [row["setting"], row["net"].partition(",")[0], f"{asked(row)}, seed {row['seed']}"]
            verdicts = [row["audit"][name]["verdict"] for name in ("original", "rfa")]
            rows.append(f"| {' | '.join([*about, *verdicts, row['audit']['rfa']['where'] or '–'])} |")
    return rows


def sweep_rows() -> list[str]:
    rows = []
    for row in result("rfa_quality.json")["rows"]:
        if row["part"] in SWEEPS:
            value = row["settings"][row["part"]]
            value = ", ".join(value) if isinstance(value, list) else f"{value:g}"
            found = row["rows"]["rfa"]
            shares = f"{100 * found['forget']:.1f} % | {100 * found['retain']:.1f} %"
            about = f"{row['setting']} | {row['part']} | {value} | {row['request']}"
            rows.append(f"| {about} | {shares} | {found['distance']:.3f} |")
    return rows


def cost_lines() -> list[str]:
    found = result("rfa_cost.json")
    small, large = (found["one_step"][way] for way in ("rfa", "full fine-tuning"))
    lines = [
        f"trains {100 * small['trainable'] / small['parameters']:.2f} % of the weights",
        f"{small['peak_mib']:,} MiB at its peak, full fine-tuning with the same losses {large['peak_mib']:,} MiB",
    ]
    for epochs, shares in found["resnet8"]["share_of_retraining"].items():
        lines.append(f"| {epochs} | {shares['class']:.2f} | {shares['samples']:.2f} |")
    return lines


BLOCKS = {"quality": quality_rows, "verdicts": verdict_rows, "sweeps": sweep_rows}
"""Tables of the page, and what they hold."""


def test_every_table_holds_the_measured_rows_and_no_other():
    for mark, rows in BLOCKS.items():
        assert rows() and rows_between(PAGE, mark) == rows(), mark


def test_the_costs_are_the_measured_ones():
    said = " ".join(PAGE.split())
    for line in cost_lines():
        assert line in said
