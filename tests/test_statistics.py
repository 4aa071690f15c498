"""The statistics behind a verdict: intervals, the paired hierarchical bootstrap, margins."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rasura.auditing.statistics import (
    TAILS,
    Estimate,
    chance,
    detection_margin,
    equivalence_margin,
    examples_needed,
    excess,
    moderated,
    resolved,
    spread,
    summary,
    total_variation,
    wilson,
)

Z = 1.959963984540054
"""The 97.5 % point of the normal distribution (any table)."""
T = {
    1: 12.706204736432095,
    2: 4.302652729911275,
    3: 3.182446305284263,
    4: 2.7764451051977987,
    6: 2.4469118511449692,
    39: 2.022690920036762,
}
"""97.5 % points of Student's t by degrees of freedom (any table)."""


def answers(shares: np.ndarray | float, size: tuple[int, ...] | int, seed: int) -> np.ndarray:
    """Right (1) or wrong (0), each with the given probability."""
    return (np.random.default_rng(seed).random(size) < shares).astype(float)


# -------------------------------------------------------------------------------------- Wilson


@pytest.mark.parametrize(("right", "of"), [(0, 1), (1, 1), (0, 50), (3, 50), (25, 50), (50, 50), (997, 1000)])
def test_wilson_is_the_score_interval_in_closed_form(right, of):
    share = right / of
    centre = (share + Z**2 / (2 * of)) / (1 + Z**2 / of)
    half = Z / (1 + Z**2 / of) * math.sqrt(share * (1 - share) / of + Z**2 / (4 * of**2))
    found = wilson(right, of)
    assert found.point == share
    assert found.low == pytest.approx(centre - half, abs=1e-9)
    assert found.high == pytest.approx(centre + half, abs=1e-9)


def test_wilson_agrees_with_a_published_example():
    # Newcombe (1998), table I, method 3: 81 of 263 gives 0.2553 to 0.3662; 0 of 20 gives 0.0000 to 0.1611.
    assert (wilson(81, 263).low, wilson(81, 263).high) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert (wilson(0, 20).low, wilson(0, 20).high) == pytest.approx((0.0, 0.1611), abs=5e-5)


@given(st.integers(1, 2000).flatmap(lambda of: st.tuples(st.integers(0, of), st.just(of))))
def test_wilson_holds_its_point_and_stays_among_shares(case):
    found = wilson(*case)
    assert 0 <= found.low <= found.point <= found.high <= 1
    assert found.low < found.high


def test_an_estimate_is_written_with_five_decimals():
    assert Estimate(1 / 3, 0.1234567, 1).to_json() == {"point": 0.33333, "low": 0.12346, "high": 1}


# -------------------------------------------------------------------------------------- the bootstrap


def test_excess_is_the_difference_of_means():
    model, references = np.array([1.0, 1, 0, 1]), np.array([[1.0, 0, 0, 0], [0, 0, 0, 0]])
    assert excess(model, references, 100, 0).point == pytest.approx(0.75 - 0.125)


def test_interval_of_examples_alone_agrees_with_the_normal_approximation():
    model, reference = answers(0.7, 2000, 1), answers(0.5, 2000, 2)
    found = excess(model, reference[None], 8000, 0, prior=0)
    error = Z * (model - reference).std() / math.sqrt(2000)
    assert found.low == pytest.approx(found.point - error, abs=0.05 * error)
    assert found.high == pytest.approx(found.point + error, abs=0.05 * error)


def test_interval_of_references_alone_agrees_with_the_normal_approximation():
    # All examples alike: only the choice of references moves the difference.
    levels = np.random.default_rng(0).normal(0.5, 0.1, 40)
    found = excess(np.full(10, 0.6), np.repeat(levels[:, None], 10, 1), 8000, 0)
    error = T[39] * levels.std(ddof=1) / math.sqrt(40)
    assert found.point == pytest.approx(0.6 - levels.mean())
    assert (found.high - found.low) / 2 == pytest.approx(error, rel=0.05)


def test_both_sources_of_chance_add_up_in_the_interval():
    hard = np.random.default_rng(3).random(400)
    levels = np.linspace(-0.1, 0.1, 20)
    model, references = np.full(400, 0.5), np.clip(hard[None] + levels[:, None], 0, 1)
    found = excess(model, references, 8000, 0)
    of_examples = (model - references.mean(0)).var() / 400
    of_references = references.mean(1).var() / 20
    assert (found.high - found.low) / 2 == pytest.approx(Z * math.sqrt(of_examples + of_references), rel=0.06)


