"""How well forgotten training examples can be told from unseen ones: ROC curves."""

from typing import TYPE_CHECKING, Any

import numpy as np

from rasura.auditing import MODEL, ORIGINAL
from rasura.report.drawing import INK, MUTED, OURS, RETRAINED, Figure, Table, drawing, place_axes, share_axis, svg
from rasura.report.numbers import percent, role

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RATES = (0.001, 0.01, 0.05, 0.1, 0.2, 0.5)
"""False alarms at which the table lists the curves."""


def roc(finding: dict[str, Any], key: str) -> list[Figure]:
    """The curve on a linear scale, and its left edge on a logarithmic one.

    Args:
        finding: what `verdict.json` holds.
        key: makes the ids of these figures their own on the page.
    """
    found = finding["membership"] or {}
    curves = {name: np.array(points, float) for name, points in (found.get("roc") or {}).items() if len(points) > 1}
    if MODEL not in curves:
        return []
    least = max(1 / max(found["non_members"], 2), 1e-3)
    return [
        Figure(
            "Telling members from strangers",
            _drawn(curves, f"{key}-roc", np.linspace(0, 1, 101), logarithmic=False),
            "the share of forgotten training examples that are found (up) for each share of false alarms (right). On "
            "the dotted line nothing can be told; in the retrained band no more than in a model that never saw them.",
            _table(curves),
        ),
        Figure(
            "With few false alarms",
            _drawn(curves, f"{key}-roc-low", np.geomspace(least, 1, 61), logarithmic=True),
            "the same curve, its left edge stretched: an attack that is seldom wrong counts, even if it finds few.",
        ),
    ]


def _drawn(curves: dict[str, np.ndarray], key: str, grid: np.ndarray, logarithmic: bool) -> str:
    with drawing(290) as figure:
        axes = place_axes(figure, left=36, right=14, top=24, bottom=46)
        if logarithmic:
            axes.set_xscale("log")
        axes.plot(100 * grid, 100 * grid, color=MUTED, linewidth=1.2, linestyle=(0, (1, 2)))
        _curves(axes, curves, grid)
        axes.set_xlim(100 * grid[0], 100)
        if logarithmic:
            ticks = [tick for tick in (0.1, 1, 10, 100) if tick >= 99.9 * grid[0]]
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.set_xticks([], minor=True)
        axes.set_xlabel("false alarms, %" + (" (log scale)" if logarithmic else ""))
        share_axis(axes, "found, %")
        said = "; ".join(f"{role(name)}: {percent(_at(points, 0.1))} found" for name, points in curves.items())
        return svg(figure, key, "Membership ROC", f"At 10% false alarms: {said}")


def _curves(axes: "Axes", curves: dict[str, np.ndarray], grid: np.ndarray) -> None:
    references = [points for name, points in curves.items() if name not in (MODEL, ORIGINAL)]
    if references:
        each = 100 * np.stack([_at(points, grid) for points in references])
        axes.fill_between(100 * grid, each.min(0), each.max(0), color=RETRAINED, alpha=0.22, linewidth=0)
        axes.plot(100 * grid, each.mean(0), color=RETRAINED, linewidth=1.6)
    if ORIGINAL in curves:
        axes.plot(100 * grid, 100 * _at(curves[ORIGINAL], grid), color=INK, linewidth=1.4, linestyle=(0, (4, 3)))
    axes.plot(100 * grid, 100 * _at(curves[MODEL], grid), color=OURS)


def _at(points: np.ndarray, rate: Any) -> Any:
    """The share found at false-alarm rates, between points on straight lines; (0, 0) and (1, 1) lie on every curve."""
    order = np.lexsort((points[:, 1], points[:, 0]))
    rates = np.concatenate([[0.0], points[order, 0], [1.0]])
    return np.interp(rate, rates, np.concatenate([[0.0], points[order, 1], [1.0]]))


def _table(curves: dict[str, np.ndarray]) -> Table:
    rows = [[percent(rate), *(percent(float(_at(points, rate))) for points in curves.values())] for rate in RATES]
    return Table(["False alarms", *(role(name).capitalize() for name in curves)], rows)
