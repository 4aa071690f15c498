"""What decoders read at each depth, and with how many labels."""

import math
from typing import Any

from rasura.report.drawing import (
    Figure,
    Series,
    draw_series,
    drawing,
    layer_ticks,
    needs_slant,
    place_axes,
    share_axis,
    spoken,
    svg,
)

_NAMES = {"linear": "Layer by layer", "few-shot area": "Layer by layer, with few labels"}


def profiles(finding: dict[str, Any], key: str) -> list[Figure]:
    """Recall at each stage, one figure for every decoder that reads at more than one.

    Args:
        finding: what `verdict.json` holds.
        key: makes the ids of these figures their own on the page.
    """
    by_decoder: dict[str, list[dict[str, Any]]] = {}
    for one in finding["comparisons"]:
        if not one["shots"] and one["layer"] not in ("output", "all stages") and one["decoder"] != "few-shot":
            by_decoder.setdefault(one["decoder"], []).append(one)
    return [
        _profile(decoder, found, f"{key}-depth-{number}")
        for number, (decoder, found) in enumerate(by_decoder.items())
        if decoder == "linear" or len(found) > 1
    ]


def few_shot_curve(finding: dict[str, Any], key: str) -> list[Figure]:
    """Recall after the head was refitted with n labels; nothing where nothing was compared."""
    found = [one for one in finding["comparisons"] if (one["decoder"], one["layer"]) == ("few-shot", "head input")]
    found = sorted((one for one in found if one["shots"]), key=lambda one: one["shots"]) + [
        one for one in found if not one["shots"]
    ]
    if not found:
        return []
    most = max(one["shots"] for one in found) or 1
    places = [one["shots"] or 2.5 * most for one in found]
    with drawing(250) as figure:
        axes = place_axes(figure, left=36, right=14, top=24, bottom=46)
        axes.set_xscale("log")
        draw_series(axes, places, _series(found))
        axes.set_xticks(places, [str(one["shots"] or "all") for one in found])
        axes.set_xticks([], minor=True)
        axes.set_xlabel("labels per forgotten class (log scale)")
        share_axis(axes, "recall, %")
        drawn = svg(figure, f"{key}-shots", "Recall of a head refitted with a few labels", spoken(found, "shots"))
    how = (
        "the last layer is refitted with n labels of the class. A line above the retrained band means that fewer "
        "labels bring the class back than in a model that never saw it."
    )
    return [Figure("With few labels", drawn, how)]


def _profile(decoder: str, found: list[dict[str, Any]], key: str) -> Figure:
    layers = [one["layer"] for one in found]
    slanted = needs_slant(layers)
    with drawing(250 + 40 * slanted) as figure:
        axes = place_axes(figure, left=36, right=14, top=24, bottom=30 + 40 * slanted)
        draw_series(axes, range(len(found)), _series(found))
        layer_ticks(axes, layers, slanted)
        share_axis(axes, "recall, %")
        drawn = svg(figure, key, f"Recall of the {decoder} decoder at each stage", spoken(found, "layer"))
    title = _NAMES.get(decoder, f"Layer by layer, {decoder}")
    how = (
        f"how well a {decoder} probe reads the class at each stage, from input to output. Where this model’s line runs "
        "in the retrained band, the stage tells no more than if the class had never been seen."
    )
    return Figure(title, drawn, how)


def _series(found: list[dict[str, Any]]) -> Series:
    raw = next((one["anchors"]["raw inputs"] for one in found if one["anchors"].get("raw inputs") is not None), None)
    return Series(
        model=[100 * one["model"] for one in found],
        references=[[100 * score for score in one["references"]] for one in found],
        original=[100 * one["original"] for one in found],
        untrained=[100 * _or_nan(one["anchors"].get("random net")) for one in found],
        floor=None if raw is None else 100 * raw,
    )


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
