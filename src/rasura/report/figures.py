"""The figures of a report: inline SVG whose colours are CSS variables and whose text stays text."""

import html
import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rasura.auditing import MODEL, ORIGINAL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 420
"""Points, which are CSS pixels here; the page scales figures to their column."""
MOST_CLASSES = 8
"""Classes with a row of their own in the routing figure; the others share one row."""
MOST_LETTERS = 22
HALF = 0.19
"""From the middle of a row of bars to the middle of each of its two, in rows."""
NUMBERS = 46
"""Points at the right of bars, for their numbers."""

INK, MUTED, RULE, OURS, RETRAINED = "#010203", "#010204", "#010205", "#010206", "#010207"
_VARIABLES = {INK: "--ink", MUTED: "--muted", RULE: "--rule", OURS: "--ours", RETRAINED: "--retrained"}
"""matplotlib draws in these placeholders; the page's style sheet says what they look like, light or dark."""

_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "rasura",
    "text.parse_math": False,  # a class named "$x$" is a name, not a formula
    "font.size": 11,
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "lines.linewidth": 2,
}


def layer_profile(finding: dict[str, Any], key: str) -> str | None:
    """Recall of the linear probe at each stage; None where nothing was compared.

    Args:
        finding: what `verdict.json` holds.
        key: makes the ids of this figure its own on the page.
    """
    found = [one for one in finding["comparisons"] if one["decoder"] == "linear"]
    if not found:
        return None
    names = [_short(one["layer"], 16) for one in found]
    slanted = sum(len(name) + 2 for name in names) > 52
    with _drawing(250 + 40 * slanted) as figure:
        axes = _axes(figure, left=36, right=14, top=24, bottom=30 + 40 * slanted)
        _curves(axes, list(range(len(found))), found)
        axes.set_xticks(range(len(found)), names, **(_SLANTED if slanted else {}))
        _share_axis(axes)
        return _svg(figure, key, "Recall of a linear probe at each stage", _spoken(found, "layer"))


def few_shot_curve(finding: dict[str, Any], key: str) -> str | None:
    """Recall after the head was refitted with n labels; None where nothing was compared.

    Args:
        finding: what `verdict.json` holds.
        key: makes the ids of this figure its own on the page.
    """
    found = [one for one in finding["comparisons"] if one["decoder"] == "few-shot"]
    found = sorted((one for one in found if one["shots"]), key=lambda one: one["shots"]) + [
        one for one in found if not one["shots"]
    ]
    if not found:
        return None
    most = max(one["shots"] for one in found) or 1
    places = [one["shots"] or 2.5 * most for one in found]
    with _drawing(250) as figure:
        axes = _axes(figure, left=36, right=14, top=24, bottom=46)
        axes.set_xscale("log")
        _curves(axes, places, found)
        axes.set_xticks(places, [str(one["shots"] or "all") for one in found])
        axes.set_xticks([], minor=True)
        axes.set_xlabel("labels per forgotten class (log scale)")
        _share_axis(axes)
        return _svg(figure, key, "Recall of a head refitted with a few labels", _spoken(found, "shots"))


def recovery_ladder(finding: dict[str, Any], rungs: dict[str, str], key: str) -> str | None:
    """How many forget examples are named again after each cheap change; None where nothing was compared.

    Args:
        finding: what `verdict.json` holds.
        rungs: decoders in order, each with what the figure calls it.
        key: makes the ids of this figure its own on the page.
    """
    found = [one for rung in rungs for one in finding["comparisons"] if one["decoder"] == rung]
    if not found:
        return None
    names = [rungs[one["decoder"]] for one in found]
    rows = [(one["model"], one["references"], one["original"]) for one in found]
    with _drawing(40 + 66 * len(found)) as figure:
        _paired_bars(figure, names, rows)
        return _svg(figure, key, "Recall after each cheap change", _spoken(found, "decoder"))