def test_a_model_with_its_references_answers_has_an_interval_of_no_width():
    same = answers(0.5, 60, 0)
    for count in (1, 3):
        found = excess(same, np.stack([same] * count), 500, 0, prior=0)
        assert (found.point, found.low, found.high) == pytest.approx((0, 0, 0), abs=1e-12)


def test_a_constant_difference_has_an_interval_of_no_width():
    found = excess(np.full(50, 0.8), np.full((1, 50), 0.3), 500, 0, prior=0)
    assert (found.point, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5), abs=1e-6)


def test_pairing_takes_out_what_all_models_find_hard():
    hard = answers(0.5, 300, 0)
    model = np.where(np.arange(300) < 3, 1 - hard, hard)
    paired = excess(model, hard[None], 2000, 0, prior=0)
    apart = excess(model, np.random.default_rng(0).permutation(hard)[None], 2000, 0, prior=0)
    assert paired.high - paired.low < (apart.high - apart.low) / 3


def test_one_reference_gives_the_interval_of_a_paired_bootstrap_over_examples():
    model, reference = answers(0.6, 40, 1), answers(0.4, 40, 2)
    found = excess(model, reference[None], 20000, 0, prior=0)
    # The difference takes −1, 0, 1, so its bootstrap mean is a multinomial's: simulated here without the library.
    counts = np.random.default_rng(9).multinomial(40, [np.mean(model - reference == d) for d in (-1, 0, 1)], 20000)
    low, high = np.quantile((counts[:, 2] - counts[:, 0]) / 40, [0.025, 0.975])
    assert found.low == pytest.approx(low, abs=0.026)  # one step of the distribution is 1 / 40
    assert found.high == pytest.approx(high, abs=0.026)


def coverage(references: int, examples: int, scatter: float, trials: int = 300) -> float:
    """How often the interval holds the true excess, where references and examples are both drawn anew.

    Every example has a difficulty and every reference a level; the share of right answers is their logistic.
    """
    generator = np.random.default_rng(references + examples)

    def chance(logit):
        return 1 / (1 + np.exp(-logit))

    many = generator.normal(0, 1.5, 4000)
    levels = generator.normal(0, scatter, 1000)
    truth = chance(many + 0.3).mean() - np.mean([chance(many + level).mean() for level in levels])
    held = 0
    for trial in range(trials):
        hard, level = generator.normal(0, 1.5, examples), generator.normal(0, scatter, (references, 1))
        model = (generator.random(examples) < chance(hard + 0.3)).astype(float)
        others = (generator.random((references, examples)) < chance(hard + level)).astype(float)
        found = excess(model, others, 500, trial % 4)
        held += found.low <= truth <= found.high
    return held / trials


@pytest.mark.parametrize(
    ("references", "examples", "scatter"), [(1, 200, 0.0), (5, 60, 0.3), (5, 200, 0.0), (20, 200, 0.5)]
)
def test_interval_covers_the_truth_as_often_as_it_says(references, examples, scatter):
    # 300 trials: three standard errors of a true 95 % are 3.8 points.
    assert coverage(references, examples, scatter) >= 0.95 - 0.038


def test_interval_covers_the_truth_with_three_references_that_scatter():
    assert coverage(3, 600, 0.5) >= 0.95 - 0.038


@given(st.integers(0, 1000), st.integers(1, 6), st.integers(2, 40))
@settings(max_examples=40, deadline=None)
def test_excess_holds_its_point_and_shifts_with_the_model(seed, references, examples):
    generator = np.random.default_rng(seed)
    model, others = generator.random(examples), generator.random((references, examples))
    found = excess(model, others, 400, seed)
    assert found.low - 1e-12 <= found.point <= found.high + 1e-12
    shifted = excess(model + 0.25, others, 400, seed)
    for name in ("point", "low", "high"):
        assert getattr(shifted, name) == pytest.approx(getattr(found, name) + 0.25, abs=1e-6)
    both = excess(model + 0.25, others + 0.25, 400, seed)
    assert (both.low, both.high) == pytest.approx((found.low, found.high), abs=1e-6)


