"""What a reset of class-specific neurons did: selectivity by stage, synthesised images, and the losses on the way."""

import html
from collections.abc import Sequence
from typing import Any

from rasura.auditing import MODEL
from rasura.report.drawing import (
    INK,
    OURS,
    WIDTH,
    Figure,
    Table,
    drawing,
    layer_ticks,
    needs_slant,
    opening,
    place_axes,
    svg,
    unit_above,
)
from rasura.report.numbers import is_picture, plain

IMAGE, GAP, ACROSS = 84, 12, 4
"""Side of a synthesised image, the space between two, and how many stand in a row."""


def neurons(finding: dict[str, Any], key: str) -> list[Figure]:
    """Profile, images and loss curves of the last forgetting; nothing for methods that look at no neurons.

    Args:
        finding: what `verdict.json` holds.
        key: makes the ids of these figures their own on the page.
    """
    history = finding["models"][MODEL]["history"]
    found = history[-1].get("neurons") if history else None
    if not found:
        return []
    made = found.get("generator") or {}
    figures = [_profile(found["units"], f"{key}-units")]
    pictures = [one for one in made.get("pictures", ()) if is_picture(one)]
    if pictures:
        figures.append(_images(pictures, f"{key}-synthesised"))
    figures += [_curve(*one, f"{key}-curve-{number}") for number, one in enumerate(_courses(found)) if one[2]]
    return figures


def _profile(units: Sequence[dict[str, Any]], key: str) -> Figure:
    stages = [one["stage"] for one in units]
    slanted = needs_slant(stages)
    with drawing(250 + 40 * slanted) as figure:
        axes = place_axes(figure, left=36, right=52, top=24, bottom=30 + 40 * slanted)
        for name, colour, style in [("before", INK, (0, (4, 3))), ("after", OURS, "solid")]:
            heights = [one[name] for one in units]
            (line,) = axes.plot(range(len(units)), heights, color=colour, linestyle=style, clip_on=False, marker="o")
            if name == "before":
                line.set(marker="s", markerfacecolor="none")
            _name_end(axes, name, len(units) - 1, heights[-1], colour)
        values = [one[when] for one in units for when in ("before", "after")]
        axes.set_ylim(1.1 * min(0, *values), 1.1 * max(0.1, *values))
        layer_ticks(axes, stages, slanted)
        unit_above(axes, "selectivity, standard deviations between classes")
        said = "; ".join(f"{one['stage']} {plain(one['before'])} → {plain(one['after'])}" for one in units)
        drawn = svg(figure, key, "Selectivity of the chosen units by stage", said)
    rows = [
        [one["stage"], f"{plain(one['forget'])} of {plain(one['of'])}", plain(one["before"]), plain(one["after"])]
        for one in units
    ]
    how = (
        "by how much more the units that were chosen for the class respond to it than to retained classes. At 0 they "
        "do not tell it apart any more; other units may."
    )
    return Figure("Selective units, stage by stage", drawn, how, Table(["Stage", "Units", "Before", "After"], rows))


def _images(pictures: Sequence[str], key: str) -> Figure:
    step, count = IMAGE + GAP, len(pictures)
    left = (WIDTH - min(count, ACROSS) * step + GAP) / 2
    tags = []
    for at, one in enumerate(pictures):
        x, y = left + at % ACROSS * step, 24 + at // ACROSS * step
        place = f'x="{x:.0f}" y="{y}" width="{IMAGE}" height="{IMAGE}" style="image-rendering: pixelated"'
        tags.append(f'<image href="{html.escape(one, quote=True)}" {place}/>')
    height = 24 + -(-count // ACROSS) * step
    head = opening(key, "Synthesised images", f"{count} of the images that the net was reset on", WIDTH, height)
    how = (
        "a generator that learned the forgotten class made them; they were then moved so that the units chosen for the "
        "class fall silent. They need not look like it."
    )
    return Figure("Synthesised images", f"{head}{''.join(tags)}</svg>", how)


def _courses(found: dict[str, Any]) -> list[tuple[str, str, dict[str, list[float]], str]]:
    """Title, unit of the horizontal axis, lines, and how to read them, of each stage's losses."""
    made, curves = found.get("generator") or {}, found.get("curves") or {}
    pairs = made.get("losses") or []
    adversaries = {"generator": [one[0] for one in pairs], "discriminator": [one[1] for one in pairs]} if pairs else {}
    objective = made.get("objective") or []
    resets = {name: line for name in ("reset", "settle") if (line := curves.get(name))}
    return [
        (
            "Learning the class’s images",
            "epochs",
            adversaries,
            "mean loss of the two nets in each pass. At 0.69 the discriminator cannot tell generated images from real.",
        ),
        (
            "Synthesis",
            "share of the steps, %",
            {"objective": objective} if len(objective) > 1 else {},
            "the objective that the images are moved by; lower means that the class’s units respond less.",
        ),
        (
            "Reset and stabilisation",
            "share of the steps, %",
            resets,
            "reset: losses on images under other labels and on retained ones; settle: on retained examples alone.",
        ),
    ]


def _curve(title: str, across: str, lines: dict[str, list[float]], how: str, key: str) -> Figure:
    with drawing(250) as figure:
        axes = place_axes(figure, left=36, right=84, top=24, bottom=46)
        for (name, line), colour in zip(lines.items(), (OURS, INK), strict=False):
            epochs = across == "epochs"
            places = [at + 1 if epochs else 100 * at / max(len(line) - 1, 1) for at in range(len(line))]
            axes.plot(places, line, color=colour, marker="o" if len(line) < 8 else "", markersize=4)
            _name_end(axes, name, places[-1], line[-1], colour)
        axes.set_xlabel(across)
        unit_above(axes, "loss")
        said = "; ".join(f"{name} from {plain(line[0])} to {plain(line[-1])}" for name, line in lines.items())
        return Figure(title, svg(figure, key, title, said), how)


def _name_end(axes: Any, name: str, place: float, height: float, colour: str) -> None:
    axes.annotate(name, (place, height), (8, 0), textcoords="offset points", va="center", size=10, color=colour)
