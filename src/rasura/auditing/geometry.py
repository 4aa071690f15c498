"""Where features lie: how alike two models arrange the same examples, and what place the forget class has among them.

Nothing here knows a model: features are `[N, d]`, rows are examples. None of these scores has an absolute reading; each
means something beside the same score of retrained models on the same examples.
"""

import math

import torch
from torch import Tensor

from rasura.auditing.decoders import standardised
from rasura.errors import InputError

NEIGHBOURS = 10
QUERIES = 512
"""Examples whose distances to all others are held at a time."""
ROUNDING = 1e-12
"""A sum of squares smaller than this share of what it was the difference of is rounding, not structure."""


def debiased_cka(left: Tensor, right: Tensor) -> float:
    """Linear centred kernel alignment of two feature sets with the debiased HSIC estimator, over all examples at once.

    HSIC(X, Y) ∝ ‖XᵀY‖² − n / (n − 2) · Σ kᵢlᵢ + Σ kᵢ · Σ lᵢ / ((n − 1)(n − 2)), with centred X and Y, kᵢ = ‖xᵢ‖² and
    lᵢ = ‖yᵢ‖²; CKA = HSIC(X, Y) / √(HSIC(X, X) · HSIC(Y, Y)). Costs N · d1 · d2 and holds no `[N, N]` matrix.

    1: the same arrangement up to rotation, shift and one scale; 0 is expected of independent features, however many
    units there are; down to −1. The biased estimator tends to 1 where there are fewer examples than units.

    It does not show whether a class can be read out: a few directions of large variance decide it, and a class may be
    erased (or kept) along one of small variance without moving it.

    Args:
        left: `[N, d1]`, N ≥ 4.
        right: `[N, d2]`, the same examples in the same order.

    Returns:
        −1..1; NaN where one side has no structure (all examples alike, or all equally far from each other).

    Raises:
        InputError: fewer than four examples.

    Source: Kornblith et al., ICML 2019, arXiv 1905.00414; the unbiased HSIC: Song et al., Journal of Machine Learning
    Research 13, 2012, and Nguyen et al., ICLR 2021, arXiv 2010.15327, equation 3.
    """
    assert len(left) == len(right), (left.shape, right.shape)
    _check_count(len(left))
    x, y = _centred(left), _centred(right)
    return _ratio(_hsic(x, y), _hsic(x, x), _hsic(y, y))


def centred_gram(features: Tensor) -> Tensor:
    """The U-centred Gram matrix of a feature set: a model's part of `gram_cka`, computed once for many comparisons.

    Kᵢⱼ − Σⱼ Kᵢⱼ / (n − 2) − Σᵢ Kᵢⱼ / (n − 2) + Σ K / ((n − 1)(n − 2)) off the diagonal, where K = XXᵀ without its
    diagonal; 0 on the diagonal. Rows and columns sum to 0.

    Worth it where there are fewer examples than units. Holds 8 · N² bytes (0.8 GB for N = 10,000).

    Args:
        features: `[N, d]`, N ≥ 4.

    Returns:
        float64 `[N, N]`; all 0 where the features have no structure.

    Raises:
        InputError: fewer than four examples.

    Source: Székely and Rizzo, Annals of Statistics 42, 2014, definition 2, applied to kernels.
    """
    _check_count(len(features))
    x = _centred(features)
    gram = x @ x.T
    trace = gram.trace()
    gram.fill_diagonal_(0)
    rows = gram.sum(1) / (len(x) - 2)
    gram.sub_(rows[:, None]).sub_(rows).add_(rows.sum() / (len(x) - 1)).fill_diagonal_(0)
    return gram.zero_() if _square(gram) <= ROUNDING * trace**2 else gram


def gram_cka(left_gram: Tensor, right_gram: Tensor) -> float:
    """`debiased_cka` from two matrices of `centred_gram`: ⟨K, L⟩ / (‖K‖ · ‖L‖). Same value, range and limits."""
    assert left_gram.shape == right_gram.shape, (left_gram.shape, right_gram.shape)
    cross = torch.dot(left_gram.flatten(), right_gram.flatten())
    return _ratio(cross, _square(left_gram), _square(right_gram))


def procrustes_distance(left: Tensor, right: Tensor) -> float:
    """What of one feature set no rotation and no scale turns into the other: 2 − 2 ‖XᵀY‖∗ of unit Frobenius norm.

    0: the same up to rotation, shift and one scale; 2: no common direction. Unlike CKA it heeds directions of small
    variance, and it is not corrected for chance: with few examples per unit, rotations fit anything, and independent
    features come close too. Compare only at the same N, d1 and d2.

    Args:
        left: `[N, d1]`.
        right: `[N, d2]`, the same examples in the same order.

    Returns:
        0..2; NaN where all examples of one side are alike.

    Source: Ding, Denain and Steinhardt, NeurIPS 2021, arXiv 2108.01661, section 2; Schönemann, Psychometrika 31, 1966.
    """
    assert len(left) == len(right), (left.shape, right.shape)
    x, y = _centred(left), _centred(right)
    return 2 - 2 * _ratio(torch.linalg.matrix_norm(x.T @ y, "nuc"), _square(x), _square(y))