def routing(finding: dict[str, Any], key: str) -> str:
    """Which class the model gives to forget examples, beside the retrained models' mean.

    Args:
        finding: what `verdict.json` holds.
        key: makes the ids of this figure its own on the page.
    """
    shares = finding["routing"]["shares"]
    names, rows = _common_answers(shares, finding["data"]["classes"])
    with _drawing(40 + 34 * len(rows)) as figure:
        _paired_bars(figure, names, rows)
        spoken = "; ".join(f"{name}: this model {own:.1%}" for name, (own, _, _) in zip(names, rows, strict=True))
        return _svg(figure, key, "Answers on the forgotten class", spoken)


_Row = tuple[float, Sequence[float], float]
_SLANTED = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"}


def _common_answers(shares: dict[str, list[float]], classes: list[str]) -> tuple[list[str], list[_Row]]:
    """The classes that any model answers most, and what is left for all others together."""
    others = [row for name, row in shares.items() if name not in (MODEL, ORIGINAL)]
    order = sorted(range(len(classes)), key=lambda number: -max(row[number] for row in shares.values()))
    shown, left = sorted(order[:MOST_CLASSES]), order[MOST_CLASSES:]
    names = [_short(classes[number], MOST_LETTERS) for number in shown]
    rows: list[_Row] = [
        (shares[MODEL][number], [row[number] for row in others], shares[ORIGINAL][number]) for number in shown
    ]
    if left:
        sums = {name: sum(row[number] for number in left) for name, row in shares.items()}
        retrained = [sums[name] for name in shares if name not in (MODEL, ORIGINAL)]
        names.append(f"{len(left)} other{'s' * (len(left) > 1)}")
        rows.append((sums[MODEL], retrained, sums[ORIGINAL]))
    return names, rows


def _curves(axes: "Axes", places: Sequence[float], found: list[dict[str, Any]]) -> None:
    """Original, retrained band with mean, and this model; the original's open squares stay visible underneath."""
    lows, highs = ([100 * one["reference_summary"][end] for one in found] for end in ("low", "high"))
    axes.fill_between(places, lows, highs, color=RETRAINED, alpha=0.22, linewidth=0)
    axes.plot(places, [100 * one["reference_summary"]["mean"] for one in found], color=RETRAINED, linewidth=1.6)
    axes.plot(
        places,
        [100 * one["original"] for one in found],
        color=INK,
        linewidth=1.2,
        linestyle=(0, (4, 3)),
        marker="s",
        markersize=8.5,
        markerfacecolor="none",
        markeredgewidth=1.2,
        clip_on=False,
    )
    axes.plot(places, [100 * one["model"] for one in found], color=OURS, marker="o", markersize=5, clip_on=False)


def _share_axis(axes: "Axes") -> None:
    axes.set_ylim(0, 100)
    axes.set_yticks([0, 25, 50, 75, 100])
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    axes.annotate(
        "recall, %", (0, 1), (-34, 9), xycoords="axes fraction", textcoords="offset points", color=MUTED, size=10.5
    )


def _paired_bars(figure: "Figure", names: list[str], rows: list[_Row]) -> None:
    """Two bars a row, this model over the retrained mean with its range, and an open square for the original."""
    left = 24 + 5.8 * max(len(name) for name in names)
    axes = _axes(figure, left=left, right=NUMBERS, top=8, bottom=28)
    _bars(axes, [(at - HALF, own) for at, (own, _, _) in enumerate(rows)], OURS)
    retrained = [(at + HALF, references) for at, (_, references, _) in enumerate(rows) if references]
    if retrained:
        _bars(axes, [(at, sum(references) / len(references)) for at, references in retrained], RETRAINED)
        lows, highs = ([100 * end(references) for _, references in retrained] for end in (min, max))
        axes.hlines([at for at, _ in retrained], lows, highs, color=INK, linewidth=1.4, clip_on=False)
    originals = [100 * original for _, _, original in rows]
    axes.plot(originals, range(len(rows)), "s", color=INK, markersize=7, markerfacecolor="none", clip_on=False)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_yticks(range(len(rows)), names, color=INK)
    axes.tick_params(axis="y", pad=10)
    axes.set_xlim(0, 100)
    axes.set_xticks([0, 25, 50, 75, 100], ["0", "25", "50", "75", "100 %"])
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    axes.spines["bottom"].set_visible(False)


