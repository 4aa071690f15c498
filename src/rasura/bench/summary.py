"""What a bench found, per method: verdicts, and means over cells with their intervals."""

from collections import Counter
from typing import Any

import numpy as np

from rasura.report.comparison_page import distance_of


def summarise(findings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per method, the nearest to retrained first.

    Differences are in shares (0.01 is a point): forget accuracy; retain accuracy, linear probe and few-shot area minus
    the mean of the retrained models. Each has its mean over cells and the half width of the 95 % interval of that mean
    (Student's t; None for a single cell). `distance` is the mean over cells of that of a comparison's `Row`.
    """
    methods = list(dict.fromkeys(finding["name"] for finding in findings))
    rows = [_row(name, [finding for finding in findings if finding["name"] == name]) for name in methods]
    return sorted(rows, key=lambda row: row["distance"])


def _row(name: str, findings: list[dict[str, Any]]) -> dict[str, Any]:
    measures = [_measures(finding) for finding in findings]
    columns = {key: _interval([one[key] for one in measures]) for key in measures[0]}
    return {
        "method": name,
        "cells": len(findings),
        "verdicts": dict(Counter(finding["verdict"] for finding in findings)),
        **columns,
        "distance": round(float(np.mean([distance_of(finding) for finding in findings])), 5),
    }


def _measures(finding: dict[str, Any]) -> dict[str, float]:
    by_place = {(one["decoder"], one["layer"]): one["excess"]["point"] for one in finding["comparisons"]}
    kept = {one["decoder"]: one["excess"]["point"] for one in finding["retain"]}
    return {
        "forget_accuracy": finding["outputs"]["model"]["forget"]["point"],
        "retain_difference": kept["output"],
        "linear_probe_difference": by_place["linear", "head input"],
        "few_shot_difference": by_place["few-shot area", "head input"],
    }


def _interval(values: list[float]) -> dict[str, float | None]:
    from scipy.stats import t

    count, mean = len(values), float(np.mean(values))
    if count < 2:
        return {"mean": round(mean, 5), "half_width": None}
    half = float(t.ppf(0.975, count - 1) * np.std(values, ddof=1) / np.sqrt(count))
    return {"mean": round(mean, 5), "half_width": round(half, 5)}
