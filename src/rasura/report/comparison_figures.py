"""The figures of a comparison page: accuracies as a scatter, and depth profiles over each other."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from rasura.auditing import MODEL, ORIGINAL
from rasura.report.drawing import (
    BAD,
    BROKEN,
    GOOD,
    HIDDEN,
    INK,
    MUTED,
    OPEN,
    RETRAINED,
    drawing,
    place_axes,
    share_axis,
    svg,
)
from rasura.report.numbers import shortened

TONES = {
    "ERASED": GOOD,
    "NOT FORGOTTEN": BAD,
    "MASKED": HIDDEN,
    "RESIDUAL": HIDDEN,
    "DAMAGED": BROKEN,
    "OVER-ERASED": BROKEN,
    "INCONCLUSIVE": OPEN,
    "INVALID": OPEN,
}
"""The colour of each verdict, as on its badge."""
FEW = 12
"""Points of forget accuracy within which numbers share a column, so that none lies on another."""


def accuracies(findings: Sequence[dict[str, Any]], key: str) -> str:
    """Retain over forget accuracy: a dot per method in its verdict's colour, its rank beside it, and the anchors.

    Args:
        findings: what `verdict.json` holds, the nearest to the retrained models first.
        key: makes the ids of this figure its own on the page.
    """
    outputs = findings[0]["outputs"]
    shares = [row["retain"]["point"] for one in findings for row in one["outputs"].values()]
    lowest = max(0.0, 100 * min(shares) - 8)
    with drawing(380) as figure:
        axes = place_axes(figure, left=44, right=20, top=24, bottom=46)
        for name, row in outputs.items():
            if name != MODEL:
                _anchor(axes, *_place(row), original=name == ORIGINAL)
        places = [_place(one["outputs"][MODEL]) for one in findings]
        for (x, y), one in zip(places, findings, strict=True):
            axes.plot(x, y, "o", color=TONES[one["verdict"]], markersize=5, clip_on=False)
        for rank, (place, label) in enumerate(zip(places, _beside(places, (103 - lowest) / 24), strict=True), start=1):
            tone = TONES[findings[rank - 1]["verdict"]]
            axes.annotate(
                str(rank),
                place,
                label,
                color=tone,
                weight="bold",
                fontsize=10,
                va="center",
                arrowprops={"arrowstyle": "-", "color": tone, "linewidth": 0.6, "shrinkA": 1, "shrinkB": 2},
            )
        axes.set_xlim(-3, 103)
        axes.set_ylim(lowest, 103)
        axes.set_xlabel("forget accuracy, %")
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        axes.annotate(
            "retain accuracy, %", (0, 1), (-40, 9), xycoords="axes fraction", textcoords="offset points", color=MUTED
        )
        return svg(figure, key, "Forget and retain accuracy", _spoken(findings))


def profiles(findings: Sequence[dict[str, Any]], key: str) -> str:
    """Recall of the linear probe at each stage: one line per method, its rank at its end, over the retrained band.

    Args:
        findings: what `verdict.json` holds, the nearest to the retrained models first.
        key: makes the ids of this figure its own on the page.
    """
    found = [[row for row in one["comparisons"] if row["decoder"] == "linear"] for one in findings]
    places = list(range(len(found[0])))
    with drawing(380) as figure:
        axes = place_axes(figure, left=36, right=34, top=24, bottom=70)
        bands = [row["reference_summary"] for row in found[0]]
        lows, highs = ([100 * band[end] for band in bands] for end in ("low", "high"))
        axes.fill_between(places, lows, highs, color=RETRAINED, alpha=0.3, linewidth=0)
        originals = [100 * row["original"] for row in found[0]]
        axes.plot(places, originals, color=INK, linewidth=1.2, linestyle=(0, (4, 3)))
        ends = [100 * rows[-1]["model"] for rows in found]
        labels = _apart(ends, min(4.2, 100 / len(ends)), 100)
        for rank, (rows, end, label) in enumerate(zip(found, ends, labels, strict=True), start=1):
            tone = TONES[findings[rank - 1]["verdict"]]
            axes.plot(places, [100 * row["model"] for row in rows], color=tone, linewidth=1.2, alpha=0.75)
            axes.annotate(
                str(rank),
                (places[-1], end),
                (1.04, label),
                textcoords=axes.get_yaxis_transform(),
                color=tone,
                weight="bold",
                fontsize=10,
                va="center",
                annotation_clip=False,
                arrowprops={"arrowstyle": "-", "color": tone, "linewidth": 0.6, "shrinkA": 1, "shrinkB": 0},
            )
        names = [shortened(row["layer"], 16) for row in found[0]]
        axes.set_xticks(places, names, rotation=35, ha="right", rotation_mode="anchor")
        share_axis(axes, "recall, %")
        return svg(figure, key, "Recall of a linear probe at each stage, all methods", _spoken(findings))


def _anchor(axes: Any, x: float, y: float, original: bool) -> None:
    """A retrained model as a wide circle, the original as an open square."""
    colour = INK if original else RETRAINED
    axes.plot(
        x,
        y,
        "s" if original else "o",
        color=colour,
        markersize=11,
        markerfacecolor="none" if original else RETRAINED,
        alpha=1 if original else 0.45,
        clip_on=False,
    )


def _place(row: dict[str, Any]) -> tuple[float, float]:
    """Forget and retain accuracy in percent."""
    return 100 * row["forget"]["point"], 100 * row["retain"]["point"]


def _beside(places: Sequence[tuple[float, float]], least: float) -> list[tuple[float, float]]:
    """Where the number of each dot goes: to its right, in a column with those of its neighbours."""
    found: list[tuple[float, float]] = [(0.0, 0.0)] * len(places)
    waiting = sorted(range(len(places)), key=lambda number: places[number][0])
    while waiting:
        first = places[waiting[0]][0]
        column = [number for number in waiting if places[number][0] <= first + FEW]
        right = max(places[number][0] for number in column) + 5
        heights = _apart([places[number][1] for number in column], least, 102)
        for number, height in zip(column, heights, strict=True):
            found[number] = (right if right < 98 else first - 9, height)
        waiting = waiting[len(column) :]
    return found


def _apart(values: Sequence[float], least: float, most: float) -> list[float]:
    """The values moved up, and where that exceeds `most` down again, until `least` lies between any two."""
    order = sorted(range(len(values)), key=lambda number: values[number])
    placed = list(values)
    for below, at in pairwise(order):
        placed[at] = max(placed[at], placed[below] + least)
    above = most + least
    for at in reversed(order):
        placed[at] = above = min(placed[at], above - least)
    return placed


def _spoken(findings: Sequence[dict[str, Any]]) -> str:
    """The numbers of a figure for those who do not see it."""
    return "; ".join(
        f"{rank} {one['name']}: forget {one['outputs'][MODEL]['forget']['point']:.1%}, "
        f"retain {one['outputs'][MODEL]['retain']['point']:.1%}"
        for rank, one in enumerate(findings, start=1)
    )