def test_swapping_sides_mirrors_the_interval():
    model, reference = answers(0.7, 80, 1), answers(0.4, 80, 2)
    there, back = (excess(*pair, 2000, 5, prior=0) for pair in ((model, reference[None]), (reference, model[None])))
    assert (there.point, there.low, there.high) == pytest.approx((-back.point, -back.high, -back.low), abs=1e-6)


def test_the_order_of_examples_does_not_move_the_point():
    model, references = answers(0.7, 80, 1), answers(0.4, (3, 80), 2)
    order = np.random.default_rng(0).permutation(80)
    assert excess(model, references, 200, 0).point == pytest.approx(
        excess(model[order], references[:, order], 200, 0).point
    )


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    model, references = answers(0.7, 200, 1), answers(0.4, (3, 200), 2)
    first = excess(model, references, 300, 7)
    excess(model[:50], references[:, :50], 300, 7)  # other sizes between, as an audit has
    assert excess(model, references, 300, 7) == first
    assert excess(model, references, 300, 8) != first


# -------------------------------------------------------------------------------------- margins


def test_spread_divides_by_one_less_than_the_count():
    assert spread([0.1, 0.3]) == pytest.approx(math.sqrt(0.02))
    assert spread([0.4]) == 0
    assert spread([0.4, 0.4, 0.4]) == pytest.approx(0)


def test_a_single_reference_gets_the_scatter_that_is_expected():
    same = answers(0.5, 60, 0)
    found = excess(same, same[None], 20000, 0, prior=0.1)
    assert (found.high - found.low) / 2 == pytest.approx(T[4] * 0.1, rel=0.03)


def test_the_moderated_spread_lies_between_the_expected_and_the_measured_one():
    # s² = (4 · prior² + (J − 1) · SD²) / (J + 3): by hand for three scores with SD 0.1.
    assert moderated([0.30, 0.40, 0.50], prior=0.04) == (pytest.approx(math.sqrt((4 * 0.0016 + 2 * 0.01) / 6)), 6)
    assert moderated([0.4], prior=0.04) == (pytest.approx(0.04), 4)
    many = np.random.default_rng(0).normal(0.5, 0.1, 4000).tolist()
    assert moderated(many, prior=0.001)[0] == pytest.approx(0.1, rel=0.05)


def test_detection_margin_is_a_prediction_limit():
    # With two tails it is the half width of the 95 % prediction interval of one score: 6 degrees of freedom.
    deviation = math.sqrt((4 * 0.0016 + 2 * 0.01) / 6)
    scores = [0.30, 0.40, 0.50]
    assert detection_margin(scores, 0.04, tails=2) == pytest.approx(T[6] * deviation * math.sqrt(4 / 3), rel=1e-4)
    assert detection_margin(scores, 0.04) > detection_margin(scores, 0.04, tails=2)


def test_detection_margin_is_never_below_five_points():
    assert detection_margin([0.50, 0.505, 0.51], prior=0.005) == 0.05
    assert detection_margin([0.5], prior=0) == 0.05


@pytest.mark.parametrize("references", [1, 3, 10])
def test_an_honest_retrained_model_passes_all_limits_together_in_95_of_100_cases(references):
    generator = np.random.default_rng(0)
    rows = generator.normal(0.5, 0.06, (3000, references + 1))  # half as much again as is expected
    above = [row[-1] - row[:-1].mean() > detection_margin(row[:-1].tolist()) for row in rows]
    assert np.mean(above) <= 2 * 0.05 / TAILS + 0.004
    calm = generator.normal(0.5, 0.04, (3000, references + 1))
    above = [row[-1] - row[:-1].mean() > detection_margin(row[:-1].tolist(), tails=2) for row in calm]
    assert 0.001 <= np.mean(above) <= 0.03  # one tail of 2.5 %; less where the expectation is all there is


def test_chance_is_the_p_value_of_a_prediction():
    generator = np.random.default_rng(1)
    scores = [0.30, 0.40, 0.50]
    deviation = math.sqrt((4 * 0.0016 + 2 * 0.01) / 6 * 4 / 3 + 0.03**2)
    drawn = generator.standard_t(6, 200_000) * deviation
    assert chance(0.2, 0.03, scores, prior=0.04) == pytest.approx((drawn > 0.2).mean(), rel=0.05)
    assert chance(-0.2, 0.03, scores, prior=0.04) == pytest.approx(1 - chance(0.2, 0.03, scores, prior=0.04))


