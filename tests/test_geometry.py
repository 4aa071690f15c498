"""Scores of where features lie: against definitions in NumPy, SciPy and scikit-learn, and planted truths."""

import doctest
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import procrustes
from scipy.stats import ortho_group, spearmanr
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from rasura.auditing import geometry
from rasura.auditing.geometry import (
    centred_gram,
    debiased_cka,
    dissimilarity,
    dissimilarity_agreement,
    gram_cka,
    head_alignment,
    neighbour_purity,
    procrustes_distance,
    selectivity_change,
    unit_selectivity,
)
from rasura.errors import InputError


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(size: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(ortho_group.rvs(size, random_state=seed))


def rounded(count: int, units: int) -> torch.Tensor:
    """Features that are all alike, but for what double precision may leave."""
    return 0.7 + 2e-16 * (torch.arange(count * units) % 3 == 0).double().view(count, units)


def clusters(apart: float, classes: int = 4, each: int = 50, units: int = 16, seed: int = 0):
    """Labels and features around one mean per class, all means equally far from each other."""
    labels = torch.arange(classes).repeat_interleave(each)
    return labels, normal(len(labels), units, seed=seed) + apart * torch.eye(classes, units, dtype=torch.float64)[
        labels
    ]


def both_ways(left: torch.Tensor, right: torch.Tensor) -> list[float]:
    return [debiased_cka(left, right), gram_cka(centred_gram(left), centred_gram(right))]


# -------------------------------------------------------------------------------------- CKA


def song(left: np.ndarray, right: np.ndarray) -> float:
    """The unbiased HSIC as Song et al. write it, with traces and sums of Gram matrices that lack their diagonal."""
    count, one = len(left), np.ones(len(left))
    k, l = left @ left.T, right @ right.T  # noqa: E741
    np.fill_diagonal(k, 0)
    np.fill_diagonal(l, 0)
    sums = one @ k @ one * (one @ l @ one) / ((count - 1) * (count - 2))
    return (np.trace(k @ l) + sums - 2 / (count - 2) * one @ k @ l @ one) / (count * (count - 3))


def u_statistic(left: np.ndarray, right: np.ndarray) -> float:
    """The definition behind it: a mean over all ordered quadruples of different examples."""
    k, l = left @ left.T, right @ right.T  # noqa: E741
    terms = [k[i, j] * (l[i, j] + l[q, r] - 2 * l[i, q]) for i, j, q, r in itertools.permutations(range(len(left)), 4)]
    return float(np.mean(terms))


def biased_cka(left: torch.Tensor, right: torch.Tensor) -> float:
    x, y = left - left.mean(0), right - right.mean(0)
    return float((x.T @ y).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm()))


@pytest.mark.parametrize(("count", "left", "right"), [(4, 3, 2), (7, 3, 3), (8, 20, 5), (40, 6, 90)])
def test_cka_is_the_ratio_of_unbiased_hsics(count, left, right):
    x, y = normal(count, left) + 3, normal(count, right, seed=1) - 1
    y[:, 0] += x[:, 0]
    a, b = x.numpy(), y.numpy()
    expected = song(a, b) / math.sqrt(song(a, a) * song(b, b))
    assert both_ways(x, y) == pytest.approx([expected] * 2, abs=1e-9)
    if count < 9:
        slow = u_statistic(a, b) / math.sqrt(u_statistic(a, a) * u_statistic(b, b))
        assert expected == pytest.approx(slow, abs=1e-9)


def test_a_centred_gram_has_rows_and_a_diagonal_of_zero():
    gram = centred_gram(normal(30, 7) + 5)
    assert gram.dtype == torch.float64
    assert float(gram.diagonal().abs().max()) == 0
    assert float(gram.sum(0).abs().max()) < 1e-9
    assert torch.allclose(gram, gram.T)


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(5, 40), st.integers(1, 60), st.floats(1e-3, 1e3), st.floats(-50, 50))
def test_cka_does_not_see_rotation_scale_or_shift(seed, count, units, scale, shift):
    x = normal(count, units, seed=seed)
    turned = scale * (x @ rotation(units, seed % 100) if units > 1 else -x) + shift
    assert both_ways(x, turned) == pytest.approx([1, 1], abs=1e-6)
    y = normal(count, 3, seed=seed + 1)
    here = debiased_cka(x, y)
    assert -1 <= here <= 1
    assert here == pytest.approx(debiased_cka(y, x), abs=1e-9)
    assert here == pytest.approx(debiased_cka(turned, y), abs=1e-5)


