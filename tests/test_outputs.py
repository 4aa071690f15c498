"""Scores of a model's answers: against hand-computed values, scikit-learn and SciPy, and planted truths."""

import doctest
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy
from sklearn.metrics import roc_auc_score

from rasura.auditing import outputs
from rasura.auditing.membership import auc
from rasura.auditing.outputs import (
    bias_scores,
    effective_bias,
    expected_calibration_error,
    forget_log_odds,
    jensen_shannon,
    klom,
    margins,
    selectivity,
)
from rasura.errors import InputError

INFINITE = math.inf


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def classifier(count: int = 600, classes: int = 4, sure: float = 3.0, seed: int = 0):
    """Labels and the logits of a model that knows every class."""
    labels = torch.arange(count) % classes
    return labels, normal(count, classes, seed=seed) + sure * torch.eye(classes, dtype=torch.float64)[labels]


# -------------------------------------------------------------------------------------- calibration


def calibration_error(probability: np.ndarray, labels: np.ndarray, bins: int) -> float:
    """Bin by bin, as Guo et al. write it."""
    confidence, right = probability.max(1), probability.argmax(1) == labels
    total = 0.0
    for number in range(bins):
        inside = (confidence > number / bins) & (confidence <= (number + 1) / bins)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return total


def calibrated(logits: torch.Tensor, labels: torch.Tensor, bins: int = 15) -> float:
    confidence, said = logits.double().softmax(1).max(1)
    return expected_calibration_error(confidence.numpy(), (said == labels).numpy(), bins)


def forget_logit_auroc(logits: torch.Tensor, mask: torch.Tensor, forgets: Sequence[int]) -> float:
    odds = forget_log_odds(logits, forgets).numpy()
    return auc(odds[mask.numpy()], odds[~mask.numpy()])


def test_calibration_error_by_hand():
    # Confidences 0.9, 0.8, 0.6, 0.6; right, wrong, right, wrong. Two bins: all in the upper one, 0.5 against 0.725.
    probability = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.4, 0.6]], dtype=torch.float64)
    labels = torch.tensor([0, 1, 1, 0])
    assert calibrated(probability.log(), labels, 2) == pytest.approx(0.225)
    # Five bins: 0.9 alone (gap 0.1), 0.8 alone at its bin's upper edge (0.8), and 0.6 likewise with half of two (0.1).
    assert calibrated(probability.log() + 3, labels, 5) == pytest.approx((0.1 + 0.8 + 2 * 0.1) / 4)


@pytest.mark.parametrize("bins", [1, 7, 15, 100])
def test_calibration_error_agrees_with_its_definition(bins):
    labels, logits = classifier(sure=1.5)
    expected = calibration_error(logits.softmax(1).numpy(), labels.numpy(), bins)
    assert calibrated(logits, labels, bins) == pytest.approx(expected, abs=1e-12)


def test_a_model_that_draws_its_answers_is_calibrated_and_an_overconfident_one_is_not():
    logits = 1.5 * normal(20_000, 5)
    labels = torch.multinomial(logits.softmax(1), 1, generator=torch.Generator().manual_seed(1))[:, 0]
    assert calibrated(logits, labels) < 0.015
    assert calibrated(5 * logits, labels) > 0.2


def test_calibration_error_has_both_ends():
    sure = torch.tensor([[-INFINITE, 0.0, -INFINITE]] * 4)
    assert calibrated(sure, torch.tensor([1] * 4)) == 0
    assert calibrated(sure, torch.tensor([0] * 4)) == 1
    with pytest.raises(InputError, match="bins: 0; allowed: 1 or more"):
        calibrated(sure, torch.tensor([1] * 4), 0)


# -------------------------------------------------------------------------------------- forget logits


