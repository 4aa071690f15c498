"""What a bench found, per method: verdicts, and means over cells with their intervals."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from rasura.files import as_json, locked
from rasura.report.comparison_page import distance_of
from rasura.sealed import RUN, replace_files, shared

KIND, SUMMARY = "bench", "summary.json"


def write_summary(found: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
    """Write `summary.json`: the rows of `summarise`, and as `failed` what gave no finding. Its content.

    Args:
        found: what `run_grid` returned.
        folder: of the bench.

    Raises:
        FolderError: `summary.json` was changed since it was written.
    """
    failed = [{"method": one["name"], **one["cell"], "reason": one["failed"]} for one in found if "failed" in one]
    content = {"format": 2, "rows": summarise(found), "failed": failed}
    with locked(folder / RUN):
        replace_files(folder, {SUMMARY: as_json(content)}, shared(folder, KIND))
    return content


def summarise(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per method that has a finding, the nearest to retrained first.

    Differences are in shares (0.01 is a point): forget accuracy; retain accuracy, linear probe and few-shot area minus
    the mean of the retrained models. Each has its mean over the cells that did not fail, and the half width of the 95 %
    interval of that mean (Student's t; None for a single cell). `distance` is the mean of that of a comparison's `Row`.
    """
    methods = dict.fromkeys(one["name"] for one in found if "failed" not in one)
    rows = [_row(name, [one for one in found if one["name"] == name]) for name in methods]
    return sorted(rows, key=lambda row: row["distance"])


def _row(name: str, found: list[dict[str, Any]]) -> dict[str, Any]:
    findings = [one for one in found if "failed" not in one]
    measures = [_measures(finding) for finding in findings]
    columns = {key: _interval([one[key] for one in measures]) for key in measures[0]}
    return {
        "method": name,
        "cells": len(found),
        "failed": len(found) - len(findings),
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
