"""t-SNE maps of the stages. Drawn by hand: a dot is eight bytes in a path, fifty as a matplotlib marker."""

import html
from dataclasses import dataclass
from typing import Any

from rasura.auditing import ORIGINAL
from rasura.report.numbers import role

MOST_GROUPS = 3
"""Retained classes with a colour of their own: those that the models name most on forget examples."""


@dataclass(frozen=True)
class Maps:
    """The maps of all stages.

    Attributes:
        layers: names of the stages.
        panels: per stage, pairs of what a model is called and its drawing.
        legend: pairs of a style's name and the class that it stands for.
    """

    layers: list[str]
    panels: list[list[tuple[str, str]]]
    legend: list[tuple[str, str]]


def stage_maps(finding: dict[str, Any]) -> Maps | None:
    """Original, this model and a retrained one side by side at every stage; None where nothing was mapped."""
    found = finding["maps"]
    if not found or not found.get("points"):
        return None
    groups, names = _groups(finding, found)
    return Maps(
        layers=found["layers"],
        panels=[
            [(role(name), _panel(layer, role(name), stages[at], groups)) for name, stages in found["points"].items()]
            for at, layer in enumerate(found["layers"])
        ],
        legend=[(f"group-{group}", name) for group, name in enumerate(names)],
    )


def _groups(finding: dict[str, Any], found: dict[str, Any]) -> tuple[list[int], list[str]]:
    """A group per example: 0 forgotten, 1 to 3 the classes that it is mistaken for most, the last all others."""
    classes, forget = finding["data"]["classes"], set(finding["request"]["classes"])
    shares = (finding["routing"] or {}).get("shares") or {}
    retained = [number for number in range(len(classes)) if number not in forget]
    rows = [row for name, row in shares.items() if name != ORIGINAL]
    near = sorted(retained, key=lambda number: -max(row[number] for row in rows))[:MOST_GROUPS] if rows else []
    place = {number: at for at, number in enumerate(near, start=1)}
    groups = [
        0 if forgotten else place.get(label, MOST_GROUPS + 1)
        for label, forgotten in zip(found["labels"], found["forget"], strict=True)
    ]
    names = [finding["request"]["forget"], *(classes[number] for number in near)]
    return groups, [*names, *[""] * (MOST_GROUPS + 1 - len(names)), "other classes"]


def _panel(layer: str, model: str, points: list[list[float]], groups: list[int]) -> str:
    """One map: a path per group, every dot a line of no length with a round end; the forgotten on top."""
    paths = []
    for group in (*range(MOST_GROUPS + 1, 0, -1), 0):
        dots = [point for point, own in zip(points, groups, strict=True) if own == group]
        moves = "".join(f"M{round(100 * x)} {round(100 * (1 - y))}h0" for x, y in dots)
        paths.append(f'<path class="group-{group}" d="{moves}"/>' if dots else "")
    label = html.escape(f"t-SNE at {layer}, {model}: {groups.count(0)} forgotten of {len(groups)} examples", quote=True)
    return f'<svg viewBox="-3 -3 106 106" role="img" aria-label="{label}">{"".join(paths)}</svg>'
