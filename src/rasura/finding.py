"""`rasura.audit`: measure models once, judge each beside the others, and hand out a finding that can be kept."""

import functools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from rasura.auditing import (
    GOALS,
    MODEL,
    ON_REQUEST,
    ORIGINAL,
    SELF_TEST,
    Anchor,
    Asked,
    Gate,
    Goal,
    Inside,
    Measured,
    Probe,
    Scores,
    Shadows,
    check_whole,
    comes_back,
    compared_insides,
    consistency_gate,
    drawn_rows,
    heads,
    identity_gates,
    judge,
    left_out,
    look_on_request,
    make_probe,
    measure,
    measure_untrained,
    preprocessing_gate,
    read_anchor,
    record_gates,
    reference_name,
    self_test,
    shared_layers,
    write_scores,
)
from rasura.auditing.illustrations import stage_maps, with_maps_of
from rasura.class_order import check_order, ordered, places
from rasura.contents import SHOWN, about, judged
from rasura.data import Data, ForgetClasses, Request, as_request, resolve
from rasura.errors import InputError, check_seed, expect, unknown
from rasura.files import write_json, write_whole
from rasura.methods.contract import check_fits
from rasura.models import complete, unwrapped
from rasura.progress import Progress, reporting
from rasura.training import predict

NO_SHADOWS = Shadows()
UNTRAINED_NETS: dict[Goal, int] = {"retrain-equivalent": 1, "concept": 3}
"""Freshly initialised nets that are read beside the models."""
FEW = 32
"""Examples that tell probabilities from logits."""


@dataclass(frozen=True, eq=False)
class Finding:
    """What an audit found of one model.

    Attributes:
        verdict: one of `rasura.VERDICTS`.
        where: the rung, layer or gate that decided; empty if none did.
        reason: the verdict's reason in plain words.
        qualifiers: such as "provisional" (fewer than three references).
        content: everything, as JSON values; this is what `verdict.json` holds.
        scores: what every decoder said of every example.
    """

    verdict: str
    where: str
    reason: str
    qualifiers: tuple[str, ...]
    content: dict[str, Any]
    scores: Scores

    def to_json(self, path: str | Path) -> None:
        """Write everything but the per-example scores."""
        write_json(Path(path), self.content)

    def to_parquet(self, path: str | Path) -> None:
        """Write the per-example scores, from which all the rest can be computed again."""
        write_scores(self.scores, Path(path))

    def to_html(self, path: str | Path) -> None:
        """Write one self-contained page."""
        write_whole(Path(path), self.page())

    def page(self) -> bytes:
        """One self-contained page, as HTML."""
        from rasura.report import page

        return page([self.content]).encode()

    def __repr__(self) -> str:
        extra = f" ({', '.join(self.qualifiers)})" if self.qualifiers else ""
        return f"{self.verdict}{extra}: {self.reason}"


def audit(
    model: nn.Module,
    data: Data,
    request: Request,
    original: nn.Module,
    references: Sequence[nn.Module] = (),
    seed: int = 0,
    progress: Progress | None = None,
    goal: Goal = "retrain-equivalent",
    also: Sequence[str] = (),
    shadows: Shadows = NO_SHADOWS,
) -> Finding:
    """Say what is left in a model of what it is said to have forgotten.

    Args:
        model: the model in question.
        data: its `test` part must have been kept out of training and unlearning; the audit decodes from it.
        request: what was to be forgotten: classes, or training examples.
        original: the model before forgetting.
        references: models trained without it, from scratch, with other seeds. Three or more; without any the verdict
            is never ERASED (but for the goal "concept").
        seed: of folds, draws and the bootstrap.
        progress: default: a bar on stderr.
        goal: "retrain-equivalent" asks whether the model is as if it had never seen the class; "concept" whether
            anybody can read the class from it, beside untrained nets and raw inputs. Only for classes.
        also: items of `rasura list on-request` to measure besides; only "retain-tuning" touches the verdict, by the
            qualifier "not durable".
        shadows: further models that some of these items need.

    Raises:
        InputError: models that do not fit the data, an unknown goal or item, or too few examples or models.
    """
    found = audit_all({MODEL: model}, data, request, original, references, seed, progress, goal, also, shadows)
    return found[MODEL]


def audit_all(
    models: Mapping[str, nn.Module],
    data: Data,
    request: Request,
    original: nn.Module,
    references: Sequence[nn.Module] = (),
    seed: int = 0,
    progress: Progress | None = None,
    goal: Goal = "retrain-equivalent",
    also: Sequence[str] = (),
    shadows: Shadows = NO_SHADOWS,
) -> dict[str, Finding]:
    """`audit` for several models by name; original and references are measured once."""
    expect("models", models, Mapping, "models by name, {name: nn.Module}")
    for model in models.values():
        _check_model(model)
    with reporting(progress) as report:
        one = auditor(data, request, original, references, seed, report, goal, also, shadows)
        return {name: one(name, model) for name, model in models.items()}


