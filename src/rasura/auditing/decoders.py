"""Linear decoders: can a simple reader tell the class from a model's features?

The K-way logistic regressions of an audit are many and small. They are fitted together, as one batch of problems that
share their features: weights, penalties and left-out examples differ. scikit-learn's is the oracle in the tests.
"""

from collections.abc import Callable

import torch
from torch import Tensor

PENALTIES = (1e-1, 1e-2, 1e-3, 1e-4)
"""Ridge penalties that cross-validation chooses from, for mean loss; scikit-learn's C is 1 / (examples · penalty)."""
FEW_SHOT_PENALTY = 1e-3
"""Few-shot heads have too few labels to choose by; scikit-learn's default (C = 1) for 1,000 examples."""
HISTORY = 8
TOLERANCE = 1e-5
"""A problem is solved when the next step promises to lower its loss by less than this share of it."""
ROUNDS, STEPS, HALVINGS = 12, 12, 6
"""The metric is taken anew in each of at most 12 rounds of at most 12 steps, each halved at most 6 times."""


def standardised(features: Tensor) -> Tensor:
    """`[N, d]` with mean 0 and deviation 1 per column; constant columns become 0. Labels play no part."""
    wide = features.double()
    centred = wide - wide.mean(0)
    deviation = centred.std(0, correction=0)
    varies = wide.amax(0) > wide.amin(0)
    return torch.where(varies, centred / deviation.where(varies, 1), 0).float()


def fit_logistic(
    features: Tensor, labels: Tensor, weights: Tensor, penalty: float, classes: int, start: Tensor | None = None
) -> Tensor:
    """P logistic regressions at once: `[d + 1, K, P]`, the intercept last.

    Problem p minimises sum_i w_pi · crossentropy_i / sum_i w_pi + penalty / 2 · |W|² without penalising the intercept.
    L-BFGS in a metric that all problems share: the inverse of each class's own block of the Hessian.

    Args:
        features: `[N, d]`, standardised.
        labels: int64 `[N]`.
        weights: `[P, N]`, 0 leaves an example out of a problem.
        penalty: above 0.
        classes: K.
        start: where to begin, `[d + 1, K, P]`; default: zeros.
    """
    design = torch.cat([features, torch.ones(len(features), 1)], dim=1)
    share = weights / weights.sum(1, keepdim=True)
    truth = torch.nn.functional.one_hot(labels, classes).T.float()[:, None]
    ridge = torch.full((design.shape[1], 1, 1), penalty)
    ridge[-1] = 0

    def value_and_slope(solution: Tensor) -> tuple[Tensor, Tensor]:
        odds = _odds(design, solution)
        right = odds.gather(0, labels.expand(1, len(weights), -1))[0]
        value = -(share * right.clamp(min=1e-30).log()).sum(1) + (ridge * solution.square()).sum((0, 1)) / 2
        error = odds.sub_(truth).mul_(share)
        slope = (error.flatten(0, 1) @ design).T.reshape(solution.shape)
        return value, slope + ridge * solution

    solution = torch.zeros(design.shape[1], classes, len(weights)) if start is None else start
    for _ in range(ROUNDS):
        metric = _metric(design, share.mean(0), _odds(design, solution).mean(1), penalty)
        solution, solved = minimise(value_and_slope, solution, metric)
        if solved:
            break
    return solution


def minimise(
    value_and_slope: Callable[[Tensor], tuple[Tensor, Tensor]], start: Tensor, metric: Callable[[Tensor], Tensor]
) -> tuple[Tensor, bool]:
    """L-BFGS (Nocedal and Wright, 2006, algorithm 7.4) over a batch of convex problems `[…, P]`, each with its step.

    Args:
        value_and_slope: objective `[P]` and gradient `[…, P]`.
        start: where to begin.
        metric: multiplies by an approximate inverse Hessian.

    Returns:
        Where it ended, and whether all problems are solved.
    """
    solution = start
    value, slope = value_and_slope(solution)
    pairs: list[tuple[Tensor, Tensor, Tensor]] = []
    going = torch.ones_like(value, dtype=torch.bool)
    for _ in range(STEPS):
        direction = -_two_loops(slope, pairs, metric)
        descent = _dot(slope, direction)
        going &= -descent > TOLERANCE * value.abs()
        if not bool(going.any()):
            return solution, True
        step, short = going.float(), going
        for _ in range(HALVINGS):
            candidate = solution + step * direction
            new_value, new_slope = value_and_slope(candidate)
            short = going & (new_value > value + 1e-4 * step * descent)
            if not bool(short.any()):
                break
            step = torch.where(short, step / 2, step)
        if bool(short.any()):
            # Float32 sees no descent any more along these directions: the problems are solved as far as it goes.
            going &= ~short
            candidate = torch.where(short, solution, candidate)
            new_value, new_slope = torch.where(short, value, new_value), torch.where(short, slope, new_slope)
        moved, turned = candidate - solution, new_slope - slope
        curvature = _dot(moved, turned)
        pairs.append((moved, turned, torch.where(curvature > 1e-20, 1 / curvature.clamp(min=1e-20), 0)))
        pairs = pairs[-HISTORY:]
        solution, value, slope = candidate, new_value, new_slope
    return solution, False