def test_independent_features_have_no_alignment_where_the_biased_estimator_sees_nearly_all():
    pairs = [(normal(50, 600, seed=2 * draw), normal(50, 600, seed=2 * draw + 1)) for draw in range(20)]
    found = np.array([debiased_cka(*pair) for pair in pairs])
    assert abs(found.mean()) < 3 * found.std(ddof=1) / math.sqrt(20) + 1e-3
    assert np.abs(found).max() < 0.1
    assert min(biased_cka(*pair) for pair in pairs) > 0.9


def test_cka_of_a_shared_part_does_not_depend_on_how_many_examples_there_are():
    def at(count: int) -> tuple[float, float]:
        shared = normal(count, 20)
        x, y = (torch.cat([shared, normal(count, 60, seed=seed)], 1) for seed in (1, 2))
        return debiased_cka(x, y), biased_cka(x, y)

    # 20 of 80 units alike, all of one variance: ‖cov(x, y)‖² / (‖cov(x)‖ ‖cov(y)‖) = 20 / 80.
    few, many = at(60), at(3000)
    assert few[0] == pytest.approx(0.25, abs=0.06)
    assert many[0] == pytest.approx(0.25, abs=0.01)
    assert few[1] > 0.5


def test_single_precision_features_with_a_large_mean_lose_nothing():
    x, y = normal(200, 12) + 100, normal(200, 12, seed=1) + normal(200, 12) + 100
    single = debiased_cka(x.float(), y.float())
    assert single == pytest.approx(debiased_cka(x, y), abs=1e-5)


def test_cka_is_undefined_without_structure():
    alike, equally_far = torch.full((20, 5), 0.1), torch.eye(20)
    for nothing in (alike, equally_far, rounded(20, 1)):
        assert all(math.isnan(found) for found in both_ways(nothing, normal(20, 3)) + both_ways(nothing, nothing))


def test_cka_needs_four_examples():
    for few in (lambda: debiased_cka(normal(3, 2), normal(3, 2)), lambda: centred_gram(normal(3, 2))):
        with pytest.raises(InputError, match="features: 3 examples; allowed: 4 or more"):
            few()


# -------------------------------------------------------------------------------------- Procrustes


def test_procrustes_distance_agrees_with_scipy():
    x, y = normal(30, 4), normal(30, 4, seed=1) + normal(30, 4)
    # SciPy also fits the scale: its disparity is 1 − ‖XᵀY‖∗² of unit norm.
    expected = 2 - 2 * math.sqrt(1 - procrustes(x.numpy(), y.numpy())[2])
    assert procrustes_distance(x, y) == pytest.approx(expected, abs=1e-9)
    assert procrustes_distance(y, x) == pytest.approx(expected, abs=1e-9)


def test_procrustes_distance_of_a_rotation_is_none_and_of_unrelated_features_nearly_all():
    x = normal(5000, 4)
    assert procrustes_distance(x, 3 * x @ rotation(4) - 2) == pytest.approx(0, abs=1e-9)
    assert procrustes_distance(x, torch.cat([x, torch.zeros(5000, 2)], 1)) == pytest.approx(0, abs=1e-9)
    assert 1.9 < procrustes_distance(x, normal(5000, 4, seed=1)) <= 2
    assert math.isnan(procrustes_distance(x, torch.ones(5000, 4)))


# -------------------------------------------------------------------------------------- dissimilarity


def test_dissimilarity_is_one_minus_the_correlation_of_class_means():
    labels, features = clusters(1.0, classes=5, units=12)
    means = np.stack([features[labels == number].numpy().mean(0) for number in range(5)])
    expected = (1 - np.corrcoef(means))[np.triu_indices(5, 1)]
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    assert dissimilarity(features[order], labels[order], 5).numpy() == pytest.approx(expected, abs=1e-9)


def test_dissimilarity_by_hand():
    features = torch.cat([torch.tensor([[0.0, 1, 2], [10, 12, 14], [2, 1, 0]]), rounded(1, 3)])
    # Pairs 01, 02, 03, 12, 13, 23: the same pattern, its opposite, and one that is the same for all units.
    assert dissimilarity(features, torch.arange(4), 4).tolist() == pytest.approx([0, 2, 1, 2, 1, 1])


