"""The statistics behind a verdict: intervals, the paired hierarchical bootstrap, margins."""

import functools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

CONFIDENCE = 0.95
LEAST_MARGIN = 0.05
"""Five points: no smaller difference is ever called one."""
PRIOR_SPREAD, PRIOR_ANSWER_SPREAD = 0.04, 0.005
"""How retrained models scatter, before any is seen: in what decoders read of a class that they never saw, and in
answers and accuracy (measured: results/calibration.json)."""
PRIOR_WEIGHT = 4
"""How many references' worth the expectation counts."""
TAILS = 17
"""Limits that a verdict rests on: two primary scores above and below, three rungs and the family of the others, the
output, its readers, two retained scores, routing, the stages twice, the other readers, and membership. Each gets its
share of the 5 %."""
LARGEST_BLIND_MARGIN = 0.10
"""Ten points: where the anchors lie too close to place a model between them, no wider margin means "as retrained"."""
LEAST_GAP = 0.03
"""Three points: anchors closer than this cannot tell erased from untouched."""


@dataclass(frozen=True)
class Estimate:
    """A share 0..1 (or a difference of shares, −1..1) with its 95 % interval."""

    point: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        """The three numbers, rounded to five decimals."""
        return {name: round(value, 5) for name, value in asdict(self).items()}


def wilson(successes: int, trials: int) -> Estimate:
    """A share with its 95 % score interval (Wilson, 1927).

    >>> wilson(8, 10).to_json()
    {'point': 0.8, 'low': 0.49016, 'high': 0.94332}
    """
    from scipy.stats import binomtest

    assert trials > 0
    interval = binomtest(successes, trials).proportion_ci(CONFIDENCE, method="wilson")
    return Estimate(successes / trials, float(interval.low), float(interval.high))