@pytest.mark.parametrize("forgets", [(0,), (1, 3), (0, 1, 2)])
def test_auroc_agrees_with_scikit_learn(forgets):
    labels, logits = classifier(sure=1.0)
    mask = torch.isin(labels, torch.tensor(forgets))
    chance = logits.softmax(1)[:, list(forgets)].sum(1)  # log-odds rank as the probability of the forget classes does
    found = forget_logit_auroc(logits.float(), mask, forgets)
    assert found == pytest.approx(roc_auc_score(mask.numpy(), chance.numpy()), abs=1e-4)
    shifted = forget_logit_auroc(logits + normal(len(labels), 1, seed=5), mask, forgets)
    assert shifted == pytest.approx(forget_logit_auroc(logits, mask, forgets), abs=1e-12)


def test_auroc_by_hand_with_ties():
    # Log-odds: forget 1 and 0; retained 0, −1: of four pairs three are won and one is tied.
    logits = torch.tensor([[1.0, 0], [0, 0], [2, 2], [0, 1]])
    assert forget_logit_auroc(logits, torch.tensor([True, True, False, False]), [0]) == 3.5 / 4


def test_auroc_sees_a_class_below_a_shifted_bias_and_not_behind_a_mask():
    labels, logits = classifier(sure=6.0)
    mask = labels == 2
    known = forget_logit_auroc(logits, mask, [2])
    shifted, masked, huge = logits.clone(), logits.clone(), logits.clone()
    shifted[:, 2] -= 50
    masked[:, 2] = -INFINITE
    huge[:, 2] = -1e9
    assert not (shifted.argmax(1) == 2).any()
    assert known > 0.99
    assert forget_logit_auroc(shifted, mask, [2]) == pytest.approx(known)
    assert forget_logit_auroc(masked, mask, [2]) == 0.5
    # What a huge finite mask leaves is how sure the model is of the others: less so of forget examples.
    assert forget_logit_auroc(huge, mask, [2]) > 0.9


def test_auroc_of_partly_masked_classes_is_that_of_the_others():
    labels, logits = classifier(sure=2.0)
    mask = labels < 2
    logits[:, 0] = -INFINITE
    assert forget_logit_auroc(logits, mask, [0, 1]) == pytest.approx(forget_logit_auroc(logits[:, 1:], mask, [0]))
    logits[:, 2:] = -INFINITE  # certain of a forget class, everywhere
    assert forget_logit_auroc(logits, mask, [0, 1]) == 0.5


def test_auroc_tells_pushed_down_from_not_told_apart():
    labels, logits = classifier(sure=0.0)
    mask = labels == 1
    assert forget_logit_auroc(logits, mask, [1]) == pytest.approx(0.5, abs=0.08)
    logits[mask, 1] -= 10
    assert forget_logit_auroc(logits, mask, [1]) < 0.01


# -------------------------------------------------------------------------------------- biases


def test_effective_bias_is_the_mean_logit_on_retained_examples():
    head = torch.nn.Linear(6, 4)
    with torch.no_grad():
        retained = normal(200, 6).float() + 2
        expected = head(retained).double().mean(0)
        found = effective_bias(head.weight, head.bias, retained.mean(0))
        assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-5)
        without = effective_bias(head.weight, None, retained.mean(0))
        assert (found - without).tolist() == pytest.approx(head.bias.tolist(), abs=1e-6)


def test_effective_bias_is_the_same_however_a_shift_is_split_between_features_and_biases():
    weight, bias, mean, shift = normal(4, 6), normal(4, seed=1), normal(6, seed=2), normal(6, seed=3)
    moved = effective_bias(weight, bias - weight @ shift, mean + shift)
    assert moved.tolist() == pytest.approx(effective_bias(weight, bias, mean).tolist())


def test_bias_scores_by_hand():
    # Forget −3, −1, 1: mean −1, median −1, least −3. Retained 1, 3: mean 2, least 1.
    found = bias_scores(torch.tensor([-3.0, 1, -1, 3, 1]), [0, 2, 4])
    assert found.stability_coefficient == pytest.approx(1 / 4)
    assert found.median_gap == pytest.approx(sigmoid(-2))
    assert found.minimal_score == pytest.approx(sigmoid(-4))
    # An even number of forget classes: the median lies between.
    assert bias_scores(torch.tensor([0.0, 2, 1, 1]), [0, 1]).median_gap == pytest.approx(0.5)