def test_agreement_is_spearmans_correlation():
    x, y = normal(45), normal(45, seed=1).round()  # with ties
    assert dissimilarity_agreement(x, y) == pytest.approx(spearmanr(x, y).statistic)
    assert dissimilarity_agreement(x, x.exp()) == pytest.approx(1)
    assert dissimilarity_agreement(x, -x) == pytest.approx(-1)
    for nothing in (torch.ones(45), torch.zeros(45)):
        assert math.isnan(dissimilarity_agreement(x, nothing))
    assert math.isnan(dissimilarity_agreement(x[:2], y[:2]))


def test_agreement_sees_classes_that_changed_places_and_not_reordered_units():
    labels, features = clusters(0.0, classes=6, units=30)
    features += 2 * normal(6, 30, seed=7)[labels]
    original = dissimilarity(features, labels, 6)
    units = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    assert dissimilarity_agreement(original, dissimilarity(4 * features[:, units] + 1, labels, 6)) == pytest.approx(1)
    swapped = torch.tensor([5, 3, 4, 0, 1, 2])[labels]
    assert dissimilarity_agreement(original, dissimilarity(features, swapped, 6)) < 0.7


def test_a_class_without_examples_is_named():
    labels, features = clusters(1.0)
    with pytest.raises(InputError, match="labels: no example of class 4; allowed: at least one of each of 5 classes"):
        dissimilarity(features, labels, 5)
    with pytest.raises(InputError, match="labels: no example of class 4"):
        head_alignment(normal(5, 16), features, labels)


# -------------------------------------------------------------------------------------- purity of neighbours


@pytest.mark.parametrize(("forgets", "neighbours"), [((0,), 10), ((1, 3), 10), ((2,), 1), ((0, 1, 2, 3), 25)])
def test_purity_agrees_with_scikit_learn(forgets, neighbours):
    labels, features = clusters(2.0)
    features = features * torch.logspace(-3, 3, 16) + 5
    design = StandardScaler().fit_transform(features.numpy())
    near = NearestNeighbors(n_neighbors=neighbours).fit(design).kneighbors(return_distance=False)
    same = labels.numpy()[near] == labels.numpy()[:, None]
    mask = torch.isin(labels, torch.tensor(forgets))
    expected = same.mean(1)[mask.numpy()].mean() - 49 / 199
    assert neighbour_purity(features, labels, mask, neighbours) == pytest.approx(expected, abs=1e-9)


def test_purity_by_hand():
    # On a line: a a b b, with k = 1. The neighbours are a, a (or b, equally far), b (or a), b.
    line, labels = torch.tensor([[0.0], [1.0], [2.0], [3.0]]), torch.tensor([0, 0, 1, 1])
    assert neighbour_purity(line, labels, labels == 0, 1) == pytest.approx((1 + 0.5) / 2 - 1 / 3)


def test_purity_is_the_same_however_many_examples_are_taken_at_a_time(monkeypatch):
    labels, features = clusters(2.0)
    whole = neighbour_purity(features, labels, labels < 2)
    monkeypatch.setattr(geometry, "QUERIES", 7)
    assert neighbour_purity(features, labels, labels < 2) == pytest.approx(whole, abs=1e-12)


def test_a_class_apart_is_pure_and_a_random_one_is_not():
    labels, features = clusters(30.0, units=4)
    assert neighbour_purity(features, labels, labels == 2) == pytest.approx(1 - 49 / 199)
    shuffled = [labels[torch.randperm(200, generator=torch.Generator().manual_seed(seed))] for seed in range(40)]
    random = np.array([neighbour_purity(features, drawn, drawn == 2) for drawn in shuffled])
    assert abs(random.mean()) < 3 * random.std(ddof=1) / math.sqrt(40)


def test_purity_counts_the_same_class_only():
    labels, features = clusters(30.0, units=4)
    mask = labels < 2
    merged = torch.where((labels == 1)[:, None], features + torch.tensor([30.0, -30, 0, 0]), features)
    assert neighbour_purity(features, labels, mask) == pytest.approx(1 - 49 / 199)
    assert neighbour_purity(merged, labels, mask) == pytest.approx(49 / 99 - 49 / 199, abs=0.1)


