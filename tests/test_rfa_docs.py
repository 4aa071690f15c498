"""docs/rfa.md shows the measured numbers."""

import json
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "rfa.md").read_text(encoding="utf-8")


def result(name: str) -> dict:
    return json.loads((ROOT / "results" / name).read_text(encoding="utf-8"))


def points(one: dict) -> str:
    """A difference of shares in points, with its interval where there are several runs."""
    ends = f" ({100 * one['low']:+.1f} to {100 * one['high']:+.1f})" if one["n"] > 1 else ""
    return f"{100 * one['mean']:+.1f}{ends}"


def summary_rows() -> list[str]:
    rows = []
    for one in result("rfa_quality.json")["summary"]:
        forget, retain = one["forget less retrained"], one["retain less retrained"]
        pairs = one.get("membership less retrained")
        apart = one.get("distance less full fine-tuning")
        told = f"{pairs['mean']:+.3f}" if pairs else "–"
        moved = f"{apart['mean']:+.3f}" if apart else "–"
        what = f"{one['part']}, {one['request']}"
        rows.append(f"| {what} | {forget['n']} | {points(forget)} | {points(retain)} | {told} | {moved} |")
    return rows


def sweep_rows() -> list[str]:
    rows = []
    for cell in result("rfa_quality.json")["cells"]:
        if cell["part"] in ("gamma", "rank", "layers"):
            value = cell["settings"][cell["part"]]
            value = ", ".join(value) if isinstance(value, list) else f"{value:g}"
            found = cell["rows"]["rfa"]
            shares = f"{100 * found['forget']:.1f} % | {100 * found['retain']:.1f} %"
            rows.append(f"| {cell['part']} {value}, {cell['request']} | {shares} | {found['distance']:.3f} |")
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


def test_the_tables_are_the_measured_ones():
    for row in (*summary_rows(), *sweep_rows()):
        assert row in PAGE


def test_the_costs_are_the_measured_ones():
    said = " ".join(PAGE.split())
    for line in cost_lines():
        assert line in said
