"""Nonlinear decoders on features where the right answer is known, and beside scikit-learn's."""

import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.svm import SVC
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from rasura.auditing import nonlinear
from rasura.auditing.decoders import cross_fitted, fit_logistic, scores, standardised
from rasura.auditing.nonlinear import (
    EXPLAINED,
    NONLINEAR,
    kernel_machine,
    nearest_neighbours,
    perceptron,
    shuffled_linear,
    whitened,
    whitened_linear,
)

READERS = {"linear": cross_fitted, **NONLINEAR}
CURVED = {name: NONLINEAR[name] for name in ("nearest neighbours", "kernel machine", "perceptron")}


def folds_of(labels: Tensor) -> Tensor:
    """Five folds that spread every class evenly."""
    found = torch.empty_like(labels)
    for number in labels.unique():
        members = (labels == number).nonzero()[:, 0]
        found[members] = torch.arange(len(members)) % 5
    return found


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def blobs(count: int, width: int = 12, classes: int = 5, apart: float = 0.6) -> tuple[Tensor, Tensor]:
    """Gaussian clouds around class means, and labels in turn."""
    labels = torch.arange(count) % classes
    return apart * normal(classes, width, seed=99)[labels] + normal(count, width), labels


def accuracy(decoder: Callable, features: Tensor, labels: Tensor) -> float:
    said = decoder(features, labels, folds_of(labels), int(labels.max()) + 1)
    return float((said == labels).double().mean())


def recalls(said: Tensor, labels: Tensor) -> np.ndarray:
    return np.array([float((said[labels == number] == number).double().mean()) for number in labels.unique()])


def mixed(features: Tensor, seed: int = 7) -> Tensor:
    """Turned by a random rotation, so that no column is a direction of the construction."""
    turn, _ = torch.linalg.qr(normal(features.shape[1], features.shape[1], seed=seed))
    return features @ turn


