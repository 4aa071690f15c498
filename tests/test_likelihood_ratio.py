"""RMIA, LiRA and U-LiRA: against formulas written out, scipy's normal distribution, and planted members."""

import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression

from rasura import InputError
from rasura.auditing import likelihood_ratio
from rasura.auditing.likelihood_ratio import lira, rmia, u_lira
from rasura.auditing.membership import auc


def area(score: np.ndarray, members: np.ndarray) -> float:
    return auc(score[members], score[~members])


def logistic(odds: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-odds))


# -------------------------------------------------------------------------------------- RMIA


@given(st.integers(0, 1000), st.floats(0, 1))
def test_rmia_is_the_likelihood_beside_models_halfway_between_those_with_and_without_the_example(seed, a):
    generator = np.random.default_rng(seed)
    target, references = generator.random(12), generator.random((3, 12))
    without = references.mean(0)
    expected = target / ((without + a * without + (1 - a)) / 2)
    assert rmia(target, references, a) == pytest.approx(expected)


def test_rmia_by_hand():
    # r = 0.65 · 0.4 + 0.35 = 0.61
    assert rmia(np.array([0.9]), np.array([[0.3], [0.5]])) == pytest.approx([0.9 / 0.61])


def test_rmia_finds_what_a_loss_threshold_cannot():
    """Easy and hard examples, and members that every model finds a little easier than it otherwise would."""
    generator = np.random.default_rng(0)
    hard, members = generator.normal(0, 2.5, 1500), np.arange(1500) < 500
    target = logistic(hard + generator.normal(0, 0.5, 1500) + 1.5 * members)
    references = logistic(hard + generator.normal(0, 0.5, (4, 1500)))
    assert area(target, members) < 0.7
    assert area(rmia(target, references), members) > 0.75
    assert area(rmia(target, references, a=1.0), members) > 0.85
    odds = np.log(target / (1 - target)), np.log(references / (1 - references))
    assert area(lira(odds[0], odds[1]), members) > 0.9


def test_rmia_is_by_chance_where_the_target_is_one_more_reference():
    generator = np.random.default_rng(1)
    hard, members = generator.normal(0, 2.5, 3000), np.arange(3000) % 2 == 0
    models = logistic(hard + generator.normal(0, 0.5, (4, 3000)))
    assert area(rmia(models[0], models[1:]), members) == pytest.approx(0.5, abs=0.035)


def test_rmia_scores_masked_examples_alike():
    score = rmia(np.zeros(4), np.zeros((2, 4)), a=1.0)
    assert len(set(score.tolist())) == 1


@pytest.mark.parametrize("unsure", [0, 1, 3])
def test_one_example_that_a_net_is_unsure_of_does_not_decide_how_rmia_ranks_all_others(unsure):
    """Wrong labels that no honest net names, beside unseen examples that it is sure of, but for a few."""
    members, others = np.full(60, 1e-5), np.full(60, 0.999)
    others[:unsure] = 0.01
    references = np.full((3, 120), 0.999)
    references[:, :60] = 1e-5
    score = rmia(np.concatenate([members, others]), references)
    assert area(score, np.arange(120) < 60) < 0.06


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"a": 1.5}, "a: "),
        ({"target_probability": np.array([0.5, 1.5])}, "probabilities: "),
        ({"target_probability": np.array([0.5, np.nan])}, "probabilities: "),
        ({"reference_probabilities": np.zeros((2, 3))}, "reference_probabilities: "),
        ({"reference_probabilities": np.zeros((0, 2))}, "reference_probabilities: "),
    ],
)
def test_rmia_refuses_what_are_no_probabilities(changed, message):
    arguments = {"target_probability": np.full(2, 0.5), "reference_probabilities": np.full((1, 2), 0.5)}
    with pytest.raises(InputError, match=f"^{message}"):
        rmia(**arguments | changed)


# -------------------------------------------------------------------------------------- U-LiRA and LiRA


def test_u_lira_is_the_ratio_of_two_normal_densities():
    generator = np.random.default_rng(0)
    target = generator.normal(0, 2, 5)
    unlearned, never = generator.normal(1, 1, (6, 5)), generator.normal(0, 0.5, (4, 5))

    def log_density(rows):
        own = rows.var(0, ddof=1)
        variance = (4 * own.mean() + (len(rows) - 1) * own) / (len(rows) + 3)
        return norm.logpdf(target, rows.mean(0), np.sqrt(variance * (1 + 1 / len(rows))))

    assert u_lira(target, unlearned, never) == pytest.approx(log_density(unlearned) - log_density(never))


def test_with_many_shadow_models_it_is_the_usual_attack():
    generator = np.random.default_rng(1)
    target, scales = np.linspace(-2, 3, 8), np.linspace(0.5, 2, 8)
    unlearned = generator.normal(1, scales, (20_000, 8))
    never = generator.normal(0, scales, (20_000, 8))
    expected = norm.logpdf(target, 1, scales) - norm.logpdf(target, 0, scales)
    assert u_lira(target, unlearned, never) == pytest.approx(expected, abs=0.15)
    assert norm.cdf(lira(target, never)) == pytest.approx(norm.cdf(target, 0, scales), abs=0.01)