def cross_fitted(features: Tensor, labels: Tensor, folds: Tensor, classes: int) -> Tensor:
    """Predicted class `[N]` of each example by a logistic regression that did not see it.

    Every class weighs alike, however many examples it has: else a rare class would go unread in any model. The penalty
    for a fold is the one with the least loss over the *other* folds' left-out examples, so that no example helps to
    choose the regression that scores it.

    Args:
        features: `[N, d]`.
        labels: int64 `[N]`, 0..K−1.
        folds: `[N]`, the fold in which each example is left out.
        classes: K.
    """
    design = standardised(features)
    number = int(folds.max()) + 1
    alike = balanced(labels, classes)
    weights = torch.stack([(folds != fold) * alike for fold in range(number)])
    # With more directions than examples to fit, where an example ties between classes the shared metric would decide;
    # it knows the answers of the folds that were fitted to the example. Then each fold is fitted alone.
    together = design.shape[1] < int((weights > 0).sum(1).min())
    losses, choices = [], []
    fitted = torch.zeros(design.shape[1] + 1, classes, number)
    for penalty in PENALTIES:
        parts = [slice(number)] if together else [slice(fold, fold + 1) for fold in range(number)]
        fits = [fit_logistic(design, labels, weights[part], penalty, classes, fitted[:, :, part]) for part in parts]
        fitted = torch.cat(fits, dim=2)
        logits = scores(design, fitted)[torch.arange(len(labels)), :, folds]
        each = alike * torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        losses.append(torch.zeros(number).index_add_(0, folds, each))
        choices.append(logits.argmax(1))
    of_others = torch.stack(losses).sum(1, keepdim=True) - torch.stack(losses)
    chosen = of_others.argmin(0)
    return torch.stack(choices)[chosen[folds], torch.arange(len(labels))]


def balanced(labels: Tensor, classes: int) -> Tensor:
    """Weights `[N]`, mean 1, that give every class present the same sum.

    >>> balanced(torch.tensor([0, 0, 0, 2]), 3)
    tensor([0.6667, 0.6667, 0.6667, 2.0000])
    """
    counts = labels.bincount(minlength=classes)
    return len(labels) / (counts > 0).sum() / counts[labels].float()


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
    fitted = fit_logistic(design[used], labels[used], weights, FEW_SHOT_PENALTY, classes)
    return scores(design[test], fitted).argmax(1).T


def scores(features: Tensor, fitted: Tensor) -> Tensor:
    """Logits `[N, K, P]` of P fitted regressions `[d + 1, K, P]`."""
    flat = features @ fitted[:-1].flatten(1) + fitted[-1].flatten()
    return flat.view(len(features), *fitted.shape[1:])


def refit_bias(logits: Tensor, labels: Tensor, folds: Tensor) -> Tensor:
    """Predictions `[N]` from logits `[N, K]` after a bias was added to each class, cross-fitted for log loss.

    Every class weighs alike. Infinite logits count as the least finite one: what is cut off cannot be brought back by
    a bias.
    """
    bounded = finite(logits).double()
    predicted, weights = torch.zeros_like(labels), balanced(labels, logits.shape[1]).double()
    for fold in range(int(folds.max()) + 1):
        inside = folds != fold
        bias = _best_bias(bounded[inside], labels[inside], weights[inside])
        predicted[~inside] = (bounded[~inside] + bias).argmax(1)
    return predicted


def finite(logits: Tensor) -> Tensor:
    """Logits whose infinite values are the least or the greatest finite one."""
    low, high = logits[logits.isfinite()].min(), logits[logits.isfinite()].max()
    return logits.nan_to_num(nan=float(low), posinf=float(high), neginf=float(low))


def _best_bias(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """The bias `[K]` of least log loss, by damped Newton steps from the bias that levels the classes' means."""
    classes, share = logits.shape[1], (weights / weights.sum())[:, None]
    truth = torch.nn.functional.one_hot(labels, classes).double()
    bias = logits.mean() - logits.mean(0)

    def loss(at: Tensor) -> Tensor:
        return -(share * (logits + at).log_softmax(1) * truth).sum()

    for _ in range(50):
        odds = (logits + bias).softmax(1)
        slope = (share * (odds - truth)).sum(0)
        curve = torch.diag((share * odds).sum(0)) - odds.T @ (share * odds)
        curve += 1e-9 * torch.eye(classes, dtype=bias.dtype)
        step = torch.linalg.solve(curve, slope)
        size = 1.0
        while loss(bias - size * step) > loss(bias) and size > 1e-6:
            size /= 2
        bias = bias - size * step
        if slope.abs().max() < 1e-8:
            break
    return bias


def _odds(design: Tensor, solution: Tensor) -> Tensor:
    """Probabilities `[K, P, N]`: with examples last and classes first, the softmax runs along the memory."""
    return (solution.flatten(1).T @ design.T).view(*solution.shape[1:], len(design)).softmax(0)


def _metric(design: Tensor, share: Tensor, odds: Tensor, penalty: float) -> Callable[[Tensor], Tensor]:
    """Multiplication by the inverse of each class's block of the Hessian, XᵀDX + penalty, averaged over problems.

    It decides how fast the minimum is reached, not where it lies.
    """
    spread = share * (odds * (1 - odds) + 1e-4)
    blocks = torch.stack([(design.T * one) @ design for one in spread])
    ridge = torch.full((design.shape[1],), penalty)
    ridge[-1] = 1e-6
    factors = torch.linalg.cholesky(blocks + torch.diag(ridge))
    return lambda slope: torch.cholesky_solve(slope.permute(1, 0, 2), factors).permute(1, 0, 2)


def _two_loops(slope: Tensor, pairs: list[tuple[Tensor, Tensor, Tensor]], metric: Callable[[Tensor], Tensor]) -> Tensor:
    direction, shares = slope.clone(), []
    for moved, turned, inverse in reversed(pairs):
        share = inverse * _dot(moved, direction)
        shares.append(share)
        direction -= share * turned
    direction = metric(direction)
    for (moved, turned, inverse), share in zip(pairs, reversed(shares), strict=True):
        direction += (share - inverse * _dot(turned, direction)) * moved
    return direction


def _dot(left: Tensor, right: Tensor) -> Tensor:
    return (left * right).sum((0, 1))
