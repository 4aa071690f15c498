"""Membership by likelihood ratio: each example beside what models that never saw it say of it.

Easy examples have a low loss in every model, members or not. These attacks take that out, and find members that a loss
threshold cannot. Confidences are log-odds (`Signals.log_odds`).
"""

import numpy as np

from rasura.auditing.statistics import PRIOR_WEIGHT
from rasura.errors import InputError

LEAST_SPREAD = 1e-3
"""Standard deviation of log-odds below which models count as saying the same."""


def rmia(target_probability: np.ndarray, reference_probabilities: np.ndarray, a: float = 0.3) -> np.ndarray:
    """Likelihood ratio `[N]` of each example, 0 or more: what the target says of it by what is expected of any model.

    p(x) / r(x), with p what the target says of the true class and r what it is expected to say, ((1 + a) · mean over
    references + 1 − a) / 2. Half of that stands for models that saw x; there are none here, and their mean is taken as
    a · mean + 1 − a.

    It sees no more than the target's probability holds: behind a mask all are 0. Of a class that they never saw,
    references say next to nothing, so that the target alone decides: there `lira` says more.

    Args:
        target_probability: of the true class under the audited model, `[N]`, 0..1.
        reference_probabilities: the same under J models that saw none of the examples, `[J, N]`.
        a: 0..1; 1 if models that saw an example say no more of it than others, 0 if they are sure of it. 0.3 is the
            authors' default; they tune it by attacking a reference.

    Raises:
        InputError: shapes that do not match, values that are no probabilities, or a out of range.

    Source: Zarifzadeh, Liu and Shokri, ICML 2024, the offline attack.
    Differs: the ratio itself in place of the share of a population whose ratio it exceeds γ-fold. With γ = 2 that share
    is 0 for every example of a net that is sure of all of them, and above 0 for all once it is unsure of a single one:
    the area under the curve of honest models is 50 % or next to 0 by that one example. The ratio ranks them alike.

    >>> rmia(np.array([0.9, 0.9]), np.array([[0.1, 0.8]]), a=1.0).round(3).tolist()
    [9.0, 1.125]
    """
    if not 0 <= a <= 1:
        raise InputError(f"a: {a}; allowed: 0 to 1")
    _check_shapes("reference_probabilities", target_probability, reference_probabilities)
    if not all(((values >= 0) & (values <= 1)).all() for values in (target_probability, reference_probabilities)):
        raise InputError("probabilities: outside 0..1 or NaN; allowed: 0 to 1")
    expected = ((1 + a) * reference_probabilities.mean(0) + 1 - a) / 2
    # With a = 1 and references that say 0, nothing at all would be expected, and 0 / 0 is no number.
    return target_probability / np.maximum(expected, 1e-30)


def u_lira(target: np.ndarray, unlearned: np.ndarray, never: np.ndarray) -> np.ndarray:
    """Log-likelihood ratio `[N]` of what the target says of each example: unlearned, against never trained on.

    Above 0: like shadow models that were trained on the example and then made to forget it. Below 0: like shadow models
    that never saw it. A method that erases gives both the same distribution, and no AUC above 0.5 between examples that
    the target unlearned and examples that it never saw.

    It asks whether the *method* leaves a trace that someone with its code can find; it does not say what the trace is.

    Args:
        target: confidences of the audited model as log-odds, `[N]`.
        unlearned: the same of shadow models that unlearned the example by the method in question, `[S, N]`; NaN where a
            shadow model did not. Two or more for every example.
        never: of shadow models that never saw it, `[T, N]`, in the same way. They too should have unlearned something:
            other examples.

    Raises:
        InputError: shapes that do not match, fewer than two shadow models of a kind for an example, infinite values, or
            0/1 correctness in place of confidences.

    Source: Hayes et al., "Inexact unlearning needs more careful evaluations to avoid a false sense of privacy", 2024;
    Carlini et al., S&P 2022.
    Differs: the two Gaussians' variances are drawn towards their mean over examples and allow for the error of the
    mean, for a handful of shadow models says little of each example's own. With many it is the original's.
    """
    of_unlearned = _log_density(target, *_gaussians("unlearned", target, unlearned))
    return of_unlearned - _log_density(target, *_gaussians("never", target, never))


def lira(target: np.ndarray, never: np.ndarray) -> np.ndarray:
    """How many standard deviations each example's confidence lies above that of models that never saw it, `[N]`.

    LiRA's one-sided test, for which retrained references are enough. 0: as expected without the example. Above: the
    target knows it. Below: the target is less sure of it than of an unseen example, as after relabelling.

    Args:
        target: confidences of the audited model as log-odds, `[N]`.
        never: of models that never saw the examples, `[J, N]`, two or more; NaN where one does not count.

    Raises:
        InputError: as `u_lira`.

    Source: Carlini et al., S&P 2022 (offline attack).
    Differs: the deviation itself in place of its normal probability, which is 1 for all clear members; variances as in
    `u_lira`.

    >>> lira(np.array([3.0, 0.0]), np.array([[0.0, 1.0], [2.0, -1.0], [1.0, 0.0]])).round(4).tolist()
    [1.7321, 0.0]
    """
    mean, deviation = _gaussians("never", target, never)
    return (target - mean) / deviation


def _gaussians(name: str, target: np.ndarray, confidences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation `[N]` of one more model's confidence in each example.

    s² = (w · mean s² + (S − 1) · s_i²) / (w + S − 1) with w = 4, times 1 + 1 / S for the error of the mean: what
    `statistics.moderated` does for scores of references.
    """
    _check_shapes(name, target, confidences)
    if not np.isfinite(target).all():
        raise InputError("target: NaN or infinite values; allowed: finite log-odds")
    counted = ~np.isnan(confidences)
    count = counted.sum(0)
    if (count < 2).any() or np.isinf(confidences).any():
        least = count.min(initial=len(confidences))
        raise InputError(f"{name}: {least} models for an example, or infinite values; allowed: 2 or more, all finite")
    if np.isin(confidences[counted], (0, 1)).all():
        raise InputError(f"{name}: 0/1 values; allowed: log-odds, not whether the answer was right")
    mean = np.where(counted, confidences, 0).sum(0) / count
    squares = np.where(counted, confidences - mean, 0) ** 2
    shared = squares.sum() / (count - 1).sum()
    variance = (PRIOR_WEIGHT * shared + squares.sum(0)) / (PRIOR_WEIGHT + count - 1)
    return mean, np.sqrt(np.maximum(variance, LEAST_SPREAD**2) * (1 + 1 / count))


def _log_density(values: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Of normal distributions, up to a constant."""
    return -(((values - mean) / deviation) ** 2) / 2 - np.log(deviation)


def _check_shapes(name: str, each: np.ndarray, references: np.ndarray) -> None:
    if each.ndim != 1 or references.ndim != 2 or references.shape[1] != len(each) or not len(references):
        raise InputError(f"{name}: {references.shape} for {each.shape} examples; allowed: [models, N] for [N]")
