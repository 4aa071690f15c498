"""How far an edited model is from retrained ones: as an audit finds it, or by a few of its decoders, in seconds."""

from statistics import mean
from typing import Any

import torch
from torch import Tensor, nn

from rasura.activations import Point, anatomy, features
from rasura.auditing import make_probe
from rasura.auditing.decoded import HEAD_INPUT
from rasura.auditing.decoders import cross_fitted
from rasura.auditing.few_shot import few_shot_curve
from rasura.auditing.probe import Probe
from rasura.data import Data, ForgetClasses
from rasura.finding import Finding

SHOTS = (5, 10, 50)


def audited_distances(finding: Finding) -> dict[str, Any]:
    """The verdict, and what the three aims are about."""
    content = finding.content
    found: dict[str, Any] = {"verdict": finding.verdict, "where": finding.where}
    outputs = content["outputs"]
    found["forget_accuracy"] = outputs["model"]["forget"]["point"]
    retrained = [one["retain"]["point"] for name, one in outputs.items() if name.startswith("reference")]
    found["retain_accuracy"] = outputs["model"]["retain"]["point"]
    found["retain_below_retrained"] = round(mean(retrained) - found["retain_accuracy"], 5)
    for one in content["comparisons"]:
        if (one["decoder"], one["layer"]) == ("few-shot", HEAD_INPUT) and one["shots"] in SHOTS:
            found[f"few_shot_{one['shots']}"] = one["model"]
            found[f"few_shot_{one['shots']}_above_retrained"] = round(one["model"] - mean(one["references"]), 5)
        if one["decoder"] == "linear" and one["layer"] == HEAD_INPUT:
            found["linear_above_retrained"] = round(one["model"] - mean(one["references"]), 5)
    return found


def decoded(model: nn.Module, probe: Probe, seed: int) -> dict[str, float]:
    """Accuracy on the audit's held-out examples, and recall of the class by few-shot and linear heads."""
    point = Point(anatomy(model, probe.examples.batch(torch.arange(2))[0]).head, "input")
    found, logits = features(model, probe.examples, [point])
    right = (logits.argmax(1) == probe.labels).double()
    scores = {
        "forget_accuracy": right[probe.forget].mean().item(),
        "retain_accuracy": right[~probe.forget].mean().item(),
    }
    curve = few_shot_curve(found[point], HEAD_INPUT, probe, seed)
    for shots in SHOTS:
        said = [torch.as_tensor(one.predicted) for one in curve if one.shots == shots]
        scores[f"few_shot_{shots}"] = mean(_recall(one, probe) for one in said)
    linear = cross_fitted(found[point], probe.labels, probe.folds, probe.classes)
    return scores | {"linear": _recall(linear, probe)}


def decoded_distances(
    models: dict[str, nn.Module], references: list[nn.Module], data: Data, request: ForgetClasses, seed: int
) -> dict[str, dict[str, Any]]:
    """`audited_distances` of each model but for the verdict, without the rest of the audit."""
    probe = make_probe(data, request, seed)
    beside = [decoded(one, probe, seed) for one in references]
    usual = {name: mean(one[name] for one in beside) for name in beside[0]}
    found = {}
    for name, model in models.items():
        scores = decoded(model, probe, seed)
        above = {f"{key}_above_retrained": value - usual[key] for key, value in scores.items()}
        kept = ("forget_accuracy", "retain_accuracy", *(f"few_shot_{shots}" for shots in SHOTS))
        line = {key: scores[key] for key in kept}
        line["retain_below_retrained"] = -above["retain_accuracy_above_retrained"]
        line |= {key: above[key] for key in above if key.startswith(("few_shot", "linear"))}
        found[name] = {key: round(value, 5) for key, value in line.items()}
    return found


def _recall(said: Tensor, probe: Probe) -> float:
    return (said.to(probe.labels)[probe.forget] == probe.labels[probe.forget]).double().mean().item()
