"""What a closed-form method did to each linear map: the depth profile of its edit record."""

from typing import TYPE_CHECKING, Any

from rasura.auditing import MODEL
from rasura.report.drawing import INK, MUTED, OURS, Figure, Table, drawing, place_axes, svg
from rasura.report.numbers import percent, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_LETTERS = 30
MOST_ROWS = 40
"""Maps with a row of their own in a figure; of deeper nets the table alone shows all."""
NUMBERS = 92
"""Points at the right of bars, for what was done."""
KINDS = {"retire": "rows replaced", "": "left alone"}


def edits(finding: dict[str, Any], key: str) -> list[Figure]:
    """A row per linear map, in the order in which they run; nothing where the method left no such record.

    Args:
        finding: what `verdict.json` holds.
        key: makes the ids of these figures their own on the page.
    """
    found = edit_record(finding)
    if not found:
        return []
    shown = found if len(found) <= MOST_ROWS else _projected(found)[:MOST_ROWS]
    return [_profile(shown, f"{key}-edits"), _removed(shown, f"{key}-removed")]


def edit_record(finding: dict[str, Any]) -> list[dict[str, Any]]:
    """What the audited model's last forgetting says of each linear map."""
    return (finding["models"].get(MODEL) or {}).get("edits") or []


def edit_table(finding: dict[str, Any]) -> Table:
    """All of the record."""
    headings = ["Linear map", "Separability", "Strength α", "Rank", "Weight removed", "Retained mean kept by", "Edit"]
    return Table(headings, [_cells(one) for one in edit_record(finding)])


def skipped(finding: dict[str, Any]) -> str:
    """Which maps were left alone and why, in a sentence; empty if none was."""
    reasons: dict[str, list[str]] = {}
    for one in edit_record(finding):
        if one["skipped"]:
            reasons.setdefault(one["skipped"], []).append(one["operator"])
    told = "; ".join(f"{', '.join(names)} ({why})" for why, names in reasons.items())
    return f"Left alone: {told}." if told else ""


def _cells(one: dict[str, Any]) -> list[str]:
    projected = one["edit"] == "project"
    strength, rank = (percent(one["alpha"]), str(one["rank"])) if projected else ("–", "–")
    removed = percent(one["removed"]) if one["edit"] else "–"
    done = one["skipped"] or ("projected" if projected else KINDS[one["edit"]])
    if cancelled := one.get("cancelled"):  # records of earlier versions have no such entry
        done += f", {percent(cancelled)} of its shortcut cancelled"
    if one.get("dispersed"):
        done += ", single examples dispersed"
    return [one["operator"], percent(one["separability"]), strength, rank, removed, one["mean"] or "–", done]


def _projected(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [one for one in found if one["edit"]]


def _profile(found: list[dict[str, Any]], key: str) -> Figure:
    """Separability and strength of every map."""
    with drawing(40 + 20 * len(found)) as figure:
        axes = _rows(figure, found, right=24)
        places = range(len(found))
        axes.plot([100 * one["separability"] for one in found], places, color=MUTED, linewidth=1)
        axes.plot([100 * one["separability"] for one in found], places, "s", color=INK, markersize=7, clip_on=False)
        axes.lines[-1].set_markerfacecolor("none")
        projected = [(100 * one["alpha"], at) for at, one in enumerate(found) if one["edit"] == "project"]
        axes.plot([x for x, _ in projected], [at for _, at in projected], "o", color=OURS, markersize=6, clip_on=False)
        axes.set_xlim(0, 100)
        axes.set_xticks([0, 25, 50, 75, 100], ["0", "25", "50", "75", "100 %"])
        said = "; ".join(f"{one['operator']}: separability {percent(one['separability'])}" for one in found)
        drawn = svg(figure, key, "Separability and strength at each linear map", said)
    how = (
        "from the input above to the output below. Square: how well a linear probe tells the class from the others "
        "before the map (0: by chance). Dot: strength of the edit, at 100% the map no longer answers to the class’s "
        "directions. No dot: not projected."
    )
    return Figure("Where the class shows, and how strongly it is taken out", drawn, how)


def _removed(found: list[dict[str, Any]], key: str) -> Figure:
    """Share of the weight's length that each edit took, with the number of directions."""
    with drawing(40 + 20 * len(found)) as figure:
        axes = _rows(figure, found, right=NUMBERS)
        shares = [100 * one["removed"] for one in found]
        colours = [OURS if one["edit"] == "project" else MUTED for one in found]
        axes.barh(range(len(found)), shares, height=0.62, color=colours)
        for at, one in enumerate(found):
            axes.annotate(
                _done(one),
                (1, at),
                (8, 0),
                xycoords=axes.get_yaxis_transform(),
                textcoords="offset points",
                va="center_baseline",
                size=10,
                color=OURS if one["edit"] == "project" else MUTED,
                annotation_clip=False,
            )
        axes.set_xlim(0, max(10.0, *shares))
        axes.xaxis.set_major_formatter(lambda share, _: f"{share:g}%")
        said = "; ".join(f"{one['operator']}: {_done(one)}" for one in found)
        drawn = svg(figure, key, "Share of each weight that was removed", said)
    how = (
        "the change’s length as a share of the weight’s (Frobenius norm), and how many directions it took. Grey at the "
        "head: the rows of the forgotten classes were replaced."
    )
    return Figure("How much of each weight was removed", drawn, how)


def _done(one: dict[str, Any]) -> str:
    if one["edit"] != "project":
        return KINDS[one["edit"]]
    return f"{percent(one['removed'])}, rank {one['rank']}"


def _rows(figure: Any, found: list[dict[str, Any]], right: float) -> "Axes":
    names = [shortened(one["operator"], MOST_LETTERS) for one in found]
    axes = place_axes(figure, left=18 + 5.6 * max(len(name) for name in names), right=right, top=8, bottom=28)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_yticks(range(len(names)), names, color=INK)
    for label, one in zip(axes.get_yticklabels(), found, strict=True):
        label.set_color(INK if one["edit"] else MUTED)
    axes.tick_params(axis="y", pad=8)
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    axes.spines["bottom"].set_visible(False)
    return axes
