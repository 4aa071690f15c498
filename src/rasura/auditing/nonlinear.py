"""Readers beyond linear regression, for features that were changed so that a linear reader finds nothing in them.

An erased direction leaves the shape of a class's cloud, and a shrunk one is lost among others. Each reader here sees
through another such trick and is blind to some. All are cross-fitted: an example is named by a reader that did not see
it. scikit-learn's are the oracles in the tests; benchmarks/decoders.py times both.
"""

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from rasura.auditing.decoders import balanced, cross_fitted, standardised

LEAST_VARIANCE = 1e-12
"""Principal directions with less than this share of the largest variance are rounding, not features."""
NEIGHBOURS = 5
NEIGHBOUR_ROWS = 1024
"""Examples whose distances to all others are in memory at once."""
LANDMARKS, LANDMARKS_PER_CLASS = 500, 10
"""Examples that stand for all others in the kernel machine: 500, or ten for every class where that is more."""
JITTER = 1e-6
"""Keeps the landmarks' kernel matrix invertible where examples are alike; far below the ridge of 1."""
HIDDEN_UNITS = 64
STEPS, BATCH, LEARNING_RATE = 300, 128, 0.01
"""The perceptron's training: steps rather than epochs, so that few examples are learnt as thoroughly as many."""
Decoder = Callable[[Tensor, Tensor, Tensor, int], Tensor]
"""Features `[N, d]`, labels `[N]`, folds `[N]` and the number of classes → the class said of each example, `[N]`."""


