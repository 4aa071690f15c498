"""Linear decoders: can a simple reader tell the class from a model's features?

The K-way logistic regressions of an audit are many and small. They are fitted together, as one batch of problems that
share their features: weights, penalties and left-out examples differ. scikit-learn's is the oracle in the tests.
"""

from collections.abc import Callable

import torch
from torch import Tensor

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)
"""Ridge penalties that cross-validation chooses from, for mean loss; scikit-learn's C is 1 / (examples · penalty)."""
FEW_SHOT_PENALTY = 1e-3
"""Few-shot heads have too few labels to choose by; scikit-learn's default (C = 1) for 1,000 examples."""
HISTORY = 8
TOLERANCE = 1e-5
"""A problem is solved when the next step promises to lower its loss by less than this share of it."""
MOST_STEPS = 150
MOST_HALVINGS = 6


def standardised(features: Tensor) -> Tensor:
    """`[N, d]` with mean 0 and deviation 1 per column; constant columns become 0. Labels play no part."""
    centred = features.double() - features.double().mean(0)
    deviation = centred.std(0, correction=0)
    return torch.where(deviation > 1e-8 * (1 + features.abs().amax(0)), centred / deviation, 0).float()


def fit_logistic(features: Tensor, labels: Tensor, weights: Tensor, penalties: Tensor, classes: int) -> Tensor:
    """P logistic regressions at once: weights `[P, d + 1, K]`, the intercept last.

    Problem p minimises sum_i w_pi · crossentropy_i / sum_i w_pi + penalty_p / 2 · |W|² without penalising the intercept,
    by L-BFGS in the metric of Böhning's bound on the Hessian, (XᵀX/2 + penalty)⁻¹ (Böhning, 1992, Ann. Inst. Statist.
    Math. 44).

    Args:
        features: `[N, d]`, standardised.
        labels: int64 `[N]`.
        weights: `[P, N]`, 0 leaves an example out of a problem.
        penalties: `[P]`, above 0.
        classes: K.
    """
    count, dimension = features.shape[0], features.shape[1] + 1
    problems = len(weights)
    design = torch.cat([features, torch.ones(count, 1)], dim=1)
    share = weights / weights.sum(1, keepdim=True)
    penalty = penalties[:, None].repeat(1, dimension)
    penalty[:, -1] = 0
    truth = share.T[:, :, None] * torch.nn.functional.one_hot(labels, classes)[:, None, :]

    def value_and_slope(solution: Tensor) -> tuple[Tensor, Tensor]:
        flat = solution.permute(1, 0, 2).reshape(dimension, problems * classes)
        logits = (design @ flat).view(count, problems, classes)
        logs = logits.log_softmax(2)
        value = -(truth * logs).sum((0, 2)) + (penalty[:, :, None] * solution.square()).sum((1, 2)) / 2
        error = logs.exp_().mul_(share.T[:, :, None]).sub_(truth)
        slope = (design.T @ error.view(count, -1)).view(dimension, problems, classes).permute(1, 0, 2)
        return value, slope + penalty[:, :, None] * solution

    start = torch.zeros(problems, dimension, classes)
    return minimise(value_and_slope, start, _metric(design, share, penalties))


def minimise(
    value_and_slope: Callable[[Tensor], tuple[Tensor, Tensor]], start: Tensor, metric: Callable[[Tensor], Tensor]
) -> Tensor:
    """L-BFGS (Nocedal and Wright, 2006, algorithm 7.4) over a batch of convex problems `[P, …]`, each with its own step.

    Args:
        value_and_slope: objective `[P]` and gradient `[P, …]`.
        start: where to begin.
        metric: multiplies by an approximate inverse Hessian that is fixed.
    """
    solution = start
    value, slope = value_and_slope(solution)
    pairs: list[tuple[Tensor, Tensor, Tensor]] = []
    going = torch.ones_like(value, dtype=torch.bool)
    for _ in range(MOST_STEPS):
        direction = -_two_loops(slope, pairs, metric)
        descent = _dot(slope, direction)
        going &= -descent > TOLERANCE * value.abs()
        step = going.float()
        for _ in range(MOST_HALVINGS):
            candidate = solution + _wide(step, solution) * direction
            new_value, new_slope = value_and_slope(candidate)
            short = going & (new_value > value + 1e-4 * step * descent)
            if not bool(short.any()):
                break
            step = torch.where(short, step / 2, step)
        else:
            # Float32 sees no descent any more along these directions: the problems are solved as far as it goes.
            going &= ~short
            candidate = torch.where(_wide(short, solution), solution, candidate)
            new_value, new_slope = torch.where(short, value, new_value), torch.where(_wide(short, slope), slope, new_slope)
        if not bool(going.any()):
            break
        moved, turned = candidate - solution, new_slope - slope
        curvature = _dot(moved, turned)
        pairs.append((moved, turned, torch.where(curvature > 1e-20, 1 / curvature.clamp(min=1e-20), 0)))
        pairs = pairs[-HISTORY:]
        solution, value, slope = candidate, new_value, new_slope
    return solution