def test_bias_scores_expose_a_shifted_bias_wherever_it_was_put():
    weight, bias, mean = normal(10, 8) / 4, normal(10, seed=1) / 4, 2 + normal(8, seed=2)
    honest = bias_scores(effective_bias(weight, bias, mean), [3])
    lowered = bias.clone()
    lowered[3] -= 20
    tilted = weight.clone()
    tilted[3] -= 20 * mean / (mean @ mean)
    for changed in (effective_bias(weight, lowered, mean), effective_bias(tilted, bias, mean)):
        found = bias_scores(changed, [3])
        assert found.stability_coefficient < 0.1 < honest.stability_coefficient
        assert found.median_gap == found.minimal_score < 0.001 < honest.median_gap
    # The head's own biases show the second one nothing.
    assert bias_scores(bias, [3]).minimal_score > 0.3
    assert bias_scores(lowered, [3]).minimal_score < 0.001


def test_a_bias_of_minus_infinity_is_the_end_of_every_score():
    found = bias_scores(torch.tensor([-INFINITE, 0, 1]), [0])
    assert (found.stability_coefficient, found.median_gap, found.minimal_score) == (0, 0, 0)


@given(st.lists(st.floats(-10, 10), min_size=3, max_size=8), st.floats(-5, 5))
def test_bias_scores_depend_on_gaps_only(biases, shift):
    here = bias_scores(torch.tensor(biases, dtype=torch.float64), [0, 1])
    there = bias_scores(torch.tensor(biases, dtype=torch.float64) + shift, [1, 0])
    for name in ("stability_coefficient", "median_gap", "minimal_score"):
        assert 0 <= getattr(here, name) <= 1
        assert getattr(here, name) == pytest.approx(getattr(there, name), abs=1e-9)
    assert here.minimal_score <= here.median_gap + 1e-12


# -------------------------------------------------------------------------------------- distributions


def test_jensen_shannon_by_hand_in_bits():
    assert jensen_shannon(np.array([1.0, 0, 0]), np.array([0.0, 0.5, 0.5])) == pytest.approx(1)
    # p = (1, 0), q = (½, ½), m = (¾, ¼): ½ log₂ 4/3 + ½ (½ log₂ 2/3 + ½ log₂ 2).
    expected = math.log2(4 / 3) / 2 + (math.log2(2 / 3) + 1) / 4
    assert jensen_shannon(np.array([1.0, 0]), np.array([0.5, 0.5])) == pytest.approx(expected)


shares = st.lists(st.integers(0, 999), min_size=5, max_size=5).filter(any).map(lambda row: np.array(row) / sum(row))


@given(shares, shares)
def test_jensen_shannon_is_the_square_of_scipys_distance(one, two):
    found = jensen_shannon(one, two)
    assert 0 <= found <= 1 + 1e-12
    assert found == pytest.approx(jensen_shannon(two, one), abs=1e-12)
    assert found == pytest.approx(np.nan_to_num(jensenshannon(one, two, base=2)) ** 2, abs=1e-9)
    assert jensen_shannon(one, one) == 0


def test_jensen_shannon_takes_distributions_only():
    for wrong in ([3.0, 5], [1.5, -0.5], [math.nan, 1]):
        with pytest.raises(AssertionError):
            jensen_shannon(np.array(wrong), np.array([0.5, 0.5]))


def test_selectivity_of_known_cases():
    assert selectivity(0.9, 0.92, 0.0, 0.92) == pytest.approx(0.9)  # the class only
    assert selectivity(0.9, 0.92, 0.9, 0.92) == 0  # untouched
    assert selectivity(0.9, 0.9, 0.1, 0.1) == pytest.approx(0)  # collapsed
    assert selectivity(0.9, 0.9, 0.9, 0.5) == pytest.approx(-0.4)  # the wrong part