def whitened(features: Tensor) -> Tensor:
    """`[N, d]` → `[N, r]` with identity covariance; labels play no part.

    Directions whose variance is below 1e-12 of the largest are left out, and the narrowest ones beyond N / 2: in N − 1
    directions, N whitened examples are all equally far from each other, whatever the features were.
    """
    columns = standardised(features).double()
    variances, directions = torch.linalg.eigh(columns.T @ columns / len(columns))
    kept = variances >= LEAST_VARIANCE * variances.max()
    kept[: -(len(columns) // 2)] = False
    return (columns @ (directions[:, kept] / variances[kept].clamp(min=1e-300).sqrt())).float()


def whitened_linear(features: Tensor, labels: Tensor, folds: Tensor, classes: int) -> Tensor:
    """`cross_fitted` on whitened features: says the same after any invertible linear change of the features.

    Reads a direction that was shrunk, unless to less than a millionth of the widest.

    Does not show: a direction beyond the N / 2 widest. With fewer than two examples per dimension, a linear change can
    hide a class from it.

    Args:
        features: `[N, d]`, finite.
        labels: int64 `[N]`, 0..K−1.
        folds: int64 `[N]`, the fold in which each example is left out.
        classes: K.
    """
    return cross_fitted(whitened(features), labels, folds, classes)


def nearest_neighbours(features: Tensor, labels: Tensor, folds: Tensor, classes: int) -> Tensor:
    """The class with most votes among the 5 nearest examples of the other folds (Euclidean, standardised features).

    Votes of a class weigh the less the more examples it has, so that a frequent class has no advantage. Ties go to the
    class with the lowest number, as in scikit-learn.

    Does not show: a class that only a few of many directions tell from others; noise in the rest hides its neighbours.

    Args:
        features: `[N, d]`, finite.
        labels: int64 `[N]`, 0..K−1.
        folds: int64 `[N]`, the fold in which each example is left out.
        classes: K.
    """
    inputs, votes = standardised(features), one_hot(labels, classes) * balanced(labels, classes)[:, None]
    said = []
    for rows, fold in zip(inputs.split(NEIGHBOUR_ROWS), folds.split(NEIGHBOUR_ROWS), strict=True):
        distances = torch.cdist(rows, inputs).masked_fill_(fold[:, None] == folds, torch.inf)
        nearest = distances.topk(NEIGHBOURS, largest=False).indices
        said.append(votes[nearest].sum(1).argmax(1))
    return torch.cat(said)


def kernel_machine(features: Tensor, labels: Tensor, folds: Tensor, classes: int, seed: int = 0) -> Tensor:
    """A least-squares support vector machine per class with a Gaussian kernel exp(−|x − y|² / d), C = 1, classes alike.

    Reads curved boundaries, also between clouds with the same mean.

    Source: Suykens and Vandewalle, Neural Processing Letters 9, 1999, equations 13 to 17; landmarks: Williams and
    Seeger, NeurIPS 2000.

    Differs: squared instead of hinge loss, each class against the rest, so that one linear system is solved instead of
    a quadratic programme. The kernel is that of projections on 500 landmarks, drawn from all examples without looking
    at labels. Beside scikit-learn's SVC, whose defaults d and C are: the same mean recall within half a point at head
    inputs, up to a point and a half more at earlier stages.

    Args:
        features: `[N, d]`, finite.
        labels: int64 `[N]`, 0..K−1.
        folds: int64 `[N]`, the fold in which each example is left out.
        classes: K.
        seed: of the draw of landmarks.
    """
    design = _kernel_features(standardised(features).double(), max(LANDMARKS, LANDMARKS_PER_CLASS * classes), seed)
    truth, alike = 2 * one_hot(labels, classes).float() - 1, balanced(labels, classes)[:, None]
    parts = [folds == fold for fold in range(int(folds.max()) + 1)]
    grams = torch.stack([design[part].T @ (alike * design)[part] for part in parts])
    sums = torch.stack([design[part].T @ (alike * truth)[part] for part in parts])
    others = 1 - torch.eye(len(parts))  # what a fold's own sums would leave behind if subtracted can decide a tie
    ridge = torch.ones(design.shape[1])
    ridge[-1] = 0
    factors = torch.linalg.cholesky(torch.tensordot(others, grams, 1) + torch.diag(ridge))
    return _of_own_fold(design @ torch.cholesky_solve(torch.tensordot(others, sums, 1), factors), folds)


def perceptron(features: Tensor, labels: Tensor, folds: Tensor, classes: int, seed: int = 0) -> Tensor:
    """A net with one hidden layer of 64 ReLU units, one per fold, trained together with Adam; classes weigh alike.

    Differs: scikit-learn's MLPClassifier, whose initial weights and batch gradients these are, takes 200 epochs at a
    rate of 0.001 without decay. Here 300 steps of 128 examples at a rate that falls from 0.01 along a cosine reach the
    same accuracy at head inputs within a point. The optimiser is written out because torch.optim takes a second to
    import.

    Args:
        features: `[N, d]`, finite.
        labels: int64 `[N]`, 0..K−1.
        folds: int64 `[N]`, the fold in which each example is left out.
        classes: K.
        seed: of initial weights and batches.
    """
    generator = torch.Generator().manual_seed(seed)
    inputs, batches = standardised(features), _batches(folds, generator)
    sizes = itertools.pairwise((inputs.shape[1], HIDDEN_UNITS, classes))
    layers = [part for ends in sizes for part in _layer(batches.shape[1], *ends, generator)]
    _train(layers, inputs, one_hot(labels, classes).float(), balanced(labels, classes), batches)
    return _of_own_fold(_logits(layers, inputs.expand(batches.shape[1], -1, -1))[1], folds)


NONLINEAR: dict[str, Decoder] = {
    "whitened linear": whitened_linear,
    "nearest neighbours": nearest_neighbours,
    "kernel machine": kernel_machine,
    "perceptron": perceptron,
}
"""Decoders of the head input by name."""
EXPLAINED: dict[str, str] = {
    "whitened linear": "logistic regression on whitened features: reads directions that were shrunk",
    "nearest neighbours": "majority among the 5 nearest examples: reads clouds of any shape",
    "kernel machine": "least-squares support vector machines with a Gaussian kernel: reads curved boundaries",
    "perceptron": "a net with 64 hidden units: reads curved boundaries along a few of many directions",
}
"""Every decoder of `NONLINEAR` with a line on what it reads."""


def shuffled_linear(features: Tensor, labels: Tensor, folds: Tensor, classes: int, seed: int = 0) -> Tensor:
    """A control: `cross_fitted` with labels shuffled within each fold. Above chance means that labels leak.

    Nothing can be learnt from the other folds, so a decoder that names the shuffled labels of its own has seen them.
    How far it is from the shuffled label is added to the true one: the result is the true class exactly where the
    decoder named the shuffled one. Chance is the share of the largest class, for every class.

    Does not show: labels that leak through the features themselves.

    Args:
        features: `[N, d]`, finite.
        labels: int64 `[N]`, 0..K−1.
        folds: int64 `[N]`, the fold in which each example is left out.
        classes: K.
        seed: of the permutations.
    """
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.empty_like(labels)
    for fold in folds.unique():
        members = (folds == fold).nonzero()[:, 0]
        shuffled[members] = labels[members[torch.randperm(len(members), generator=generator)]]
    return (labels + cross_fitted(features, shuffled, folds, classes) - shuffled) % classes


def _kernel_features(inputs: Tensor, most: int, seed: int) -> Tensor:
    """`[N, m + 1]`, whose inner products are the kernel's between projections on m landmarks; the last column is 1."""
    chosen = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))[:most]
    width = inputs.square().mean(0).sum().clamp(min=1)
    kernel = torch.cdist(inputs, inputs[chosen]).square_().div_(-width).exp_()
    factor = torch.linalg.cholesky(kernel[chosen] + JITTER * torch.eye(len(chosen), dtype=kernel.dtype))
    projected = torch.linalg.solve_triangular(factor, kernel.T, upper=False).T
    return torch.cat([projected, torch.ones(len(inputs), 1, dtype=kernel.dtype)], dim=1).float()