def cross_fitted(features: Tensor, labels: Tensor, folds: Tensor, classes: int) -> Tensor:
    """Predicted class `[N]` of each example by a logistic regression that did not see it.

    The penalty for a fold is the one with the least loss over the *other* folds' left-out examples, so that no example
    helps to choose the regression that scores it.

    Args:
        features: `[N, d]`.
        labels: int64 `[N]`, 0..K−1.
        folds: `[N]`, the fold in which each example is left out.
        classes: K.
    """
    design = standardised(features)
    number = int(folds.max()) + 1
    problems = [(penalty, fold) for penalty in PENALTIES for fold in range(number)]
    weights = torch.stack([(folds != fold).float() for _, fold in problems])
    penalties = torch.tensor([penalty for penalty, _ in problems])
    fitted = fit_logistic(design, labels, weights, penalties, classes)
    fitted = fitted.view(len(PENALTIES), number, *fitted.shape[1:])
    loss, predicted = torch.zeros(len(PENALTIES), number), torch.zeros(len(PENALTIES), len(labels), dtype=torch.int64)
    for fold in range(number):
        out = folds == fold
        logits = scores(design[out], fitted[:, fold])
        predicted[:, out] = logits.argmax(2)
        loss[:, fold] = -logits.log_softmax(2).gather(2, labels[out].expand(len(PENALTIES), -1)[..., None]).sum((1, 2))
    chosen = (loss.sum(1, keepdim=True) - loss).argmin(0)
    return predicted[chosen[folds], torch.arange(len(labels))]


def few_shot(
    features: Tensor, labels: Tensor, train: Tensor, shots: list[Tensor], test: Tensor, classes: int
) -> Tensor:
    """Predictions `[P, T]` on `test` by heads refitted on `train` and, in turn, on each set of `shots`.

    Args:
        features: `[N, d]`.
        labels: int64 `[N]`.
        train: positions of the labels that every head gets.
        shots: per head, positions of the labels that it gets besides.
        test: positions to predict.
        classes: K.
    """
    design = standardised(features)
    used = torch.cat([train, *shots]).unique()
    weights = torch.zeros(len(shots), len(used))
    weights[:, torch.isin(used, train)] = 1
    for head, chosen in enumerate(shots):
        weights[head, torch.isin(used, chosen)] = 1
    penalties = torch.full((len(shots),), FEW_SHOT_PENALTY)
    fitted = fit_logistic(design[used], labels[used], weights, penalties, classes)
    return scores(design[test], fitted).argmax(2)


def scores(features: Tensor, fitted: Tensor) -> Tensor:
    """Logits `[P, N, K]` of P fitted regressions `[P, d + 1, K]`."""
    return features @ fitted[:, :-1] + fitted[:, -1:]


def refit_bias(logits: Tensor, labels: Tensor, folds: Tensor) -> Tensor:
    """Predictions `[N]` from logits `[N, K]` after a bias was added to each class, cross-fitted for log loss.

    Infinite logits count as the least finite one: what is cut off cannot be brought back by a bias.
    """
    finite = logits.double()
    low, high = finite[finite.isfinite()].min(), finite[finite.isfinite()].max()
    finite = finite.nan_to_num(nan=float(low), posinf=float(high), neginf=float(low))
    predicted = torch.zeros_like(labels)
    for fold in range(int(folds.max()) + 1):
        inside = folds != fold
        bias = _best_bias(finite[inside], labels[inside])
        predicted[~inside] = (finite[~inside] + bias).argmax(1)
    return predicted


def _best_bias(logits: Tensor, labels: Tensor) -> Tensor:
    """The bias `[K]` of least log loss, by damped Newton steps from the bias that levels the classes' means."""
    classes = logits.shape[1]
    truth = torch.nn.functional.one_hot(labels, classes).double()
    bias = logits.mean() - logits.mean(0)

    def loss(at: Tensor) -> Tensor:
        return -((logits + at).log_softmax(1) * truth).sum(1).mean()

    for _ in range(50):
        odds = (logits + bias).softmax(1)
        slope = (odds - truth).mean(0)
        curve = torch.diag(odds.mean(0)) - odds.T @ odds / len(logits) + 1e-9 * torch.eye(classes, dtype=bias.dtype)
        step = torch.linalg.solve(curve, slope)
        size = 1.0
        while loss(bias - size * step) > loss(bias) and size > 1e-6:
            size /= 2
        bias = bias - size * step
        if slope.abs().max() < 1e-8:
            break
    return bias


def _metric(design: Tensor, share: Tensor, penalties: Tensor) -> Callable[[Tensor], Tensor]:
    """Multiplication by (XᵀX/2 + penalty)⁻¹, one factor per penalty: the left-out examples hardly change XᵀX."""
    weights = share.mean(0)
    base = (design.T * weights) @ design / 2
    values, which = penalties.unique(return_inverse=True)
    ridge = torch.eye(len(base))[None] * values[:, None, None]
    ridge[:, -1, -1] = 1e-6
    factors = torch.linalg.cholesky(base[None] + ridge)[which]
    return lambda slope: torch.cholesky_solve(slope, factors)


def _two_loops(slope: Tensor, pairs: list[tuple[Tensor, Tensor, Tensor]], metric: Callable[[Tensor], Tensor]) -> Tensor:
    direction, shares = slope.clone(), []
    for moved, turned, inverse in reversed(pairs):
        share = inverse * _dot(moved, direction)
        shares.append(share)
        direction -= _wide(share, direction) * turned
    direction = metric(direction)
    for (moved, turned, inverse), share in zip(pairs, reversed(shares), strict=True):
        direction += _wide(share - inverse * _dot(turned, direction), direction) * moved
    return direction


def _dot(left: Tensor, right: Tensor) -> Tensor:
    return (left * right).flatten(1).sum(1)


def _wide(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.ndim - 1))
