"""Rules on a request to forget classes: named still, brought back, read inside, or treated as never in retraining."""

import numpy as np

from rasura.auditing.case import Case, Ruling, beside, by_holm, place_of, surely_above
from rasura.auditing.comparison import Comparison
from rasura.auditing.decoded import (
    BATCH_NORM,
    BIAS,
    HEAD_INPUT,
    HEAD_SWAP,
    KERNEL,
    LINEAR,
    NEIGHBOURS,
    OUTPUT,
    PERCEPTRON,
    PROTOTYPE,
    QUANTISED,
    STITCH,
    UNWRAPPED,
    WHITENED,
)
from rasura.auditing.evidence import (
    ALL_STAGES,
    AREA,
    FURTHER_RUNGS,
    LOGITS,
    READERS,
    RUNGS,
    accuracy,
    class_excesses,
)
from rasura.auditing.gates import LEAST_ORIGINAL_ACCURACY
from rasura.auditing.scores import MEMBERSHIP, MODEL, ORIGINAL
from rasura.auditing.statistics import LEAST_MARGIN

PROTOTYPE_LABELS = 10
"""With so many labels (or the most that there are below) the nearest class mean counts as a rung."""

_RECOVERY = {
    UNWRAPPED: "Code outside the net hides the class: the head itself still names it.",
    BIAS: "Refitting one bias per class brings the class back.",
    HEAD_SWAP: "Putting the original's last layer back brings the class back.",
    STITCH: "A linear map to the original's features, fitted on retained examples alone, brings the class back.",
    BATCH_NORM: "Estimating the BatchNorm statistics anew on retained examples brings the class back.",
    PROTOTYPE: "Naming the nearest class mean, from a few labels, brings the class back.",
    **{name: f"Rounding the weights to {bits} bits brings the class back." for name, bits in QUANTISED.items()},
}
_READER = {
    OUTPUT: "The model itself still names some of the forget images.",
    LINEAR: "A linear probe reads the class.",
    AREA: "A head refitted with a few labels reads the class.",
    LOGITS: "The logits tell the class from all others, though none of them names it.",
    WHITENED: "A linear probe on whitened features reads the class: it hides in directions of small scale.",
    NEIGHBOURS: "The nearest neighbours of forget images are of their class.",
    KERNEL: "A kernel machine reads the class: it hides in the shape of the features.",
    PERCEPTRON: "A small net reads the class: it hides in the shape of the features.",
    MEMBERSHIP: "The training images of the class are told from held-out ones.",
}


def not_forgotten(case: Case) -> Ruling | None:
    """The model names at least half of the forget examples that the original names, of all classes or of one."""
    if not works(case, MODEL, OUTPUT, "output"):
        return None  # a broken net may say the forget class of every image: that is damage
    whole = case.scores.forget
    each = [case.scores.labels == number for number in case.scores.forget_classes]
    names = map(case.class_name, case.scores.forget_classes)
    for among, what in zip((whole, *each), ("", *names), strict=True):
        model, original = (accuracy(case.scores, name, among).point for name in (MODEL, ORIGINAL))
        if model >= 0.5 * original >= 0.5 * LEAST_ORIGINAL_ACCURACY:
            of = f" of {what!r}" if what else ""
            reason = f"It still names {model:.1%} of the held-out forget images{of}; the original names {original:.1%}."
            return Ruling("NOT FORGOTTEN", f"output{of}", reason)
    return None


def masked(case: Case) -> Ruling | None:
    """A cheap change to the model brings the class back."""
    for rung in RUNGS:
        for layer in (one.layer for one in case.scores.models[MODEL] if one.decoder == rung):
            reason = _recovery(case, rung, layer) if works(case, MODEL, rung, layer) else None
            if reason:
                return Ruling("MASKED", rung, f"{_RECOVERY[rung]} {reason}")
    one = surely_above(_further_rungs(case))
    return one and Ruling("MASKED", one.decoder, f"{_RECOVERY[one.decoder]} {beside(case, one)}")


def _further_rungs(case: Case) -> list[Comparison]:
    """Those that work on the model and on all retrained models."""
    least = max(
        (one.shots for one in case.comparisons if one.shots <= PROTOTYPE_LABELS and one.decoder == PROTOTYPE), default=0
    )
    names = (MODEL, *case.scores.references)
    return [
        one
        for one in case.comparisons
        if one.decoder in FURTHER_RUNGS
        and one.shots == (least if one.decoder == PROTOTYPE else 0)
        and (one.decoder == PROTOTYPE or all(works(case, name, one.decoder, one.layer) for name in names))
    ]