def without_linear_trace(features: Tensor, labels: Tensor) -> Tensor:
    """LEACE by its authors' library: no linear reader finds the class any more."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the library compiles a helper in a way torch gives up
        leace = pytest.importorskip("concept_erasure").LeaceFitter
    wide = features.double()
    return leace.fit(wide, one_hot(labels).double()).eraser(wide).float()


def by_sklearn(make: Callable, features: Tensor, labels: Tensor) -> Tensor:
    inputs, truth, folds = standardised(features).numpy(), labels.numpy(), folds_of(labels).numpy()
    said = np.empty_like(truth)
    for fold in range(5):
        out = folds == fold
        said[out] = make().fit(inputs[~out], truth[~out]).predict(inputs[out])
    return torch.from_numpy(said)


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    """700 handwritten digits through a random ReLU layer of 64 units."""
    images, labels = load_digits(return_X_y=True)
    inputs = standardised(torch.tensor(images[:700]))
    return (inputs @ normal(64, 64) / 8).relu(), torch.tensor(labels[:700])


def chance(count: int, classes: int) -> object:
    """1 / K, give or take four standard errors."""
    return pytest.approx(1 / classes, abs=4 * math.sqrt((classes - 1) / count) / classes)


# -------------------------------------------------------------------------------------- hidden from linear readers


def exclusive_or(count: int = 800) -> tuple[Tensor, Tensor]:
    """The class is the product of two signs."""
    labels = torch.arange(count) % 2
    sign = torch.sign(normal(count, seed=1))
    features = 0.4 * normal(count, 8)
    features[:, 0] += sign
    features[:, 1] += sign * (2 * labels - 1)
    return mixed(features), labels


def shells(count: int = 800) -> tuple[Tensor, Tensor]:
    """Two concentric spheres in four dimensions, among four of noise."""
    labels = torch.arange(count) % 2
    surface = torch.nn.functional.normalize(normal(count, 4, seed=1)) * (1 + 1.5 * labels[:, None])
    return mixed(torch.cat([surface + 0.1 * normal(count, 4), 0.5 * normal(count, 4, seed=2)], dim=1)), labels


def wide_and_narrow(count: int = 800) -> tuple[Tensor, Tensor]:
    """Two clouds with one mean, the second three times as wide."""
    labels = torch.arange(count) % 2
    return mixed(normal(count, 8) * (1 + 2 * labels[:, None])), labels


@pytest.mark.parametrize("planted", [exclusive_or, shells, wide_and_narrow])
def test_erased_classes_are_hidden_from_linear_readers_and_read_by_the_others(planted):
    features, labels = planted()
    features = without_linear_trace(features, labels)
    for linear in (cross_fitted, whitened_linear):
        assert accuracy(linear, features, labels) < 0.6
    assert accuracy(nearest_neighbours, features, labels) > 0.8
    assert accuracy(kernel_machine, features, labels) > 0.9
    assert accuracy(perceptron, features, labels) > 0.9


@pytest.mark.parametrize("shrunk", [1e-4, 1e-5])
def test_a_shrunk_direction_is_read_after_whitening_only(shrunk):
    labels = torch.arange(1000) % 5
    features = normal(1000, 16)
    features[:, 0] += 4.0 * (labels == 2)
    features[:, 0] *= shrunk
    features = mixed(features)
    found = {
        name: recalls(reader(features, labels, folds_of(labels), 5), labels)[2] for name, reader in READERS.items()
    }
    assert found.pop("whitened linear") > 0.9
    assert max(found.values()) < 0.4


def test_a_few_telling_directions_among_many_are_for_the_perceptron():
    labels = torch.arange(1000) % 2
    sign = torch.sign(normal(1000, seed=1))
    features = torch.cat([sign[:, None], (sign * (2 * labels - 1))[:, None], normal(1000, 30)], dim=1)
    assert accuracy(perceptron, features, labels) > 0.9
    assert accuracy(nearest_neighbours, features, labels) < 0.8


# -------------------------------------------------------------------------------------- nothing to read


@pytest.mark.parametrize("name", NONLINEAR)
@pytest.mark.parametrize(("count", "width"), [(1000, 10), (200, 150), (100, 300)])
def test_noise_is_decoded_at_chance(name, count, width):
    labels = torch.arange(count)[torch.randperm(count, generator=torch.Generator().manual_seed(5))] % 5
    assert accuracy(NONLINEAR[name], normal(count, width), labels) == chance(count, 5)


@pytest.mark.parametrize("name", NONLINEAR)
def test_a_fold_s_own_labels_play_no_part_in_what_is_said_of_it(name):
    features, labels = blobs(300)
    folds = folds_of(labels)
    before = NONLINEAR[name](features, labels, folds, 5)
    flipped = torch.where(folds == 2, (labels + 1) % 5, labels)
    after = NONLINEAR[name](features, flipped, folds, 5)
    assert not torch.equal(before, after)
    if name in CURVED:
        assert torch.equal(before[folds == 2], after[folds == 2])
    else:  # the penalty for fold 2 is chosen by other folds, whose regressions are solved to a tolerance
        assert (before == after)[folds == 2].double().mean() > 0.9


# -------------------------------------------------------------------------------------- scikit-learn's


def test_nearest_neighbours_are_scikit_learn_s(digits):
    features, labels = digits
    ours = nearest_neighbours(features, labels, folds_of(labels), 10)
    frequency = np.bincount(labels.numpy())

    class Votes(KNeighborsClassifier):
        """The library's neighbours, each voting with one over its class's frequency."""

        def predict(self, inputs):
            said = np.asarray(self._y)[self.kneighbors(inputs, return_distance=False)]
            votes = np.stack([(said == k).sum(1) / frequency[k] for k in range(10)], axis=1)
            return votes.argmax(1)

    assert (ours == by_sklearn(lambda: Votes(5), features, labels)).double().mean() > 0.995


def test_a_rare_class_is_read_as_well_as_a_frequent_one():
    """Two overlapping clouds, one of them nine times as frequent: no reader may give up the rare one."""
    labels = torch.tensor([0] * 900 + [1] * 100)
    features = normal(1000, 4)
    features[labels == 1, 0] += 2
    for name in (*CURVED, "whitened linear"):
        recall = recalls(READERS[name](features, labels, folds_of(labels), 2), labels)
        assert recall[1] > 0.68, name


def test_neighbours_are_the_same_when_distances_are_taken_in_parts(digits, monkeypatch):
    features, labels = digits
    whole = nearest_neighbours(features, labels, folds_of(labels), 10)
    monkeypatch.setattr(nonlinear, "NEIGHBOUR_ROWS", 128)
    assert (nearest_neighbours(features, labels, folds_of(labels), 10) == whole).double().mean() > 0.998


@pytest.mark.parametrize("landmarks", [500, 700])
def test_the_kernel_machine_reads_what_scikit_learn_s_does(digits, landmarks, monkeypatch):
    monkeypatch.setattr(nonlinear, "LANDMARKS", landmarks)
    features, labels = digits
    ours = recalls(kernel_machine(features, labels, folds_of(labels), 10), labels)
    theirs = recalls(by_sklearn(SVC, features, labels), labels)
    assert np.abs(ours - theirs).mean() < 0.015
    assert (ours - theirs).mean() == pytest.approx(0, abs=0.005)


def test_with_all_examples_as_landmarks_it_solves_the_least_squares_machine():
    features, labels = blobs(250, apart=0.5)
    inputs, folds = standardised(features).double().numpy(), folds_of(labels).numpy()
    kernel = np.exp(-np.square(inputs[:, None] - inputs[None]).sum(2) / inputs.shape[1])
    said = np.empty(250, dtype=np.int64)
    for fold in range(5):
        train, out = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        system = np.ones((len(train) + 1, len(train) + 1))
        system[0, 0] = 0
        system[1:, 1:] = kernel[np.ix_(train, train)] + np.eye(len(train))
        targets = np.vstack([np.zeros(5), 2 * np.eye(5)[labels[train]] - 1])
        solution = np.linalg.solve(system, targets)
        said[out] = (kernel[np.ix_(out, train)] @ solution[1:] + solution[0]).argmax(1)
    assert (kernel_machine(features, labels, torch.tensor(folds), 5).numpy() == said).mean() > 0.99


def test_the_perceptron_reads_what_scikit_learn_s_does(digits):
    features, labels = digits
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        theirs = by_sklearn(lambda: MLPClassifier((64,), random_state=0), features, labels)
    ours = [accuracy(lambda *data, seed=seed: perceptron(*data, seed), features, labels) for seed in range(3)]
    assert np.mean(ours) == pytest.approx(recalls(theirs, labels).mean(), abs=0.01)


def test_the_perceptron_s_training_is_that_of_torch_optim(monkeypatch):
    monkeypatch.setattr(nonlinear, "STEPS", 30)
    features, labels = blobs(200)
    inputs, generator = standardised(features), torch.Generator().manual_seed(0)
    batches = nonlinear._batches(folds_of(labels), generator)
    ours = [*nonlinear._layer(5, 12, 64, generator), *nonlinear._layer(5, 64, 5, generator)]
    ours, inputs = [part.double() for part in ours], inputs.double()
    theirs = [part.clone().requires_grad_() for part in ours]
    nonlinear._train(ours, inputs, one_hot(labels).double(), torch.ones(len(labels)).double(), batches)
    optimiser = torch.optim.Adam(theirs, lr=nonlinear.LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 30)
    for batch in batches:
        optimiser.zero_grad()
        hidden = (inputs[batch] @ theirs[0] + theirs[1]).relu()
        logits = hidden @ theirs[2] + theirs[3]
        (5 * cross_entropy(logits.flatten(0, 1), labels[batch].flatten())).backward()
        optimiser.step()
        schedule.step()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other.detach(), atol=1e-8, rtol=1e-6)


# -------------------------------------------------------------------------------------- whitened


def test_whitened_features_have_identity_covariance():
    features = mixed(normal(300, 6) * torch.tensor([1.0, 3.0, 1e-4, 10.0, 1e-2, 1.0])) + 5
    out = whitened(features).double()
    torch.testing.assert_close(out.mean(0), torch.zeros(6).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(out.T @ out / 300, torch.eye(6).double(), atol=1e-4, rtol=0)


def test_dependent_and_constant_columns_are_not_whitened_into_noise():
    features = normal(300, 6)
    features = torch.cat([features, features @ normal(6, 4, seed=3), torch.full((300, 2), 7.3)], dim=1)
    assert whitened(features).shape == (300, 6)


def test_at_most_half_as_many_directions_as_examples_are_whitened():
    features = normal(60, 100) * torch.logspace(0, 2, 100)
    assert whitened(features).shape == (60, 30)


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), stretch=st.floats(0, 2), shift=st.floats(-100, 100))
def test_no_invertible_linear_change_fools_whitening(seed, stretch, shift):
    features, labels = blobs(150, width=6, classes=3)
    left, _, right = torch.linalg.svd(normal(6, 6, seed=seed))
    change = left @ torch.diag(10 ** torch.linspace(-stretch, stretch, 6)) @ right
    changed = features @ change + shift * normal(6, seed=seed + 1)
    before, after = whitened(features).double(), whitened(changed).double()
    torch.testing.assert_close(after @ after.T, before @ before.T, atol=0.05, rtol=0)
    folds = folds_of(labels)
    said = whitened_linear(features, labels, folds, 3), whitened_linear(changed, labels, folds, 3)
    assert (said[0] == said[1]).double().mean() > 0.96


# -------------------------------------------------------------------------------------- the control


@pytest.mark.parametrize("apart", [0.0, 3.0])
def test_shuffled_labels_are_named_at_chance_however_telling_the_features(apart):
    features, labels = blobs(1000, apart=apart)
    said = shuffled_linear(features, labels, folds_of(labels), 5)
    assert float((said == labels).double().mean()) == chance(1000, 5)
    assert recalls(said, labels) == pytest.approx(0.2, abs=4 * math.sqrt(0.16 / 200))


def test_the_control_shows_a_decoder_that_saw_the_labels(monkeypatch):
    def by_heart(features, labels, folds, classes):
        design = standardised(features)
        return scores(design, fit_logistic(design, labels, torch.ones(1, len(labels)), 1e-3, classes)).argmax(1)[:, 0]

    monkeypatch.setattr(nonlinear, "cross_fitted", by_heart)
    labels = torch.arange(400) % 5
    assert accuracy(shuffled_linear, normal(400, 300), labels) > 0.9


def test_labels_are_shuffled_within_folds_by_the_seed(monkeypatch):
    given_labels = []
    monkeypatch.setattr(nonlinear, "cross_fitted", lambda _, labels, *rest: given_labels.append(labels) or labels)
    labels = torch.arange(200) % 4
    folds = torch.arange(200) // 40
    for seed in (0, 0, 1):
        # Whoever says the shuffled labels has seen them all.
        assert torch.equal(shuffled_linear(normal(200, 3), labels, folds, 4, seed), labels)
    assert torch.equal(given_labels[0], given_labels[1]) and not torch.equal(given_labels[0], given_labels[2])
    for fold in range(5):
        assert torch.equal(given_labels[0][folds == fold].sort().values, labels[folds == fold].sort().values)


# -------------------------------------------------------------------------------------- any features


HARD = {
    "constant": torch.full((50, 12), 3.0),
    "some columns constant": torch.cat([blobs(50)[0], torch.ones(50, 4)], dim=1),
    "rank deficient": blobs(50)[0] @ normal(12, 40),
    "of huge scale": 1e6 * blobs(50)[0],
    "columns of very different sizes": blobs(50)[0] * torch.logspace(-6, 6, 12),
    "examples repeated": blobs(50)[0][torch.arange(50) % 7],
    "more than examples": normal(50, 128),
    "one column": normal(50, 1),
    "one example far away": torch.cat([normal(49, 6), torch.full((1, 6), 1e6)]),
}


@pytest.mark.parametrize("case", HARD)
def test_every_decoder_takes_any_finite_features(case):
    features, labels = HARD[case], torch.arange(50) % 5
    for decoder in (*NONLINEAR.values(), shuffled_linear):
        said = decoder(features, labels, folds_of(labels), 5)
        assert said.shape == (50,) and said.dtype == torch.int64
        assert said.min() >= 0 and said.max() < 5


def test_scale_and_shift_do_not_matter():
    features, labels = blobs(300)
    for decoder in NONLINEAR.values():
        before, after = (decoder(one, labels, folds_of(labels), 5) for one in (features, 1e6 * features - 1e7))
        assert (before == after).double().mean() > 0.97


@pytest.mark.parametrize("classes", [2, 100])
def test_two_classes_and_a_hundred(classes):
    features, labels = blobs(1000, width=20, classes=classes, apart=2)
    for decoder in NONLINEAR.values():
        assert accuracy(decoder, features, labels) > 0.9


def test_the_same_seed_gives_the_same_answers_and_global_randomness_is_left_alone():
    features, labels = blobs(600)
    folds, state = folds_of(labels), torch.get_rng_state()
    for decoder in (*NONLINEAR.values(), shuffled_linear):
        assert torch.equal(decoder(features, labels, folds, 5), decoder(features, labels, folds, 5))
    for seeded in (kernel_machine, perceptron, shuffled_linear):
        assert not torch.equal(seeded(features, labels, folds, 5, 0), seeded(features, labels, folds, 5, 1))
    assert torch.equal(state, torch.get_rng_state())


def test_every_decoder_is_explained():
    assert EXPLAINED.keys() == NONLINEAR.keys()
