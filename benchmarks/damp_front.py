"""What DAMP's settings trade: the crossed rows of benchmarks/damp_ablation.py by field, and those no other one beats.

    python benchmarks/damp_front.py [--result results/damp_ablation.json] [--svg docs/damp_front.svg]

Draws, for each request whose settings were crossed, by how many points each falls short of retrained models: retained
accuracy lost against the larger distance of few-shot recall at five and ten labels. Other methods of the same request
stand beside.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

Row = dict[str, Any]
CROSSED = "residual="
"""How the names of crossed settings begin."""
OWN = ("defaults", "late", "published")
"""Forms of DAMP that have a name."""
LEAST_LOST, MOST_LOST = 1.5, 8.0
"""Points that are drawn."""
LINE = 0.04
"""How far apart names are written, as a share of the panel's height."""
KEYS = ("data", "net", "seed", "forget")


def lost(row: Row) -> float:
    """Retained accuracy below the mean of the retrained models."""
    return row["retain_below_retrained"]


def apart(row: Row) -> float:
    """How far few-shot recall at five or ten labels is from that of the retrained models, whichever is farther."""
    return max(abs(row[f"few_shot_{shots}_above_retrained"]) for shots in (5, 10))


def place_of(row: Row) -> list[Any]:
    """What a row is of."""
    return [row[key] for key in KEYS] + [row["method"]]


def requests(rows: list[Row]) -> Iterator[tuple[dict[str, Any], list[Row], list[Row]]]:
    """Each request whose settings were crossed: what it is, the crossed rows, and those of other methods."""
    crossed = [row for row in rows if row["method"].startswith(CROSSED) and "error" not in row]
    for about in {json.dumps([row[key] for key in KEYS]): row for row in crossed}.values():
        here = [row for row in rows if all(row[key] == about[key] for key in KEYS) and "error" not in row]
        others = [row for row in here if "," not in row["method"]]
        yield {key: about[key] for key in KEYS}, [row for row in here if row["method"].startswith(CROSSED)], others


def effects(rows: list[Row]) -> list[dict[str, Any]]:
    """Per request and value of each crossed field: means over all settings of the others; how many meet the aims."""
    found = []
    for about, crossed, _ in requests(rows):
        for field in ("residual", "energy", "order", "depth", "bias"):
            some = [row for row in crossed if field != "energy" or row["settings"]["residual"] == "centred"]
            for value in dict.fromkeys(row["settings"][field] for row in some):
                these = [row for row in some if row["settings"][field] == value]
                line = {"field": field, "value": value, "rows": len(these)}
                line |= {"met": sum(row["aims_met"] for row in these)}
                line |= {"lost": round(mean(map(lost, these)), 5), "apart": round(mean(map(apart, these)), 5)}
                found.append(about | line)
    return found


def front(rows: list[Row]) -> list[Row]:
    """The crossed rows that forget and that no other one beats at one distance without being worse at the other."""
    found: list[Row] = []
    for _, crossed, _ in requests(rows):
        forgets = sorted(
            (row for row in crossed if row["forget_accuracy"] <= 0.02), key=lambda row: (lost(row), apart(row))
        )
        nearest = float("inf")
        for row in forgets:
            if apart(row) < nearest:
                nearest = apart(row)
                found.append(row)
    return found


def draw(rows: list[Row], place: Path) -> None:
    """One panel per request; other methods by name, those of other forms of DAMP in red."""
    import matplotlib.pyplot as plt

    panels = list(requests(rows))
    plt.rcParams |= {"svg.hashsalt": "rasura", "font.size": 9}
    figure, axes = plt.subplots(1, len(panels), figsize=(5.6 * len(panels), 4.4), squeeze=False, layout="constrained")
    for axis, panel in zip(axes[0], panels, strict=True):
        _draw_panel(axis, *panel, front(rows))
    figure.savefig(place, metadata={"Date": None} if place.suffix == ".svg" else None)


def _draw_panel(axis: Any, about: Row, crossed: list[Row], others: list[Row], best: list[Row]) -> None:
    beyond = sum(100 * lost(row) > MOST_LOST for row in crossed)
    label = f"{len(crossed)} settings of DAMP, crossed ({beyond} lie farther right)"
    axis.scatter(*_places(crossed), s=12, color="#b8b8b8", label=label)
    axis.plot(
        *_places([row for row in best if row in crossed]), "o-", color="#1f5fa8", ms=4, label="no other beats them"
    )
    axis.plot([-LEAST_LOST, 1, 1], [10, 10, 0], "--", color="#777777", linewidth=0.8, label="the aims")
    top = 100 * max(map(apart, others)) + 2
    height = -top
    for row in sorted(others, key=apart):
        colour, marker = ("#b3261e", "D") if row["method"] in OWN else ("#222222", "s")
        axis.scatter(*_places([row]), s=36, color=colour, marker=marker, zorder=3)
        height = max(height + LINE * top, 100 * apart(row))  # names of neighbours would lie on each other
        axis.text(100 * lost(row) + 0.2, height, row["method"], color=colour, va="center")
    axis.set(title=f"{about['data']}, {about['net']}: {' and '.join(about['forget'])}, seed {about['seed']}")
    axis.set(xlim=(-LEAST_LOST, MOST_LOST), ylim=(0, top + LINE * top))
    axis.set(xlabel="retained accuracy lost, points", ylabel="few-shot recall apart, points")
    axis.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.12))


def _places(rows: list[Row]) -> tuple[list[float], list[float]]:
    return [100 * lost(row) for row in rows], [100 * apart(row) for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--result", type=Path, default=Path("results/damp_ablation.json"))
    parser.add_argument("--svg", type=Path, default=Path("docs/damp_front.svg"))
    arguments = parser.parse_args()
    draw(json.loads(arguments.result.read_text())["rows"], arguments.svg)


if __name__ == "__main__":
    main()
