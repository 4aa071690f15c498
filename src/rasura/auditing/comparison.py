"""One score of a model beside those of the original and of retrained models."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rasura.auditing.statistics import (
    LEAST_MARGIN,
    PRIOR_SPREAD,
    Estimate,
    chance,
    detection_margin,
    equivalence_margin,
    excess,
    resolved,
    summary,
)

BOOTSTRAP = 2000


@dataclass(frozen=True)
class Place:
    """Which score: by which decoder, where, with how many labels of the forget class (0: all)."""

    decoder: str
    layer: str
    shots: int = 0
    primary: bool = False


@dataclass(frozen=True)
class Scatter:
    """What is expected of a score before any model is seen.

    Attributes:
        prior: standard deviation between retrained models.
        least: no smaller difference is ever called one.
    """

    prior: float = PRIOR_SPREAD
    least: float = LEAST_MARGIN


@dataclass(frozen=True)
class Comparison:
    """One score of the model beside the original and the references.

    Attributes:
        decoder: which decoder, "few-shot area", or "membership".
        layer: where it reads; for membership, the signal.
        shots: labels of the forget class it got; 0 means all.
        original: the original model's score.
        model: the audited model's score.
        references: each reference's score.
        excess: model minus the references' mean, with interval.
        gap: original minus the references' mean, with interval.
        margin: what chance between retrained models does not explain.
        equivalence: the margin for the claim "as retrained".
        error: standard error that the examples leave in the excess.
        scatter: what was expected of the score.
        resolved: whether original and references differ enough for this score to say anything.
        primary: whether the claim ERASED rests on it.
        untrained: the same score of what never saw any class, by name.
    """

    decoder: str
    layer: str
    shots: int
    original: float
    model: float
    references: tuple[float, ...]
    excess: Estimate
    gap: Estimate
    margin: float
    equivalence: float
    error: float
    scatter: Scatter
    resolved: bool
    primary: bool
    untrained: dict[str, float]

    @property
    def chance(self) -> float:
        """One-sided p-value of lying above, for one more retrained model."""
        return chance(self.excess.point, self.error, self.references, self.scatter.prior)

    @property
    def above(self) -> bool:
        """Surely above the references: the interval excludes 0 and the point reaches the margin."""
        return self.excess.low > 0 and self.excess.point >= self.margin

    @property
    def below(self) -> bool:
        """Surely below the references, in the same sense."""
        return self.excess.high < 0 and self.excess.point <= -self.margin

    @property
    def equivalent(self) -> bool:
        """The whole interval lies inside the margin for that claim."""
        return -self.equivalence < self.excess.low and self.excess.high < self.equivalence

    @property
    def not_above(self) -> bool:
        """The whole interval lies below the upper margin for the claim "no more than"."""
        return self.excess.high < self.equivalence

    @property
    def residual_index(self) -> float | None:
        """0 as retrained, 1 as the original; None where the anchors are not resolved."""
        return self.excess.point / self.gap.point if self.resolved else None

    def to_json(self) -> dict[str, Any]:
        """The comparison as JSON values."""
        index = self.residual_index
        return {
            "decoder": self.decoder,
            "layer": self.layer,
            "shots": self.shots,
            "original": round(self.original, 5),
            "model": round(self.model, 5),
            "references": [round(score, 5) for score in self.references],
            "reference_summary": summary(self.references),
            "excess": self.excess.to_json(),
            "gap": self.gap.to_json(),
            "margin": round(self.margin, 5),
            "equivalence_margin": round(self.equivalence, 5),
            "resolved": self.resolved,
            "residual_index": None if index is None else round(index, 4),
            "primary": self.primary,
            "above": self.above,
            "below": self.below,
            "anchors": {name: round(score, 5) for name, score in self.untrained.items()},
        }


def compared(
    place: Place,
    model: np.ndarray,
    original: np.ndarray,
    references: Sequence[np.ndarray],
    seed: int,
    scatter: Scatter,
    untrained: dict[str, float],
) -> Comparison:
    """A score that is a mean over the same examples for all models, each given as an array `[n]`."""
    each = np.stack(references)
    means = tuple(float(row.mean()) for row in each)
    gap = excess(original, each, BOOTSTRAP, seed, scatter.prior)
    return Comparison(
        decoder=place.decoder,
        layer=place.layer,
        shots=place.shots,
        original=float(original.mean()),
        model=float(model.mean()),
        references=means,
        excess=excess(model, each, BOOTSTRAP, seed, scatter.prior),
        gap=gap,
        margin=detection_margin(means, scatter.prior, least=scatter.least),
        equivalence=equivalence_margin(means, gap, scatter.prior, scatter.least),
        error=float((model - each.mean(0)).std() / np.sqrt(len(model))),
        scatter=scatter,
        resolved=resolved(gap, means),
        primary=place.primary,
        untrained=untrained,
    )
