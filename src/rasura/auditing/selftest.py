"""The audit on models whose truth is known, made of the user's own: what it misses there, it may miss anywhere."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from rasura.auditing.decoded import HEAD_SWAP, OUTPUT, RUNNER_UP, Decoded
from rasura.auditing.evidence import membership_comparisons
from rasura.auditing.gates import Gate
from rasura.auditing.scores import MODEL, ORIGINAL, Scores, reference_name
from rasura.auditing.statistics import CONFIDENCE
from rasura.auditing.verdict import judge

PREFIX = "self-test: "
NOT_WORSE = ("ERASED", "INCONCLUSIVE")
REMEDY = "the audit cannot tell such models apart on this data: give more retrained models or more held-out examples"


def self_test(scores: Scores, seed: int) -> list[Gate]:
    """Judge planted models, and the references one by one, by the same rules as the audited model.

    * the untouched original is NOT FORGOTTEN (of samples: where original and references differ at all);
    * the original with its output silenced (its best other class instead of the forgotten ones) is MASKED. Without
      references only the head swap can show that: where it is not possible either, and for samples, this is left out;
    * the original with a quarter of its answers on retained classes wrong is DAMAGED (beside references);
    * of the references, each held out and judged beside the others, no more are worse than INCONCLUSIVE than chance
      allows at 5 % each (beside two others or more).

    Returns:
        One gate per trial; none where the scores' own gates fail, for then nothing is claimed anyway.
    """
    if _verdict(scores, ORIGINAL, seed) == "INVALID":
        return []
    return [*_planted(scores, seed), *_held_out(scores, seed)]


def _planted(scores: Scores, seed: int) -> Iterator[Gate]:
    original = scores.models[ORIGINAL]
    plan = []
    if scores.forget_classes or _tells_members(scores, seed):
        plan.append(("the untouched original", original, "NOT FORGOTTEN"))
    if scores.forget_classes and (scores.references or any(one.decoder == HEAD_SWAP for one in original)):
        plan.append(("the original with silenced output", _silenced(original), "MASKED"))
    if scores.references and scores.forget_classes:
        plan.append(("the original with a quarter of its answers wrong", _damaged(original, scores), "DAMAGED"))
    for name, planted, expected in plan:
        found = _verdict(scores, ORIGINAL, seed, planted)
        yield Gate(PREFIX + name, found == expected, found, expected, REMEDY)


def _tells_members(scores: Scores, seed: int) -> bool:
    """Whether the original remembers the examples: else no audit can tell it from a model that never saw them."""
    if not scores.references:
        return False
    same = {name: name for name in (ORIGINAL, *scores.references)}
    compared = membership_comparisons(scores.recast({MODEL: ORIGINAL, **same}), seed)
    return any(one.primary and one.resolved and one.above for one in compared)


def _held_out(scores: Scores, seed: int) -> Iterator[Gate]:
    if len(scores.references) < 3:
        return
    from scipy.stats import binom

    accused = [name for name in scores.references if _verdict(scores, name, seed) not in NOT_WORSE]
    count = len(scores.references)
    most = int(binom.ppf(CONFIDENCE, count, 1 - CONFIDENCE))
    found = f"{len(accused)} of {count} worse than INCONCLUSIVE" + (f" ({', '.join(accused)})" if accused else "")
    remedy = "the references are not of one kind: train all by the original's recipe, with other seeds"
    yield Gate(PREFIX + "each reference held out", len(accused) <= most, found, f"at most {most}", remedy)


def _verdict(scores: Scores, name: str, seed: int, planted: list[Decoded] | None = None) -> str:
    """The verdict on one of the models, or on what was made of its answers, beside the references that it is not."""
    others = [other for other in scores.references if other != name]
    roles = {MODEL: name, ORIGINAL: ORIGINAL} | {reference_name(at): other for at, other in enumerate(others)}
    cast = scores.recast(roles)
    return judge(replace(cast, models=cast.models | {MODEL: planted or cast.models[MODEL]}), seed).ruling.verdict


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
