"""`comparison_page`: several methods on one model and request, ranked by their distance to the retrained models."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rasura.auditing import MODEL, ORIGINAL
from rasura.errors import InputError
from rasura.report import comparison_figures as figures
from rasura.report.page import check_findings, environment, style

MOST_ANSWERS = 6
"""Classes with a column of their own in the routing table."""


@dataclass(frozen=True)
class Measure:
    """One score of a method beside the retrained models.

    Attributes:
        name: what is measured, e.g. "forget: linear, head input".
        part: "forget" or "retain".
        value: the method's score, a share 0..1.
        low: the lowest of the retrained models' scores.
        high: the highest.
    """

    name: str
    part: str
    value: float
    low: float
    high: float

    @property
    def outside(self) -> float:
        """How far the score lies outside of the retrained models' range; 0 within it. A share."""
        return max(0.0, self.low - self.value, self.value - self.high)


@dataclass(frozen=True)
class Cost:
    """What a method took.

    Attributes:
        seconds: of the method itself; None if unknown.
        memory_mib: by which memory grew at its peak, MiB; None if unknown.
    """

    seconds: float | None = None
    memory_mib: float | None = None


@dataclass(frozen=True)
class Row:
    """One method in the ranking.

    Attributes:
        name: of the method or model.
        verdict: of its audit.
        qualifiers: of the verdict.
        distance: the mean over `measures` of how far each lies outside of the retrained band. A share; lower is nearer.
        measures: accuracies, the primary decoders, and routing (distance to the retrained models' mean answers).
        cost: of the method.
    """

    name: str
    verdict: str
    qualifiers: tuple[str, ...]
    distance: float
    measures: tuple[Measure, ...]
    cost: Cost

    def to_json(self) -> dict[str, Any]:
        """The row as JSON values."""
        measures = [asdict(one) | {"outside": round(one.outside, 5)} for one in self.measures]
        about = {"name": self.name, "verdict": self.verdict, "qualifiers": list(self.qualifiers)}
        return about | {"distance": self.distance, "measures": measures, **asdict(self.cost)}


def ranked(findings: Sequence[dict[str, Any]], costs: Mapping[str, Cost]) -> list[Row]:
    """One row per finding, the nearest to the retrained models first.

    Args:
        findings: what `verdict.json` holds, all of one request and with the same references.
        costs: by name, what each method took.

    Raises:
        InputError: no findings, findings of different requests, or without references.
    """
    check_findings(findings)
    if not all(one["comparisons"] for one in findings):
        raise InputError("references: a finding has none to be compared with; allowed: 1 or more, 3 are advised")
    return sorted((_row(one, costs.get(one["name"], Cost())) for one in findings), key=lambda row: row.distance)


def comparison_page(
    findings: Sequence[dict[str, Any]],
    costs: Mapping[str, Cost],
    failed: Mapping[str, str] | None = None,
    controls: Collection[str] = (),
) -> str:
    """One self-contained HTML page: ranking, forget and retain accuracy, depth profiles, answers, time.

    Args:
        findings: what `verdict.json` holds, all of one request.
        costs: by name, what each method took.
        failed: methods that gave no model, with the reason.
        controls: names of those that only silence the answers, which the page says beside them.
    """
    from markupsafe import Markup

    rows = ranked(findings, costs)
    ordered = [next(one for one in findings if one["name"] == row.name) for row in rows]
    drawn = figures.accuracies(ordered, "accuracies"), figures.profiles(ordered, "profiles")
    jinja = environment()
    jinja.filters["points_of"] = lambda share: f"{100 * share:.1f}"
    return jinja.get_template("comparison.html").render(
        style=style(),
        first=findings[0],
        rows=rows,
        names=[one.name for one in rows[0].measures],
        answers=_answers(ordered),
        accuracies=Markup(drawn[0]),
        profiles=Markup(drawn[1]),
        failed=dict(failed or {}),
        controls=controls,
    )


def distance_of(finding: dict[str, Any]) -> float:
    """The distance of a model from retrained ones, by its finding: see `Row`."""
    return _distance(_measures(finding))


def _distance(measures: Sequence[Measure]) -> float:
    return round(float(np.mean([one.outside for one in measures])), 5)


def _row(finding: dict[str, Any], cost: Cost) -> Row:
    measures = tuple(_measures(finding))
    distance = _distance(measures)
    return Row(finding["name"], finding["verdict"], tuple(finding["qualifiers"]), distance, measures, cost)


def _measures(finding: dict[str, Any]) -> list[Measure]:
    found = []
    for part, comparisons in (("forget", finding["comparisons"]), ("retain", finding["retain"])):
        for one in comparisons:
            if one["decoder"] == "output" or one["primary"] or part == "retain":
                place = f"{one['decoder']}, {one['layer']}"
                name = f"{part} accuracy" if one["decoder"] == "output" else f"{part}: {place}"
                band = one["reference_summary"]
                found.append(Measure(name, part, one["model"], band["low"], band["high"]))
    routing = finding["routing"]
    if routing["distance"] is not None:
        found.append(Measure("routing", "forget", routing["distance"], 0.0, routing["band"]))
    return found


def _answers(findings: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Which classes the forget examples are given to: one line per model, columns by how often they are named."""
    classes = findings[0]["data"]["classes"]
    references = [row for name, row in findings[0]["routing"]["shares"].items() if name not in (MODEL, ORIGINAL)]
    lines = {one["name"]: one["routing"]["shares"][MODEL] for one in findings}
    lines |= {"retrained, mean": np.mean(references, axis=0).tolist()}
    lines |= {"original": findings[0]["routing"]["shares"][ORIGINAL]}
    most = np.max(list(lines.values()), axis=0)
    shown = sorted(sorted(range(len(classes)), key=lambda number: -most[number])[:MOST_ANSWERS])
    return {
        "classes": [classes[number] for number in shown],
        "lines": {name: [shares[number] for number in shown] for name, shares in lines.items()},
    }
