"""Linear decoders beside scikit-learn and scipy, and on data where the right answer is known."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from rasura.auditing import decoders
from rasura.auditing.decoders import (
    FEW_SHOT_PENALTY,
    PENALTIES,
    cross_fitted,
    few_shot,
    fit_logistic,
    refit_bias,
    scores,
    standardised,
)

CLASSES = 5


def blobs(
    count: int, width: int = 12, apart: float = 0.6, classes: int = CLASSES, seed: int = 0, shares=None
) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian clouds around fixed class means: features `[count, width]` and labels."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % classes if shares is None else generator.choice(classes, count, p=shares)
    means = np.random.default_rng(99).normal(size=(classes, width)) * apart
    return means[labels] + generator.normal(size=(count, width)), labels


def folds_of(labels: np.ndarray | Tensor, folds: int = 5) -> Tensor:
    """Folds that spread every class evenly."""
    labels = torch.as_tensor(labels)
    found = torch.empty_like(labels)
    for number in labels.unique():
        members = (labels == number).nonzero()[:, 0]
        found[members] = torch.arange(len(members)) % folds
    return found


def by_sklearn(
    features: np.ndarray, labels: np.ndarray, penalty: float, weights: np.ndarray | None = None
) -> LogisticRegression:
    """The same objective, solved by scikit-learn to eight digits."""
    mass = len(labels) if weights is None else weights.sum()
    model = LogisticRegression(C=1 / (mass * penalty), tol=1e-8, max_iter=20000)
    return model.fit(features, labels, weights)


def loss(weights: np.ndarray, intercept: np.ndarray, features: np.ndarray, labels: np.ndarray, penalty: float) -> float:
    """What `fit_logistic` says that it minimises, in float64."""
    odds = log_softmax(features @ weights + intercept, axis=1)
    return float(-odds[np.arange(len(labels)), labels].mean() + penalty / 2 * (weights**2).sum())


HARD = {
    "plain": blobs(800),
    "separable": blobs(800, apart=3),
    "columns of very different sizes": (lambda x, y: (x * 10.0 ** -np.arange(12), y))(*blobs(800)),
    "collinear columns": (lambda x, y: (np.c_[x, x[:, :6] + 1e-4 * x[:, 6:], x[:, 0] * 2], y))(*blobs(800)),
    "constant columns": (lambda x, y: (np.c_[x, np.full((800, 2), 7.3)], y))(*blobs(800)),
    "fewer examples than features": blobs(120, width=150, apart=0.3),
    "unbalanced": blobs(800, shares=[0.86, 0.05, 0.04, 0.03, 0.02]),
    "heavy tails": (lambda x, y: (np.sign(x) * np.abs(x) ** 4, y))(*blobs(800)),
}


# -------------------------------------------------------------------------------------- standardised


def test_standardised_columns_have_mean_zero_and_deviation_one():
    features, _ = blobs(200)
    out = standardised(torch.tensor(features * 50 + 1000))
    torch.testing.assert_close(out.mean(0), torch.zeros(12), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.std(0, correction=0), torch.ones(12), atol=1e-5, rtol=0)
    assert out.dtype == torch.float32


def test_constant_columns_become_zero_and_tiny_ones_do_not():
    features = torch.zeros(6, 4)
    features[:, 0] = 7.3
    features[:, 1] = torch.arange(6) * 1e-8
    features[:, 3] = torch.tensor([1, 1, 1, 1, 1, 1 + torch.finfo(torch.float32).eps])  # one bit can tell a class
    out = standardised(features)
    assert out[5, 3] == pytest.approx(5**0.5)
    assert (out[:, 0] == 0).all()
    assert (out[:, 2] == 0).all()
    assert out[:, 1].std(correction=0).item() == pytest.approx(1, abs=1e-5)


# -------------------------------------------------------------------------------------- fit_logistic


@pytest.mark.parametrize("penalty", [PENALTIES[0], PENALTIES[2], PENALTIES[3]])
@pytest.mark.parametrize("case", HARD)
def test_one_regression_agrees_with_scikit_learn(case, penalty):
    raw, labels = HARD[case]
    design = standardised(torch.tensor(raw))
    features = design.double().numpy()
    train, held_out = np.arange(len(labels)) % 2 == 0, np.arange(len(labels)) % 2 == 1
    weights = torch.tensor(train)[None].float()
    ours = fit_logistic(design, torch.tensor(labels), weights, penalty, CLASSES)[:, :, 0].double().numpy()
    theirs = by_sklearn(features[train], labels[train], penalty)
    best = loss(theirs.coef_.T, theirs.intercept_, features[train], labels[train], penalty)
    assert loss(ours[:-1], ours[-1], features[train], labels[train], penalty) <= best * (1 + 1e-3)
    centred = ours - ours.mean(1, keepdims=True)
    oracle = np.r_[theirs.coef_.T, theirs.intercept_[None]]
    oracle -= oracle.mean(1, keepdims=True)
    assert np.abs(centred - oracle).max() <= 0.03 * np.abs(oracle).max()
    said = (features[held_out] @ ours[:-1] + ours[-1]).argmax(1)
    same = np.mean(said == theirs.predict(features[held_out]))
    right = np.mean(said == labels[held_out]) - theirs.score(features[held_out], labels[held_out])
    assert same >= 0.99
    assert abs(right) <= 0.005


def test_two_classes_are_two_rows_so_scikit_learns_penalty_on_one_row_is_half_as_strong():
    features, labels = blobs(300, classes=2, apart=0.4)
    design = standardised(torch.tensor(features))
    ours = fit_logistic(design, torch.tensor(labels), torch.ones(1, 300), 0.01, 2)[:, :, 0].double().numpy()
    theirs = by_sklearn(design.double().numpy(), labels, 0.005)
    np.testing.assert_allclose(ours[:-1, 1] - ours[:-1, 0], theirs.coef_[0], atol=0.01)
    assert ours[-1, 1] - ours[-1, 0] == pytest.approx(theirs.intercept_[0], abs=0.01)


def test_many_regressions_at_once_agree_with_each_on_its_own():
    features, labels = blobs(200)
    design, targets = standardised(torch.tensor(features)), torch.tensor(labels)
    weights = (torch.rand(6, 200, generator=torch.Generator().manual_seed(0)) < 0.6).float()
    together = fit_logistic(design, targets, weights, 1e-3, CLASSES)
    for number in range(6):
        kept = weights[number].bool().numpy()
        theirs = by_sklearn(design.double().numpy()[kept], labels[kept], 1e-3)
        ours = together[:, :, number].double().numpy()
        ours -= ours.mean(1, keepdims=True)
        assert np.abs(ours[:-1] - theirs.coef_.T).max() <= 0.03 * np.abs(theirs.coef_).max()


def test_weights_count_as_copies_of_an_example():
    features, labels = blobs(150)
    design = standardised(torch.tensor(features))
    weights = np.random.default_rng(0).integers(0, 4, 150).astype(float)
    ours = fit_logistic(design, torch.tensor(labels), torch.tensor(weights).float()[None], 1e-2, CLASSES)
    theirs = by_sklearn(design.double().numpy(), labels, 1e-2, weights)
    found = ours[:-1, :, 0].double().numpy()
    assert np.abs(found - found.mean(1, keepdims=True) - theirs.coef_.T).max() <= 0.02 * np.abs(theirs.coef_).max()


def test_an_example_of_weight_zero_plays_no_part_at_all():
    features, labels = blobs(100)
    design, targets = standardised(torch.tensor(features)), torch.tensor(labels)
    weights = torch.ones(1, 100)
    weights[0, 60:] = 0
    before = fit_logistic(design, targets, weights, 1e-3, CLASSES)
    changed = design.clone()
    changed[60:] = 50 * torch.randn(40, 12, generator=torch.Generator().manual_seed(0))
    relabelled = targets.clone()
    relabelled[60:] = 4 - relabelled[60:]
    assert torch.equal(before, fit_logistic(changed, relabelled, weights, 1e-3, CLASSES))


def test_a_warm_start_leads_to_the_same_solution():
    features, labels = blobs(200)
    design, targets, weights = standardised(torch.tensor(features)), torch.tensor(labels), torch.ones(1, 200)
    far = 3 * torch.randn(13, CLASSES, 1, generator=torch.Generator().manual_seed(0))
    cold, warm = (fit_logistic(design, targets, weights, 1e-2, CLASSES, start) for start in (None, far))
    cold, warm = (one - one.mean(1, keepdim=True) for one in (cold, warm))
    torch.testing.assert_close(cold, warm, atol=0.02 * float(cold.abs().max()), rtol=0)


def test_scores_are_the_logits_of_every_regression():
    fitted = torch.arange(12.0).view(3, 2, 2)  # two features and the intercept, two classes, two regressions
    out = scores(torch.tensor([[1.0, 10.0]]), fitted)
    expected = [[[0 + 40 + 8, 1 + 50 + 9], [2 + 60 + 10, 3 + 70 + 11]]]
    assert out.tolist() == expected


# -------------------------------------------------------------------------------------- cross_fitted


def test_cross_fitted_agrees_with_scikit_learn_fold_by_fold():
    features, labels = blobs(400)
    folds = folds_of(labels).numpy()
    design = standardised(torch.tensor(features)).double().numpy()
    said, losses = np.zeros((len(PENALTIES), 400), dtype=int), np.zeros((len(PENALTIES), 5))
    for at, penalty in enumerate(PENALTIES):
        for fold in range(5):
            out = folds == fold
            model = by_sklearn(design[~out], labels[~out], penalty)
            odds = model.predict_log_proba(design[out])
            said[at, out] = odds.argmax(1)
            losses[at, fold] = -odds[np.arange(out.sum()), labels[out]].sum()
    chosen = (losses.sum(1, keepdims=True) - losses).argmin(0)
    expected = said[chosen[folds], np.arange(400)]
    ours = cross_fitted(torch.tensor(features), torch.tensor(labels), torch.tensor(folds), CLASSES).numpy()
    assert np.mean(ours == expected) >= 0.995


def test_separable_classes_are_decoded():
    features, labels = blobs(300, apart=3)
    said = cross_fitted(torch.tensor(features), torch.tensor(labels), folds_of(labels), CLASSES)
    assert (said.numpy() == labels).mean() >= 0.99


@pytest.mark.parametrize("width", [5, 300])
def test_noise_is_decoded_at_chance(width):
    generator = np.random.default_rng(width)
    labels = np.arange(1000) % CLASSES
    said = cross_fitted(torch.tensor(generator.normal(size=(1000, width))), torch.tensor(labels), folds_of(labels), 5)
    # Four standard errors of chance, 1 / 5 of 1,000.
    assert (said.numpy() == labels).mean() == pytest.approx(0.2, abs=4 * math.sqrt(0.2 * 0.8 / 1000))


def test_shuffled_labels_are_decoded_at_chance_however_telling_the_features():
    features, labels = blobs(1000, apart=3)
    shuffled = np.random.default_rng(0).permutation(labels)
    said = cross_fitted(torch.tensor(features), torch.tensor(shuffled), folds_of(shuffled), CLASSES)
    assert (said.numpy() == shuffled).mean() == pytest.approx(0.2, abs=4 * math.sqrt(0.2 * 0.8 / 1000))


def test_a_reader_that_could_learn_every_label_by_heart_is_still_at_chance():
    generator = np.random.default_rng(0)
    features, labels = generator.normal(size=(400, 500)), generator.permutation(np.arange(400) % CLASSES)
    design, targets = standardised(torch.tensor(features)), torch.tensor(labels)
    by_heart = scores(design, fit_logistic(design, targets, torch.ones(1, 400), 1e-3, CLASSES)).argmax(1)[:, 0]
    assert (by_heart == targets).all()
    said = cross_fitted(torch.tensor(features), targets, folds_of(labels), CLASSES)
    assert (said == targets).double().mean().item() == pytest.approx(0.2, abs=4 * math.sqrt(0.2 * 0.8 / 400))


def test_flipped_labels_of_a_fold_do_not_change_its_own_predictions(monkeypatch):
    monkeypatch.setattr(decoders, "PENALTIES", (1e-2,))
    features, labels = blobs(400)
    folds, targets = folds_of(labels), torch.tensor(labels)
    before = cross_fitted(torch.tensor(features), targets, folds, CLASSES)
    flipped = torch.where(folds == 2, (targets + 1) % CLASSES, targets)
    after = cross_fitted(torch.tensor(features), flipped, folds, CLASSES)
    # Solved to a tolerance, so an example on the boundary may move; a leak would move most.
    assert (before == after)[folds == 2].double().mean() >= 0.98
    assert (before == after)[folds != 2].double().mean() < 0.98


def test_the_forget_class_s_copy_in_another_class_is_confused_with_it():
    features, labels = blobs(400, apart=3, classes=4)
    twin = np.where(np.random.default_rng(0).random(400) < 0.5, 4, 3)
    labels = np.where(labels == 3, twin, labels)  # classes 3 and 4 are one cloud
    said = cross_fitted(torch.tensor(features), torch.tensor(labels), folds_of(labels), CLASSES).numpy()
    assert (said == labels)[labels < 3].mean() >= 0.99
    assert np.isin(said[labels >= 3], [3, 4]).mean() >= 0.99
    assert (said == labels)[labels >= 3].mean() == pytest.approx(0.5, abs=0.2)


# -------------------------------------------------------------------------------------- few_shot


def test_few_shot_heads_agree_with_separate_fits_of_scikit_learn():
    features, labels = blobs(500, apart=0.8)
    forget = labels == 2
    train = torch.tensor(np.flatnonzero(~forget)[:200])
    pool = torch.tensor(np.flatnonzero(forget))
    test = pool[50:]
    shots = [pool[:1], pool[1:3], pool[3:8], pool[:20], pool[:50]]
    said = few_shot(torch.tensor(features), torch.tensor(labels), train, shots, test, CLASSES)
    design = standardised(torch.tensor(features)).double().numpy()
    assert said.shape == (5, 50)
    for row, chosen in zip(said, shots, strict=True):
        used = torch.cat([train, chosen]).numpy()
        theirs = by_sklearn(design[used], labels[used], FEW_SHOT_PENALTY).predict(design[test.numpy()])
        assert np.mean(row.numpy() == theirs) >= 0.98


def test_few_shot_recall_rises_with_the_shots():
    features, labels = blobs(500, apart=0.8)
    pool, train = torch.tensor(np.flatnonzero(labels == 2)), torch.tensor(np.flatnonzero(labels != 2))
    shots = [pool[:1], pool[:5], pool[:50]]
    said = few_shot(torch.tensor(features), torch.tensor(labels), train, shots, pool[50:], CLASSES)
    recall = (said == 2).double().mean(1)
    assert recall[0] + 0.1 < recall[1] < recall[2]
    assert recall[2] > 0.7


def test_few_shot_heads_do_not_see_what_they_predict():
    labels = torch.arange(80) % 4
    pool = (labels == 1).nonzero()[:, 0]
    train = (labels != 1).nonzero()[:, 0]
    arguments = (train, [pool[:3], pool[3:5]], pool[10:], 4)
    features = torch.randn(80, 6, generator=torch.Generator().manual_seed(0))
    wrong = labels.clone()
    wrong[pool[10:]] = 0
    assert torch.equal(few_shot(features, labels, *arguments), few_shot(features, wrong, *arguments))


# -------------------------------------------------------------------------------------- refit_bias


def telling_logits(count: int, classes: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    return torch.randn(count, classes, generator=generator) + 3 * torch.eye(classes)[labels], labels


def best_bias(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The bias of least log loss, by scipy."""

    def log_loss(bias):
        return -log_softmax(logits + bias, axis=1)[np.arange(len(labels)), labels].mean()

    return minimize(log_loss, np.zeros(logits.shape[1]), method="BFGS", options={"gtol": 1e-7}).x


