"""What is kept of a model's insides to compare models stage by stage, and the comparison. It has no vote."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rasura.auditing.decoded import HEAD_INPUT, Head
from rasura.auditing.geometry import (
    centred_gram,
    dissimilarity,
    dissimilarity_agreement,
    gram_cka,
    head_alignment,
    neighbour_purity,
    unit_selectivity,
)
from rasura.auditing.outputs import bias_scores, effective_bias
from rasura.auditing.probe import Probe
from rasura.auditing.scores import MODEL, ORIGINAL

MOST_COMPARED = 400
"""Examples of each side whose similarities are compared."""
FORGET_DRAWN, RETAIN_DRAWN = 80, 120
"""Examples that a map of a stage shows."""
FORGET, RETAIN = "forget", "retain"


@dataclass(frozen=True, eq=False)
class Inside:
    """One model, stage by stage.

    Attributes:
        layers: the stages' names, the head input last.
        grams: per layer and side ("forget", "retain"), the centred similarities of the same examples `[n, n]`.
        dissimilarities: per layer, the dissimilarities of class means, of each two classes that have examples.
        purity: per layer, how much more often than by chance a forget example's neighbours are of its class.
        selectivity: per layer, how much stronger units respond to the forget classes than to others, mean size.
        effective_bias: `[K]`, each class's logit at the mean retained feature; None where the head is no linear map.
        alignment: `[K]`, cosine of each class's weights and its mean feature; None for a class without examples, and
            where the head is no linear map.
        bias_scores: how much the forget classes' effective biases stand out; empty where the head is no linear map.
        sketch: per layer, features of a few examples `[n, d]`, for maps.
    """

    layers: tuple[str, ...]
    grams: Mapping[tuple[str, str], Tensor]
    dissimilarities: Mapping[str, Tensor]
    purity: Mapping[str, float]
    selectivity: Mapping[str, float]
    effective_bias: list[float] | None
    alignment: list[float | None] | None
    bias_scores: dict[str, float]
    sketch: Mapping[str, Tensor]


def look_inside(found: Mapping[str, Tensor], probe: Probe, head: Head | None, seed: int) -> Inside:
    """Everything that is compared between models, from features `[N, d]` by layer (the head input among them)."""
    inner, labels, forget = found[HEAD_INPUT], probe.labels, probe.forget
    sides = {FORGET: _some(forget, MOST_COMPARED, seed), RETAIN: _some(~forget, MOST_COMPARED, seed)}
    drawn, (present, among) = drawn_rows(probe, seed), labels.unique(return_inverse=True)
    bias = head and effective_bias(head.weight, head.bias, inner[~forget].mean(0))
    return Inside(
        layers=tuple(found),
        grams={
            (layer, side): centred_gram(vectors[rows]).float()
            for layer, vectors in found.items()
            for side, rows in sides.items()
        },
        dissimilarities={layer: dissimilarity(vectors, among, len(present)) for layer, vectors in found.items()},
        purity={layer: neighbour_purity(vectors, labels, forget) for layer, vectors in found.items()},
        selectivity={
            layer: float(unit_selectivity(vectors, labels, forget).abs().mean()) for layer, vectors in found.items()
        },
        effective_bias=None if bias is None else _rounded(bias),
        alignment=None if head is None else _spread(head_alignment(head.weight[present], inner, among), present, head),
        bias_scores={} if bias is None else asdict(bias_scores(bias, probe.forget_classes)),
        sketch={layer: vectors[drawn] for layer, vectors in found.items()},
    )


def drawn_rows(probe: Probe, seed: int) -> Tensor:
    """Positions of the examples that maps show, in order."""
    chosen = _some(probe.forget, FORGET_DRAWN, seed), _some(~probe.forget, RETAIN_DRAWN, seed)
    return torch.cat(chosen).sort().values


def shared_layers(insides: Mapping[str, Inside]) -> list[str]:
    """The stages that all models have, in the first one's order."""
    first = next(iter(insides.values()))
    return [layer for layer in first.layers if all(layer in one.layers for one in insides.values())]


