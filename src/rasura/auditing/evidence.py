"""What the scores say of a model beside the original and the retrained models: answers, decoders, rungs, pairs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rasura.auditing.comparison import Comparison, Place, Scatter, compared
from rasura.auditing.decoded import (
    BATCH_NORM,
    BIAS,
    FEW_SHOT,
    HEAD_INPUT,
    HEAD_SWAP,
    KERNEL,
    LINEAR,
    LOG_ODDS,
    NEIGHBOURS,
    OUTPUT,
    PERCEPTRON,
    PROTOTYPE,
    QUANTISED,
    SHUFFLED,
    STITCH,
    UNWRAPPED,
    WHITENED,
)
from rasura.auditing.members import (
    ATTACK,
    LIRA,
    LOSS,
    MARGIN,
    RMIA,
    deviations,
    expected_scatter,
    pair_values,
    relative_likelihood,
)
from rasura.auditing.members import LOG_ODDS as TRUE_LOG_ODDS
from rasura.auditing.membership import auc as area_under_curve
from rasura.auditing.outputs import expected_calibration_error, jensen_shannon
from rasura.auditing.scores import MEMBERSHIP, MODEL, ORIGINAL, Scores
from rasura.auditing.statistics import (
    PRIOR_ANSWER_SPREAD,
    PRIOR_SPREAD,
    Estimate,
    chance,
    chance_of_fewer,
    detection_margin,
    scatter_between,
    total_variation,
    wilson,
)

AREA = "few-shot area"
ALL_STAGES = "all stages"
"""Where a score is the mean over all stages that the models share."""
LOGITS = "readers of the logits"
RUNGS = (UNWRAPPED, BIAS, HEAD_SWAP)
FURTHER_RUNGS = (STITCH, BATCH_NORM, PROTOTYPE, *QUANTISED)
READERS = (WHITENED, NEIGHBOURS, KERNEL, PERCEPTRON)
"""Decoders of the head input beside the linear one; all but the first read the logits too."""
ROUTING_FLOOR = 0.10
"""A total variation from the references' routing below this is never called different."""
ANSWERS = Scatter(PRIOR_ANSWER_SPREAD)
"""What a model answers scatters as little on classes that it never saw as on those that it knows."""
LEAST_AREA = 0.03
"""Areas under the curve lie between one half and one: three points are much."""


def accuracy(scores: Scores, model: str, among: np.ndarray) -> Estimate:
    """Share of the examples in the mask that the model itself names rightly."""
    right = scores.right(model, OUTPUT, "output")
    assert right is not None
    return wilson(int(right[among].sum()), int(among.sum()))


def forget_comparisons(scores: Scores, seed: int, beside: Sequence[str] | None = None) -> list[Comparison]:
    """The forget classes, at every decoder and layer that all models have.

    Args:
        scores: of all models.
        seed: of the bootstrap.
        beside: models to compare with; default: the retrained ones.
    """
    beside = scores.references if beside is None else beside
    places = [Place(OUTPUT, "output")]
    places += [Place(LINEAR, layer, primary=layer == HEAD_INPUT) for layer, _ in scores.places(LINEAR)]
    places += [Place(FEW_SHOT, layer, shots) for layer, shots in scores.places(FEW_SHOT)]
    areas = dict.fromkeys(layer for layer, _ in scores.places(FEW_SHOT))
    places += [Place(AREA, layer, primary=layer == HEAD_INPUT) for layer in areas]
    places += [Place(AREA, ALL_STAGES)] if len(areas) > 1 else []
    rest = (*READERS, SHUFFLED, *RUNGS, *FURTHER_RUNGS)
    places += [Place(decoder, layer, shots) for decoder in rest for layer, shots in scores.places(decoder)]
    places += [Place(LOGITS, "output")]
    has = [place for place in places if all(_per_example(scores, name, place) is not None for name in beside)]
    return [_on_examples(scores, place, scores.forget, seed, beside) for place in has]


def retain_comparisons(scores: Scores, seed: int) -> list[Comparison]:
    """The retained classes, as the model itself and the linear decoder at the head input name them."""
    places = [Place(OUTPUT, "output"), Place(LINEAR, HEAD_INPUT)]
    return [_on_examples(scores, place, ~scores.forget, seed, scores.references, ANSWERS) for place in places]