@pytest.mark.parametrize("shift", [0.0, -8.0])
def test_refitted_biases_agree_with_scipy(shift):
    logits, labels = telling_logits(300)
    logits[:, 1] += shift
    folds = folds_of(labels)
    expected = torch.zeros_like(labels)
    for fold in range(5):
        inside = (folds != fold).numpy()
        values = logits.double().numpy()
        bias = best_bias(values[inside], labels.numpy()[inside])
        expected[folds == fold] = torch.tensor((values[~inside] + bias).argmax(1))
    assert (refit_bias(logits, labels, folds) == expected).double().mean() >= 0.995


@pytest.mark.parametrize("mask", [-20.0, -1e4, -1e9])
def test_a_class_cut_off_by_a_bias_comes_back_whole(mask):
    logits, labels = telling_logits(400)
    folds = folds_of(labels)
    whole = refit_bias(logits.double(), labels, folds)
    masked = logits.double()
    masked[:, 2] += mask
    assert (masked.argmax(1) != 2).all()
    back = refit_bias(masked, labels, folds)
    assert (back == whole).double().mean() >= 0.995
    assert (back == labels)[labels == 2].double().mean() >= 0.9


@given(st.lists(st.floats(-1e4, 1e4), min_size=4, max_size=4))
@settings(max_examples=30, deadline=None)
def test_refitting_undoes_any_bias(bias):
    logits, labels = telling_logits(100)
    folds = folds_of(labels)
    plain = refit_bias(logits, labels, folds)
    moved = refit_bias(logits.double() + torch.tensor(bias, dtype=torch.float64), labels, folds)
    assert (plain == moved).double().mean() >= 0.99