def dissimilarity(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """How far each two classes lie apart: 1 − Pearson correlation, over units, of their mean features.

    0: the same pattern up to shift and scale; 1: uncorrelated; 2: opposite. A pattern that is the same for all units
    correlates with none: 1. Over units that are never negative all patterns correlate; only the order of the pairs is
    to be read. Says nothing of the scatter within a class.

    Args:
        features: `[N, d]`.
        labels: int64 `[N]`, 0..K−1.
        classes: K.

    Returns:
        float64 `[K (K − 1) / 2]`: the pairs (0, 1), (0, 2), …, (K − 2, K − 1).

    Raises:
        InputError: a class without examples.

    Source: Kriegeskorte, Mur and Bandettini, Frontiers in Systems Neuroscience 2, 2008.
    """
    means = _class_means(features, labels, classes)
    patterns = _directions(means - means.mean(1, keepdim=True), means)
    first, second = torch.triu_indices(classes, classes, offset=1)
    return 1 - (patterns @ patterns.T)[first, second]


def dissimilarity_agreement(left: Tensor, right: Tensor) -> float:
    """Whether two models order the pairs of classes alike: Spearman's correlation of two `dissimilarity` vectors.

    1: the same order; 0: unrelated; −1: reversed. One class of K is in 2 / K of the pairs, so one that moved changes
    little: to see it, compare its own K − 1 pairs.

    Returns:
        −1..1; NaN for fewer than three pairs, or where one side's pairs are all equal.

    Source: Kriegeskorte, Mur and Bandettini, Frontiers in Systems Neuroscience 2, 2008; Spearman, 1904.
    """
    from scipy.stats import rankdata

    assert left.shape == right.shape, (left.shape, right.shape)
    x, y = (torch.from_numpy(rankdata(side.numpy())) for side in (left, right))
    x, y = x - x.mean(), y - y.mean()
    return _ratio(x @ y, x @ x, y @ y) if len(x) > 2 else math.nan


def neighbour_purity(features: Tensor, labels: Tensor, forget_mask: Tensor, neighbours: int = NEIGHBOURS) -> float:
    """How much more often a forget example has its own class around it than chance would have it.

    Mean over forget examples of: share of the same class among its k nearest neighbours, minus (n − 1) / (N − 1), the
    share of its class (n examples) among all others. Distances are Euclidean over standardised units; no example is its
    own neighbour; equally distant ones count with equal weight. Of several forget classes, only the same one counts.

    0: forget examples lie scattered among the others; 1 − prior: they keep to themselves. Classes that a network never
    saw cluster too, so retrained models lie well above 0. Local only: it does not show whether a boundary separates
    the class, and a clump inside another class's region is as pure as one apart.

    Args:
        features: `[N, d]`.
        labels: int64 `[N]`.
        forget_mask: bool `[N]`, true for the examples whose neighbours are looked at; at least one.
        neighbours: k, 1..N−1.

    Returns:
        −1..1, a difference of shares.

    Raises:
        InputError: k out of range.

    Source: the share without the prior: CNR ("Beyond masking and avoidance: true un-learning"), section 3.8, k = 10.
    Differs: the prior is subtracted, and units are standardised, so that no unit's scale decides who is near.
    """
    if not 1 <= neighbours < len(features):
        raise InputError(
            f"neighbours: {neighbours}; allowed: 1 to {len(features) - 1}, one less than there are examples"
        )
    assert bool(forget_mask.any())
    design = standardised(features).double()
    squares = design.square().sum(1)
    rounding = 1e-6 * squares.mean()  # standardised units are of single precision
    shares = []
    for chosen in forget_mask.nonzero()[:, 0].split(QUERIES):
        distances = squares[chosen, None] + squares - 2 * design[chosen] @ design.T
        distances[torch.arange(len(chosen)), chosen] = torch.inf
        last = distances.topk(neighbours, largest=False).values[:, -1:]
        nearer, tied = distances < last - rounding, (distances - last).abs() <= rounding
        weight = nearer + tied * ((neighbours - nearer.sum(1)).double() / tied.sum(1))[:, None]
        shares.append((weight * (labels[chosen, None] == labels)).sum(1) / neighbours)
    prior = (torch.bincount(labels)[labels[forget_mask]] - 1).double() / (len(features) - 1)
    return float((torch.cat(shares) - prior).mean())


def unit_selectivity(features: Tensor, labels: Tensor, forget_mask: Tensor) -> Tensor:
    """How much stronger each unit responds to a forget class than to the retained ones: S(c) = μ(c) − μ(retain).

    μ(c) is the mean over the class's examples, μ(retain) the mean of the retained classes' μ, each class alike. Above
    0: prefers the forget class; below 0: avoids it. In the units of the activations, so it grows with a layer's scale.

    A class may be spread over many units that each hardly prefer it; no selective unit is no proof of erasure.

    Args:
        features: `[N, d]`.
        labels: int64 `[N]`.
        forget_mask: bool `[N]`, true for all examples of the forget classes and no others.

    Returns:
        float64 `[F, d]`, a row per forget class in ascending order.

    Source: CNR ("Beyond masking and avoidance: true un-learning"), equations 1–3.
    """
    forget, retained = labels[forget_mask].unique(), labels[~forget_mask].unique()
    assert len(forget) and len(retained) and not bool(torch.isin(forget, retained).any())
    means = _means_of(features, labels, torch.cat([forget, retained]))
    return means[: len(forget)] - means[len(forget) :].mean(0)


def selectivity_change(before: Tensor, after: Tensor) -> float:
    """How much of a layer's selectivity for forget classes is gone: mean |S after| / mean |S before| − 1, over units.

    0: as before; −1: none is left; above 0: it grew. A unit that flipped its sign has lost nothing. Units need not
    correspond, so a retrained model can stand in for `after`. A layer whose activations all shrank by half gives −0.5
    without having forgotten anything: read it beside the same score for a retained class. Chance keeps it above −1.

    Args:
        before: `[F, d1]`, `unit_selectivity` in the original model.
        after: `[F, d2]`, in the same layer of another.

    Returns:
        −1 and above, a share; NaN where `before` has no selective unit.

    Source: CNR ("Beyond masking and avoidance: true un-learning"), figure 3, "Δ selectivity (post − pre)".
    Differs: the paper shows differences and gives no formula for a layer's; here sizes are compared, as a share.
    """
    assert len(before) == len(after), (before.shape, after.shape)
    reference = before.abs().mean()
    return float(after.abs().mean() / reference - 1) if reference > 0 else math.nan


def head_alignment(weight: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    """Whether each class's row of the head points to where its examples lie: cos(w_c, μ_c − μ).

    μ_c is the class's mean feature and μ the mean of all μ_c, each class alike. 1: the head looks where the class is,
    as trained nets do; 0: it does not (or the row is 0, or all classes lie alike); −1: it was turned away. A forget
    class whose value fell while its mean stayed apart was forgotten in the head only.

    One vector added to all rows of the head changes this and no prediction; and a low value does not tell a changed
    head from moved features: see `unit_selectivity` and the head swap.

    Args:
        weight: `[K, d]`.
        features: `[N, d]`, the head's inputs.
        labels: int64 `[N]`, 0..K−1.

    Returns:
        float64 `[K]`, −1..1.

    Raises:
        InputError: a class without examples.

    Source: Papyan, Han and Donoho, PNAS 117, 2020, arXiv 2008.08186 (self-duality, NC3), class by class.
    """
    means = _class_means(features, labels, len(weight))
    rows = weight.double()
    return (_directions(rows, rows) * _directions(means - means.mean(0), means)).sum(1)


def _class_means(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Mean feature of each class, float64 `[K, d]`."""
    missing = torch.nonzero(torch.bincount(labels, minlength=classes) == 0)[:, 0].tolist()
    if missing:
        raise InputError(
            f"labels: no example of class {missing[0]}; allowed: at least one of each of {classes} classes"
        )
    return _means_of(features, labels, torch.arange(classes))


def _means_of(features: Tensor, labels: Tensor, chosen: Tensor) -> Tensor:
    return torch.stack([features[labels == number].double().mean(0) for number in chosen])


def _directions(rows: Tensor, reference: Tensor) -> Tensor:
    """Rows of length 1; 0 where a row is nothing but what rounding left of the reference."""
    length = rows.norm(dim=1, keepdim=True)
    real = length > math.sqrt(ROUNDING) * reference.norm(dim=1, keepdim=True)
    return torch.where(real, rows / length.where(real, 1), 0)


def _centred(features: Tensor) -> Tensor:
    """Features as float64 around their mean; exactly 0 where all examples are alike."""
    wide = features.double()
    centred = wide - wide.mean(0)
    return centred if _square(centred) > ROUNDING * _square(wide) else torch.zeros_like(centred)


def _hsic(x: Tensor, y: Tensor) -> Tensor:
    """n (n − 3) times the debiased HSIC of centred features; 0 where rounding is all there is."""
    count, left, right = len(x), x.square().sum(1), y.square().sum(1)
    total = left.sum() * right.sum()
    value = _square(x.T @ y) - count / (count - 2) * (left @ right) + total / ((count - 1) * (count - 2))
    return value.where(value.abs() > ROUNDING * total, 0)


def _square(matrix: Tensor) -> Tensor:
    return torch.linalg.vector_norm(matrix).square()


def _ratio(cross: Tensor, left: Tensor, right: Tensor) -> float:
    """cross / √(left · right), NaN where that is 0."""
    scale = math.sqrt(left) * math.sqrt(right)
    return float(cross) / scale if scale else math.nan


def _check_count(count: int) -> None:
    if count < 4:
        raise InputError(f"features: {count} examples; allowed: 4 or more")
