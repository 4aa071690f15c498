"""Measurements on request, each a few curves or values that bring their own words."""

from typing import Any

from rasura.auditing import MODEL, ORIGINAL
from rasura.report.drawing import INK, OURS, RETRAINED, Figure, Table, drawing, place_axes, svg, unit_above
from rasura.report.numbers import plain, role

MOST_ROWS = 12
"""Points of a curve that its table lists, evenly chosen."""


def on_request(finding: dict[str, Any], key: str) -> list[Figure]:
    """A figure for every measurement that has curves, a table for every one that has values.

    Args:
        finding: what `verdict.json` holds.
        key: makes the ids of these figures their own on the page.
    """
    return [
        Figure(
            one["title"],
            _drawn(one, f"{key}-request-{number}") if one.get("curves") else "",
            one["how"],
            _table(one),
        )
        for number, one in enumerate((finding["on_request"] or {}).values())
        if one
    ]


def _drawn(one: dict[str, Any], key: str) -> str:
    with drawing(250) as figure:
        axes = place_axes(figure, left=44, right=14, top=24, bottom=46)
        for curve in sorted(one["curves"], key=lambda curve: _order(curve["role"])):
            axes.plot(curve["x"], curve["y"], clip_on=False, **_style(curve["role"]))
        axes.set_xlabel(one.get("x_label") or "")
        axes.margins(y=0.08)
        unit_above(axes, one.get("y_label") or "")
        ends = [f"{role(curve['role'])} ends at {plain(curve['y'][-1])}" for curve in one["curves"] if curve["y"]]
        return svg(figure, key, one["title"], "; ".join(ends))


def _order(name: str) -> int:
    """What is drawn first lies underneath."""
    return {ORIGINAL: 1, MODEL: 2}.get(name, 0)


def _style(name: str) -> dict[str, Any]:
    if name == MODEL:
        return {"color": OURS, "marker": "o", "markersize": 4.5}
    if name == ORIGINAL:
        return {"color": INK, "linewidth": 1.2, "linestyle": (0, (4, 3)), "marker": "s", "markerfacecolor": "none"}
    return {"color": RETRAINED, "linewidth": 1.4}


def _table(one: dict[str, Any]) -> Table | None:
    """Values by model; else the curves, thinned."""
    if one.get("rows"):
        return Table(["Model", "Value"], [[role(row["role"]), _said(row["value"])] for row in one["rows"]])
    rows = []
    for curve in one.get("curves") or []:
        step = max(1, -(-len(curve["x"]) // MOST_ROWS))
        pairs = list(zip(curve["x"], curve["y"], strict=True))[::step]
        rows.append([role(curve["role"]), ", ".join(f"{plain(x)}: {plain(y)}" for x, y in pairs)])
    return Table(["Model", f"{one.get('x_label') or 'x'}: {one.get('y_label') or 'y'}"], rows) if rows else None


def _said(value: Any) -> str:
    return plain(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)
