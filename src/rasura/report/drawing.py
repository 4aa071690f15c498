"""How figures are drawn: inline SVG whose colours are CSS variables and whose text stays text."""

import html
import io
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rasura.report.numbers import percent, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

WIDTH = 420
"""Points, which are CSS pixels here; the page scales figures to their column."""
SMALL = 300
"""The same for figures of which three stand side by side."""

INK, MUTED, RULE, OURS, RETRAINED = "#010203", "#010204", "#010205", "#010206", "#010207"
GOOD, BAD, HIDDEN, BROKEN, OPEN = "#010208", "#010209", "#01020a", "#01020b", "#01020c"
_VARIABLES = {INK: "--ink", MUTED: "--muted", RULE: "--rule", OURS: "--ours", RETRAINED: "--retrained"}
_VARIABLES |= {GOOD: "--good", BAD: "--bad", HIDDEN: "--hidden", BROKEN: "--broken", OPEN: "--open"}
"""matplotlib draws in these placeholders; the page's style sheet says what they look like, light or dark."""

SLANTED: dict[str, Any] = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"}
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
    "xtick.minor.size": 0,
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "lines.linewidth": 2,
}


@dataclass(frozen=True)
class Table:
    """The numbers of a figure, as text."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Figure:
    """A drawing with its heading, one line on how to read it, and its numbers where no other table has them."""

    title: str
    svg: str
    how: str
    table: Table | None = None
    small: bool = False


@dataclass(frozen=True)
class Series:
    """What a line chart shows, one value per place; NaN where there is none.

    Attributes:
        model: the audited model.
        references: per place, each retrained model; the band goes from the least to the largest.
        original: the original model; empty where it is not compared.
        untrained: a net with random weights, in the same way.
        floor: one value for all places, such as raw inputs.
    """

    model: Sequence[float]
    references: Sequence[Sequence[float]] = ()
    original: Sequence[float] = ()
    untrained: Sequence[float] = ()
    floor: float | None = None


@dataclass(frozen=True)
class Bars:
    """Rows of bars or dots: one model over the retrained ones with their range, and the original. Any unit."""

    names: Sequence[str]
    model: Sequence[float]
    references: Sequence[Sequence[float]]
    original: Sequence[float]
    chosen: Sequence[int] = ()


def draw_series(axes: "Axes", places: Sequence[float], series: Series) -> None:
    """Band and mean of the retrained models, the original's open squares, and this model on top."""
    if series.floor is not None:
        axes.axhline(series.floor, color=MUTED, linewidth=1.2, linestyle=(0, (1, 2)))
    if any(not math.isnan(value) for value in series.untrained):
        axes.plot(places, series.untrained, color=MUTED, linewidth=1, marker="^", markersize=5, linestyle=(0, (1, 1.5)))
    if series.references and all(series.references):
        lows, highs = ([end(each) for each in series.references] for end in (min, max))
        axes.fill_between(places, lows, highs, color=RETRAINED, alpha=0.22, linewidth=0)
        means = [sum(each) / len(each) for each in series.references]
        axes.plot(places, means, color=RETRAINED, linewidth=1.6)
    if series.original:
        axes.plot(
            places,
            series.original,
            color=INK,
            linewidth=1.2,
            linestyle=(0, (4, 3)),
            marker="s",
            markersize=8.5,
            markerfacecolor="none",
            markeredgewidth=1.2,
            clip_on=False,
        )
    axes.plot(places, series.model, color=OURS, marker="o", markersize=5, clip_on=False)


def layer_ticks(axes: "Axes", layers: Sequence[str], slanted: bool, most: int = 16) -> None:
    """Names of layers under a line chart."""
    names = [shortened(layer, most) for layer in layers]
    axes.set_xticks(range(len(names)), names, **(SLANTED if slanted else {}))


def needs_slant(layers: Sequence[str], most: int = 16, room: int = 52) -> bool:
    """Whether names of layers are too long to stand side by side: `most` letters each, `room` for all."""
    return sum(len(shortened(layer, most)) + 2 for layer in layers) > room


def share_axis(axes: "Axes", label: str) -> None:
    """0 to 100 with a grid, and the unit above."""
    axes.set_ylim(0, 100)
    axes.set_yticks([0, 25, 50, 75, 100])
    unit_above(axes, label)


def unit_above(axes: "Axes", label: str) -> None:
    """The unit of the vertical axis, written above it, and a grid."""
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    axes.annotate(label, (0, 1), (-34, 9), xycoords="axes fraction", textcoords="offset points", color=MUTED, size=10.5)


@contextmanager
def drawing(height: float, width: float = WIDTH) -> "Iterator[Canvas]":
    """An empty figure under settings of our own, whatever the user's matplotlibrc says."""
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the reader's fonts draw the text, not ours
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        figure = Canvas(figsize=(width / 72, height / 72))
        figure.patch.set_visible(False)
        yield figure


def place_axes(figure: "Canvas", left: float, right: float, top: float, bottom: float) -> "Axes":
    """Axes at fixed distances, in points, from the figure's edges."""
    width, height = 72 * figure.get_size_inches()
    axes = figure.add_axes(
        (left / width, bottom / height, (width - left - right) / width, (height - top - bottom) / height)
    )
    axes.patch.set_visible(False)
    return axes


def svg(figure: "Canvas", key: str, title: str, description: str) -> str:
    """The drawing as markup that can stand in a page.

    Args:
        figure: what was drawn.
        key: makes the ids of this figure its own on the page.
        title: what it is.
        description: its numbers, for those who do not see it.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    drawn = buffer.getvalue()
    body = drawn[drawn.index(">", drawn.index("<svg")) + 1 :]
    for unwanted in (r"<style.*?</style>", r"<!--.*?-->", r"<defs>\s*(<clipPath.*?)?</defs>", r"<g id=[^>]*/>"):
        body = re.sub(unwanted, "", body, flags=re.DOTALL)
    body = re.sub(r"<[^>]*>", lambda tag: _tidied(tag[0], key), body)  # tags only: text is the user's
    width, height = 72 * figure.get_size_inches()
    return opening(key, title, description, width, height) + re.sub(r">\s*\n\s*<", "><", body)


def opening(key: str, title: str, description: str, width: float, height: float) -> str:
    """The first tag of a drawing, with its title and description."""
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-labelledby="{key}-t {key}-d">'
        f'<title id="{key}-t">{html.escape(title)}</title><desc id="{key}-d">{html.escape(description)}</desc>'
    )


def spoken(found: Sequence[dict[str, Any]], place: str) -> str:
    """The numbers of comparisons for those who do not see the figure."""
    parts = [
        f"{one[place] or 'all'}: this model {percent(one['model'])}, "
        f"retrained {percent(one['reference_summary']['mean'])}, original {percent(one['original'])}"
        for one in found
    ]
    return "; ".join(parts)


def _tidied(tag: str, key: str) -> str:
    """A tag with variables for colours, two decimals at most, no fonts, and no ids that other figures use too."""
    tag = re.sub(r"#01020[3-9a-c]", lambda found: f"var({_VARIABLES[found[0]]})", tag)
    tag = re.sub(r'^<g id="[^"]*"', "<g", tag)
    tag = re.sub(r'font-family: [^;"]*;? ?| clip-path="[^"]*"', "", tag)
    tag = re.sub(r'(id="|href="#)', rf"\g<1>{key}-", tag)
    tag = tag.replace("xlink:href", "href").replace("\n", "")
    return re.sub(r"(?<=\d)(\.\d{2})\d+", r"\1", tag)
