"""Preconditions of every verdict: where one fails, nothing is claimed."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from rasura.auditing.decoded import HEAD_INPUT, OUTPUT, SHUFFLED
from rasura.auditing.evidence import accuracy
from rasura.auditing.members import LOSS, expected_scatter, pair_values
from rasura.auditing.scores import MODEL, ORIGINAL, Scores

LARGEST_REFERENCE_ACCURACY = 0.01
LARGEST_RETAIN_GAP = 0.02
SURE = 1.645
"""Standard errors that leave one in twenty to chance, on one side."""
LEAST_ORIGINAL_ACCURACY = 0.3
LARGEST_REFERENCE_AREA = 0.55
"""Area under the curve with which a model that never saw the examples may tell them from others, if they are many."""
NEARLY_SURE = 2.326
"""Standard errors that leave one in a hundred to chance, on one side: every reference is asked."""
LEAST_RENAMED = 0.8
"""Share of the original's accuracy that a model reaches with its classes renamed, if only their order is wrong."""
LARGEST_CONTROL = 0.1
"""How far above chance the control may lie."""


@dataclass(frozen=True)
class Gate:
    """A precondition of every verdict: what was found, what is allowed, and what to do about it."""

    name: str
    passed: bool
    found: str
    allowed: str
    remedy: str


def score_gates(scores: Scores) -> list[Gate]:
    """What the scores themselves say of the original, the references and the decoders."""
    gates = [_original_knows(scores)]
    for name in scores.references:
        gates += [_never_saw(scores, name), _as_good(scores, name)]
    return [*gates, *_class_order(scores), *_control(scores)]


def _original_knows(scores: Scores) -> Gate:
    among, what = (scores.forget, "forget accuracy") if scores.forget_classes else (~scores.forget, "accuracy")
    original = accuracy(scores, ORIGINAL, among).point
    return Gate(
        "the original knows the class" if scores.forget_classes else "the original works",
        original >= LEAST_ORIGINAL_ACCURACY,
        f"{what} {original:.1%}",
        f"at least {LEAST_ORIGINAL_ACCURACY:.0%}",
        "give the model that was trained with what is to be forgotten as the original",
    )


def largest_area(pairs: int, classes: int) -> float:
    """What a model that never saw the examples may reach by chance, when so many are compared with unseen ones.

    Of few, one that did see them may reach no more: then its record alone speaks against it.

    >>> [round(largest_area(pairs, 10), 3) for pairs in (20, 80, 1000)]
    [0.737, 0.609, 0.55]
    """
    return max(LARGEST_REFERENCE_AREA, 0.5 + NEARLY_SURE * expected_scatter(pairs, classes))


def _never_saw(scores: Scores, name: str) -> Gate:
    if not scores.forget_classes:
        members = scores.members[name]
        area = float(pair_values(members.values[LOSS], members.labels).mean())
        largest = largest_area(len(members.labels), len(np.unique(members.labels)))
        return Gate(
            f"{name} never saw the examples",
            area <= largest,
            f"area under the curve of the loss {area:.1%}",
            f"at most {largest:.1%}",
            "retrain it without the examples; if it was, hold out examples of the same kind as the training examples",
        )
    forget = accuracy(scores, name, scores.forget).point
    return Gate(
        f"{name} never saw the class",
        forget < LARGEST_REFERENCE_ACCURACY,
        f"forget accuracy {forget:.1%}",
        f"below {LARGEST_REFERENCE_ACCURACY:.0%}",
        "retrain it without the class",
    )


def _as_good(scores: Scores, name: str) -> Gate:
    """Fails where the reference is surely weaker: few held-out examples leave a few points to chance."""
    kept, retain = (accuracy(scores, one, ~scores.forget).point for one in (ORIGINAL, name))
    right = [scores.right(one, OUTPUT, "output") for one in (name, ORIGINAL)]
    assert right[0] is not None and right[1] is not None
    apart = (right[0] - right[1])[~scores.forget]
    chance = SURE * float(apart.std()) / len(apart) ** 0.5
    return Gate(
        f"{name} is as good as the original",
        float(apart.mean()) + chance >= -LARGEST_RETAIN_GAP,
        f"retain accuracy {retain:.1%}, original {kept:.1%}",
        f"at most {100 * LARGEST_RETAIN_GAP:.0f} points below the original, and {100 * chance:.1f} by chance",
        "train it by the original's recipe",
    )


def _class_order(scores: Scores) -> Iterator[Gate]:
    """A model that names few retained examples rightly, but most of them once its classes are renamed."""
    right = scores.right(MODEL, OUTPUT, "output")
    assert right is not None
    original = accuracy(scores, ORIGINAL, ~scores.forget).point
    if right[~scores.forget].mean() >= 0.5 * original:
        return
    from scipy.optimize import linear_sum_assignment

    said = next(one.predicted for one in scores.models[MODEL] if one.decoder == OUTPUT)[~scores.forget]
    counts = np.zeros((len(scores.classes), len(scores.classes)), dtype=np.int64)
    np.add.at(counts, (scores.labels[~scores.forget], said), 1)
    rows, columns = linear_sum_assignment(-counts)
    renamed = float(counts[rows, columns].sum() / counts.sum())
    yield Gate(
        "the model's classes are in the data's order",
        renamed < LEAST_RENAMED * original,
        f"once its classes are renamed it names {renamed:.1%} of the retained examples",
        "the order of the data's classes",
        "give the data its classes in the model's order",
    )


def _control(scores: Scores) -> Iterator[Gate]:
    """A decoder that was fitted to shuffled labels and reads the classes has seen what it is scored on."""
    rights = [scores.right(model, SHUFFLED, HEAD_INPUT) for model in (MODEL, ORIGINAL)]
    measured = [right for right in rights if right is not None]
    if not measured:
        return
    numbers = np.setdiff1d(scores.labels, scores.too_few)
    read = max(float(np.mean([right[scores.labels == number].mean() for number in numbers])) for right in measured)
    most = 1 / len(scores.classes) + LARGEST_CONTROL
    yield Gate(
        "the control reads nothing",
        read <= most,
        f"a decoder of shuffled labels names {read:.1%}",
        f"at most {most:.1%}",
        "look for examples that occur several times in the held-out part",
    )
