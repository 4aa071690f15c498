"""A model's scores beside those of the original and of retrained models."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rasura.auditing.measure import BIAS, FEW_SHOT, HEAD_INPUT, HEAD_SWAP, LINEAR, OUTPUT, UNWRAPPED
from rasura.auditing.scores import MODEL, ORIGINAL, Scores
from rasura.auditing.statistics import (
    PRIOR_ANSWER_SPREAD,
    PRIOR_SPREAD,
    Estimate,
    chance,
    detection_margin,
    equivalence_margin,
    excess,
    resolved,
    summary,
    total_variation,
    wilson,
)

BOOTSTRAP = 2000
AREA = "few-shot area"
RUNGS = (UNWRAPPED, BIAS, HEAD_SWAP)
ROUTING_FLOOR = 0.10
"""A total variation from the references' routing below this is never called different."""


@dataclass(frozen=True)
class Comparison:
    """One score of the model beside the original and the references.

    Attributes:
        decoder: which decoder, or "few-shot area".
        layer: where it reads.
        shots: labels of the forget class it got; 0 means all.
        original: the original model's score.
        model: the audited model's score.
        references: each reference's score.
        excess: model minus the references' mean, with interval.
        gap: original minus the references' mean, with interval.
        margin: what chance between retrained models does not explain.
        equivalence: the margin for the claim "as retrained".
        error: standard error that the held-out examples leave in the excess.
        resolved: whether original and references differ enough for this score to say anything.
        primary: whether the claim ERASED rests on it.
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
    resolved: bool
    primary: bool

    @property
    def chance(self) -> float:
        """One-sided p-value of lying above, for one more retrained model."""
        return chance(self.excess.point, self.error, self.references)

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
        }


def accuracy(scores: Scores, model: str, among: np.ndarray) -> Estimate:
    """Share of the examples in the mask that the model itself names rightly."""
    right = scores.right(model, OUTPUT, "output")
    assert right is not None
    return wilson(int(right[among].sum()), int(among.sum()))


@dataclass(frozen=True)
class _Place:
    decoder: str
    layer: str
    shots: int = 0
    primary: bool = False


def forget_comparisons(scores: Scores, seed: int) -> list[Comparison]:
    """The forget classes, at every decoder and layer that all models have."""
    places = [_Place(OUTPUT, "output")]
    places += [_Place(LINEAR, layer, primary=layer == HEAD_INPUT) for layer, _ in scores.places(LINEAR)]
    places += [_Place(FEW_SHOT, layer, shots) for layer, shots in scores.places(FEW_SHOT)]
    places += [_Place(AREA, layer, primary=True) for layer in dict.fromkeys(one for one, _ in scores.places(FEW_SHOT))]
    places += [_Place(rung, layer) for rung in RUNGS for layer, _ in scores.places(rung)]
    # What a model answers scatters as little on classes that it never saw as on those that it knows.
    priors = [PRIOR_ANSWER_SPREAD if place.decoder == OUTPUT else PRIOR_SPREAD for place in places]
    return [_compared(scores, place, scores.forget, seed, prior) for place, prior in zip(places, priors, strict=True)]


def retain_comparisons(scores: Scores, seed: int) -> list[Comparison]:
    """The retained classes, as the model itself and the linear decoder at the head input name them."""
    places = [_Place(OUTPUT, "output"), _Place(LINEAR, HEAD_INPUT)]
    return [_compared(scores, place, ~scores.forget, seed, PRIOR_ANSWER_SPREAD) for place in places]


@dataclass(frozen=True)
class ClassDifference:
    """One class by one decoder: how far the model lies above the references' mean, and how likely by chance.

    Attributes:
        number: the class.
        original: the original's share of right answers; `model`: the model's; `references`: their mean.
        above: one-sided p-value for lying above; `below`: for lying below.
    """

    number: int
    original: float
    model: float
    references: float
    above: float
    below: float


def class_differences(scores: Scores, decoder: str, layer: str, numbers: Sequence[int]) -> list[ClassDifference]:
    """Class by class, for a mean over classes may hide the one that stands out; none if a model lacks the decoder."""
    right = {model: scores.right(model, decoder, layer) for model in (MODEL, ORIGINAL, *scores.references)}
    if not scores.references or any(one is None for one in right.values()):
        return []
    found = []
    for number in numbers:
        each = {model: one[scores.labels == number] for model, one in right.items() if one is not None}
        means = [float(each[name].mean()) for name in scores.references]
        paired = each[MODEL] - np.mean([each[name] for name in scores.references], axis=0)
        difference, error = float(paired.mean()), float(paired.std()) / np.sqrt(len(paired))
        above, below = (chance(sign * difference, error, means) for sign in (1, -1))
        found.append(
            ClassDifference(
                number, float(each[ORIGINAL].mean()), float(each[MODEL].mean()), float(np.mean(means)), above, below
            )
        )
    return found


def _compared(scores: Scores, place: _Place, among: np.ndarray, seed: int, prior: float = PRIOR_SPREAD) -> Comparison:
    each = {model: _per_example(scores, model, place)[among] for model in scores.models}
    references = np.stack([each[name] for name in scores.references])
    means = tuple(float(row.mean()) for row in references)
    gap = excess(each[ORIGINAL], references, BOOTSTRAP, seed, prior)
    return Comparison(
        decoder=place.decoder,
        layer=place.layer,
        shots=place.shots,
        original=float(each[ORIGINAL].mean()),
        model=float(each[MODEL].mean()),
        references=means,
        excess=excess(each[MODEL], references, BOOTSTRAP, seed, prior),
        gap=gap,
        margin=detection_margin(means, prior),
        equivalence=equivalence_margin(means, gap),
        error=float((each[MODEL] - references.mean(0)).std() / np.sqrt(among.sum())),
        resolved=resolved(gap, means),
        primary=place.primary,
    )


def _per_example(scores: Scores, model: str, place: _Place) -> np.ndarray:
    if place.decoder == AREA:
        return _area(scores, model, place.layer)
    right = scores.right(model, place.decoder, place.layer, place.shots)
    assert right is not None
    return right


def _area(scores: Scores, model: str, layer: str) -> np.ndarray:
    """Each example's share of right answers over the few-shot curve, averaged over log n (trapezoid rule)."""
    counts = sorted(shots for at, shots in scores.places(FEW_SHOT) if at == layer and shots)
    curve = np.stack([_per_example(scores, model, _Place(FEW_SHOT, layer, shots)) for shots in counts])
    if len(counts) == 1:
        return curve[0]
    place = np.log(counts)
    return np.trapezoid(curve, place, axis=0) / (place[-1] - place[0])


