"""What low-rank adapters add to the features while they learn, and what the weight of forgetting changes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rasura.auditing import MODEL
from rasura.report.drawing import INK, OURS, Figure, Table, drawing, place_axes, share_axis, svg, unit_above
from rasura.report.numbers import percent, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIDES = {"retain": "Examples to keep", "forget": "Examples to forget"}
_MEANINGS = {
    "retain": "how far the adapters move the features of retained examples, as a share of their norm, stage by stage "
    "(the darker, the deeper). It should fall back after the start: low lines leave what is kept as it was.",
    "forget": "the same on the examples to forget: deeper stages should rise, away from what they looked like.",
}


def residuals(finding: dict[str, Any], key: str) -> list[Figure]:
    """Residual norms over the steps of residual feature alignment, and accuracy by gamma if its strength was searched.

    Args:
        finding: what `verdict.json` holds.
        key: makes the ids of these figures their own on the page.
    """
    history = finding["models"][MODEL]["history"]
    last = history[-1] if history else {}
    found, trials = last.get("residuals"), last.get("gamma_trials")
    figures = []
    if found:
        top = 100 * max(max(line) for side in SIDES for line in found[side])
        for side, title in SIDES.items():
            figures.append(Figure(title, _norms(found, side, top, f"{key}-residual-{side}"), _MEANINGS[side]))
        figures[0] = Figure(figures[0].title, figures[0].svg, figures[0].how, _table(found))
    if trials:
        figures.append(_sweep(trials, f"{key}-gamma"))
    return figures


def _norms(found: dict[str, Any], side: str, top: float, key: str) -> str:
    names = [shortened(name, 16) for name in found["layers"]]
    with drawing(250) as figure:
        axes = place_axes(figure, left=36, right=104, top=24, bottom=46)
        for number, line in enumerate(found[side]):
            axes.plot(
                found["steps"], [100 * value for value in line], color=OURS, linewidth=1.8, alpha=_depth(number, names)
            )
        axes.set_xlabel("steps")
        axes.set_ylim(0, 1.08 * top)
        unit_above(axes, "residual, % of the features’ norm")
        _name_ends(axes, names, [100 * line[-1] for line in found[side]], 1.08 * top)
        ends = [f"{name} {percent(line[-1])}" for name, line in zip(names, found[side], strict=True)]
        return svg(figure, key, f"Residual norms: {SIDES[side].lower()}", f"At the end: {'; '.join(ends)}")


def _depth(number: int, names: Sequence[str]) -> float:
    return 0.3 + 0.7 * (number + 1) / len(names)


def _name_ends(axes: "Axes", names: Sequence[str], heights: Sequence[float], top: float) -> None:
    """Names beside the ends of the lines, moved apart where they would overlap."""
    gap, last = 0.072 * top, -1.0
    for at in sorted(range(len(names)), key=lambda number: heights[number]):
        last = max(heights[at], last + gap)
        axes.annotate(
            names[at], (1, last), (6, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
            va="center", size=10, alpha=max(0.6, _depth(at, names)), color=INK,
        )  # fmt: skip


def _table(found: dict[str, Any]) -> Table:
    rows = [
        [name, percent(kept[-1]), percent(gone[-1]), f"{percent(away[0])} → {percent(away[-1])}"]
        for name, kept, gone, away in zip(
            *(found[part] for part in ("layers", "retain", "forget", "distance")), strict=True
        )
    ]
    return Table(["Stage", "Residual, to keep", "Residual, to forget", "Distance from the goal"], rows)


def _sweep(trials: Sequence[dict[str, Any]], key: str) -> Figure:
    ordered = sorted(trials, key=lambda one: one["gamma"])
    places = [one["gamma"] for one in ordered]
    with drawing(250) as figure:
        axes = place_axes(figure, left=36, right=74, top=24, bottom=46)
        axes.set_xscale("log")
        for part, colour in (("retain", INK), ("forget", OURS)):
            heights = [100 * one[f"{part}_accuracy"] for one in ordered]
            axes.plot(places, heights, color=colour, marker="o", markersize=4.5, clip_on=False)
            axes.annotate(
                f"to {'keep' if part == 'retain' else part}", (1, heights[-1]), (8, 0),
                xycoords=("axes fraction", "data"), textcoords="offset points", va="center", size=10, color=colour,
            )  # fmt: skip
        axes.set_xticks(places, [f"{place:g}" for place in places])
        axes.set_xticks([], minor=True)
        axes.set_xlabel("γ (log scale)")
        share_axis(axes, "accuracy, %")
        said = [f"γ {one['gamma']:g}: keep {percent(one['retain_accuracy'])}" for one in ordered]
        drawn = svg(figure, key, "Accuracy by the weight of forgetting", "; ".join(said))
    rows = [[f"{one['gamma']:g}", percent(one["forget_accuracy"]), percent(one["retain_accuracy"])] for one in ordered]
    how = "accuracy on examples kept aside, for each γ that was tried. The smallest that forgets costs least."
    return Figure("The weight of forgetting", drawn, how, Table(["γ", "To forget", "To keep"], rows))