# -------------------------------------------------------------------------------------- KLoM


def test_margins_are_the_log_odds_of_the_true_class():
    labels, logits = classifier()
    odds = logits.softmax(1)[torch.arange(len(labels)), labels]
    assert margins(logits, labels).tolist() == pytest.approx((odds / (1 - odds)).log().tolist())
    masked = torch.tensor([[-INFINITE, 1, 2]] * 2)
    assert margins(masked, torch.tensor([0, 2])).tolist() == pytest.approx([-INFINITE, 1])


def klom_of_one(model: np.ndarray, reference: np.ndarray) -> float:
    """One example, with NumPy's histogram and SciPy's relative entropy."""
    model, reference = np.clip(model, -100, 100), np.clip(reference, -100, 100)
    span = (min(model.min(), reference.min()), max(model.max(), reference.max()))
    p, q = (np.histogram(side, bins=20, range=span)[0] / len(side) for side in (model, reference))
    return float(entropy(p, np.maximum(q, 1e-5)))


@pytest.mark.parametrize(
    ("models", "references", "apart"), [(1, 3, 0.0), (40, 60, 0.5), (100, 100, 0.0), (30, 30, 9.0)]
)
def test_klom_agrees_with_numpy_and_scipy(models, references, apart):
    model, reference = 30 * normal(models, 25) + apart * 30, 30 * normal(references, 25, seed=1)
    expected = [klom_of_one(model[:, one].numpy(), reference[:, one].numpy()) for one in range(25)]
    assert klom(model, reference).tolist() == pytest.approx(expected, abs=1e-9)


def test_klom_by_hand():
    # Range 0..20, so each bin is 1 wide. Model: half at 0.5, half at 20; references: three quarters and one quarter.
    model = torch.tensor([[0.5], [20.0]])
    reference = torch.tensor([[0.0], [0.5], [0.5], [20.0]])
    assert klom(model, reference).item() == pytest.approx(math.log(0.5 / 0.75) / 2 + math.log(0.5 / 0.25) / 2, abs=1e-3)


def test_klom_has_both_ends():
    reference = normal(50, 3)
    # The same models: nothing but the least share that empty bins get.
    assert float(klom(reference, reference).max()) < 1e-3
    assert klom(torch.full((50, 3), 50.0), reference).tolist() == pytest.approx([math.log(1e5)] * 3, abs=1e-3)
    assert klom(torch.full((4, 2), 3.0), torch.full((5, 2), 3.0)).tolist() == pytest.approx([0, 0], abs=1e-3)
    masked = torch.full((4, 3), -INFINITE)
    assert klom(masked, reference).tolist() == pytest.approx([math.log(1e5)] * 3, abs=1e-3)
    assert klom(masked, masked).tolist() == pytest.approx([0] * 3, abs=1e-3)


def test_klom_is_smaller_for_retrained_models_than_for_originals():
    reference, retrained, original = normal(100, 40), normal(100, 40, seed=1), normal(100, 40, seed=2) + 3
    assert float(klom(retrained, reference).mean()) < 0.6
    assert float(klom(original, reference).mean()) > 3
    # With few models even one that is drawn alike looks far off.
    assert float(klom(retrained[:1], reference[:5]).mean()) > 6


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 6))
def test_klom_stays_in_its_range_and_knows_no_order(seed, models, references):
    model, reference = normal(models, 4, seed=seed), normal(references, 4, seed=seed + 1).round()
    found = klom(model, reference)
    assert float(found.min()) >= 0 and float(found.max()) <= 11.52
    assert torch.equal(found, klom(model.flip(0), reference.flip(0)))


def test_examples_in_the_docstrings_hold():
    assert doctest.testmod(outputs).failed == 0