def _recovery(case: Case, rung: str, layer: str) -> str | None:
    """What a rung brings back beyond the retrained models; None if nothing.

    Where it works on every retrained model, they are the measure. Else (none given; no code outside their nets; the
    original's head does not fit their features) half of the original's accuracy is, if no retrained model on which it
    works gets there. Refitted biases find a never-seen class by low confidence: without retrained models they say
    nothing.
    """
    working = [name for name in case.scores.references if works(case, name, rung, layer)]
    found = next((one for one in case.comparisons if (one.decoder, one.layer) == (rung, layer)), None)
    if found is not None and len(working) == len(case.scores.references) and case.goal == "retrain-equivalent":
        return beside(case, found) if found.above else None
    original = accuracy(case.scores, ORIGINAL, case.scores.forget).point
    recall, *others = (_recall(case, name, rung, layer) for name in (MODEL, *working))
    if rung == BIAS or recall < 0.5 * original or max(others, default=0.0) >= 0.5 * original:
        return None
    return f"{recall:.1%} of the forget images are named again (original {original:.1%})."


def _recall(case: Case, model: str, rung: str, layer: str) -> float:
    right = case.scores.right(model, rung, layer)
    assert right is not None
    return float(np.nanmean(right[case.scores.forget]))


def works(case: Case, model: str, rung: str, layer: str) -> bool:
    """Whether a changed model is still a classifier of the retained classes.

    Another model's head on features that it was not trained with says the forget class at random, sometimes often:
    that is no recovery.
    """
    right = case.scores.right(model, rung, layer)
    if right is None:
        return False
    kept = float(np.nanmean(right[~case.scores.forget]))
    return kept >= 0.5 * accuracy(case.scores, ORIGINAL, ~case.scores.forget).point


def residual(case: Case) -> Ruling | None:
    """A decoder reads more than from the models that it is compared with."""
    alone = [one for one in case.comparisons if one.decoder in (OUTPUT, LOGITS) or one.layer == ALL_STAGES]
    for one in [*case.primary, *alone]:
        if one.above:
            return Ruling("RESIDUAL", place_of(one), f"{_READER[one.decoder]} {beside(case, one)}")
    stages = [one for one in case.comparisons if one.decoder == LINEAR and one.layer not in (HEAD_INPUT, OUTPUT)]
    readers = [one for one in case.comparisons if one.decoder in READERS and one.layer == HEAD_INPUT]
    for family in (stages, readers, list(case.membership)):
        worst = surely_above(family)
        if worst:
            return Ruling("RESIDUAL", place_of(worst), f"{_READER[worst.decoder]} {beside(case, worst)}")
    return _residual_class(case)


def _residual_class(case: Case) -> Ruling | None:
    """One of several forget classes that is still readable, which the mean over them hides."""
    if len(case.scores.forget_classes) == 1:
        return None
    for decoder, layer in ((OUTPUT, "output"), (BIAS, "output"), (LINEAR, HEAD_INPUT)):
        differences = class_excesses(case.scores, decoder, layer, case.scores.forget_classes)
        for one in by_holm(differences, [one.chance for one in differences]):
            if one.model >= one.references + LEAST_MARGIN:
                name = case.class_name(one.number)
                reason = (
                    f"At {layer}, the {decoder} reader names {one.model:.1%} of {name!r}; for retrained models "
                    f"{one.references:.1%}, for the original {one.original:.1%}."
                )
                return Ruling("RESIDUAL", f"{decoder} of {name!r}", reason)
    return None


def over_erased(case: Case) -> Ruling | None:
    """A decoder reads less than from retrained models, or the answers go where theirs do not."""
    if case.goal == "concept":
        return None  # less than what an untrained net shows is no fault where nobody may read the class
    for one in case.primary:
        if one.below:
            return Ruling("OVER-ERASED", place_of(one), f"{_READER[one.decoder]} {beside(case, one)}")
    if not case.routing.get("outside"):
        return None
    reason = (
        f"Its answers on forget images differ from the retrained models' by {case.routing['distance']:.0%} of the "
        f"images; retrained models differ among themselves by at most {case.routing['band']:.0%}."
    )
    return Ruling("OVER-ERASED", "routing", reason)