def auditor(
    data: Data,
    request: Request,
    original: nn.Module,
    references: Sequence[nn.Module],
    seed: int,
    report: Progress,
    goal: Goal,
    also: Sequence[str],
    shadows: Shadows,
) -> Callable[[str, nn.Module], Finding]:
    """A function that audits a model under a name, as `audit` does; at its first call it measures the others."""
    check_seed(seed)
    _check_kinds(original, references, also, shadows)
    asked = ordered(original, data, as_request(request))
    data, request = asked.data, asked.request
    _check_words(goal, request, also)
    lacking = resolve(request, data).forget_classes
    anchors = {ORIGINAL: _fitting(original, data)}
    warnings = [*asked.warnings, *check_order(original, data, lacking, by_number=asked.by_number)]
    for name, reference in ((reference_name(k), one) for k, one in enumerate(references)):
        anchors[name] = _fitting(reference, data, lacking)
        warnings += [f"{name}: {doubt}" for doubt in check_order(anchors[name], data, lacking=lacking)]
    shadows = Shadows(*([_fitting(one, data, lacking) for one in kind] for kind in vars(shadows).values()))

    @functools.cache
    def shared() -> _Shared:
        return _measure_anchors(anchors, make_probe(data, request, seed), data.classes, seed, goal, report)

    def one(name: str, model: nn.Module) -> Finding:
        model = _fitting(model, data, lacking)
        further = Asked({MODEL: model} | anchors, data, shared().probe, shadows, seed, report)
        return _audit_one(name, model, shared(), data, request, look_on_request(also, further), warnings, report)

    return one


def _check_kinds(original: Any, references: Any, also: Any, shadows: Any) -> None:
    expect("references", references, (list, tuple), "a list of models")
    expect("also", also, (list, tuple, set, frozenset), "a list of items (rasura list on-request)")
    expect("shadows", shadows, Shadows, "a rasura.auditing.Shadows")
    for model in (original, *references):
        _check_model(model)


def _check_model(model: Any) -> None:
    expect("model", model, nn.Module, "an nn.Module that maps a batch to logits")


def _check_words(goal: str, request: Request, also: Sequence[str]) -> None:
    if goal not in list(GOALS):
        raise unknown("goal", goal, GOALS)
    if goal == "concept" and not isinstance(request, ForgetClasses):
        raise InputError("goal: 'concept' asks about a class; allowed for samples: retrain-equivalent")
    for item in also:
        if item not in list(ON_REQUEST):
            raise unknown("item", item, ON_REQUEST)


def _fitting(model: nn.Module, data: Data, lacking: Sequence[int] = ()) -> nn.Module:
    """The model, checked, with logits of all classes; of those in `lacking` it may have no outputs."""
    model = unwrapped(model)
    check_fits(model, data, lacking)
    answers = predict(model, data.train.take(torch.arange(min(FEW, len(data.train)))))
    return complete(model, answers, len(data.classes), places(model, data, answers.shape[1], lacking))


@dataclass(frozen=True, eq=False)
class _Shared:
    """What all audited models have in common."""

    anchors: dict[str, nn.Module]
    probe: Probe
    anchor: Anchor | None
    measured: dict[str, Measured]
    untrained: dict[str, Any]
    tested: list[Gate]
    maps: dict[str, Any]
    seed: int
    goal: Goal
    seconds: float


def _measure_anchors(
    anchors: dict[str, nn.Module], probe: Probe, classes: tuple[str, ...], seed: int, goal: Goal, report: Progress
) -> _Shared:
    begun = time.perf_counter()
    anchor = read_anchor(anchors[ORIGINAL], probe)
    measured: dict[str, Measured] = {}
    for done, (name, one) in enumerate(anchors.items()):
        report("audit: original and references", done, len(anchors))
        like = measured[ORIGINAL].stages if measured else ()
        measured[name] = measure(one, probe, anchor, seed, report, f"audit: {name}", like)
    report("audit: original and references", len(anchors), len(anchors))
    nets = UNTRAINED_NETS[goal] if probe.forget_classes else 0
    untrained = measure_untrained(anchors[ORIGINAL], probe, nets, seed, report) if nets else {}
    tested = self_test(_scores(probe, classes, {MODEL: measured[ORIGINAL]} | measured, untrained), seed)
    shown = {role: one.inside for role, one in measured.items() if role in SHOWN and one.inside is not None}
    maps = _maps(shown, probe, seed) if shown else {}
    return _Shared(anchors, probe, anchor, measured, untrained, tested, maps, seed, goal, time.perf_counter() - begun)


