"""What an audit does only when asked: training the models further, pruning them, attacks that need more models."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from rasura.auditing.adversarial_membership import boundary_distance
from rasura.auditing.code_length import code_length
from rasura.auditing.geometry import procrustes_distance
from rasura.auditing.likelihood_ratio import u_lira
from rasura.auditing.members import pair_values
from rasura.auditing.membership import LEAST_LOGIT, signals
from rasura.auditing.outputs import klom, margins
from rasura.auditing.probe import Probe
from rasura.auditing.property_inference import answers, property_inference
from rasura.auditing.reading import inner_of, parts_of, read, read_head
from rasura.auditing.recovery import answers as answers_of
from rasura.auditing.retraining import (
    Trajectory,
    last_block_finetuned,
    pruned,
    relearn_time,
    retain_only_finetuning,
)
from rasura.auditing.scores import MODEL, ORIGINAL
from rasura.auditing.statistics import detection_margin
from rasura.data import Data
from rasura.errors import InputError
from rasura.progress import Progress
from rasura.training import predict

SHARES = (0.3, 0.5, 0.7)
"""Shares of weights that are pruned."""
MOST_TUNED = 3_000
"""Training examples that further training uses, evenly over the classes."""


@dataclass(frozen=True)
class Shadows:
    """Further models that some attacks need, by the original's recipe with other seeds.

    Attributes:
        originals: trained with what was to be forgotten.
        unlearned: made from such originals by the method in question.
    """

    originals: Sequence[nn.Module] = field(default=())
    unlearned: Sequence[nn.Module] = field(default=())


@dataclass(frozen=True, eq=False)
class Asked:
    """What every item is given.

    Attributes:
        models: "model", "original" and the retrained ones, by role.
        data: its training part serves further training.
        probe: the held-out examples.
        shadows: further models.
        seed: of all draws.
        progress: called as models are trained.
    """

    models: Mapping[str, nn.Module]
    data: Data
    probe: Probe
    shadows: Shadows
    seed: int
    progress: Progress

    @property
    def references(self) -> list[str]:
        """The roles of the retrained models."""
        return [role for role in self.models if role not in (MODEL, ORIGINAL)]


def look_on_request(names: Sequence[str], asked: Asked) -> dict[str, Any]:
    """The results of the items asked for, as JSON values by name: title, how to read it, curves or rows.

    Raises:
        InputError: an item that cannot serve the request, or lacks shadow models.
    """
    for name in names:
        if name not in _OF_SAMPLES and not asked.probe.forget_classes:
            raise InputError(f"also: {name} looks at a forgotten class; allowed for samples: {', '.join(_OF_SAMPLES)}")
    return {name: _ITEMS[name](asked) for name in names}


def comes_back(block: Mapping[str, Any]) -> bool:
    """Whether fine-tuning on retained examples alone made the class return, beyond the retrained models."""
    best = {curve["role"]: max(curve["y"]) for curve in block["curves"]}
    references = [value for role, value in best.items() if role not in (MODEL, ORIGINAL)]
    return bool(references) and best[MODEL] - float(np.mean(references)) >= detection_margin(references)


def _relearn(asked: Asked) -> dict[str, Any]:
    examples = _tuned(asked)
    runs = {
        role: relearn_time(model, examples, asked.probe, asked.seed, progress=asked.progress)
        for role, model in asked.models.items()
    }
    level = runs[ORIGINAL].forget[0] / 2
    return {
        "title": "Relearn time",
        "how": "the net is trained on ten labels of each forgotten class among retained examples. A line that rises "
        "sooner than the retrained ones' remembers.",
        **_curves(runs, "optimiser steps"),
        "rows": [{"role": role, "value": run.steps_to(level)} for role, run in runs.items()],
        "value": f"steps to {level:.0%}",
    }


def _last_block(asked: Asked) -> dict[str, Any]:
    examples = _tuned(asked)
    runs = {
        role: last_block_finetuned(model, examples, asked.probe, asked.seed, progress=asked.progress)
        for role, model in asked.models.items()
    }
    return {
        "title": "Last block relearned",
        "how": "as relearn time, but only the last stage and the head are trained: what rises sooner than retrained is "
        "still handed up from below.",
        **_curves(runs, "optimiser steps"),
        "rows": [],
    }


def _retain_tuning(asked: Asked) -> dict[str, Any]:
    examples = _tuned(asked)
    runs = {
        role: retain_only_finetuning(model, examples, asked.probe, asked.seed, progress=asked.progress)
        for role, model in asked.models.items()
        if role != ORIGINAL
    }
    return {
        "title": "Fine-tuning on retained examples",
        "how": "nobody means harm, and the model is trained on what was to be kept. A line that rises above the "
        "retrained ones: the forgetting does not last.",
        **_curves(runs, "optimiser steps"),
        "rows": [],
    }


def _pruning(asked: Asked) -> dict[str, Any]:
    forget = asked.probe.forget
    curves = []
    for role, model in asked.models.items():
        said = [answers_of(pruned(model, share) if share else model, asked.probe, asked.seed) for share in (0, *SHARES)]
        recall = [float((one == asked.probe.labels)[forget].double().mean()) for one in said]
        curves.append({"role": role, "x": [0, *SHARES], "y": _rounded(recall)})
    return {
        "title": "Pruning",
        "how": "the smallest weights are set to 0. A class that returns was covered, not erased.",
        "curves": curves,
        "rows": [],
        "x_label": "share of weights pruned",
        "y_label": "forget accuracy",
    }


def _code_length(asked: Asked) -> dict[str, Any]:
    found = {
        role: code_length(inner_of(model, asked.probe.examples), asked.probe.forget, asked.seed)
        for role, model in asked.models.items()
    }
    return _row_block(
        "Code length",
        "bits per example to say which are of the forgotten class, given the head's inputs: fewer than for retrained "
        "models means that the class is easier to read.",
        {role: one.bits / len(asked.probe.labels) for role, one in found.items()},
        "bits per example",
    )


def _klom(asked: Asked) -> dict[str, Any]:
    _need(asked.references, 3, "klom", "--reference")
    labels = asked.probe.labels
    each = {role: margins(predict(model, asked.probe.examples), labels) for role, model in asked.models.items()}
    unlearned = [margins(predict(one, asked.probe.examples), labels) for one in asked.shadows.unlearned]
    retrained = torch.stack([each[role] for role in asked.references])
    models = {MODEL: torch.stack([each[MODEL], *unlearned]), ORIGINAL: each[ORIGINAL][None]}
    found = {role: float(klom(rows, retrained)[asked.probe.forget].mean()) for role, rows in models.items()}
    return _row_block(
        "KLoM",
        "how far margins on forget examples lie from the retrained models', as a divergence of their distributions; "
        "meant for many models of each kind.",
        found,
        "nats",
    )


def _procrustes(asked: Asked) -> dict[str, Any]:
    inner = {role: inner_of(model, asked.probe.examples)[asked.probe.forget] for role, model in asked.models.items()}
    found = {}
    for role in inner:
        others = [one for one in asked.references if one != role]
        found[role] = (
            float(np.mean([procrustes_distance(inner[role], inner[one]) for one in others])) if others else None
        )
    return _row_block(
        "Procrustes distance",
        "how far forget examples' features lie from the retrained models' after the best rotation (mean over them).",
        found,
        "distance",
    )


def _boundary(asked: Asked) -> dict[str, Any]:
    if asked.probe.pairs is None:
        raise InputError("also: adversarial-membership needs ten training examples of the request; allowed: more data")
    return _row_block(
        "Adversarial membership",
        "area under the curve of the distance from the decision boundary, in the head's inputs: training examples lie "
        "deeper inside. 0.5: cannot be told. None: the class is cut off from the head, and has no boundary.",
        {role: _boundary_area(model, asked.probe) for role, model in asked.models.items()},
        "area under the curve",
    )


def _boundary_area(model: nn.Module, probe: Probe) -> float | None:
    parts, pairs = parts_of(model, probe.examples), probe.pairs
    assert pairs is not None
    both = [read(model, examples, parts).inner for examples in (probe.examples, pairs.members)]
    head = read_head(model, parts, both[0], probe.classes)
    if head is None:
        raise InputError("also: adversarial-membership needs a linear head; allowed: models that have one")
    labels = pairs.members.labels
    if bool((head.bias[labels.unique()] <= LEAST_LOGIT).any()):
        return None
    inner = both[0][pairs.held_out], both[1]
    distance = np.stack([boundary_distance(head, part, labels) for part in inner])
    return float(pair_values(distance, labels.numpy()).mean())


def _u_lira(asked: Asked) -> dict[str, Any]:
    _need(asked.shadows.unlearned, 2, "u-lira", "--shadow-unlearned")
    _need(asked.references, 2, "u-lira", "--reference")
    if asked.probe.pairs is None:
        raise InputError("also: u-lira needs ten training examples of the request; allowed: more data")
    unlearned = np.stack([_log_odds(one, asked.probe) for one in asked.shadows.unlearned])
    never = {role: _log_odds(asked.models[role], asked.probe) for role in asked.references}
    labels = asked.probe.pairs.members.labels.numpy()
    found = {}
    for role, model in asked.models.items():
        others = np.stack([one for other, one in never.items() if other != role])
        if len(others) < 2:
            continue
        own = never[role] if role in never else _log_odds(model, asked.probe)
        ratio = np.stack([u_lira(own[part], unlearned[:, part], others[:, part]) for part in (0, 1)])
        found[role] = float(pair_values(ratio, labels).mean())
    return _row_block(
        "U-LiRA",
        "area under the curve of the likelihood ratio “unlearned by this method” against “never seen”. 0.5: nobody can "
        "tell, even with the method's code.",
        found,
        "area under the curve",
    )


def _property(asked: Asked) -> dict[str, Any]:
    _need([asked.models[ORIGINAL], *asked.shadows.originals], 2, "property-inference", "--shadow-original")
    _need(asked.references, 2, "property-inference", "--reference")
    kept = ~asked.probe.forget

    def described(model: nn.Module) -> np.ndarray:
        logits = predict(model, asked.probe.examples)[kept]
        logits[:, list(asked.probe.forget_classes)] = logits.min() - 100  # the mask itself must not give it away
        return answers(logits.numpy(), asked.probe.labels[kept].numpy())

    trained_with = np.stack([described(one) for one in (asked.models[ORIGINAL], *asked.shadows.originals)])
    without = np.stack([described(asked.models[role]) for role in asked.references])
    found = property_inference(trained_with, without, described(asked.models[MODEL]))
    return _row_block(
        "Property inference",
        "a classifier of models: log-odds that the class was in the training data, from answers on retained examples. "
        f"It tells the known models apart with an area under the curve of {found.auc:.2f}; near 0.5 it says nothing.",
        {MODEL: found.model, **dict(zip(asked.references, found.trained_without, strict=True))},
        "log-odds",
    )


ON_REQUEST: dict[str, str] = {
    "relearn": "steps until the class is relearned from ten labels",
    "last-block": "the same, only the last stage and the head being trained",
    "retain-tuning": "whether fine-tuning on retained examples brings the class back",
    "pruning": "forget accuracy after the smallest weights are set to 0",
    "code-length": "bits that it takes to say which examples are of the class, given the features",
    "klom": "divergence of margins from the retrained models' (three references)",
    "procrustes": "distance of the features from the retrained models' after the best rotation",
    "adversarial-membership": "membership by the distance from the decision boundary",
    "u-lira": "likelihood-ratio attack (two models unlearned by the same method, two references)",
    "property-inference": "whether a classifier of models tells that the class was trained on (one more original)",
}
"""Items by name, with a line each."""
_ITEMS: dict[str, Callable[[Asked], dict[str, Any]]] = {
    "relearn": _relearn,
    "last-block": _last_block,
    "retain-tuning": _retain_tuning,
    "pruning": _pruning,
    "code-length": _code_length,
    "klom": _klom,
    "procrustes": _procrustes,
    "adversarial-membership": _boundary,
    "u-lira": _u_lira,
    "property-inference": _property,
}
_OF_SAMPLES = ("adversarial-membership", "u-lira")
"""Items that serve a sample request too; all others look at a forgotten class."""


def _curves(runs: Mapping[str, Trajectory], unit: str) -> dict[str, Any]:
    curves = [{"role": role, "x": list(run.steps), "y": _rounded(run.forget)} for role, run in runs.items()]
    return {"curves": curves, "x_label": unit, "y_label": "forget accuracy"}


def _row_block(title: str, how: str, values: Mapping[str, float | None], unit: str) -> dict[str, Any]:
    rows = [{"role": role, "value": None if value is None else round(value, 5)} for role, value in values.items()]
    return {"title": title, "how": how, "curves": [], "rows": rows, "value": unit}


def _need(given: Sequence[Any], least: int, item: str, option: str) -> None:
    if len(given) < least:
        raise InputError(f"also: {item} has {len(given)} models by {option}; allowed: {least} or more")


def _tuned(asked: Asked) -> Any:
    """Some training examples of every class, in a fixed order."""
    labels, generator = asked.data.train.labels, torch.Generator().manual_seed(asked.seed)
    each = max(1, MOST_TUNED // len(asked.data.classes))
    chosen = []
    for number in labels.unique().tolist():
        members = (labels == number).nonzero()[:, 0]
        chosen.append(members[torch.randperm(len(members), generator=generator)[:each]])
    return asked.data.train.take(torch.cat(chosen))


def _log_odds(model: nn.Module, probe: Probe) -> np.ndarray:
    """`[2, P]`, of held-out and training examples."""
    pairs = probe.pairs
    assert pairs is not None
    said = predict(model, probe.examples)[pairs.held_out], predict(model, pairs.members)
    return np.stack([signals(one, pairs.members.labels).log_odds for one in said])


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, 5) for value in values]
