"""Decoders beyond the linear one: neighbours, a kernel machine, a small net, and features with their scales taken away.

A class can be hidden from a linear reader (an erased direction leaves the shape of the cloud) or by scale (a direction
shrunk by 1e-4 is lost among others). Each of these readers is blind to another trick. scikit-learn does the work.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rasura.audit.decoders import cross_fitted, standardised

NEIGHBOURS = 5
HIDDEN_UNITS = 64
MLP_EPOCHS = 20
LEAST_VARIANCE = 1e-12
"""Principal directions with less than this share of the largest variance are rounding, not features."""


def whitened(features: Tensor) -> Tensor:
    """`[N, d]` → `[N, r]` with identity covariance: any invertible linear change of the features gives the same answers.

    Directions whose variance is below 1e-12 of the largest are left out; labels play no part.
    """
    wide = features.double()
    centred = wide - wide.mean(0)
    variances, directions = torch.linalg.eigh(centred.T @ centred / len(wide))
    kept = variances > LEAST_VARIANCE * variances.max().clamp(min=1e-300)
    return (centred @ directions[:, kept] / variances[kept].sqrt()).float()


def whitened_linear(features: Tensor, labels: Tensor, folds: Tensor, classes: int) -> Tensor:
    """`cross_fitted` on whitened features: the logistic regression that no rescaling of the features can fool."""
    return cross_fitted(whitened(features), labels, folds, classes)


def nearest_neighbours(features: Tensor, labels: Tensor, folds: Tensor, classes: int) -> Tensor:
    """The most frequent class among the 5 nearest examples of the other folds (Euclidean, standardised features)."""
    from sklearn.neighbors import KNeighborsClassifier

    return _by_folds(lambda: KNeighborsClassifier(NEIGHBOURS, algorithm="brute"), features, labels, folds)


def kernel_machine(features: Tensor, labels: Tensor, folds: Tensor, classes: int) -> Tensor:
    """A support vector machine with a Gaussian kernel, scikit-learn's settings (C = 1, gamma = 1 / (d · variance))."""
    from sklearn.svm import SVC

    return _by_folds(lambda: SVC(C=1.0, gamma="scale", cache_size=400), features, labels, folds)


def small_net(features: Tensor, labels: Tensor, folds: Tensor, classes: int) -> Tensor:
    """One hidden layer of 64 ReLU units, 20 epochs of Adam (scikit-learn's settings otherwise), seeded."""
    from sklearn.neural_network import MLPClassifier

    return _by_folds(lambda: MLPClassifier((HIDDEN_UNITS,), **_MLP), features, labels, folds)


NONLINEAR: dict[str, Callable[[Tensor, Tensor, Tensor, int], Tensor]] = {
    "linear, whitened": whitened_linear,
    "k-NN": nearest_neighbours,
    "RBF-SVM": kernel_machine,
    "MLP": small_net,
}
"""Decoders of the head input by name; each gives the cross-fitted class `[N]` of every example."""

_MLP: dict[str, Any] = {"max_iter": MLP_EPOCHS, "random_state": 0, "n_iter_no_change": MLP_EPOCHS}


def _by_folds(make: Callable[[], Any], features: Tensor, labels: Tensor, folds: Tensor) -> Tensor:
    import warnings

    from sklearn.exceptions import ConvergenceWarning

    inputs, truth, left_out = standardised(features).numpy(), labels.numpy(), folds.numpy()
    predicted = np.empty_like(truth)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a fixed number of epochs is the setting, not a failure
        for fold in range(int(left_out.max()) + 1):
            out = left_out == fold
            predicted[out] = make().fit(inputs[~out], truth[~out]).predict(inputs[out])
    return torch.from_numpy(predicted)
