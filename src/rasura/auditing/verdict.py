"""From scores to a verdict: comparisons, gates, and the first verdict that holds."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from rasura.auditing.case import Case, Goal, Ruling, damaged, erased, inconclusive, invalid
from rasura.auditing.class_rules import masked, not_forgotten, over_erased, residual
from rasura.auditing.comparison import Comparison
from rasura.auditing.decoded import LINEAR
from rasura.auditing.evidence import forget_comparisons, membership_comparisons, outputs, retain_comparisons, routing
from rasura.auditing.gates import Gate, score_gates
from rasura.auditing.sample_rules import avoided, hidden, remembered_in_part, still_remembered
from rasura.auditing.scores import MODEL, ORIGINAL, Scores

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

Rule = Callable[[Case], Ruling | None]
CLASS_RULES: tuple[Rule, ...] = (invalid, not_forgotten, damaged, masked, residual, over_erased, inconclusive)
SAMPLE_RULES: tuple[Rule, ...] = (
    invalid,
    still_remembered,
    damaged,
    hidden,
    remembered_in_part,
    avoided,
    inconclusive,
)


@dataclass(frozen=True)
class Judgement:
    """Everything that follows from the scores.

    Attributes:
        ruling: the verdict.
        qualifiers: "provisional" with fewer than three references; "stages not compared" where the model or the
            original has some that the other lacks.
        gates: the preconditions.
        outputs: accuracy of every model with intervals, each model's accuracy per class, calibration.
        comparisons: forget-class scores beside the references, every decoder and layer.
        retain: the same for what was to be kept (of the model itself, and of the linear decoder at the head input).
        membership: how well training examples of the request are told from held-out ones.
        routing: where forget images go; empty for a sample request.
    """

    ruling: Ruling
    qualifiers: tuple[str, ...]
    gates: tuple[Gate, ...]
    outputs: dict[str, Any]
    comparisons: tuple[Comparison, ...]
    retain: tuple[Comparison, ...]
    membership: tuple[Comparison, ...]
    routing: dict[str, Any]


def judge(
    scores: Scores, seed: int, extra_gates: tuple[Gate, ...] = (), goal: Goal = "retrain-equivalent"
) -> Judgement:
    """The verdict and all that it rests on, from per-example scores alone.

    Args:
        scores: of the original, the model and the references.
        seed: of the bootstrap.
        extra_gates: preconditions that scores cannot show, such as identical files.
        goal: what is asked for.
    """
    yardsticks = scores.references if goal == "retrain-equivalent" else list(scores.untrained)
    of_classes, beside = bool(scores.forget_classes), bool(scores.references)
    case = Case(
        scores=scores,
        gates=(*extra_gates, *score_gates(scores)),
        comparisons=tuple(forget_comparisons(scores, seed, yardsticks)) if of_classes and yardsticks else (),
        retain=tuple(retain_comparisons(scores, seed)) if beside else (),
        membership=tuple(membership_comparisons(scores, seed)) if beside else (),
        routing=routing(scores) if of_classes else {},
        goal=goal,
    )
    ruling = _ruling(case)
    return Judgement(
        ruling=ruling,
        qualifiers=tuple(_qualifiers(scores, goal)) if ruling.verdict != "INVALID" else (),
        gates=case.gates,
        outputs=outputs(scores),
        comparisons=case.comparisons,
        retain=case.retain,
        membership=case.membership,
        routing=case.routing,
    )


def _ruling(case: Case) -> Ruling:
    """The first verdict that holds."""
    for rule in CLASS_RULES if case.scores.forget_classes else SAMPLE_RULES:
        ruling = rule(case)
        if ruling is not None:
            return ruling
    return erased(case)


def _qualifiers(scores: Scores, goal: Goal) -> Iterator[str]:
    """Why the verdict rests on less than it could."""
    if goal == "retrain-equivalent" and len(scores.references) < LEAST_REFERENCES:
        yield "provisional"
    if scores.layers(MODEL, LINEAR) ^ scores.layers(ORIGINAL, LINEAR):
        yield "stages not compared"
