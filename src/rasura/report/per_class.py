"""Figures with a row per class: where the forgotten class goes, and what the head holds against each class."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rasura.auditing import MODEL, ORIGINAL
from rasura.report.drawing import INK, OURS, RETRAINED, Bars, Figure, Table, drawing, place_axes, svg
from rasura.report.numbers import percent, plain, role, shortened
from rasura.report.scores import reference_roles

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_CLASSES = 8
"""Classes with a row of their own; the others share one row, or are left out."""
MOST_LETTERS = 22
HALF = 0.19
"""From the middle of a row of bars to the middle of each of its two, in rows."""
NUMBERS = 46
"""Points at the right of bars, for their numbers."""


def routing(finding: dict[str, Any], key: str) -> list[Figure]:
    """Which class the model gives to forget examples, beside the retrained models' mean.

    Args:
        finding: what `verdict.json` holds.
        key: makes the ids of this figure its own on the page.
    """
    if not finding["routing"]:
        return []
    bars = _common_answers(finding["routing"]["shares"], finding["data"]["classes"])
    with drawing(40 + 34 * len(bars.names)) as figure:
        left = 24 + 5.8 * max(len(name) for name in bars.names)
        axes = place_axes(figure, left=left, right=NUMBERS, top=8, bottom=28)
        _paired_bars(axes, bars, figure.get_figwidth() * 72)
        said = "; ".join(f"{name}: this model {own:.1f}%" for name, own in zip(bars.names, bars.model, strict=True))
        drawn = svg(figure, f"{key}-routing", "Answers on the forgotten class", said)
    how = (
        "which class the model names instead. Bars as long as the retrained ones: it answers like a model that never "
        f"saw the class. {_distance(finding['routing'])}"
    )
    return [Figure("Where the forgotten class goes", drawn, how)]


def head(finding: dict[str, Any], key: str) -> list[Figure]:
    """Effective bias and alignment of every class; nothing where a head is not a plain linear map."""
    heads = finding["heads"] or {}
    if not heads.get(MODEL) or not heads.get(ORIGINAL):
        return []
    roles = [name for name in (ORIGINAL, MODEL, *reference_roles(finding)) if heads.get(name)]
    biases = {name: _centred(heads[name]["effective_bias"]) for name in roles}
    figures = [
        Figure(
            "Effective bias",
            _dots(finding, biases, f"{key}-bias", "Effective bias of each class"),
            "what each class’s score gets before anything is seen, beside the mean class. A forgotten class far to the "
            "left of the retrained range is held down by its bias, not forgotten.",
            _class_table(finding, {name: heads[name]["effective_bias"] for name in roles}),
        )
    ]
    alignments = {name: heads[name]["alignment"] for name in roles}
    if all(value is not None for values in alignments.values() for value in values):
        figures.append(
            Figure(
                "Weight and features",
                _dots(finding, alignments, f"{key}-alignment", "Cosine of class weight and class mean"),
                "cosine between a class’s weight and the mean of its features. Near the original: the head still "
                "points at the class. Far below the retrained range: it was turned away.",
                _class_table(finding, alignments),
            )
        )
    return figures


def _distance(found: dict[str, Any]) -> str:
    if found["distance"] is None:
        return "Its distance from retrained models is missing: that needs two of them."
    text = (
        f"{percent(found['distance'])} of the answers would have to change to match the retrained mean (total "
        f"variation); up to {percent(found['band'])} is usual among retrained models, so this is "
        f"{'outside' if found['outside'] else 'inside'}."
    )
    if found["jensen_shannon"] is None:
        return text
    band = found["jensen_shannon_band"]
    usual = "" if band is None else f", up to {band:.3f} is usual"
    return f"{text} Jensen–Shannon divergence: {found['jensen_shannon']:.3f} bits{usual}."


def _centred(values: Sequence[float]) -> list[float]:
    """Logits mean the same with a constant added to all: only differences between classes compare across models."""
    mean = sum(values) / len(values)
    return [value - mean for value in values]


def _class_table(finding: dict[str, Any], values: dict[str, Sequence[float | None]]) -> Table:
    classes = finding["data"]["classes"]
    rows = [[name, *(plain(values[each][number]) for each in values)] for number, name in enumerate(classes)]
    return Table(["Class", *(role(name).capitalize() for name in values)], rows)


def _dots(finding: dict[str, Any], values: dict[str, list[float]], key: str, title: str) -> str:
    bars = _extreme_classes(finding, values)
    with drawing(40 + 24 * len(bars.names)) as figure:
        left = 24 + 5.8 * max(len(name) for name in bars.names)
        axes = place_axes(figure, left=left, right=14, top=8, bottom=28)
        axes.axvline(0, color=INK, linewidth=0.8)
        for at, each in enumerate(bars.references):
            if each:
                middle = sum(each) / len(each)
                axes.hlines(at, min(each), max(each), color=RETRAINED, linewidth=7, alpha=0.55)
                axes.vlines(middle, at - 0.3, at + 0.3, color=RETRAINED, linewidth=2)
        axes.plot(bars.original, range(len(bars.names)), "s", color=INK, markersize=8, markerfacecolor="none")
        axes.plot(bars.model, range(len(bars.names)), "o", color=OURS, markersize=6)
        _rows(axes, bars)
        axes.grid(axis="both")
        said = "; ".join(f"{name}: this model {plain(own)}" for name, own in zip(bars.names, bars.model, strict=True))
        return svg(figure, key, title, said)


def _extreme_classes(finding: dict[str, Any], values: dict[str, list[float]]) -> Bars:
    """The forgotten classes, and those on which the model lies furthest from the others; in their own order."""
    classes, forget = finding["data"]["classes"], finding["request"]["classes"]
    others = [values[name] for name in values if name not in (MODEL, ORIGINAL)] or [values[ORIGINAL]]

    def distance(number: int) -> float:
        return abs(values[MODEL][number] - sum(each[number] for each in others) / len(others))

    order = sorted(range(len(classes)), key=lambda number: (number not in forget, -distance(number)))
    shown = sorted(order[: max(10, len(forget))][:20])
    return Bars(
        names=[shortened(classes[number], MOST_LETTERS) for number in shown],
        model=[values[MODEL][number] for number in shown],
        references=[[values[name][number] for name in values if name not in (MODEL, ORIGINAL)] for number in shown],
        original=[values[ORIGINAL][number] for number in shown],
        chosen=[at for at, number in enumerate(shown) if number in forget],
    )


def _common_answers(shares: dict[str, list[float]], classes: list[str]) -> Bars:
    """The classes that any model answers most, and what is left for all others together; in percent."""
    references = [name for name in shares if name not in (MODEL, ORIGINAL)]
    order = sorted(range(len(classes)), key=lambda number: -max(row[number] for row in shares.values()))
    shown, left = sorted(order[:MOST_CLASSES]), order[MOST_CLASSES:]
    groups = [[number] for number in shown] + ([left] if left else [])
    names = [shortened(classes[number], MOST_LETTERS) for number in shown]

    def percents(name: str) -> list[float]:
        return [100 * sum(shares[name][number] for number in group) for group in groups]

    each = [percents(name) for name in references]
    return Bars(
        names=[*names, f"{len(left)} other{'s' * (len(left) > 1)}"] if left else names,
        model=percents(MODEL),
        references=[list(row) for row in zip(*each, strict=True)] if each else [[] for _ in groups],
        original=percents(ORIGINAL),
    )


def _paired_bars(axes: "Axes", bars: Bars, width: float) -> None:
    """Two bars a row, this model over the retrained mean with its range, and an open square for the original."""
    _row_of_bars(axes, [(at - HALF, own) for at, own in enumerate(bars.model)], OURS, width)
    retrained = [(at + HALF, each) for at, each in enumerate(bars.references) if each]
    if retrained:
        _row_of_bars(axes, [(at, sum(each) / len(each)) for at, each in retrained], RETRAINED, width)
        lows, highs = ([end(each) for _, each in retrained] for end in (min, max))
        axes.hlines([at for at, _ in retrained], lows, highs, color=INK, linewidth=1.4, clip_on=False)
    axes.plot(
        bars.original, range(len(bars.names)), "s", color=INK, markersize=7, markerfacecolor="none", clip_on=False
    )
    _rows(axes, bars)
    axes.set_xlim(0, 100)
    axes.set_xticks([0, 25, 50, 75, 100], ["0", "25", "50", "75", "100 %"])
    axes.grid(axis="x")


def _rows(axes: "Axes", bars: Bars) -> None:
    axes.set_ylim(len(bars.names) - 0.4, -0.6)
    axes.set_yticks(range(len(bars.names)), bars.names, color=INK)
    for at in bars.chosen:
        axes.get_yticklabels()[at].set_fontweight("bold")
    axes.tick_params(axis="y", pad=10)
    axes.set_axisbelow(True)
    axes.spines["bottom"].set_visible(False)


def _row_of_bars(axes: "Axes", bars: list[tuple[float, float]], color: str, width: float) -> None:
    """Bars with their numbers in a column at the right, where no marker runs into them; a hair shows even at 0."""
    axes.barh([at for at, _ in bars], [max(share, 0.4) for _, share in bars], height=1.8 * HALF, color=color)
    beyond = 1 + (NUMBERS - 2) / (axes.get_position().width * width)
    for at, share in bars:
        axes.text(
            beyond,
            at,
            f"{share:.1f}",
            transform=axes.get_yaxis_transform(),
            ha="right",
            va="center_baseline",
            size=10,
            color=color,
        )