def _batches(folds: Tensor, generator: torch.Generator) -> Tensor:
    """Positions `[steps, F, batch]`: for each fold, those of the others, in a new order whenever they are used up."""
    drawn = []
    for fold in range(int(folds.max()) + 1):
        train = (folds != fold).nonzero()[:, 0]
        rounds = math.ceil(STEPS * BATCH / len(train))
        orders = [train[torch.randperm(len(train), generator=generator)] for _ in range(rounds)]
        drawn.append(torch.cat(orders)[: STEPS * BATCH].view(STEPS, BATCH))
    return torch.stack(drawn, dim=1)


def _layer(nets: int, width: int, units: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Weights `[nets, width, units]` and biases `[nets, 1, units]`, uniform as Glorot and Bengio (2010) advise."""
    bound = math.sqrt(6 / (width + units))
    shapes = ((nets, width, units), (nets, 1, units))
    weight, bias = (bound * (2 * torch.rand(shape, generator=generator) - 1) for shape in shapes)
    return weight, bias


def _train(layers: list[Tensor], inputs: Tensor, truth: Tensor, alike: Tensor, batches: Tensor) -> None:
    """Fit weights and biases in place, F nets at once: inputs `[N, d]`, one-hot truth `[N, K]`, examples' weights."""
    moments = [(torch.zeros_like(part), torch.zeros_like(part)) for part in layers]
    for step, batch in enumerate(batches):
        seen = inputs[batch]
        hidden, logits = _logits(layers, seen)
        error = (logits.softmax(2) - truth[batch]) * alike[batch][:, :, None] / BATCH
        back = (error @ layers[2].mT) * (hidden > 0)
        slopes = (seen.mT @ back, back.sum(1, keepdim=True), hidden.mT @ error, error.sum(1, keepdim=True))
        for part, slope, (mean, square) in zip(layers, slopes, moments, strict=True):
            _adam(part, slope, mean, square, step)


def _logits(layers: list[Tensor], seen: Tensor) -> tuple[Tensor, Tensor]:
    """Hidden units `[F, B, 64]` and logits `[F, B, K]` of inputs `[F, B, d]`."""
    into, into_bias, out, out_bias = layers
    hidden = torch.baddbmm(into_bias, seen, into).relu_()
    return hidden, torch.baddbmm(out_bias, hidden, out)


def _adam(part: Tensor, slope: Tensor, mean: Tensor, square: Tensor, step: int) -> None:
    """Step number `step`, from 0 on, in place (Kingma and Ba, 2015, algorithm 1, with its settings)."""
    mean.lerp_(slope, 0.1)
    square.lerp_(slope.square(), 0.001)
    scale = (square / (1 - 0.999 ** (step + 1))).sqrt_().add_(1e-8)
    rate = LEARNING_RATE * (1 + math.cos(math.pi * step / STEPS)) / 2
    part.addcdiv_(mean, scale, value=-rate / (1 - 0.9 ** (step + 1)))


def _of_own_fold(logits: Tensor, folds: Tensor) -> Tensor:
    """The class `[N]` that each example gets from its own fold's decoder, of logits `[F, N, K]`."""
    return logits[folds, torch.arange(len(folds))].argmax(1)