def membership_comparisons(scores: Scores, seed: int) -> list[Comparison]:
    """Area under the curve of every signal that all models have: training examples against held-out ones.

    Primary for a sample request are the attack on outputs and, beside two retrained models or more, the relative
    likelihood.
    """
    if not all(model in scores.members for model in scores.models):
        return []
    values = _signals(scores)
    shared = [name for name in values[MODEL] if all(name in one for one in values.values())]
    primary = () if scores.forget_classes else (ATTACK, RMIA)
    labels = scores.members[MODEL].labels
    scatter = Scatter(expected_scatter(len(labels)), LEAST_AREA)
    found = []
    for signal in shared:
        each = {model: pair_values(one[signal], labels) for model, one in values.items()}
        place = Place(MEMBERSHIP, signal, primary=signal in primary)
        references = [each[name] for name in scores.references]
        found.append(compared(place, each[MODEL], each[ORIGINAL], references, seed, scatter, {}))
    return found


def _signals(scores: Scores) -> dict[str, dict[str, np.ndarray]]:
    """Every model's signals; those beside retrained models are beside as many for each of the models.

    A retrained model is seen beside the others, any other model beside all but one of them, on average over which.
    """
    values = {model: dict(one.values) for model, one in scores.members.items()}
    names = scores.references
    for model, own in values.items():
        left_out = [model] if model in names else names
        beside = [[scores.members[name].values for name in names if name != one] for one in left_out]
        for signal, of, score, least in ((RMIA, LOSS, relative_likelihood, 1), (LIRA, TRUE_LOG_ODDS, deviations, 2)):
            if len(names) > least:
                each = [score(own[of], np.stack([one[of] for one in others])) for others in beside]
                own[signal] = np.mean(each, axis=0)
    return values


@dataclass(frozen=True)
class ClassDifference:
    """One class by one decoder: how far the model lies from the references' mean, and how likely by chance.

    Attributes:
        number: the class.
        original: the original's share of right answers; `model`: the model's; `references`: their mean.
        chance: one-sided p-value.
    """

    number: int
    original: float
    model: float
    references: float
    chance: float


def class_excesses(scores: Scores, decoder: str, layer: str, numbers: Sequence[int]) -> list[ClassDifference]:
    """How likely each class, which a mean may hide, lies so far above; none if a model lacks the decoder."""
    found = []
    for number, right in _class_by_class(scores, decoder, layer, numbers):
        means = [float(right[name].mean()) for name in scores.references]
        paired = right[MODEL] - np.mean([right[name] for name in scores.references], axis=0)
        error = float(paired.std()) / np.sqrt(len(paired))
        found.append(_difference(scores, number, right, chance(float(paired.mean()), error, means)))
    return found


def class_losses(scores: Scores, numbers: Sequence[int]) -> list[ClassDifference]:
    """How likely the model names so few of each class, given how retrained models differ over all these classes."""
    each = list(_class_by_class(scores, OUTPUT, "output", numbers))
    references = [np.stack([right[name] for name in scores.references]) for _, right in each]
    shared = PRIOR_SPREAD**2
    if each and len(scores.references) > 1:
        shared = max(0.0, float(np.mean([scatter_between(rows) for rows in references])))
    return [
        _difference(scores, number, right, chance_of_fewer(int(right[MODEL].sum()), rows, shared))
        for (number, right), rows in zip(each, references, strict=True)
    ]


