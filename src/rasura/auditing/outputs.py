"""What a model's own answers show: how sure they are, what is left of the forget class in the logits, who was spared.

Everything here can be had, or faked, without touching what lies inside: no score of this module can show erasure.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rasura.errors import InputError

CALIBRATION_BINS = 15
MARGIN_BINS, LARGEST_MARGIN, LEAST_SHARE = 20, 100.0, 1e-5
"""Of `klom`: bins, where margins are cut off, and the least share of the references in a bin."""


@dataclass(frozen=True)
class BiasScores:
    """How the biases of the forget classes (V) lie to those of the retained ones (R).

    Attributes:
        stability_coefficient: BSC = 1 / (1 + |mean b_V − mean b_R|), 0..1; 1: no gap.
        median_gap: MBG = σ(median b_V − min b_R), 0..1; 0.5: level with the lowest retained bias, towards 0: below it.
        minimal_score: MBS = σ(min b_V − min b_R), 0..1, read like the median gap; the same for one forget class.
    """

    stability_coefficient: float
    median_gap: float
    minimal_score: float


def expected_calibration_error(confidence: np.ndarray, right: np.ndarray, bins: int = CALIBRATION_BINS) -> float:
    """How far a model's confidence is from its accuracy: Σ_b n_b / N · |accuracy_b − mean confidence_b|.

    Confidence is the largest softmax probability; bins ((b − 1) / B, b / B] are equally wide. 0: as sure as it is
    right; 1: certain and always wrong. After unlearning, answers on forget examples are meant to be wrong: take the
    retained examples, or both sides apart.

    It does not show discrimination: answering the most frequent class with its frequency is perfectly calibrated. Few
    examples push it up: a perfectly calibrated model of ten classes scores 0.12 on 100 of them and 0.04 on 1,000.

    Args:
        confidence: `[N]`, the probability of each answer, 0..1.
        right: `[N]`, 1 where the answer is right, 0 where it is not.
        bins: B, 1 or more.

    Returns:
        0..1, a share.

    Raises:
        InputError: fewer than one bin.

    Source: Guo et al., ICML 2017, arXiv 1706.04599, equation 3.
    """
    if bins < 1:
        raise InputError(f"bins: {bins}; allowed: 1 or more")
    assert len(right) == len(confidence) > 0
    which = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], confidence)
    gaps = np.bincount(which, right.astype(float) - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(right))


def forget_log_odds(logits: Tensor, forget_classes: Sequence[int]) -> Tensor:
    """Log-odds `[N]` of the forget classes against all others: logsumexp(z_forget) − logsumexp(z_others).

    The area under their ROC curve, forget examples against retained ones, is what is left of the class in the logits.
    1: told apart, though the class may never be answered; 0.5: not; below: pushed down for forget examples in
    particular, which gives them away as well.

    Logits of −∞ (a mask) make all log-odds alike: 0.5. So 0.5 is what a mask shows, not what is left inside. A mask of
    −10⁹ leaves the order of the other logits. Retrained models lie above 0.5 where the class resembles others.

    Args:
        logits: `[N, K]`; −∞ allowed, but not in a whole row.
        forget_classes: columns of the forget classes, not all.
    """
    columns = torch.zeros(logits.shape[1], dtype=torch.bool)
    columns[list(forget_classes)] = True
    wide = logits.double()
    return wide[:, columns].logsumexp(1) - wide[:, ~columns].logsumexp(1)


def effective_bias(weight: Tensor, bias: Tensor | None, retain_mean: Tensor) -> Tensor:
    """The mean logit of each class on retained examples: β_j = b_j + w_jᵀ μ, μ the mean retained head input.

    A bias alone says little: features that are shifted by c and biases that are lowered by w_jᵀ c give the same
    answers. β does not move then, and it exists for heads without a bias. In logits; one number added to all classes
    means nothing. It shows the mean only: where β is low a class can still be told apart (`forget_logit_auroc`).

    Args:
        weight: `[K, d]`.
        bias: `[K]`; None for a head without.
        retain_mean: `[d]`.

    Returns:
        float64 `[K]`.
    """
    pulled = weight.double() @ retain_mean.double()
    return pulled if bias is None else pulled + bias.double()


def bias_scores(bias: Tensor, forget_classes: Sequence[int]) -> BiasScores:
    """Whether forgetting sits in the biases: three scores of the gap between forget and retained classes.

    Low values: the forget classes' biases stand out, which suppresses the class and gives its name away. High values
    are no evidence of forgetting: the untouched original has them too. On effective biases a low value is also what an
    honestly retrained model shows, which has no reason to answer the class on retained examples: only the distance from
    the references counts. They depend on the logits' scale.

    Args:
        bias: `[K]`, of `effective_bias`; a head's own biases give the paper's scores.
        forget_classes: numbers of the forget classes, not all.

    Source: Zheng et al., "Classification-head bias in class-level machine unlearning", 2026, arXiv 2605.08730; the
    formulas as in the evaluation code that its abstract points to.
    Differs: meant for effective biases, see there.
    """
    forgets = torch.zeros(len(bias), dtype=torch.bool)
    forgets[list(forget_classes)] = True
    forget, retained = bias[forgets].double(), bias[~forgets].double()
    assert len(forget) and len(retained)
    return BiasScores(
        stability_coefficient=float(1 / (1 + (forget.mean() - retained.mean()).abs())),
        median_gap=float(torch.sigmoid(torch.tensor(np.median(forget.numpy())) - retained.min())),
        minimal_score=float(torch.sigmoid(forget.min() - retained.min())),
    )


def jensen_shannon(left: np.ndarray, right: np.ndarray) -> float:
    """How far two distributions lie apart, in bits: H(m) − ½ H(p) − ½ H(q) with m = (p + q) / 2.

    0: the same; 1: no answer in common. The divergence, not its square root (the distance, which SciPy returns). Of
    routing, it does not show which classes took the forget images; small samples push it up.

    Args:
        left: `[K]`, shares that sum to 1.
        right: `[K]`, likewise.

    Source: Lin, IEEE Transactions on Information Theory 37, 1991.
    """
    from scipy.special import entr

    for side in (left, right):
        assert side.min() >= 0 and math.isclose(side.sum(), 1, abs_tol=1e-6), side
    gained = entr((left + right) / 2) - (entr(left) + entr(right)) / 2
    return max(0.0, float(gained.sum() / math.log(2)))


def selectivity(original_forget: float, original_retain: float, forget: float, retain: float) -> float:
    """Whether the loss of accuracy fell on the forget classes: (their drop) − (the retained classes' drop).

    The original's forget accuracy: all of it is gone and nothing else; 0: nothing happened, or both fell alike; below
    0: the retained classes lost more. One number for two: damage and incomplete forgetting look alike in it.

    Args:
        original_forget: accuracy 0..1 of the original on the forget classes.
        original_retain: on the retained classes.
        forget: of the audited model on the forget classes.
        retain: on the retained classes.

    Returns:
        −2..2, a difference of shares.

    >>> round(selectivity(0.90, 0.92, 0.05, 0.90), 2)
    0.83
    """
    return (original_forget - forget) - (original_retain - retain)


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """Log-odds of the true class, z_y − logsumexp of the others, float64 `[N]`: what `klom` compares. In nats.

    Source: Georgiev et al., ICLR 2025, arXiv 2410.23232, appendix E.1.
    """
    wide = logits.double()
    true = wide.gather(1, labels[:, None])
    return true[:, 0] - wide.scatter(1, labels[:, None], -torch.inf).logsumexp(1)


def klom(model_margins: Tensor, reference_margins: Tensor) -> Tensor:
    """KLoM: for each example, KL(unlearned ‖ retrained) of how its margin is distributed over models, in nats.

    Both sides become histograms of 20 equally wide bins over their joint range, after margins are cut off at ±100 (an
    infinite one counts as that). The references' shares are at least 10⁻⁵ (and normalised again), which caps it.

    0: unlearned and retrained models treat the example alike; around 10, log 10⁵ ≈ 11.5 at most: not one is where a
    retrained one is. Meant for a hundred models on each side, where models drawn alike (with normal margins) still
    score 0.35; one model drawn like its five references scores 9.6: compare it with a held-out one. Sees answers only.

    Args:
        model_margins: `[M, N]`, of `margins`: the same method run on M originals (or with M seeds).
        reference_margins: `[J, N]`, of J retrained models on the same examples.

    Returns:
        float64 `[N]`, 0 to 11.52.

    Source: Georgiev et al., ICLR 2025, arXiv 2410.23232, appendix E.1; bins, cut-off, least share and direction as in
    the authors' benchmark, arXiv 2602.16400.
    Differs: the largest margin counts (in the last bin); the benchmark's code drops it.
    """
    assert model_margins.shape[1] == reference_margins.shape[1], (model_margins.shape, reference_margins.shape)
    sides = [side.double().clamp(-LARGEST_MARGIN, LARGEST_MARGIN) for side in (model_margins, reference_margins)]
    both = torch.cat(sides)
    assert not bool(both.isnan().any())
    low, high = both.amin(0)[:, None], both.amax(0)[:, None]
    inner = low + (high - low) * torch.arange(1, MARGIN_BINS) / MARGIN_BINS
    model, reference = (_shares(torch.searchsorted(inner, side.T.contiguous(), right=True)) for side in sides)
    reference = reference.clamp(min=LEAST_SHARE)
    reference = reference / reference.sum(1, keepdim=True)
    return torch.xlogy(model, model / reference).sum(1).clamp(min=0)


def _shares(which: Tensor) -> Tensor:
    """How often each bin comes up in each row, as shares, float64 `[N, bins]`."""
    return torch.nn.functional.one_hot(which, MARGIN_BINS).double().mean(1)
