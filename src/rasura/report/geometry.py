"""How the models' features compare: similarity, agreement, purity and selectivity by layer."""

import math
from collections.abc import Sequence
from typing import Any

from rasura.report.drawing import (
    SMALL,
    Figure,
    Series,
    Table,
    draw_series,
    drawing,
    layer_ticks,
    needs_slant,
    place_axes,
    svg,
    unit_above,
)
from rasura.report.numbers import plain

_CKA = "CKA, 1 = the same up to a turn"
_LONGEST, _ROOM = 12, 44
"""Letters of a layer's name under a small figure, and of all of them side by side."""


def geometry(finding: dict[str, Any], key: str) -> list[Figure]:
    """Small figures by layer: how alike the features are to the original's and to the retrained models'.

    Args:
        finding: what `verdict.json` holds.
        key: makes the ids of these figures their own on the page.
    """
    found = finding["geometry"] or {}
    shown: list[tuple[str, list[dict[str, Any]], str, str]] = []
    for part in ("forget", "retain"):
        for to in ("original", "retrained"):
            rows = [one for one in found.get("similarity") or [] if (one["part"], one["to"]) == (part, to)]
            shown.append((f"{part.capitalize()} examples, to {_the(to)}", rows, _CKA, _how_alike(part, to)))
    for to in ("original", "retrained"):
        rows = [one for one in found.get("agreement") or [] if one["to"] == to]
        how = f"whether classes lie as near and as far from each other as in {_the(to)}."
        shown.append((f"Class distances, to {_the(to)}", rows, "rank correlation", how))
    how = "how often an example’s ten neighbours are of its class, beyond chance. In the band: no clump is left."
    shown.append(("Neighbours of its kind", found.get("purity") or [], "purity − chance", how))
    how = "how much single units answer to the forgotten class more than to the others, as a mean over units."
    shown.append(("Units of its own", found.get("selectivity") or [], "selectivity", how))
    return [
        Figure(title, _drawn(rows, f"{key}-geometry-{number}", title, unit), how, _table(rows), small=True)
        for number, (title, rows, unit, how) in enumerate(shown)
        if rows
    ]


def _the(to: str) -> str:
    return "the original" if to == "original" else "retrained models"


def _how_alike(part: str, to: str) -> str:
    if (part, to) == ("forget", "original"):
        return "high where the retrained band is low: the features of the class are still the original’s."
    if (part, to) == ("forget", "retrained"):
        return "in the band: the features of the class are as alike to retrained models’ as those are to each other."
    if to == "original":
        return "should be high: what is to be kept is still seen as before."
    return "in the band: what is to be kept is seen as retrained models see it."


def _drawn(rows: Sequence[dict[str, Any]], key: str, title: str, unit: str) -> str:
    layers = [one["layer"] for one in rows]
    slanted = needs_slant(layers, _LONGEST, _ROOM)
    with drawing(200 + 34 * slanted, SMALL) as figure:
        axes = place_axes(figure, left=36, right=14, top=24, bottom=28 + 34 * slanted)
        series = _series(rows)
        draw_series(axes, range(len(rows)), series)
        layer_ticks(axes, layers, slanted, _LONGEST)
        lowest, highest = _ends(series)
        if highest >= 0.2:  # small values get a scale of their own
            axes.set_ylim(min(0, lowest), max(1, highest))
        unit_above(axes, unit)
        said = "; ".join(f"{one['layer']}: this model {plain(one['model'])}" for one in rows)
        return svg(figure, key, title, said)


def _series(rows: Sequence[dict[str, Any]]) -> Series:
    original = [_number(one.get("original")) for one in rows]
    return Series(
        model=[_number(one["model"]) for one in rows],
        references=[[value for value in one["references"] if value is not None] for one in rows],
        original=[] if all(math.isnan(value) for value in original) else original,
    )


def _ends(series: Series) -> tuple[float, float]:
    every = [*series.model, *series.original, *(value for each in series.references for value in each)]
    known = [value for value in every if not math.isnan(value)] or [0.0]
    return min(known), max(known)


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _table(rows: Sequence[dict[str, Any]]) -> Table:
    has_original = any("original" in one for one in rows)
    headings = ["Layer", *(["Original"] if has_original else []), "This model", "Each retrained"]
    return Table(
        headings,
        [
            [
                one["layer"],
                *([plain(one.get("original"))] if has_original else []),
                plain(one["model"]),
                " · ".join(plain(value) for value in one["references"]) or "–",
            ]
            for one in rows
        ],
    )