def compared_insides(insides: Mapping[str, Inside]) -> dict[str, Any]:
    """The audited model's insides beside those of the original and of the retrained models, as JSON values.

    Similarity is the debiased linear CKA, agreement Spearman's correlation of class dissimilarities: the model to the
    original, or its mean to the retrained models; each retrained model's to the original, or its mean to the others.
    """
    shared = shared_layers(insides)
    return {
        "layers": shared,
        "similarity": [
            {"layer": layer, "part": side, "to": to, **numbers}
            for layer in shared
            for side in (FORGET, RETAIN)
            for to, numbers in _beside(insides, lambda one, at=(layer, side): one.grams[at], gram_cka)
        ],
        "agreement": [
            {"layer": layer, "to": to, **numbers}
            for layer in shared
            for to, numbers in _beside(insides, lambda one, at=layer: one.dissimilarities[at], dissimilarity_agreement)
        ],
        "purity": [_row(insides, layer, lambda one, at=layer: one.purity[at]) for layer in shared],
        "selectivity": [_selectivity_change(insides, layer) for layer in shared],
    }


def heads(insides: Mapping[str, Inside]) -> dict[str, Any]:
    """Every model's effective bias and head alignment, class by class; None for heads that are no linear map."""
    return {
        role: one.effective_bias
        and {"effective_bias": one.effective_bias, "alignment": one.alignment, **one.bias_scores}
        for role, one in insides.items()
    }


def _beside(
    insides: Mapping[str, Inside], part: Callable[[Inside], Tensor], alike: Callable[[Tensor, Tensor], float]
) -> Iterator[tuple[str, dict[str, Any]]]:
    held = {role: part(one) for role, one in insides.items()}
    retrained = {role: one for role, one in held.items() if role not in (MODEL, ORIGINAL)}
    yield (
        "original",
        {
            "model": _number(alike(held[MODEL], held[ORIGINAL])),
            "references": [_number(alike(one, held[ORIGINAL])) for one in retrained.values()],
        },
    )
    if len(retrained) < 2:
        return
    among = {(a, b): alike(retrained[a], retrained[b]) for a in retrained for b in retrained if a < b}
    yield (
        "retrained",
        {
            "model": _number(np.mean([alike(held[MODEL], one) for one in retrained.values()])),
            "references": [
                _number(np.mean([like for pair, like in among.items() if role in pair])) for role in retrained
            ],
        },
    )


def _selectivity_change(insides: Mapping[str, Inside], layer: str) -> dict[str, Any]:
    """What of the original's selectivity each model has lost (−1: all) or gained."""
    before = max(insides[ORIGINAL].selectivity[layer], 1e-12)
    return _row(insides, layer, lambda one: one.selectivity[layer] / before - 1)


def _row(insides: Mapping[str, Inside], layer: str, part: Callable[[Inside], float]) -> dict[str, Any]:
    numbers = {role: _number(part(one)) for role, one in insides.items()}
    own = {role: numbers.pop(role) for role in (ORIGINAL, MODEL)}
    return {"layer": layer, **own, "references": list(numbers.values())}


def _some(among: Tensor, most: int, seed: int) -> Tensor:
    """Positions of at most `most` examples that the mask allows, in order."""
    rows = among.nonzero()[:, 0]
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    return rows[order[:most]].sort().values


def _spread(values: Tensor, present: Tensor, head: Head) -> list[float | None]:
    """A value per class, None for classes that are not among those present."""
    found: dict[int, float] = dict(zip(present.tolist(), _rounded(values), strict=True))
    return [found.get(number) for number in range(len(head.weight))]


def _rounded(values: Tensor) -> list[float]:
    return [_number(value) for value in values.tolist()]


def _number(value: Any) -> float:
    return round(float(value), 5)