def _bars(axes: "Axes", bars: list[tuple[float, float]], color: str) -> None:
    """Bars with their numbers in a column at the right, where no marker runs into them; a hair shows even at 0."""
    axes.barh([at for at, _ in bars], [max(100 * share, 0.4) for _, share in bars], height=1.8 * HALF, color=color)
    beyond = 1 + (NUMBERS - 2) / (axes.get_position().width * WIDTH)
    for at, share in bars:
        axes.text(
            beyond,
            at,
            f"{100 * share:.1f}",
            transform=axes.get_yaxis_transform(),
            ha="right",
            va="center_baseline",
            size=10,
            color=color,
        )


@contextmanager
def _drawing(height: float) -> "Iterator[Figure]":
    """An empty figure under settings of our own, whatever the user's matplotlibrc says."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the reader's fonts draw the text, not ours
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        figure = Figure(figsize=(WIDTH / 72, height / 72))
        figure.patch.set_visible(False)
        yield figure


def _axes(figure: "Figure", left: float, right: float, top: float, bottom: float) -> "Axes":
    """Axes at fixed distances, in points, from the figure's edges."""
    width, height = 72 * figure.get_size_inches()
    axes = figure.add_axes(
        (left / width, bottom / height, (width - left - right) / width, (height - top - bottom) / height)
    )
    axes.patch.set_visible(False)
    return axes


def _svg(figure: "Figure", key: str, title: str, description: str) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    drawn = buffer.getvalue()
    body = drawn[drawn.index(">", drawn.index("<svg")) + 1 :]
    for unwanted in (r"<style.*?</style>", r"<!--.*?-->", r"<defs>\s*(<clipPath.*?)?</defs>", r"<g id=[^>]*/>"):
        body = re.sub(unwanted, "", body, flags=re.DOTALL)
    body = re.sub(r"<[^>]*>", lambda tag: _tidied(tag[0], key), body)  # tags only: text is the user's
    width, height = 72 * figure.get_size_inches()
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-labelledby="{key}-t {key}-d">'
        f'<title id="{key}-t">{html.escape(title)}</title><desc id="{key}-d">{html.escape(description)}</desc>'
        + re.sub(r">\s*\n\s*<", "><", body)
    )


def _tidied(tag: str, key: str) -> str:
    """A tag with variables for colours, two decimals at most, no fonts, and no ids that other figures use too."""
    tag = re.sub(r"#01020[3-7]", lambda found: f"var({_VARIABLES[found[0]]})", tag)
    tag = re.sub(r'^<g id="[^"]*"', "<g", tag)
    tag = re.sub(r'font-family: [^;"]*;? ?| clip-path="[^"]*"', "", tag)
    tag = re.sub(r'(id="|href="#)', rf"\g<1>{key}-", tag)
    tag = tag.replace("xlink:href", "href").replace("\n", "")
    return re.sub(r"(?<=\d)(\.\d{2})\d+", r"\1", tag)


def _spoken(found: list[dict[str, Any]], place: str) -> str:
    """The numbers of a figure for those who do not see it."""
    parts = [
        f"{one[place] or 'all'}: this model {one['model']:.1%}, retrained {one['reference_summary']['mean']:.1%}, "
        f"original {one['original']:.1%}"
        for one in found
    ]
    return "; ".join(parts)


def _short(name: str, most: int) -> str:
    """A name on one line, cut in the middle if it is long: both ends tell modules and classes apart."""
    name = " ".join(name.split())
    return name if len(name) <= most else f"{name[: most // 2]}…{name[-(most // 2 - 1) :]}"