def test_features_that_are_all_alike_have_the_purity_of_chance():
    labels = torch.arange(4).repeat_interleave(10)  # sorted: the first rows would win if ties went by position
    for same in (torch.zeros(40, 3), torch.full((40, 3), 0.1)):
        assert neighbour_purity(same, labels, labels == 0, 5) == pytest.approx(0, abs=1e-12)


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 12))
def test_purity_does_not_depend_on_order_or_on_a_units_scale(seed, neighbours):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (30,), generator=generator)
    labels[0] = 0
    features = torch.randint(4, (30, 3), generator=generator).double()  # many at the same distance
    order = torch.randperm(30, generator=generator)
    here = neighbour_purity(features, labels, labels == 0, neighbours)
    there = neighbour_purity(features[order] * 7 - 3, labels[order], labels[order] == 0, neighbours)
    assert here == pytest.approx(there, abs=1e-9)
    assert -1 <= here <= 1


def test_purity_refuses_more_neighbours_than_there_are():
    labels, features = clusters(1.0, each=5)
    for wrong in (0, 20):
        with pytest.raises(InputError, match=f"neighbours: {wrong}; allowed: 1 to 19"):
            neighbour_purity(features, labels, labels == 0, wrong)


# -------------------------------------------------------------------------------------- selectivity


def test_selectivity_by_hand_with_unequal_classes():
    features = torch.tensor([[4.0, 1], [6, 1], [0, 1], [2, 3], [2, 3], [2, 3]])
    labels = torch.tensor([0, 0, 1, 2, 2, 2])
    # μ(0) = (5, 1); the retained classes' means (0, 1) and (2, 3) count alike: (1, 2).
    assert unit_selectivity(features, labels, labels == 0).tolist() == [[4, -1]]
    # Forget 0 and 2: beside the mean of class 1.
    assert unit_selectivity(features, labels, labels != 1).tolist() == [[5, 0], [2, 2]]


def test_selectivity_finds_the_unit_that_was_planted():
    labels, features = clusters(0.0, each=400)
    features[labels == 3, 5] += 2
    found = unit_selectivity(features, labels, labels == 3)[0]
    assert int(found.abs().argmax()) == 5
    assert float(found[5]) == pytest.approx(2, abs=0.2)


def test_change_of_selectivity():
    labels, features = clusters(3.0)
    mask = labels == 0
    before = unit_selectivity(features, labels, mask)
    retained = torch.stack([features[labels == number].mean(0) for number in (1, 2, 3)]).mean(0)
    erased = features.clone()
    erased[mask] += retained - features[mask].mean(0)

    def change(after: torch.Tensor) -> float:
        return selectivity_change(before, unit_selectivity(after, labels, mask))

    assert change(features) == 0
    assert change(erased) == pytest.approx(-1)
    assert change(-features) == pytest.approx(0)
    assert change(features + 9) == pytest.approx(0)
    assert change((features + erased) / 2) == pytest.approx(-0.5)
    assert change(features[:, torch.arange(15, -1, -1)]) == pytest.approx(0)
    assert math.isnan(selectivity_change(torch.zeros(1, 4), before))


# -------------------------------------------------------------------------------------- the head


def test_alignment_of_a_head_by_hand():
    labels = torch.tensor([0, 0, 0, 1, 2])
    features = torch.tensor([[2.0, 1], [4, -1], [3, 0], [0, 3], [0, 0]])
    # Class means (3, 0), (0, 3) and (0, 0); their mean, each class alike, is (1, 1).
    weight = torch.tensor([[2.0, -1], [1, 0], [5, -5]])
    assert head_alignment(weight, features, labels).tolist() == pytest.approx([1, -math.sqrt(0.2), 0], abs=1e-9)


def test_alignment_shows_a_head_that_was_tampered_with():
    labels, features = clusters(20.0, each=200)
    means = torch.stack([features[labels == number].mean(0) for number in range(4)])
    head = means - means.mean(0)
    assert head_alignment(head, features + 7, labels).tolist() == pytest.approx([1] * 4)
    for changed, expected in ((-head[1], -1.0), (0 * head[1], 0.0), (1e-6 * head[1], 1.0)):
        tampered = head.clone()
        tampered[1] = changed
        assert head_alignment(tampered, features, labels).tolist() == pytest.approx([1, expected, 1, 1])


def test_a_random_head_is_not_aligned_and_features_all_alike_align_with_none():
    labels, features = clusters(5.0, units=4000, each=3)
    assert float(head_alignment(normal(4, 4000, seed=9), features, labels).abs().max()) < 0.1
    for alike in (torch.full((18, 3), 0.1), rounded(18, 3)):
        assert head_alignment(normal(3, 3), alike, torch.arange(3).repeat_interleave(6)).tolist() == [0] * 3


def test_examples_in_the_docstrings_hold():
    assert doctest.testmod(geometry).failed == 0
