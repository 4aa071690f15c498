"""Membership scores of a model beside those of the original and of retrained models."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rasura.auditing.comparison import BOOTSTRAP, Comparison
from rasura.auditing.membership import placements, true_positive_rate
from rasura.auditing.scores import MODEL, ORIGINAL
from rasura.auditing.statistics import chance, detection_margin, equivalence_margin, excess, resolved
from rasura.errors import InputError

LEAST_MEMBERS, LEAST_NONMEMBERS = 10, 10
"""Members in all, and non-members of every class, below which an AUC is not worth an interval."""


@dataclass(frozen=True)
class Membership:
    """Whether one score tells forgotten training examples from held-out ones, beside original and retrained models.

    Attributes:
        auc: the comparison of AUCs. Above the references: the forgotten examples are still known. Below: they look less
            like unseen examples than they should, which gives them away as well.
        rates: per model, the true positive rate at 1 % false positives, 0..1.
        masked: share of the audited model's examples whose true class has no logit.
        prior: the spread of AUCs that is expected of retrained models (`expected_spread`).
    """

    auc: Comparison
    rates: dict[str, float]
    masked: float
    prior: float

    @property
    def equivalent(self) -> bool:
        """As retrained models, where that says something.

        Not where the score does not tell the original either: an attack too weak for that clears every model. Not where
        a mask hides the true class: what cannot be seen is not shown to be gone.
        """
        return self.auc.equivalent and self.auc.resolved and self.masked == 0

    @property
    def chance_above(self) -> float:
        """One-sided p-value of lying above the references, for one more retrained model."""
        return chance(self.auc.excess.point, self.auc.error, self.auc.references, self.prior)

    @property
    def chance_below(self) -> float:
        """One-sided p-value of lying below the references, for one more retrained model."""
        return chance(-self.auc.excess.point, self.auc.error, self.auc.references, self.prior)

    def to_json(self) -> dict[str, Any]:
        """The comparison as JSON values."""
        return self.auc.to_json() | {
            "equivalent": self.equivalent,
            "chance_above": round(self.chance_above, 5),
            "chance_below": round(self.chance_below, 5),
            "masked": round(self.masked, 5),
            "true_positive_rate_at_1_percent": {name: round(rate, 5) for name, rate in self.rates.items()},
        }


def compare_membership(
    signal: str,
    scores: Mapping[str, np.ndarray],
    members: np.ndarray,
    classes: np.ndarray,
    seed: int,
    masked: float = 0.0,
) -> Membership:
    """Compare one membership score of all models; every member is compared with non-members of its own class only.

    Args:
        signal: what the score is called.
        scores: per model ("model", "original", and any other name for a reference), `[N]`, higher looks more like a
            member. A score that itself uses references (RMIA, LiRA) takes the others where it scores a reference.
        members: bool `[N]`: the forgotten training examples, as opposed to held-out ones.
        classes: `[N]`, within which examples are comparable: their labels, as a rule. For canaries with wrong labels,
            non-members are held-out examples that were given wrong labels in the same way.
        seed: of the bootstrap.
        masked: share of the audited model's examples whose true class is cut off (`Signals.masked`).

    Raises:
        InputError: no reference; fewer than ten members, or than ten non-members of a member's class; a NaN score.
    """
    _check_counts(scores, members, classes)
    kept = np.isin(classes, classes[members])
    members, classes = members[kept], classes[kept]
    each = {name: contributions(row[kept], members, classes) for name, row in scores.items()}
    references = np.stack([row for name, row in each.items() if name not in (MODEL, ORIGINAL)])
    areas = tuple(float(row.mean()) for row in references)
    prior = expected_spread(members, classes)
    gap = excess(each[ORIGINAL], references, BOOTSTRAP, seed, prior)
    compared = Comparison(
        decoder="membership",
        layer=signal,
        shots=0,
        original=float(each[ORIGINAL].mean()),
        model=float(each[MODEL].mean()),
        references=areas,
        excess=excess(each[MODEL], references, BOOTSTRAP, seed, prior),
        gap=gap,
        margin=detection_margin(areas, prior),
        equivalence=equivalence_margin(areas, gap),
        error=float((each[MODEL] - references.mean(0)).std() / math.sqrt(len(members))),
        resolved=resolved(gap, areas),
        primary=False,
    )
    rates = {name: _rate(row[kept], members, classes) for name, row in scores.items()}
    return Membership(compared, rates, masked, prior)


def contributions(scores: np.ndarray, members: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """What each example contributes to the AUC, `[N]`: the mean is the AUC, the standard error DeLong's.

    A member's part is the share of non-members of its class that it beats, a non-member's the share of members of its
    class that beat it, each as a deviation from its mean, weighted by N / count. Differences of two models'
    contributions are paired, and a bootstrap over them holds the error of members and non-members alike.

    Source: DeLong, DeLong and Clarke-Pearson, Biometrics 44, 1988.
    Differs: the AUC is the mean over members of that within their class; classes count as fixed, not as drawn.

    >>> found = contributions(np.array([1.0, 2.0, 5.0, 0.0, 2.0]), np.arange(5) < 3, np.zeros(5))
    >>> found.round(3).tolist(), round(float(found.mean()), 3)
    ([0.333, 0.75, 1.167, 1.375, 0.125], 0.75)
    """
    found, count = np.zeros(len(scores)), int(members.sum())
    for inside, outside in _by_class(members, classes):
        found[inside] = placements(scores[inside], scores[outside]) / count
        beaten = 1 - placements(scores[outside], scores[inside])
        found[outside] = (beaten - beaten.mean()) / outside.sum() * inside.sum() / count
    area = float(found[members].sum())
    found[members] -= area / count
    return area + len(scores) * found


def expected_spread(members: np.ndarray, classes: np.ndarray) -> float:
    """How far AUCs of retrained models scatter at most, before any is seen: as if each ranked the examples at random.

    √((m + n + 1) / 12mn) for m members and n non-members of one class; classes count by their members. Retrained models
    agree in part on which examples are hard, so they scatter less: over 21 of them 0.040 where this is 0.045 (digits,
    122 and 61 examples) and 0.010 where it is 0.016 (Fashion-MNIST, 800 and 600). Scores of a fitted attack scatter a
    little more, 0.057 and 0.017.

    Source: Mann and Whitney, Annals of Mathematical Statistics 18, 1947.
    """
    variance = 0.0
    for inside, outside in _by_class(members, classes):
        m, n = inside.sum(), outside.sum()
        variance += (m / members.sum()) ** 2 * (m + n + 1) / (12 * m * n)
    return math.sqrt(variance)


def _rate(scores: np.ndarray, members: np.ndarray, classes: np.ndarray) -> float:
    detected = sum(
        inside.sum() * true_positive_rate(scores[inside], scores[outside])
        for inside, outside in _by_class(members, classes)
    )
    return float(detected / members.sum())


def _by_class(members: np.ndarray, classes: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Members and non-members, as masks, of every class that has members."""
    for number in np.unique(classes[members]):
        yield (classes == number) & members, (classes == number) & ~members


def _check_counts(scores: Mapping[str, np.ndarray], members: np.ndarray, classes: np.ndarray) -> None:
    if len(scores) < 3:
        raise InputError("references: 0 models; allowed: 1 or more beside the model and the original")
    if members.sum() < LEAST_MEMBERS:
        raise InputError(f"members: {members.sum()} examples; allowed: {LEAST_MEMBERS} or more")
    for inside, outside in _by_class(members, classes):
        if outside.sum() < LEAST_NONMEMBERS:
            few = f"{outside.sum()} of class {classes[inside][0]}"
            raise InputError(f"nonmembers: {few}; allowed: {LEAST_NONMEMBERS} or more")