def _audit_one(
    name: str,
    model: nn.Module,
    shared: _Shared,
    data: Data,
    request: Request,
    on_request: dict[str, Any],
    warnings: Sequence[str],
    report: Progress,
) -> Finding:
    begun = time.perf_counter()
    same = next((at for at, one in shared.anchors.items() if one is model), None)
    probe, seed = shared.probe, shared.seed
    if same:
        own = shared.measured[same]
    else:
        like = shared.measured[ORIGINAL].stages
        own = measure(model, probe, shared.anchor, seed, report, f"audit: {name}", like)
    measured = {MODEL: own} | shared.measured
    scores = _scores(probe, data.classes, measured, shared.untrained)
    gates = (
        *identity_gates(model, shared.anchors),
        *record_gates(shared.anchors, request, data),
        consistency_gate(model, probe),
        *_input_gates(model, probe, scores),
        *shared.tested,
    )
    judgement = judge(scores, seed, gates, shared.goal)
    models = {MODEL: model} | shared.anchors
    content = {
        **judged(judgement, scores),
        **about(name, data, request, probe, scores, models, {"seed": seed, "goal": shared.goal}),
        **_insides({role: one.inside for role, one in measured.items()}, shared),
        "on_request": on_request,
        "notes": [*warnings, *left_out(scores, {role: one.unread for role, one in measured.items()})],
        "seconds": round(shared.seconds + time.perf_counter() - begun, 2),
        "seconds_per_block": {block: round(spent, 3) for block, spent in own.seconds.items()},
    }
    return _whole(content, scores)


def _scores(probe: Probe, classes: tuple[str, ...], measured: dict[str, Measured], untrained: dict[str, Any]) -> Scores:
    return Scores(
        labels=probe.labels.to(torch.int32).numpy(),
        rows=probe.rows.numpy(),
        forget_classes=probe.forget_classes,
        classes=classes,
        models={name: one.decoded for name, one in measured.items()},
        untrained=untrained,
        members={name: one.members for name, one in measured.items() if one.members is not None},
    )


def _input_gates(model: nn.Module, probe: Probe, scores: Scores) -> Iterator[Gate]:
    """Asked only of a model that fails on what it should name: else another preprocessing is out of the question."""
    kept = {role: np.nanmean(_right(scores, role)[~scores.forget]) for role in (MODEL, ORIGINAL)}
    if kept[MODEL] < 0.5 * kept[ORIGINAL]:
        gate = preprocessing_gate(model, probe, float(kept[MODEL]), float(kept[ORIGINAL]))
        if gate is not None:
            yield gate


def _right(scores: Scores, role: str) -> np.ndarray:
    right = scores.right(role, "output", "output")
    assert right is not None
    return right


def _insides(insides: dict[str, Inside | None], shared: _Shared) -> dict[str, Any]:
    seen = {role: one for role, one in insides.items() if one is not None}
    if not seen:
        return {"geometry": None, "heads": None, "maps": None}
    maps = shared.maps
    if not set(maps["layers"]) <= set(seen[MODEL].layers):
        maps = _maps({role: one for role, one in seen.items() if role in SHOWN}, shared.probe, shared.seed)
    else:
        maps = with_maps_of(maps, MODEL, seen[MODEL].sketch, shared.seed)
    return {"geometry": compared_insides(seen), "heads": heads(seen), "maps": maps}


def _maps(insides: dict[str, Inside], probe: Probe, seed: int) -> dict[str, Any]:
    layers, rows = shared_layers(insides), drawn_rows(probe, seed)
    shown = {role: [one.sketch[layer] for layer in layers] for role, one in insides.items()}
    return stage_maps(layers, shown, probe.labels[rows], probe.forget[rows], seed)


def recomputed(content: dict[str, Any], scores: Scores) -> Finding:
    """Judge stored scores again: everything that follows from them is computed anew, the rest stays as it is.

    Args:
        content: what `verdict.json` holds.
        scores: what `scores.parquet` holds.

    Raises:
        InputError: scores that no audit writes.
        KeyError, TypeError, ValueError: a content that no audit writes.
    """
    check_whole(scores)
    for field, kind in (("settings", dict), ("gates", list), ("on_request", dict)):
        expect(field, content.get(field), kind, "what rasura wrote")
    for gate in content["gates"]:
        expect("gates", gate["name"], str, "gates with a name")
    seed, goal = content["settings"]["seed"], content["goal"]
    computed = {gate.name for gate in judge(scores, seed, (), goal).gates}
    of_models = [Gate(**one) for one in content["gates"] if one["name"] not in computed]
    kept = [gate for gate in of_models if not gate.name.startswith(SELF_TEST)]
    judgement = judge(scores, seed, (*kept, *self_test(scores, seed)), goal)
    return _whole(content | judged(judgement, scores), scores)


def _whole(content: dict[str, Any], scores: Scores) -> Finding:
    tuned = content["on_request"].get("retain-tuning")
    if content["verdict"] == "ERASED" and tuned and comes_back(tuned):
        content = content | {"qualifiers": [*content["qualifiers"], "not durable"]}
    content = json.loads(json.dumps(content, allow_nan=False))  # tuples become lists, as they will be when read back
    return Finding(
        content["verdict"], content["where"], content["reason"], tuple(content["qualifiers"]), content, scores
    )
