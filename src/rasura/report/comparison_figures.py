"""The figures of a comparison page: accuracies as a scatter, and depth profiles over each other."""

from collections.abc import Sequence
from typing import Any

from rasura.auditing import MODEL, ORIGINAL
from rasura.report.drawing import INK, MUTED, OURS, RETRAINED, drawing, place_axes, share_axis, svg
from rasura.report.numbers import shortened


def accuracies(findings: Sequence[dict[str, Any]], key: str) -> str:
    """Retain over forget accuracy: a number per method (its rank), the retrained models and the original.

    Args:
        findings: what `verdict.json` holds, the nearest to the retrained models first.
        key: makes the ids of this figure its own on the page.
    """
    outputs = findings[0]["outputs"]
    anchors = {name: row for name, row in outputs.items() if name != MODEL}
    with drawing(300) as figure:
        axes = place_axes(figure, left=44, right=20, top=24, bottom=46)
        for name, row in anchors.items():
            original = name == ORIGINAL
            axes.plot(
                100 * row["forget"]["point"],
                100 * row["retain"]["point"],
                "s" if original else "o",
                color=INK if original else RETRAINED,
                markersize=9,
                markerfacecolor="none" if original else RETRAINED,
                alpha=1 if original else 0.5,
                clip_on=False,
            )
        for rank, one in enumerate(findings, start=1):
            own = one["outputs"][MODEL]
            axes.text(
                100 * own["forget"]["point"],
                100 * own["retain"]["point"],
                str(rank),
                color=OURS,
                ha="center",
                va="center",
                weight="bold",
            )
        axes.set_xlim(-3, 103)
        lowest = min(row["retain"]["point"] for one in findings for row in one["outputs"].values())
        axes.set_ylim(max(0.0, 100 * lowest - 8), 103)
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
    with drawing(330) as figure:
        axes = place_axes(figure, left=36, right=26, top=24, bottom=70)
        bands = [row["reference_summary"] for row in found[0]]
        lows, highs = ([100 * band[end] for band in bands] for end in ("low", "high"))
        axes.fill_between(places, lows, highs, color=RETRAINED, alpha=0.3, linewidth=0)
        originals = [100 * row["original"] for row in found[0]]
        axes.plot(places, originals, color=INK, linewidth=1.2, linestyle=(0, (4, 3)))
        ends = _apart([100 * rows[-1]["model"] for rows in found])
        for rank, (rows, end) in enumerate(zip(found, ends, strict=True), start=1):
            axes.plot(places, [100 * row["model"] for row in rows], color=OURS, linewidth=1.2, alpha=0.75)
            axes.annotate(
                str(rank), (1, end), (5, 0), xycoords=("axes fraction", "data"), textcoords="offset points", color=OURS
            )
        names = [shortened(row["layer"], 16) for row in found[0]]
        axes.set_xticks(places, names, rotation=35, ha="right", rotation_mode="anchor")
        share_axis(axes, "recall, %")
        return svg(figure, key, "Recall of a linear probe at each stage, all methods", _spoken(findings))


def _apart(values: list[float], least: float = 5.0) -> list[float]:
    """The values moved up so that labels at them do not lie on each other, in their order."""
    placed = list(values)
    below = -least
    for at in sorted(range(len(values)), key=lambda number: values[number]):
        placed[at] = below = max(values[at], below + least)
    return placed


def _spoken(findings: Sequence[dict[str, Any]]) -> str:
    """The numbers of a figure for those who do not see it."""
    return "; ".join(
        f"{rank} {one['name']}: forget {one['outputs'][MODEL]['forget']['point']:.1%}, "
        f"retain {one['outputs'][MODEL]['retain']['point']:.1%}"
        for rank, one in enumerate(findings, start=1)
    )
