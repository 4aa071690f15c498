"""What a verdict's rules look at, and what they hand out; the rules that hold for every request."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from rasura.auditing.comparison import Comparison
from rasura.auditing.decoded import HEAD_INPUT, HEAD_SWAP, LINEAR, OUTPUT
from rasura.auditing.evidence import accuracy, class_losses
from rasura.auditing.gates import Gate
from rasura.auditing.scores import MEMBERSHIP, MODEL, ORIGINAL, Scores
from rasura.auditing.statistics import CONFIDENCE, LEAST_MARGIN, TAILS, examples_needed

Goal = Literal["retrain-equivalent", "concept"]
GOALS: dict[Goal, str] = {
    "retrain-equivalent": "as if it had never seen what was to be forgotten: compared with retrained models",
    "concept": "nobody can read the class from it: compared with untrained nets and raw inputs",
}
"""What can be asked for, with a line each."""


@dataclass(frozen=True)
class Ruling:
    """A verdict with its reason in plain words; `where` names the rung or layer, or is empty."""

    verdict: str
    where: str
    reason: str


@dataclass(frozen=True)
class Case:
    """Everything that the rules look at.

    Attributes:
        scores: what every decoder said.
        gates: the preconditions.
        comparisons: forget-class scores beside what the goal compares with.
        retain: scores of what was to be kept, beside the retrained models.
        membership: areas under the curve of pairs, beside the retrained models.
        routing: where forget examples go.
        goal: what was asked for.
    """

    scores: Scores
    gates: tuple[Gate, ...]
    comparisons: tuple[Comparison, ...]
    retain: tuple[Comparison, ...]
    membership: tuple[Comparison, ...]
    routing: dict[str, Any]
    goal: Goal

    @property
    def primary(self) -> list[Comparison]:
        """The scores that the claim ERASED rests on."""
        return [one for one in (*self.comparisons, *self.membership) if one.primary]

    @property
    def yardstick(self) -> str:
        """What the scores are compared with, in words."""
        return "retrained" if self.goal == "retrain-equivalent" else "untrained nets and raw inputs"

    def class_name(self, number: int) -> str:
        """What the data calls a class."""
        return self.scores.classes[number]


def invalid(case: Case) -> Ruling | None:
    """A precondition failed."""
    failed = [gate for gate in case.gates if not gate.passed]
    if not failed:
        return None
    gate = failed[0]
    return Ruling(
        "INVALID", gate.name, f"“{gate.name}” failed: {gate.found}; allowed: {gate.allowed}. Remedy: {gate.remedy}."
    )


def damaged(case: Case) -> Ruling | None:
    """What was to be kept lies below the retrained models, as a whole or in one class."""
    if not case.retain:
        return _damaged_beside_original(case)
    for one in case.retain:
        if one.below:
            what = "Accuracy" if one.decoder == OUTPUT else "What a linear probe reads at the head input"
            reason = (
                f"{what} on {_kept(case)} is {one.model:.1%}; retrained models reach "
                f"{np.mean(one.references):.1%} (margin {100 * one.margin:.1f} points)."
            )
            return Ruling("DAMAGED", one.layer, reason)
    unasked = {*case.scores.forget_classes, *case.scores.too_few}
    losses = class_losses(case.scores, [n for n in range(len(case.scores.classes)) if n not in unasked])
    for one in by_holm(losses, [one.chance for one in losses]):
        if one.model <= one.references - LEAST_MARGIN:
            name = case.class_name(one.number)
            reason = f"It names {one.model:.1%} of {name!r}; retrained models name {one.references:.1%}."
            return Ruling("DAMAGED", f"output of {name!r}", reason)
    return None


def _damaged_beside_original(case: Case) -> Ruling | None:
    model, original = (accuracy(case.scores, name, ~case.scores.forget).point for name in (MODEL, ORIGINAL))
    if model >= original - LEAST_MARGIN:
        return None
    reason = f"Accuracy on {_kept(case)} is {model:.1%}; the original's is {original:.1%}."
    return Ruling("DAMAGED", "output", reason)


def _kept(case: Case) -> str:
    return "the retained classes" if case.scores.forget_classes else "held-out examples"


def inconclusive(case: Case) -> Ruling | None:
    """Nothing sets the model apart, but “as retrained” is not shown either."""
    if not case.primary:
        reason = "No retrained model was given, so “as retrained” cannot be shown. Give three or more."
        if case.goal == "concept":
            reason = "No untrained net could be made of this architecture, and its inputs cannot be read as they are."
        return Ruling("INCONCLUSIVE", "", reason)
    if not any(one.resolved for one in case.primary):
        reason = (
            f"The original and the {case.yardstick} are too close, or the latter too scattered, at "
            f"{' and '.join(map(place_of, case.primary))} for any model between them to be placed. "
            "Give more retrained models or more held-out examples."
        )
        return Ruling("INCONCLUSIVE", "", reason)
    for one in case.primary:
        if not (one.equivalent if case.goal == "retrain-equivalent" else one.not_above):
            reason = (
                f"At {place_of(one)} it lies {in_points(one.excess.point)} from the mean of the {case.yardstick} "
                f"(95 % interval {in_points(one.excess.low)} to {in_points(one.excess.high)}); the interval must lie "
                f"{'inside ±' if case.goal == 'retrain-equivalent' else 'below '}{100 * one.equivalence:.1f} points. "
                f"{_what_settles(case, one)}"
            )
            return Ruling("INCONCLUSIVE", place_of(one), reason)
    return None


def _what_settles(case: Case, one: Comparison) -> str:
    """What would help most, with the number of examples where more of them would do."""
    count = len(case.scores.members[MODEL].labels) if one.decoder == MEMBERSHIP else int(case.scores.forget.sum())
    difference = one.excess.point if case.goal == "retrain-equivalent" else max(0.0, one.excess.point)
    if abs(difference) >= one.equivalence:
        return "More retrained models or more held-out examples would settle it."
    needed = examples_needed(difference, one.error, one.references, one.equivalence, count, one.scatter.prior)
    if needed is None:
        return "More retrained models would settle it; more held-out examples alone would not."
    more = max(needed, count + 1)
    of_it = f"{more:,} held-out examples of what was to be forgotten (now {count:,})"
    return f"About {of_it}, or more retrained models, would settle it."


def erased(case: Case) -> Ruling:
    """Nothing sets the model apart, within the margin."""
    worst = max(case.primary, key=lambda one: abs(one.excess.point))
    reason = (
        f"No decoder, rung or answer sets it apart from {len(worst.references)} {case.yardstick}"
        f"{' models' if case.goal == 'retrain-equivalent' else ''}; the largest primary difference is "
        f"{in_points(worst.excess.point)} at {place_of(worst)}."
    )
    return Ruling("ERASED", "", reason)


def beside(case: Case, one: Comparison) -> str:
    """A score and its anchors in words."""
    what = "Area under the curve" if one.decoder == MEMBERSHIP else "Recall"
    return (
        f"{what} {one.model:.1%}; {case.yardstick} {np.mean(one.references):.1%} (range {min(one.references):.1%} to "
        f"{max(one.references):.1%}), original {one.original:.1%}; difference {in_points(one.excess.point)}, "
        f"95 % interval {in_points(one.excess.low)} to {in_points(one.excess.high)}, margin {100 * one.margin:.1f}."
    )


def place_of(one: Comparison) -> str:
    """Where a score was taken, in words."""
    if one.decoder == MEMBERSHIP:
        return f"membership, {'loss under the original head' if one.layer == HEAD_SWAP else one.layer}"
    if one.decoder == LINEAR:
        return f"{one.decoder} probe, {one.layer}"
    return one.decoder if one.layer in (HEAD_INPUT, OUTPUT) else f"{one.decoder}, {one.layer}"


def in_points(share: float) -> str:
    """A difference of shares in percentage points, signed."""
    return f"{100 * share:+.1f} points"


def surely_above(family: list[Comparison]) -> Comparison | None:
    """The first member of a family that stays above its margin after Holm's correction."""
    found = by_holm(family, [one.chance for one in family])
    return next((one for one in found if one.above), None)


def by_holm(family: Sequence[Any], chances: Sequence[float]) -> list[Any]:
    """The members of a family whose p-values hold out together (Holm, 1979), the least likely first.

    The family as a whole gets the share of one limit of the verdict's.
    """
    level, kept = (1 - CONFIDENCE) / TAILS, []
    for rank, at in enumerate(np.argsort(chances, kind="stable")):
        if chances[at] > level / (len(family) - rank):
            break
        kept.append(family[at])
    return kept