def test_shadow_models_that_do_not_count_are_left_out():
    generator = np.random.default_rng(2)
    target, unlearned, never = generator.normal(0, 1, 3), generator.normal(0, 1, (5, 3)), generator.normal(0, 1, (5, 3))
    more = np.vstack([unlearned[:2], np.full((4, 3), np.nan), unlearned[2:]])
    assert u_lira(target, more, never) == pytest.approx(u_lira(target, unlearned, never))


def test_u_lira_scores_the_target_and_no_shadow_model():
    generator = np.random.default_rng(3)
    unlearned, never = generator.normal(1, 1, (6, 40)), generator.normal(0, 1, (6, 40))
    target = generator.normal(0, 1, 40)
    found = u_lira(target, unlearned, never)
    # The order of shadow models says nothing; what the target says decides, and does so for its own example only.
    assert u_lira(target, unlearned[::-1], never[::-1]) == pytest.approx(found)
    assert u_lira(target, never, unlearned) == pytest.approx(-found)
    changed = u_lira(np.where(np.arange(40) == 7, target + 1, target), unlearned, never)
    assert np.flatnonzero(~np.isclose(changed, found)).tolist() == [7]


@pytest.mark.parametrize("attack", ["u_lira", "lira"])
def test_shadow_models_that_say_too_little_are_refused(attack):
    target, good = np.zeros(3), np.random.default_rng(0).normal(0, 1, (3, 3))
    call = {"u_lira": lambda t, rows: u_lira(t, good, rows), "lira": lira}[attack]
    lonely = good.copy()
    lonely[:2, 1] = np.nan
    for values, rows in (
        (target, good[:1]),
        (target, lonely),
        (target, np.where(good > 0, np.inf, good)),
        (target, good[:, :2]),
        (target, good[0]),
    ):
        with pytest.raises(InputError, match=r"^never: "):
            call(values, rows)
    with pytest.raises(InputError, match=r"^target: "):
        call(np.full(3, np.inf), good)


def test_zeros_and_ones_are_no_confidences():
    right = np.array([[1.0, 0, 1], [0, 1, 1], [1, 1, np.nan]])
    for call in (lambda: lira(np.ones(3), right), lambda: u_lira(np.ones(3), right + 0.5, right)):
        with pytest.raises(InputError, match=r"^never: 0/1"):
            call()


def test_shadow_models_that_all_agree_leave_finite_scores():
    same = np.tile([0.5, 1.5], (3, 1))
    assert lira(np.array([0.5, 2.5]), same) == pytest.approx([0, 1 / (1e-3 * np.sqrt(4 / 3))])


# ------------------------------------------------------------------------ planted partial unlearning

POOL, RETAIN, WIDTH, SHADOWS = 200, 100, 200, 24


def fitted(inputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return LogisticRegression(max_iter=500).fit(inputs, labels).coef_[0]


def attacked(left: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """What u_lira takes, of models that each unlearn another half of a pool, and the half that the target unlearned.

    Labels are random, so a model knows an example from memory alone. `left` is what unlearning leaves: its weights are
    that share of the original's, the rest a retrained model's.
    """
    generator = np.random.default_rng(0)
    inputs, labels = generator.normal(0, 1, (POOL + RETAIN, WIDTH)), np.where(np.arange(POOL + RETAIN) % 2, 1, -1)
    said, halves = [], []
    for _ in range(1 + SHADOWS):
        half = generator.permutation(np.arange(POOL) % 2 == 0)
        retain = POOL + np.flatnonzero(generator.random(RETAIN) < 0.9)
        both = np.r_[np.flatnonzero(half), retain]
        weights = left * fitted(inputs[both], labels[both]) + (1 - left) * fitted(inputs[retain], labels[retain])
        said.append(inputs[:POOL] @ weights * labels[:POOL])
        halves.append(half)
    shadows, of_shadows = np.array(said[1:]), np.array(halves[1:])
    return said[0], np.where(of_shadows, shadows, np.nan), np.where(of_shadows, np.nan, shadows), halves[0]


def test_u_lira_detects_partial_unlearning_that_the_loss_hardly_shows():
    target, unlearned, never, members = attacked(0.3)
    assert area(target, members) < 0.65
    assert area(u_lira(target, unlearned, never), members) > 0.73
    assert area(lira(target, never), members) > 0.73


def test_u_lira_finds_nothing_where_unlearning_is_retraining():
    target, unlearned, never, members = attacked(0.0)
    assert area(u_lira(target, unlearned, never), members) == pytest.approx(0.5, abs=0.1)


def test_examples_in_docstrings_are_true():
    assert doctest.testmod(likelihood_ratio).failed == 0