def excess(model: np.ndarray, references: np.ndarray, draws: int, seed: int, prior: float = PRIOR_SPREAD) -> Estimate:
    """How far a model's mean score lies above its references' mean, with a 95 % interval for the expected difference.

    A bootstrap over examples, the same for all models, to which the error of the references' mean is added: SD / √J
    times a t-distributed number of J − 1 degrees of freedom. A bootstrap over three references would cover the truth
    in 75 to 88 % of trials instead of 95.

    Args:
        model: score of each example, `[n]`: 0 or 1, or a mean of such over draws.
        references: the same examples' scores under each reference, `[J, n]`.
        draws: bootstrap draws B.
        seed: same seed, same interval.
        prior: stands for the SD where a single reference shows none (with `PRIOR_WEIGHT` degrees of freedom).

    Source: Davison and Hinkley, 1997, section 2.4.
    """
    assert references.ndim == 2 and references.shape[1] == len(model)
    alone = len(references) == 1
    of_examples, errors = _draws(len(model), PRIOR_WEIGHT if alone else len(references) - 1, draws, seed)
    deviation = prior if alone else spread(references.mean(1).tolist()) / math.sqrt(len(references))
    differences = of_examples @ (model - references.mean(0)).astype(np.float32) + errors * deviation
    low, high = np.quantile(differences, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(float(model.mean() - references.mean()), float(low), float(high))


@functools.lru_cache(maxsize=4)
def _draws(examples: int, freedom: int, draws: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """How often each example comes up in each bootstrap draw, as shares `[B, n]`, and a t-distributed number for each.

    The same for every comparison over the same examples: drawing them anew was most of an audit's time.
    """
    generator = np.random.default_rng(seed)
    shares = np.empty((draws, examples), dtype=np.float32)
    for row in shares:
        row[:] = np.bincount(generator.integers(examples, size=examples), minlength=examples) / examples
    return shares, generator.standard_t(freedom, draws)


def spread(scores: Sequence[float]) -> float:
    """Standard deviation over references, with J − 1 in the denominator; 0 for fewer than two."""
    return float(np.std(scores, ddof=1)) if len(scores) > 1 else 0.0


def moderated(scores: Sequence[float], prior: float = PRIOR_SPREAD) -> tuple[float, int]:
    """The spread of retrained models, drawn towards the one expected beforehand, and its degrees of freedom.

    s² = (w · prior² + (J − 1) · SD²) / (w + J − 1) with w = 4. Three models say little of how models scatter; taken at
    its word, the spread of three accuses honest models and lets others pass.

    >>> moderated([0.30, 0.34, 0.32])
    (0.02708012801545323, 6)

    Source: Smyth, Statistical Applications in Genetics and Molecular Biology 3, 2004, equation 5.
    """
    freedom = PRIOR_WEIGHT + len(scores) - 1
    return math.sqrt((PRIOR_WEIGHT * prior**2 + (len(scores) - 1) * spread(scores) ** 2) / freedom), freedom


def detection_margin(
    scores: Sequence[float], prior: float = PRIOR_SPREAD, tails: int = TAILS, least: float = LEAST_MARGIN
) -> float:
    """The difference from the references' mean that chance between retrained models does not explain.

    The prediction limit for one more retrained model, t · s · √(1 + 1/J) with the moderated spread s, at least five
    points. All limits of a verdict together are passed by chance in at most 5 % of honest models.

    Args:
        scores: of the references.
        prior: spread of retrained models that is expected before any is seen.
        tails: how many limits share the 5 %; 2 gives the usual 95 % interval of one score.
        least: no smaller margin is given.

    >>> round(detection_margin([0.30, 0.34, 0.32], tails=2), 4)
    0.0765
    """
    from scipy.stats import t

    deviation, freedom = moderated(scores, prior)
    limit = float(t.ppf(1 - (1 - CONFIDENCE) / tails, freedom))
    return max(least, limit * deviation * math.sqrt(1 + 1 / len(scores)))


def chance(difference: float, error: float, scores: Sequence[float], prior: float = PRIOR_SPREAD) -> float:
    """One-sided p-value of a difference from the references' mean, for one more retrained model.

    Args:
        difference: what is tested for being above 0.
        error: standard error that the held-out examples leave in it.
        scores: of the references.
        prior: spread of retrained models that is expected before any is seen.
    """
    from scipy.stats import t

    deviation, freedom = moderated(scores, prior)
    return float(t.sf(difference / max(1e-9, math.hypot(error, deviation * math.sqrt(1 + 1 / len(scores)))), freedom))


def scatter_between(answers: np.ndarray) -> float:
    """Variance of the share of right answers between models, beyond what chance within each example makes of it.

    Below 0 where the models' shares lie closer than that by chance.

    Args:
        answers: 0 or 1 `[J, n]`, of J ≥ 2 models on the same examples.
    """
    of_shares, within = np.var(answers.mean(1), ddof=1), np.var(answers, axis=0, ddof=1).mean()
    return float(of_shares - within / answers.shape[1])


def chance_of_fewer(right: int, references: np.ndarray, shared: float) -> float:
    """One-sided p-value of so few right answers of one more retrained model: the tail of a beta-binomial distribution.

    Its mean is the references' share of right answers; its scatter is what examples leave to chance, in n answers of
    the model and J n of the references, and how retrained models differ: the references' own, drawn towards `shared`
    (see `moderated`). It holds with ten examples too, where a normal approximation does not.

    Args:
        right: the model's right answers, of n.
        references: 0 or 1 `[J, n]`, the retrained models' on the same examples.
        shared: variance between retrained models that is expected (see `scatter_between`).

    >>> round(chance_of_fewer(20, np.ones((3, 40)), 0.0), 6) < 1e-5 < chance_of_fewer(38, np.ones((3, 40)), 0.0)
    True
    """
    from scipy.stats import betabinom

    models, examples = references.shape
    own = max(0.0, scatter_between(references)) if models > 1 else 0.0
    between = (PRIOR_WEIGHT * shared + (models - 1) * own) / (PRIOR_WEIGHT + models - 1)
    mean = (references.sum() + 0.5) / (references.size + 1)
    variance = between * (1 + 1 / models) + mean * (1 - mean) / references.size
    counted = max(mean * (1 - mean) / variance - 1, 1e-3)
    return float(betabinom.pmf(np.arange(right + 1), examples, mean * counted, (1 - mean) * counted).sum())


def equivalence_margin(
    scores: Sequence[float], gap: Estimate, prior: float = PRIOR_SPREAD, least: float = LEAST_MARGIN
) -> float:
    """The difference inside which a model counts as retrained: the margin of one score, at most half of the gap O − R.

    Where the gap is not resolved, half of it would be nothing: there the cap is ten points, so that references which
    scatter widely do not excuse any model.

    Differs: the usual design caps one margin for both uses. A capped margin is smaller than the scatter of honest
    retrained models when O and R lie close, and would call an honest one RESIDUAL; so only the claim "as retrained" is
    capped.
    """
    widest = gap.point / 2 if resolved(gap, scores) else LARGEST_BLIND_MARGIN
    return min(detection_margin(scores, prior, tails=2, least=least), widest)


def examples_needed(
    difference: float, error: float, scores: Sequence[float], margin: float, examples: int, prior: float = PRIOR_SPREAD
) -> int | None:
    """About how many held-out examples would bring the 95 % interval of a difference inside ±margin, if it stays.

    The examples' part of the interval shrinks with the root of their number; the references' part, t · SD / √J as in
    `excess`, does not. None where that part alone does not fit beside the difference: no number of examples would do.

    Args:
        difference: from the references' mean.
        error: standard error that `examples` held-out examples leave in it.
        scores: of the references.
        margin: above 0.
        examples: how many there are now.
        prior: stands for the SD where a single reference shows none.

    >>> examples_needed(0.0, 0.04, [0.30, 0.34, 0.32], 0.06, 100)
    544
    """
    from scipy.stats import norm, t

    level = (1 + CONFIDENCE) / 2
    alone = len(scores) == 1
    deviation = prior if alone else spread(scores) / math.sqrt(len(scores))
    of_references = float(t.ppf(level, PRIOR_WEIGHT if alone else len(scores) - 1)) * deviation
    room = margin - abs(difference)
    if room <= of_references:
        return None
    wanted = math.sqrt(room**2 - of_references**2) / float(norm.ppf(level))
    return math.ceil(examples * (error / wanted) ** 2)


def resolved(gap: Estimate, scores: Sequence[float]) -> bool:
    """Whether original and references differ enough for a score to say anything about the model between them."""
    return gap.low > max(LEAST_GAP, 2 * spread(scores))


def total_variation(left: np.ndarray, right: np.ndarray) -> float:
    """Half the sum of absolute differences of two distributions, 0..1."""
    return float(np.abs(left - right).sum() / 2)


def summary(scores: Sequence[float]) -> dict[str, Any]:
    """Mean, spread and range of the references' scores."""
    return {
        "mean": round(float(np.mean(scores)), 5),
        "spread": round(spread(scores), 5),
        "low": round(min(scores), 5),
        "high": round(max(scores), 5),
    }
