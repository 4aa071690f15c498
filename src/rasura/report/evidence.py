"""The evidence behind a verdict, block by block."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rasura.auditing import MODEL, ORIGINAL
from rasura.report.depth import few_shot_curve, profiles
from rasura.report.drawing import Figure, Table
from rasura.report.edits import edit_table, edits, skipped
from rasura.report.geometry import geometry
from rasura.report.maps import Maps, stage_maps
from rasura.report.membership import roc
from rasura.report.neurons import neurons
from rasura.report.numbers import is_picture, percent, role, span
from rasura.report.on_request import on_request
from rasura.report.per_class import head, routing
from rasura.report.residuals import residuals
from rasura.report.scores import (
    AREA,
    FORGET,
    LINEAR,
    RETAIN,
    RETAIN_PROBE,
    SAMPLES,
    Row,
    answer_rows,
    ladder,
    main_rows,
    membership,
    readers,
    reference_roles,
)

NUMBERS, LADDER, MEMBERSHIP, EDITS = "numbers", "ladder", "membership", "edits"
LIGHT = (NUMBERS, LADDER)
"""Blocks that stay open on a page of several models."""


@dataclass(frozen=True)
class Block:
    """One kind of evidence.

    Attributes:
        key: makes its id.
        about: a few words for those who decide whether to open it.
        how: one line on how to read it; empty where its figures say so themselves.
        groups: rows of a table of scores, under their headings.
        figures: drawings.
        maps: t-SNE maps.
        pictures: forget images with what each model says.
        tables: further numbers, each with its heading.
        note: a sentence at the end.
    """

    key: str
    title: str
    about: str
    how: str = ""
    groups: Sequence[tuple[str, list[Row]]] = ()
    figures: Sequence[Figure] = ()
    maps: Maps | None = None
    pictures: Sequence[dict[str, Any]] = ()
    tables: Sequence[tuple[str, Table]] = ()
    note: str = ""

    @property
    def empty(self) -> bool:
        """Whether there is nothing to show."""
        return not (self.figures or self.maps or self.pictures or any(rows for _, rows in self.groups))


def evidence(finding: dict[str, Any], key: str) -> list[Block]:
    """All blocks in the order in which they are read, the empty ones too.

    Args:
        finding: what `verdict.json` holds.
        key: makes the ids on the page this finding's own.
    """
    blocks = [
        _numbers(finding),
        _ladder(finding),
        _readers(finding, key),
        _answers(finding, key),
        _maps(finding),
        _pictures(finding),
        _membership(finding, key),
        Block("head", "The last layer", "effective bias, alignment", figures=head(finding, key)),
        Block(
            "geometry",
            "Shape of the features",
            "similarity (CKA), class distances, purity, selectivity",
            figures=geometry(finding, key),
        ),
        *_edits(finding, key),
        Block("request", "Measured on request", "what was asked for besides", figures=on_request(finding, key)),
    ]
    learned = residuals(finding, key)
    if learned:  # of methods that have adapters; others lack nothing
        blocks.insert(-1, Block("residuals", "Residuals", "what the adapters add while they learn", figures=learned))
    reset = neurons(finding, key)
    if reset:  # of methods that look at neurons; others lack nothing
        blocks.insert(-1, Block("neurons", "Neurons", "which were reset, and on which images", figures=reset))
    primary = MEMBERSHIP if finding["request"]["kind"] == SAMPLES else NUMBERS
    return sorted(blocks, key=lambda block: block.key != primary)


def _numbers(finding: dict[str, Any]) -> Block:
    rows = main_rows(finding)
    parts = (("To be forgotten", (FORGET, LINEAR, AREA)), ("To be kept", (RETAIN, RETAIN_PROBE)))
    return Block(
        NUMBERS,
        "The numbers",
        "accuracies and primary scores",
        "the dot is this model. In the blue band it is as retrained, at the square as the original.",
        [(name, [rows[key] for key in keys if key in rows]) for name, keys in parts],
    )


def _ladder(finding: dict[str, Any]) -> Block:
    return Block(
        LADDER,
        "Recovery ladder",
        "cheap changes that may bring it back",
        "each rung is one change to the model, the cheapest first. Where the dot leaves the blue band towards the "
        "square, that change brings the class back: it was hidden, not erased.",
        [("", ladder(finding))],
    )


def _readers(finding: dict[str, Any], key: str) -> Block:
    return Block(
        "readers",
        "What decoders read",
        "linear and other probes, layer by layer, with few labels",
        "each decoder is fitted on one part of the held-out examples and scored on the other. Triangle: the same on an "
        "untrained net; cross: on raw inputs. What shows there is in the data, not in the model.",
        [("At the head input", readers(finding))],
        figures=[*profiles(finding, key), *few_shot_curve(finding, key)],
    )


def _answers(finding: dict[str, Any], key: str) -> Block:
    return Block(
        "answers",
        "What it answers instead",
        "routing, AUROC, selectivity, calibration; class by class",
        "what the outputs alone give away. Outside the blue band, someone who only asks the model can tell.",
        [("Told by the answers alone", answer_rows(finding))],
        figures=routing(finding, key),
        tables=[("Class by class", _classes(finding))],
    )


def _maps(finding: dict[str, Any]) -> Block:
    return Block(
        "maps",
        "The stages as maps",
        "t-SNE of original, this model and a retrained one",
        "every dot is an example; neighbours in the net lie side by side (t-SNE). Large dots (the forgotten) in an "
        "island of their own, as in the original: that stage still sets them apart. Sizes and distances of islands "
        "mean nothing.",
        maps=stage_maps(finding),
    )


def _pictures(finding: dict[str, Any]) -> Block:
    shown = [_with_heat(one) for one in finding["pictures"] if is_picture(one["image"])]
    heat = any(one["heat"] for one in shown)
    how = "what each model says; underlined: the right answer, which was to be forgotten."
    if heat:
        how += " Warm colour: where the score of the forgotten class comes from (Grad-CAM); grey: from nowhere."
    note = "Without Grad-CAM: that needs a net with feature maps, and captum (pip install 'rasura[explain]')."
    return Block("pictures", "Some examples", "answers and Grad-CAM", how, pictures=shown, note="" if heat else note)


def _with_heat(one: dict[str, Any]) -> dict[str, Any]:
    heat = one.get("heat") or {}
    return one | {"heat": {name: image for name, image in heat.items() if is_picture(image)}}


def _membership(finding: dict[str, Any], key: str) -> Block:
    found = finding["membership"] or {}
    rates = found.get("true_positive_rate") or {}
    table = Table(["Model", "Found at 1% false alarms"], [[role(name), percent(rate)] for name, rate in rates.items()])
    members, others = found.get("members", 0), found.get("non_members", 0)
    return Block(
        MEMBERSHIP,
        "Membership",
        "attacks, ROC curves",
        f"{members:,} forgotten training examples beside {others:,} unseen ones. At 50% they cannot be told "
        "apart; above the blue band, better than in models that were not trained on them.",
        [("How well members can be told (AUC)", membership(finding))],
        figures=roc(finding, key),
        tables=[("Found at 1% false alarms", table)] if rates else [],
    )


def _edits(finding: dict[str, Any], key: str) -> list[Block]:
    """Only where the method left a record: that most leave none is nothing to report."""
    figures, about = edits(finding, key), "what was projected out of each layer"
    tables = [("All linear maps", edit_table(finding))]
    return [Block(EDITS, "What was edited", about, figures=figures, tables=tables, note=skipped(finding))][
        : len(figures)
    ]


def _classes(finding: dict[str, Any]) -> Table:
    """Accuracy and share of the answers on forget examples, class by class."""
    outputs, shares = finding["outputs"], (finding["routing"] or {}).get("shares")
    own, references = (ORIGINAL, MODEL), reference_roles(finding)

    def cells(values: dict[str, list[float | None]], number: int) -> list[str]:
        ends = span([share for name in references if (share := values[name][number]) is not None])
        retrained = f"{percent(ends['mean'])} ({percent(ends['low'])} to {percent(ends['high'])})" if ends else "–"
        return [*(percent(values[name][number]) for name in own), retrained]

    accuracy = {name: outputs[name]["per_class"] for name in outputs}
    headings = ["Class", *(f"Accuracy, {who}" for who in ("original", "this model", "retrained"))]
    headings += [f"Answers, {who}" for who in ("original", "this model", "retrained")] if shares else []
    rows = [
        [name, *cells(accuracy, number), *(cells(shares, number) if shares else [])]
        for number, name in enumerate(finding["data"]["classes"])
    ]
    return Table(headings, rows)