def _class_by_class(
    scores: Scores, decoder: str, layer: str, numbers: Sequence[int]
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Every model's answers on each class, right or wrong."""
    right = {model: scores.right(model, decoder, layer) for model in (MODEL, ORIGINAL, *scores.references)}
    if scores.references and all(one is not None for one in right.values()):
        for number in numbers:
            yield number, {model: one[scores.labels == number] for model, one in right.items() if one is not None}


def _difference(scores: Scores, number: int, right: dict[str, np.ndarray], chance: float) -> ClassDifference:
    means = {model: float(one.mean()) for model, one in right.items()}
    references = float(np.mean([means[name] for name in scores.references]))
    return ClassDifference(number, means[ORIGINAL], means[MODEL], references, chance)


def _on_examples(
    scores: Scores,
    place: Place,
    among: np.ndarray,
    seed: int,
    beside: Sequence[str],
    scatter: Scatter | None = None,
) -> Comparison:
    scatter = scatter or (ANSWERS if place.decoder == OUTPUT else Scatter())
    each = {name: _per_example(scores, name, place) for name in (MODEL, ORIGINAL, *beside, *scores.untrained)}
    of_model = each[MODEL]
    assert of_model is not None
    among = among & ~np.isnan(of_model)  # changed nets are run on some of the examples, the same for all models
    scored = {name: one[among] for name, one in each.items() if one is not None}
    untrained = {name: float(scored[name].mean()) for name in scores.untrained if name in scored}
    references = [scored[name] for name in beside]
    return compared(place, scored[MODEL], scored[ORIGINAL], references, seed, scatter, untrained)


def _per_example(scores: Scores, model: str, place: Place) -> np.ndarray | None:
    if place.decoder == LOGITS:
        return _mean([scores.right(model, decoder, "output") for decoder in (LINEAR, *READERS[1:])])
    if (place.decoder, place.layer) == (AREA, ALL_STAGES):
        stages = dict.fromkeys(layer for layer, _ in scores.places(FEW_SHOT) if layer != HEAD_INPUT)
        return _mean([_area(scores, model, layer) for layer in stages])
    if place.decoder == AREA:
        return _area(scores, model, place.layer)
    return scores.right(model, place.decoder, place.layer, place.shots)


def _mean(rows: Sequence[np.ndarray | None]) -> np.ndarray | None:
    return None if any(row is None for row in rows) else np.mean([row for row in rows if row is not None], axis=0)


def _area(scores: Scores, model: str, layer: str) -> np.ndarray | None:
    """Each example's share of right answers over the few-shot curve, averaged over log n (trapezoid rule)."""
    counts = sorted(shots for at, shots in scores.places(FEW_SHOT) if at == layer and shots)
    rows = [scores.right(model, FEW_SHOT, layer, shots) for shots in counts]
    if any(row is None for row in rows):
        return None
    curve = np.stack([row for row in rows if row is not None])
    if len(counts) == 1:
        return curve[0]
    from scipy.integrate import trapezoid

    place = np.log(counts)
    return trapezoid(curve, place, axis=0) / (place[-1] - place[0])


def outputs(scores: Scores) -> dict[str, Any]:
    """Every model's own answers: accuracy on both sides and class by class, calibration, how the forget logits lie."""
    return {model: _of_answers(scores, model) for model in scores.models}


def _of_answers(scores: Scores, model: str) -> dict[str, Any]:
    right, confidence = scores.right(model, OUTPUT, "output"), scores.value(model, OUTPUT)
    assert right is not None
    found: dict[str, Any] = {
        "retain": accuracy(scores, model, ~scores.forget).to_json(),
        "per_class": [_share(right[scores.labels == number]) for number in range(len(scores.classes))],
    }
    if confidence is not None:
        found["calibration_error"] = round(expected_calibration_error(confidence, right), 5)
    if scores.forget_classes:
        return found | _of_forgetting(scores, model)
    if model in scores.members:
        named = scores.members[model].values[MARGIN][1] > 0  # of the training examples
        found["forget"] = wilson(int(named.sum()), len(named)).to_json()
    return found


def _of_forgetting(scores: Scores, model: str) -> dict[str, Any]:
    sides = scores.forget, ~scores.forget
    forget, retain = (accuracy(scores, ORIGINAL, side).point - accuracy(scores, model, side).point for side in sides)
    found = {"forget": accuracy(scores, model, scores.forget).to_json(), "selectivity": round(forget - retain, 5)}
    odds = scores.value(model, LOG_ODDS)
    if odds is not None:
        found["forget_logit_auroc"] = round(area_under_curve(odds[scores.forget], odds[~scores.forget]), 5)
    return found


def routing(scores: Scores) -> dict[str, Any]:
    """Where forget images go: the share of each answer, and how far it lies from the references' mean.

    A model's distance is the total variation to the references' mean; each reference's is that to the mean of the
    others. The band ends at mean + detection margin of the references' distances. Beside it: the Jensen–Shannon
    divergence from their mean, in bits.
    """
    shares = {model: _answers(scores, model) for model in scores.models}
    found: dict[str, Any] = {"shares": {model: [round(float(x), 5) for x in row] for model, row in shares.items()}}
    references = [shares[name] for name in scores.references]
    if len(references) < 2:
        return found | {"distance": None, "band": None, "outside": False, "jensen_shannon": None}
    own = [
        total_variation(row, np.mean([other for other in references if other is not row], axis=0)) for row in references
    ]
    middle = np.mean(references, axis=0)
    distance = total_variation(shares[MODEL], middle)
    band = max(ROUTING_FLOOR, float(np.mean(own)) + detection_margin(own))
    measured = {"distance": round(distance, 5), "band": round(band, 5), "outside": distance > band}
    return found | measured | {"jensen_shannon": round(jensen_shannon(shares[MODEL], middle), 5)}


def _answers(scores: Scores, model: str) -> np.ndarray:
    said = next(one.predicted for one in scores.models[model] if one.decoder == OUTPUT)
    return np.bincount(said[scores.forget], minlength=len(scores.classes)) / scores.forget.sum()


def _share(right: np.ndarray) -> float | None:
    """None for a class without examples."""
    return round(float(right.mean()), 5) if len(right) else None