def outputs(scores: Scores) -> dict[str, Any]:
    """Every model's own accuracy: forget, retain, and class by class."""
    found = {}
    for model in scores.models:
        right = scores.right(model, OUTPUT, "output")
        assert right is not None
        found[model] = {
            "forget": accuracy(scores, model, scores.forget).to_json(),
            "retain": accuracy(scores, model, ~scores.forget).to_json(),
            "per_class": [round(float(right[scores.labels == number].mean()), 5) for number in _numbers(scores)],
        }
    return found


def routing(scores: Scores) -> dict[str, Any]:
    """Where forget images go: the share of each answer, and how far it lies from the references' mean.

    A model's distance is the total variation to the references' mean; each reference's is that to the mean of the
    others. The band ends at mean + detection margin of the references' distances.
    """
    shares = {model: _answers(scores, model) for model in scores.models}
    found: dict[str, Any] = {"shares": {model: [round(float(x), 5) for x in row] for model, row in shares.items()}}
    references = [shares[name] for name in scores.references]
    if len(references) < 2:
        return found | {"distance": None, "band": None, "outside": False}
    own = [
        total_variation(row, np.mean([other for other in references if other is not row], axis=0)) for row in references
    ]
    distance = total_variation(shares[MODEL], np.mean(references, axis=0))
    band = max(ROUTING_FLOOR, float(np.mean(own)) + detection_margin(own))
    return found | {"distance": round(distance, 5), "band": round(band, 5), "outside": distance > band}


def _answers(scores: Scores, model: str) -> np.ndarray:
    said = next(one.predicted for one in scores.models[model] if one.decoder == OUTPUT)
    return np.bincount(said[scores.forget], minlength=len(scores.classes)) / scores.forget.sum()


def _numbers(scores: Scores) -> range:
    return range(len(scores.classes))