def gap(point: float) -> Estimate:
    return Estimate(point, point - 0.01, point + 0.01)


def test_equivalence_margin_is_at_most_half_of_a_resolved_gap():
    scores = [0.30, 0.40, 0.50]  # detection margin 0.497
    assert equivalence_margin(scores, gap(0.3)) == pytest.approx(0.15)
    assert equivalence_margin(scores, gap(2.0)) == pytest.approx(detection_margin(scores, tails=2))
    assert equivalence_margin([0.4, 0.4], gap(0.6)) < detection_margin([0.4, 0.4])


def test_where_the_anchors_tell_nothing_the_equivalence_margin_is_ten_points_at_most():
    assert equivalence_margin([0.30, 0.40, 0.50], gap(0.15)) == 0.10
    assert equivalence_margin([0.40] * 40, gap(-0.1)) == 0.05


def test_anchors_are_resolved_when_the_lower_bound_clears_three_points_and_twice_the_spread():
    assert resolved(Estimate(0.5, 0.031, 0.6), [0.5, 0.5])
    assert not resolved(Estimate(0.5, 0.029, 0.6), [0.5, 0.5])
    assert resolved(Estimate(0.5, 0.21, 0.6), [0.3, 0.4, 0.5])
    assert not resolved(Estimate(0.5, 0.19, 0.6), [0.3, 0.4, 0.5])


def test_summary_has_mean_spread_and_range():
    assert summary([0.1, 0.3]) == {"mean": 0.2, "spread": 0.14142, "low": 0.1, "high": 0.3}


# -------------------------------------------------------------------------------------- total variation


def test_total_variation_by_hand():
    assert total_variation(np.array([1.0, 0, 0]), np.array([0.0, 0.5, 0.5])) == 1
    assert total_variation(np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5])) == pytest.approx(0.3)


shares = st.lists(st.floats(0.01, 1), min_size=4, max_size=4).map(lambda row: np.array(row) / sum(row))


@given(shares, shares, shares)
def test_total_variation_is_a_distance_between_zero_and_one(one, two, three):
    assert total_variation(one, one) == 0
    assert 0 <= total_variation(one, two) <= 1
    assert total_variation(one, two) == total_variation(two, one)
    assert total_variation(one, three) <= total_variation(one, two) + total_variation(two, three) + 1e-12
    # The largest difference over all sets of answers.
    assert total_variation(one, two) == pytest.approx(np.clip(one - two, 0, None).sum())


# ---------------------------------------------------------------------------------- how many examples would settle it


def _interval(count: int, difference: float, scatter: float) -> Estimate:
    """Of `count` examples on which a model is right in half and three references are, each its own share of them."""

    def right(share: float) -> np.ndarray:
        return (np.random.default_rng(0).permutation(count) < share * count).astype(float)

    references = np.stack([right(0.5 + shift) for shift in (-scatter, 0, scatter)])
    model = (np.random.default_rng(1).permutation(count) < (0.5 + difference) * count).astype(float)
    return excess(model, references, 4000, 0)


@pytest.mark.parametrize(("difference", "scatter", "margin"), [(0.0, 0.0, 0.05), (0.02, 0.0, 0.06), (0.0, 0.01, 0.06)])
def test_with_as_many_examples_as_are_asked_for_the_interval_fits_the_margin(difference, scatter, margin):
    scores = [0.5 - scatter, 0.5, 0.5 + scatter]
    count = 200
    error = 0.5**0.5 / count**0.5  # of the difference of two independent halves
    needed = examples_needed(difference, error, scores, margin, count)
    assert needed is not None and needed > count
    found = _interval(needed, difference, scatter)
    assert max(abs(found.low - difference), abs(found.high - difference)) == pytest.approx(
        margin - difference, rel=0.15
    )
    assert _interval(needed // 2, difference, scatter).high > margin


def test_no_number_of_examples_makes_scattered_references_agree():
    assert examples_needed(0.0, 0.01, [0.3, 0.5, 0.4], 0.1, 100) is None
    assert examples_needed(0.2, 0.01, [0.4, 0.4, 0.4], 0.1, 100) is None
