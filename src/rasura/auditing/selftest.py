"""The audit on models whose truth is known, made of the user's own: what it misses there, it may miss anywhere."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from rasura.auditing.gates import Gate
from rasura.auditing.measure import HEAD_SWAP, OUTPUT, RUNNER_UP, Decoded
from rasura.auditing.scores import MODEL, ORIGINAL, Scores, reference_name
from rasura.auditing.statistics import CONFIDENCE
from rasura.auditing.verdict import judge

PREFIX = "self-test: "
NOT_WORSE = ("ERASED", "INCONCLUSIVE")
REMEDY = "the audit cannot tell such models apart on this data: give more retrained models or more held-out examples"


def self_test(scores: Scores, seed: int) -> list[Gate]:
    """Judge planted models, and the references one by one, by the same rules as the audited model.

    * the untouched original is NOT FORGOTTEN;
    * the original with its output silenced (its best other class instead of the forgotten ones) is MASKED. Without
      references only the head swap can show that: where it is not possible either, this is left out;
    * the original with a quarter of its answers on retained classes wrong is DAMAGED (beside references);
    * of the references, each held out and judged beside the others, no more are worse than INCONCLUSIVE than chance
      allows at 5 % each (beside two others or more).

    Returns:
        One gate per trial; none where the scores' own gates fail, for then nothing is claimed anyway.
    """
    if _verdict(scores, scores.models[ORIGINAL], scores.references, seed) == "INVALID":
        return []
    return [*_planted(scores, seed), *_held_out(scores, seed)]


def _planted(scores: Scores, seed: int) -> Iterator[Gate]:
    original = scores.models[ORIGINAL]
    plan = [("the untouched original", original, "NOT FORGOTTEN")]
    if scores.references or any(one.decoder == HEAD_SWAP for one in original):
        plan.append(("the original with silenced output", _silenced(original), "MASKED"))
    if scores.references:
        plan.append(("the original with a quarter of its answers wrong", _damaged(original, scores), "DAMAGED"))
    for name, planted, expected in plan:
        found = _verdict(scores, planted, scores.references, seed)
        yield Gate(PREFIX + name, found == expected, found, expected, REMEDY)


def _held_out(scores: Scores, seed: int) -> Iterator[Gate]:
    if len(scores.references) < 3:
        return
    from scipy.stats import binom

    accused = []
    for name in scores.references:
        others = [other for other in scores.references if other != name]
        if _verdict(scores, scores.models[name], others, seed) not in NOT_WORSE:
            accused.append(name)
    count = len(scores.references)
    most = int(binom.ppf(CONFIDENCE, count, 1 - CONFIDENCE))
    found = f"{len(accused)} of {count} worse than INCONCLUSIVE" + (f" ({', '.join(accused)})" if accused else "")
    remedy = "the references are not of one kind: train all by the original's recipe, with other seeds"
    yield Gate(PREFIX + "each reference held out", len(accused) <= most, found, f"at most {most}", remedy)


def _verdict(scores: Scores, model: list[Decoded], references: list[str], seed: int) -> str:
    named = {reference_name(at): scores.models[name] for at, name in enumerate(references)}
    models = {MODEL: model, ORIGINAL: scores.models[ORIGINAL]} | named
    return judge(replace(scores, models=models), seed).ruling.verdict


def _silenced(original: list[Decoded]) -> list[Decoded]:
    """As a bias on the forgotten classes' logits makes it: all decoders but the output see what they saw before."""
    best_other = next(one.predicted for one in original if one.decoder == RUNNER_UP)
    return [replace(one, predicted=best_other) if one.decoder == OUTPUT else one for one in original]


def _damaged(original: list[Decoded], scores: Scores) -> list[Decoded]:
    """Forgotten classes silenced, and every fourth retained example of each class named as the next retained class."""
    retained = np.array([k for k in range(len(scores.classes)) if k not in scores.forget_classes])
    silent = _silenced(original)
    answers = next(one.predicted for one in silent if one.decoder == OUTPUT).copy()
    for place, number in enumerate(retained):
        answers[np.flatnonzero(scores.labels == number)[::4]] = retained[(place + 1) % len(retained)]
    return [replace(one, predicted=answers) if one.decoder == OUTPUT else one for one in silent]
