"""From scores to a verdict: comparisons with the retrained models, gates, and the first verdict that holds."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rasura.auditing.comparison import (
    AREA,
    RUNGS,
    Comparison,
    accuracy,
    class_differences,
    forget_comparisons,
    outputs,
    retain_comparisons,
    routing,
)
from rasura.auditing.gates import LEAST_ORIGINAL_ACCURACY, Gate, score_gates
from rasura.auditing.measure import BIAS, HEAD_INPUT, HEAD_SWAP, LINEAR, OUTPUT, UNWRAPPED
from rasura.auditing.scores import MODEL, ORIGINAL, Scores
from rasura.auditing.statistics import (
    CONFIDENCE,
    LEAST_MARGIN,
    TAILS,
)

VERDICTS = {
    "INVALID": "a precondition failed, so nothing is claimed",
    "NOT FORGOTTEN": "the model still names the class",
    "DAMAGED": "what should have stayed was lost",
    "MASKED": "the output is silent, but a cheap change brings the class back",
    "RESIDUAL": "the class is more readable inside than in retrained models",
    "OVER-ERASED": "the class is treated unlike any retrained model would treat it",
    "INCONCLUSIVE": "the evidence does not settle the question",
    "ERASED": "as retrained, within the stated margin",
}
"""Every verdict with its meaning, in the order in which they are tried (INCONCLUSIVE and ERASED last)."""

LEAST_REFERENCES = 3


@dataclass(frozen=True)
class Ruling:
    """A verdict with its reason in plain words; `where` names the rung or layer, or is empty."""

    verdict: str
    where: str
    reason: str


@dataclass(frozen=True)
class Judgement:
    """Everything that follows from the scores.

    Attributes:
        ruling: the verdict.
        qualifiers: "provisional" with fewer than three references; "stages not compared" where the model lacks some
            that the original has.
        gates: the preconditions.
        outputs: forget and retain accuracy of every model, with intervals, and each model's accuracy per class.
        comparisons: forget-class scores beside the references, every decoder and layer.
        retain: the same for retained classes (of the model itself, and of the linear decoder at the head input).
        routing: where forget images go.
    """

    ruling: Ruling
    qualifiers: tuple[str, ...]
    gates: tuple[Gate, ...]
    outputs: dict[str, Any]
    comparisons: tuple[Comparison, ...]
    retain: tuple[Comparison, ...]
    routing: dict[str, Any]


def judge(scores: Scores, seed: int, extra_gates: tuple[Gate, ...] = ()) -> Judgement:
    """The verdict and all that it rests on, from per-example scores alone.

    Args:
        scores: of the original, the model and the references.
        seed: of the bootstrap.
        extra_gates: preconditions that scores cannot show, such as identical files.
    """
    comparisons = tuple(forget_comparisons(scores, seed)) if scores.references else ()
    retain = tuple(retain_comparisons(scores, seed)) if scores.references else ()
    answers = routing(scores)
    gates = (*extra_gates, *score_gates(scores))
    ruling = _ruling(_Case(scores, gates, comparisons, retain, answers))
    return Judgement(
        ruling=ruling,
        qualifiers=tuple(_qualifiers(scores)) if ruling.verdict != "INVALID" else (),
        gates=gates,
        outputs=outputs(scores),
        comparisons=comparisons,
        retain=retain,
        routing=answers,
    )


def _qualifiers(scores: Scores) -> Iterator[str]:
    """Why the verdict rests on less than it could."""
    if len(scores.references) < LEAST_REFERENCES:
        yield "provisional"
    read = {model: {one.layer for one in scores.models[model] if one.decoder == LINEAR} for model in (MODEL, ORIGINAL)}
    if read[ORIGINAL] - read[MODEL]:
        yield "stages not compared"


def _ruling(case: "_Case") -> Ruling:
    """The first verdict that holds."""
    for rule in _RULES:
        ruling = rule(case)
        if ruling is not None:
            return ruling
    return _erased(case)


@dataclass(frozen=True)
class _Case:
    scores: Scores
    gates: tuple[Gate, ...]
    comparisons: tuple[Comparison, ...]
    retain: tuple[Comparison, ...]
    routing: dict[str, Any]

    @property
    def primary(self) -> list[Comparison]:
        return [one for one in self.comparisons if one.primary]

    def name(self, number: int) -> str:
        return self.scores.classes[number]


def _invalid(case: _Case) -> Ruling | None:
    failed = [gate for gate in case.gates if not gate.passed]
    if not failed:
        return None
    gate = failed[0]
    return Ruling(
        "INVALID", gate.name, f"“{gate.name}” failed: {gate.found}; allowed: {gate.allowed}. Remedy: {gate.remedy}."
    )


def _not_forgotten(case: _Case) -> Ruling | None:
    if not _works(case, MODEL, OUTPUT, "output"):
        return None  # a broken net may say the forget class of every image: that is damage
    whole = case.scores.forget
    each = [case.scores.labels == number for number in case.scores.forget_classes]
    for among, what in zip((whole, *each), ("", *map(case.name, case.scores.forget_classes)), strict=True):
        model, original = (accuracy(case.scores, name, among).point for name in (MODEL, ORIGINAL))
        if model >= 0.5 * original >= 0.5 * LEAST_ORIGINAL_ACCURACY:
            of = f" of {what!r}" if what else ""
            reason = f"It still names {model:.1%} of the held-out forget images{of}; the original names {original:.1%}."
            return Ruling("NOT FORGOTTEN", f"output{of}", reason)
    return None


def _damaged(case: _Case) -> Ruling | None:
    if not case.retain:
        model = accuracy(case.scores, MODEL, ~case.scores.forget).point
        original = accuracy(case.scores, ORIGINAL, ~case.scores.forget).point
        if model >= original - LEAST_MARGIN:
            return None
        reason = f"Accuracy on the retained classes is {model:.1%}; the original's is {original:.1%}."
        return Ruling("DAMAGED", "output", reason)
    for one in case.retain:
        if one.below:
            what = "Accuracy" if one.decoder == OUTPUT else "What a linear probe reads at the head input"
            reason = (
                f"{what} on the retained classes is {one.model:.1%}; retrained models reach "
                f"{np.mean(one.references):.1%} (margin {100 * one.margin:.1f} points)."
            )
            return Ruling("DAMAGED", one.layer, reason)
    retained = [number for number in range(len(case.scores.classes)) if number not in case.scores.forget_classes]
    differences = class_differences(case.scores, OUTPUT, "output", retained)
    for one in _by_holm(differences, [one.below for one in differences]):
        if one.model <= one.references - LEAST_MARGIN:
            name = case.name(one.number)
            reason = f"It names {one.model:.1%} of {name!r}; retrained models name {one.references:.1%}."
            return Ruling("DAMAGED", f"output of {name!r}", reason)
    return None


def _masked(case: _Case) -> Ruling | None:
    for rung in RUNGS:
        for layer in (one.layer for one in case.scores.models[MODEL] if one.decoder == rung):
            reason = _recovery(case, rung, layer) if _works(case, MODEL, rung, layer) else None
            if reason:
                return Ruling("MASKED", rung, f"{_RECOVERY[rung]} {reason}")
    return None


def _recovery(case: _Case, rung: str, layer: str) -> str | None:
    """What a rung brings back beyond the retrained models; None if nothing.

    Where it works on every retrained model, they are the measure. Else (none given; no code outside their nets; the
    original's head does not fit their features) half of the original's accuracy is, if no retrained model on which it
    works gets there. Refitted biases find a never-seen class by low confidence: without retrained models they say
    nothing.
    """
    working = [name for name in case.scores.references if _works(case, name, rung, layer)]
    beside = next((one for one in case.comparisons if (one.decoder, one.layer) == (rung, layer)), None)
    if beside is not None and len(working) == len(case.scores.references):
        return _beside(beside) if beside.above else None
    original = accuracy(case.scores, ORIGINAL, case.scores.forget).point
    found, *others = (_recall(case, name, rung, layer) for name in (MODEL, *working))
    if rung == BIAS or found < 0.5 * original or max(others, default=0.0) >= 0.5 * original:
        return None
    return f"{found:.1%} of the forget images are named again (original {original:.1%})."


def _recall(case: _Case, model: str, rung: str, layer: str) -> float:
    right = case.scores.right(model, rung, layer)
    assert right is not None
    return float(right[case.scores.forget].mean())


def _works(case: _Case, model: str, rung: str, layer: str) -> bool:
    """Whether a changed model is still a classifier of the retained classes.

    Another model's head on features that it was not trained with says the forget class at random, sometimes often:
    that is no recovery.
    """
    right = case.scores.right(model, rung, layer)
    if right is None:
        return False
    kept = float(right[~case.scores.forget].mean())
    return kept >= 0.5 * accuracy(case.scores, ORIGINAL, ~case.scores.forget).point


def _residual(case: _Case) -> Ruling | None:
    for one in [*case.primary, *(other for other in case.comparisons if other.decoder == OUTPUT)]:
        if one.above:
            return Ruling("RESIDUAL", _place_of(one), f"{_READER[one.decoder]} {_beside(one)}")
    worst = _holm([one for one in case.comparisons if one.decoder == LINEAR and not one.primary])
    if worst:
        return Ruling("RESIDUAL", _place_of(worst), f"{_READER[LINEAR]} {_beside(worst)}")
    return _residual_class(case)


def _residual_class(case: _Case) -> Ruling | None:
    """One of several forget classes that is still readable, which the mean over them hides."""
    if len(case.scores.forget_classes) == 1:
        return None
    for decoder, layer in ((OUTPUT, "output"), (BIAS, "output"), (LINEAR, HEAD_INPUT)):
        differences = class_differences(case.scores, decoder, layer, case.scores.forget_classes)
        for one in _by_holm(differences, [one.above for one in differences]):
            if one.model >= one.references + LEAST_MARGIN:
                name = case.name(one.number)
                reason = (
                    f"At {layer}, the {decoder} reader names {one.model:.1%} of {name!r}; for retrained models "
                    f"{one.references:.1%}, for the original {one.original:.1%}."
                )
                return Ruling("RESIDUAL", f"{decoder} of {name!r}", reason)
    return None


def _over_erased(case: _Case) -> Ruling | None:
    for one in case.primary:
        if one.below:
            return Ruling("OVER-ERASED", _place_of(one), f"{_READER[one.decoder]} {_beside(one)}")
    if not case.routing.get("outside"):
        return None
    reason = (
        f"Its answers on forget images differ from the retrained models' by {case.routing['distance']:.0%} of the "
        f"images; retrained models differ among themselves by at most {case.routing['band']:.0%}."
    )
    return Ruling("OVER-ERASED", "routing", reason)


def _inconclusive(case: _Case) -> Ruling | None:
    if not case.scores.references:
        reason = "No retrained model was given, so “as retrained” cannot be shown. Give three or more."
        return Ruling("INCONCLUSIVE", "", reason)
    if not any(one.resolved for one in case.primary):
        reason = (
            "The original and the retrained models are too close, or the retrained too scattered, at "
            f"{' and '.join(_place_of(one) for one in case.primary)} for any model between them to be placed. "
            "Give more retrained models or more held-out images."
        )
        return Ruling("INCONCLUSIVE", "", reason)
    for one in case.primary:
        if not one.equivalent:
            reason = (
                f"At {_place_of(one)} it lies {_points(one.excess.point)} from the retrained mean (95 % interval "
                f"{_points(one.excess.low)} to {_points(one.excess.high)}); to be as retrained, the interval must "
                f"lie inside ±{100 * one.equivalence:.1f} points. More retrained models or more held-out images would "
                "settle it."
            )
            return Ruling("INCONCLUSIVE", _place_of(one), reason)
    return None


def _erased(case: _Case) -> Ruling:
    worst = max(case.primary, key=lambda one: abs(one.excess.point))
    reason = (
        f"No decoder, rung or answer sets it apart from {len(case.scores.references)} retrained models; the largest "
        f"primary difference is {_points(worst.excess.point)} at {_place_of(worst)}."
    )
    return Ruling("ERASED", "", reason)


_RULES: tuple[Callable[[_Case], Ruling | None], ...] = (
    _invalid,
    _not_forgotten,
    _damaged,
    _masked,
    _residual,
    _over_erased,
    _inconclusive,
)

_RECOVERY = {
    UNWRAPPED: "Code outside the net hides the class: the head itself still names it.",
    BIAS: "Refitting one bias per class brings the class back.",
    HEAD_SWAP: "Putting the original's last layer back brings the class back.",
}
_READER = {
    OUTPUT: "The model itself still names some of the forget images.",
    LINEAR: "A linear probe reads the class.",
    AREA: "A head refitted with a few labels reads the class.",
}


def _beside(one: Comparison) -> str:
    return (
        f"Recall {one.model:.1%}; retrained {np.mean(one.references):.1%} (range {min(one.references):.1%} to "
        f"{max(one.references):.1%}), original {one.original:.1%}; difference {_points(one.excess.point)}, "
        f"95 % interval {_points(one.excess.low)} to {_points(one.excess.high)}, margin {100 * one.margin:.1f}."
    )


def _place_of(one: Comparison) -> str:
    return one.decoder if one.decoder in (AREA, OUTPUT) else f"{one.decoder} probe, {one.layer}"


def _points(share: float) -> str:
    """A difference of shares in percentage points, signed."""
    return f"{100 * share:+.1f} points"


def _holm(family: list[Comparison]) -> Comparison | None:
    """The first member of a family that stays above its margin after Holm's correction."""
    found = _by_holm(family, [one.chance for one in family])
    return next((one for one in found if one.above), None)


def _by_holm(family: Sequence[Any], chances: Sequence[float]) -> list[Any]:
    """The members of a family whose p-values hold out together (Holm, 1979), the least likely first.

    The family as a whole gets the share of one limit of the verdict's.
    """
    level, kept = (1 - CONFIDENCE) / TAILS, []
    for rank, at in enumerate(np.argsort(chances, kind="stable")):
        if chances[at] > level / (len(family) - rank):
            break
        kept.append(family[at])
    return kept