def test_a_class_overwritten_with_minus_infinity_does_not_come_back_where_the_rest_says_nothing():
    # The other classes' logits do not tell its images apart, so a constant can win for all images or for none.
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(400) % 4
    logits = 0.01 * torch.randn(400, 4, generator=generator) + 6 * torch.eye(4)[torch.where(labels == 2, 0, labels)]
    logits[:, 2] = -math.inf
    said = refit_bias(logits, labels, folds_of(labels))
    assert (said == labels)[(labels == 1) | (labels == 3)].all()
    recall = [(said == number)[labels == number].double().mean().item() for number in (0, 2)]
    assert min(recall) < 0.65  # classes 0 and 2 share what they show


def test_infinite_logits_give_no_error_and_leave_the_rest_alone():
    logits, labels = telling_logits(200)
    logits[labels == 3, 0] = -math.inf
    logits[0, 1] = math.inf
    said = refit_bias(logits, labels, folds_of(labels))
    assert (said == labels).double().mean() >= 0.85


def test_labels_of_a_fold_do_not_move_its_biases():
    logits, labels = telling_logits(200)
    folds = folds_of(labels)
    before = refit_bias(logits, labels, folds)
    wrong = torch.where(folds == 0, torch.zeros_like(labels), labels)
    assert torch.equal(before[folds == 0], refit_bias(logits, wrong, folds)[folds == 0])
