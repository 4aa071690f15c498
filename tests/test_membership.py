"""Membership inference: signals, ROC statistics, the fitted attack, and models beside retrained ones."""

import doctest
import importlib
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import trapezoid
from sklearn.metrics import roc_auc_score, roc_curve
from torch import Tensor, nn

from rasura import InputError
from rasura.auditing.adversarial_membership import boundary_distance
from rasura.auditing.comparison import Comparison
from rasura.auditing.evidence import membership_comparisons
from rasura.auditing.gates import largest_area
from rasura.auditing.members import Members, expected_scatter, pair_values
from rasura.auditing.membership import (
    DIRECTIONS,
    LEAST_LOGIT,
    attack,
    auc,
    placements,
    roc_points,
    signals,
    true_positive_rate,
)
from rasura.auditing.scores import Scores

CLASSES, WIDTH = 5, 20


def net(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(WIDTH, 64), nn.ReLU(), nn.Linear(64, CLASSES))


def trained(inputs: Tensor, labels: Tensor, seed: int, steps: int = 120) -> nn.Module:
    """A net that fits its training examples to the full."""
    model = net(seed)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(steps):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimiser.step()
    return model.requires_grad_(False)


@dataclass(frozen=True, eq=False)
class Case:
    """An original, retrained models, and the examples that they are compared on, members first."""

    original: nn.Module
    references: list[nn.Module]
    inputs: Tensor
    labels: Tensor
    members: np.ndarray

    def logits(self, model: nn.Module) -> Tensor:
        return model(self.inputs)

    def area(self, model: nn.Module, signal: str = "loss") -> float:
        return self.area_of(self.logits(model), signal)

    def area_of(self, logits: Tensor, signal: str = "loss") -> float:
        score = signals(logits, self.labels).score(signal)
        return auc(score[self.members], score[~self.members])

    def compared(self, model: Tensor, signal: str = "loss") -> Comparison:
        """The comparison of a model that gives these logits, on as many non-members as there are members."""
        logits = {"model": model, "original": self.logits(self.original)}
        logits |= {f"reference {k}": self.logits(one) for k, one in enumerate(self.references, 1)}
        found = {name: signals(values, self.labels).score(signal) for name, values in logits.items()}
        count = int(self.members.sum())
        pairs = {name: np.stack([row[~self.members][:count], row[self.members]]) for name, row in found.items()}
        return compared(pairs, self.labels[self.members].numpy())


def compared(pairs: dict[str, np.ndarray], labels: np.ndarray) -> Comparison:
    """One signal of several models on the same pairs."""
    rows = np.arange(len(labels))
    members = {
        name: Members(rows, rows, labels, {"entropy": one, "log-odds": one, "loss": np.minimum(one - one.max(), 0)})
        for name, one in pairs.items()
    }
    scores = Scores(np.zeros(0), np.zeros(0), (0,), ("a", "b"), {name: [] for name in pairs}, members=members)
    return next(one for one in membership_comparisons(scores, 0) if one.layer == "entropy")


def case(inputs: Tensor, labels: Tensor, forgotten: Tensor, held_out: Tensor, held_labels: Tensor) -> Case:
    return Case(
        trained(inputs, labels, 0),
        [trained(inputs[~forgotten], labels[~forgotten], seed) for seed in (1, 2, 3)],
        torch.cat([inputs[forgotten], held_out]),
        torch.cat([labels[forgotten], held_labels]),
        np.arange(int(forgotten.sum()) + len(held_out)) < int(forgotten.sum()),
    )


@pytest.fixture(scope="module")
def noise() -> tuple[Tensor, Tensor, Tensor]:
    """Training inputs, held-out inputs, and labels of both that have nothing to do with them: only memory helps."""
    generator = torch.Generator().manual_seed(5)
    train, test = (torch.randn(400, WIDTH, generator=generator) for _ in range(2))
    return train, test, torch.arange(400) % CLASSES


@pytest.fixture(scope="module")
def samples(noise) -> Case:
    """A hundred examples of all classes are to be forgotten."""
    train, test, labels = noise
    return case(train, labels, torch.arange(400) < 100, test, labels)


@pytest.fixture(scope="module")
def last_class(noise) -> Case:
    """The last class is to be forgotten."""
    train, test, labels = noise
    forgotten = labels == CLASSES - 1
    return case(train, labels, forgotten, test[forgotten], labels[forgotten])


# -------------------------------------------------------------------------------------- signals


def test_signals_by_hand():
    found = signals(np.log([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25]]), np.array([0, 1]))
    assert found.loss == pytest.approx([math.log(2), math.log(4)])
    assert found.entropy == pytest.approx([1.5 * math.log(2)] * 2)
    assert found.margin == pytest.approx([math.log(2), -math.log(2)])
    assert found.log_odds == pytest.approx([0, -math.log(3)], abs=1e-12)
    # Two rows with different classes: a column indexed for the whole batch at once would mix them up.
    of_first = 0.5 * math.log(2) - 2 * 0.25 * math.log(0.75)
    of_second = 0.75 * math.log(4) - 0.5 * math.log(0.5) - 0.25 * math.log(0.75)
    assert found.modified_entropy == pytest.approx([of_first, of_second])
    assert not found.masked.any()


@given(st.integers(0, 1000), st.integers(2, 12))
def test_signals_are_their_formulas_wherever_these_can_be_computed(seed, classes):
    generator = np.random.default_rng(seed)
    logits, labels = generator.normal(0, 3, (20, classes)), generator.integers(0, classes, 20)
    share = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    true, row = share[np.arange(20), labels], np.arange(20)
    others = np.delete(share, 0, 1)  # overwritten row by row
    for k in row:
        others[k] = np.delete(share[k], labels[k])
    found = signals(torch.tensor(logits), torch.tensor(labels))
    assert found.loss == pytest.approx(-np.log(true))
    assert found.entropy == pytest.approx(-(share * np.log(share)).sum(1))
    assert found.log_odds == pytest.approx(np.log(true / (1 - true)), abs=1e-9)
    assert found.margin == pytest.approx(np.log(true / others.max(1)), abs=1e-9)
    expected = -(1 - true) * np.log(true) - (others * np.log(1 - others)).sum(1)
    assert found.modified_entropy == pytest.approx(expected)


def test_sure_answers_lose_no_digits():
    found = signals(np.array([[800.0, 0, 0], [800.0, 0, 0], [40.0, 0, 0]]), np.array([0, 1, 0]))
    assert found.log_odds == pytest.approx([800 - math.log(2), -800, 40 - math.log(2)])
    assert found.loss == pytest.approx([0, 800, 2 * math.exp(-40)])
    assert found.modified_entropy == pytest.approx([0, 1600 - math.log(2), 0], abs=1e-12)


@pytest.mark.parametrize("mask", ["minus infinity", "minus a billion", "no column"])
def test_every_mask_gives_the_same_finite_signals(mask):
    logits, labels = torch.randn(40, 4, generator=torch.Generator().manual_seed(0)), torch.full((40,), 3)
    cut = logits[:, :3]
    if mask != "no column":
        worst = -torch.inf if mask == "minus infinity" else -1e9
        cut = torch.cat([cut, torch.full((40, 1), worst)], 1)
    found = signals(cut, labels)
    rest = logits[:, :3].double().logsumexp(1).numpy()
    assert found.masked.all()
    assert found.loss == pytest.approx(rest - LEAST_LOGIT)
    assert found.log_odds == pytest.approx(LEAST_LOGIT - rest)
    assert found.entropy == pytest.approx(torch.distributions.Categorical(logits=logits[:, :3]).entropy().numpy())
    assert all(np.isfinite(found.score(name)).all() for name in DIRECTIONS)


def test_masks_of_other_classes_change_nothing_but_their_own_part():
    logits, labels = torch.randn(30, 4, generator=torch.Generator().manual_seed(0)), torch.arange(30) % 3
    masked = logits.clone()
    masked[:, 3] = -torch.inf
    found, without = signals(masked, labels), signals(logits[:, :3], labels)
    assert not found.masked.any()
    for name in DIRECTIONS:
        assert found.score(name) == pytest.approx(without.score(name))


@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        (np.zeros((3, 1)), np.zeros(3, int)),
        (np.zeros((3, 2)), np.zeros(4, int)),
        (np.zeros(3), np.zeros(3, int)),
        (np.array([[np.nan, 0]]), np.array([0])),
        (np.array([[np.inf, 0]]), np.array([0])),
    ],
)
def test_logits_that_are_none_are_refused(logits, labels):
    with pytest.raises(InputError, match=r"^logits: .*allowed"):
        signals(logits, labels)


# -------------------------------------------------------------------------------------- ROC

scores = st.lists(st.integers(-5, 5), min_size=1, max_size=30).map(lambda row: np.array(row, dtype=float))


def test_auc_by_hand():
    members, others = np.array([1.0, 2.0, 3.0]), np.array([0.0, 2.0])
    assert placements(members, others).tolist() == [0.5, 0.75, 1.0]
    assert auc(members, others) == pytest.approx(4.5 / 6)
    assert auc(np.array([np.inf]), np.array([-np.inf, np.inf])) == 0.75
    # Lower loss is what members have: the score is −loss.
    assert auc(-np.array([0.1, 0.2]), -np.array([1.0, 2.0])) == 1


@given(scores, scores)
def test_auc_and_rates_are_those_of_scikit_learn(members, others):
    truth = np.r_[np.ones(len(members)), np.zeros(len(others))]
    assert auc(members, others) == pytest.approx(roc_auc_score(truth, np.r_[members, others]))
    false, true, _ = roc_curve(truth, np.r_[members, others], drop_intermediate=False)
    for at in (0.01, 0.1, 0.29, 0.5):
        assert true_positive_rate(members, others, at) == pytest.approx(true[false <= at + 1e-12].max())


@given(scores, scores, st.sampled_from([np.exp, np.cbrt, lambda x: 3 * x - 7]))
def test_auc_knows_the_order_only_and_turns_round_with_its_sides(members, others, rising):
    assert auc(rising(members), rising(others)) == auc(members, others)
    assert auc(members, others) + auc(others, members) == pytest.approx(1)
    assert auc(-members, -others) == pytest.approx(auc(others, members))
    assert 0 <= auc(members, others) <= 1


def test_with_fewer_than_a_hundred_nonmembers_not_one_may_pass():
    members = np.arange(50.0)
    assert true_positive_rate(members, np.arange(10.0)) == 40 / 50  # those above 9
    assert true_positive_rate(members, np.arange(99.0)) == 0
    # With a hundred, one may; a tie with the threshold is no detection.
    many = np.concatenate([np.zeros(98), [20.0, 100.0]])
    assert true_positive_rate(members, many) == 29 / 50
    assert true_positive_rate(members, many[:99]) == 29 / 50


def test_roc_points_are_few_and_hold_the_curve():
    generator = np.random.default_rng(0)
    members, others = generator.normal(1, 1, 3000), generator.normal(0, 1, 2000)
    points = roc_points(members, others)
    assert len(points) <= 100
    assert (points[0].tolist(), points[-1].tolist()) == ([0, 0], [1, 1])
    assert (np.diff(points, axis=0) >= 0).all()
    assert trapezoid(points[:, 1], points[:, 0]) == pytest.approx(auc(members, others), abs=0.002)
    assert len(roc_points(members[:2], others[:2])) <= 5


def test_scores_that_cannot_be_ranked_are_refused():
    for members, others in ([[], [1.0]], [[1.0], []], [[np.nan], [1.0]], [[1.0], [np.nan]]):
        with pytest.raises(InputError, match=r"members: .* scores"):
            auc(np.array(members), np.array(others))
    for at in (0, 1):
        with pytest.raises(InputError, match=r"^at: "):
            true_positive_rate(np.ones(3), np.ones(3), at)


# -------------------------------------------------------------------------------------- planted models


@pytest.mark.parametrize("signal", DIRECTIONS)
def test_a_memorising_model_gives_its_training_examples_away_and_retrained_ones_do_not(samples, signal):
    assert samples.area(samples.original, signal) > (0.7 if signal == "entropy" else 0.9)
    for reference in samples.references:
        assert samples.area(reference, signal) == pytest.approx(0.5, abs=0.08)


def test_the_untouched_original_lies_above_and_a_held_out_retrained_model_does_not(samples, noise):
    found = samples.compared(samples.logits(samples.original))
    assert found.above and not found.equivalent
    assert found.residual_index == pytest.approx(1)
    train, _, labels = noise
    honest = samples.compared(samples.logits(trained(train[100:], labels[100:], 9)))
    assert not honest.above and not honest.below
    assert honest.chance > 0.05


def test_partly_forgotten_examples_lie_between(samples):
    """Answers halfway between those of the original and of a retrained model."""
    near = samples.compared(0.5 * samples.logits(samples.original) + 0.5 * samples.logits(samples.references[0]))
    assert near.above
    assert 0.3 < near.residual_index < 1


def test_examples_made_worse_than_unseen_ones_lie_below(samples):
    """Wrong answers fitted to the forgotten examples: their loss tells them apart, in the other direction."""
    logits = samples.logits(samples.references[0]).clone()
    logits[torch.tensor(samples.members), samples.labels[samples.members]] -= 8
    found = samples.compared(logits)
    assert found.below and not found.equivalent
    folds = stratified(samples.members, 5, np.random.default_rng(0))
    learned = attack(signals(logits, samples.labels), samples.members, folds)
    assert auc(learned[samples.members], learned[~samples.members]) > 0.7


@pytest.mark.parametrize("mask", ["minus infinity", "minus a billion", "no column", "bias"])
def test_a_mask_does_not_make_examples_look_unseen(last_class, mask):
    logits = last_class.logits(last_class.original).clone()
    if mask == "no column":
        logits = logits[:, :-1]
    elif mask == "bias":
        logits[:, -1] -= 50
    else:
        logits[:, -1] = -torch.inf if mask == "minus infinity" else -1e9
    assert logits.argmax(1).max() < CLASSES - 1  # the class is never named
    found = last_class.compared(logits)
    assert found.above  # "a member", not "cannot tell": an infinite loss for all would give 0.5
    assert not found.equivalent
    if mask == "bias":
        assert found.model == found.original  # one shift for all leaves their order


def test_canaries_with_wrong_labels_are_found():
    generator = torch.Generator().manual_seed(3)
    centres = 2 * torch.randn(CLASSES, WIDTH, generator=generator)
    true = torch.arange(480) % CLASSES
    inputs = centres[true] + torch.randn(480, WIDTH, generator=generator)
    wrong = (true + torch.randint(1, CLASSES, (480,), generator=generator)) % CLASSES
    canary, held_out = torch.arange(480) < 80, torch.arange(480) >= 400
    labels = torch.where(canary, wrong, true)
    found = case(inputs[:400], labels[:400], canary[:400], inputs[held_out], wrong[held_out])
    assert found.area(found.original) > 0.95
    for reference in found.references:
        assert found.area(reference) == pytest.approx(0.5, abs=0.1)
    assert found.compared(found.logits(found.original)).above


# -------------------------------------------------------------------------------------- the fitted attack


def stratified(members: np.ndarray, folds: int, generator: np.random.Generator) -> np.ndarray:
    found = np.empty(len(members), dtype=int)
    for kind in (True, False):
        rows = generator.permutation(np.flatnonzero(members == kind))
        found[rows] = np.arange(len(rows)) % folds
    return found


def test_the_attack_finds_members_of_the_original_alone(samples):
    folds = stratified(samples.members, 5, np.random.default_rng(0))
    for model, low, high in [(samples.original, 0.9, 1.0), (samples.references[0], 0.35, 0.65)]:
        found = signals(samples.logits(model), samples.labels)
        score = attack(found, samples.members, folds)
        assert low <= auc(score[samples.members], score[~samples.members]) <= high


def test_the_attack_does_not_see_what_it_scores():
    """Where there is nothing to learn, it is right by chance: neither more often nor, folds being pooled, less."""
    areas = []
    for seed in range(60):
        generator = np.random.default_rng(seed)
        members = np.arange(160) < 100
        found = signals(generator.normal(0, 3, (160, 10)), generator.integers(0, 10, 160))
        score = attack(found, members, stratified(members, 5, generator))
        areas.append(auc(score[members], score[~members]))
    assert np.mean(areas) == pytest.approx(0.5, abs=3 * np.std(areas) / math.sqrt(60))


def test_the_attack_needs_both_kinds_to_learn_from():
    found = signals(np.zeros((4, 2)), np.zeros(4, int))
    with pytest.raises(InputError, match=r"^folds: without fold 0"):
        attack(found, np.array([True, True, False, False]), np.array([0, 1, 0, 0]))


# -------------------------------------------------------------------------------------- comparison


def test_pair_values_have_the_auc_as_mean_and_its_error_by_delong():
    generator = np.random.default_rng(0)
    others, members = generator.integers(-2, 7, 70).astype(float), generator.integers(0, 9, 70).astype(float)
    found = pair_values(np.stack([others, members]), np.zeros(70))
    beats = (members[:, None] > others) + (members[:, None] == others) / 2
    assert found.mean() == pytest.approx(beats.mean())
    exact = beats.mean(1).var() / 70 + beats.mean(0).var() / 70
    apart = found.var() / 70 - 2 * np.cov(beats.mean(1), beats.mean(0), bias=True)[0, 1] / 70
    assert apart == pytest.approx(exact)  # but for what pairs share by chance


def test_members_meet_nonmembers_of_their_own_class_only():
    """An easy and a hard class, no memory of either: pooled, they would be told apart by class."""
    generator = np.random.default_rng(1)
    labels = np.repeat([0, 1], [400, 100])
    values = generator.normal(0, 1, (2, 500)) - 3 * labels
    found = pair_values(values, labels)
    by_class = [auc(values[1, labels == k], values[0, labels == k]) for k in (0, 1)]
    assert found.mean() == pytest.approx(0.8 * by_class[0] + 0.2 * by_class[1])
    assert found.mean() == pytest.approx(0.5, abs=0.05)


def test_the_interval_is_that_of_a_bootstrap_over_members_and_nonmembers():
    generator = np.random.default_rng(2)
    hard = generator.normal(0, 1, (2, 100))
    seen = np.array([[0.0], [1.0]])
    model, reference = (hard + generator.normal(0, 1, (2, 100)) + share * seen for share in (1, 0.2))
    pairs = {"model": model, "original": model, "reference 1": reference, "reference 2": reference}
    found = compared(pairs, np.zeros(100)).excess
    drawn = []
    for _ in range(2000):
        rows, others = generator.integers(0, 100, 100), generator.integers(0, 100, 100)
        drawn.append(auc(model[1][rows], model[0][others]) - auc(reference[1][rows], reference[0][others]))
    assert found.point == pytest.approx(auc(model[1], model[0]) - auc(reference[1], reference[0]))
    width = np.quantile(drawn, 0.975) - np.quantile(drawn, 0.025)
    assert (found.high - found.low) == pytest.approx(width, rel=0.15)


def test_the_expected_scatter_is_that_of_an_auc_without_a_difference():
    generator = np.random.default_rng(0)
    drawn = [pair_values(generator.random((2, 60)), np.zeros(60)).mean() for _ in range(2000)]
    assert expected_scatter(60) == pytest.approx(np.std(drawn), rel=0.06)


@given(st.integers(0, 200))
@settings(max_examples=20)
def test_a_comparison_knows_the_order_only(seed):
    generator = np.random.default_rng(seed)
    pairs = {name: generator.normal(0, 1, (2, 30)) for name in ("model", "original", "reference 1", "reference 2")}
    labels = np.arange(30) % 2
    assert compared({k: np.exp(row) for k, row in pairs.items()}, labels) == compared(pairs, labels)


def test_honest_models_are_seldom_accused():
    """Models that rank the examples at random are as different as retrained ones can be."""
    accused = 0
    for seed in range(100):
        generator = np.random.default_rng(seed)
        pairs = {name: generator.random((2, 100)) for name in ("model", "original", "r1", "r2", "r3")}
        found = compared(pairs, np.zeros(100))
        accused += found.above or found.below
        assert not found.resolved  # this original shows nothing, so nothing is shown to be gone
    assert accused <= 2


# -------------------------------------------------------------------------------------- adversarial distance


def test_distance_is_exact_for_a_linear_map():
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(4, 6, generator=generator), torch.randn(4, generator=generator)
    points, labels = torch.randn(300, 6, generator=generator), torch.arange(300) % 4
    logits = points @ weight.T + bias
    found = boundary_distance(lambda x: x @ weight.T + bias, points, labels)
    right = (logits.argmax(1) == labels).numpy()
    lead = logits.gather(1, labels[:, None]) - logits
    apart = (weight[labels][:, None] - weight).norm(dim=2)
    ratio = (lead / apart).numpy()  # NaN for the true class itself
    assert found[right] == pytest.approx(np.nanmin(ratio, 1)[right], rel=1e-4)
    # Into a class several boundaries may have to be crossed; the farthest is the least that must be gone.
    assert (found[~right] < 0).all()
    assert (-found[~right] >= 0.98 * -np.nanmin(ratio, 1)[~right]).all()
    two = boundary_distance(lambda x: (x @ weight.T + bias)[:, :2], points, labels % 2)
    lead = (logits[:, 0] - logits[:, 1]) / (weight[0] - weight[1]).norm()
    assert two == pytest.approx(torch.where(labels % 2 == 0, lead, -lead).numpy(), rel=1e-3)


def test_the_change_it_found_changes_the_answer_of_a_net():
    model = trained(torch.randn(50, WIDTH, generator=torch.Generator().manual_seed(1)), torch.arange(50) % CLASSES, 0)
    image = torch.randn(30, 1, 4, 5, generator=torch.Generator().manual_seed(2))
    labels = torch.arange(30) % CLASSES

    def classify(x):
        return model(x.flatten(1))

    found = boundary_distance(classify, image, labels)
    assert (np.sign(found) == np.where(classify(image).argmax(1) == labels, 1, -1)).all()
    # No change in a random direction is as good.
    directions = torch.randn(200, *image.shape[1:], generator=torch.Generator().manual_seed(3))
    directions /= directions.flatten(1).norm(dim=1)[:, None, None, None]
    for one, label, distance in zip(image, labels, found, strict=True):
        there = classify(one + 0.9 * abs(distance) * directions).argmax(1) == label
        assert bool((there == (distance > 0)).all())


def test_members_lie_farther_from_the_boundary(samples, last_class):
    def area(case: Case, classify) -> float:
        distance = boundary_distance(classify, case.inputs, case.labels)
        return auc(distance[case.members], distance[~case.members])

    assert area(samples, samples.original) > 0.9
    assert area(samples, samples.references[0]) == pytest.approx(0.5, abs=0.1)

    def shifted(model: nn.Module):
        return lambda x: model(x) - 50 * torch.eye(CLASSES)[-1]

    # Behind a bias every example is misnamed; members are still nearer to their class.
    assert area(last_class, shifted(last_class.original)) > 0.7
    assert area(last_class, shifted(last_class.references[0])) == pytest.approx(0.5, abs=0.15)


def test_a_boundary_out_of_reach_is_refused(last_class):
    for mask in (lambda x: x[:, :-1], lambda x: x - 1e9 * torch.eye(CLASSES)[-1]):
        with pytest.raises(InputError, match=r"^labels: a class without a logit"):
            boundary_distance(lambda x, mask=mask: mask(last_class.original(x)), last_class.inputs, last_class.labels)


def test_a_masked_rival_is_no_rival():
    weight = torch.tensor([[1.0, 0], [-1.0, 0], [0, 5.0]])

    def masked(x):
        return (x @ weight.T).masked_fill(torch.tensor([False, False, True]), -torch.inf)

    assert boundary_distance(masked, torch.tensor([[2.0, 1.0]]), torch.tensor([0])) == pytest.approx([2.0])


def test_examples_in_docstrings_are_true():
    names = ("membership", "members")
    modules = [importlib.import_module(f"rasura.auditing.{name}") for name in names]
    assert all(doctest.testmod(one).failed == 0 < doctest.testmod(one).attempted for one in modules)


@pytest.mark.parametrize(("pairs", "classes"), [(20, 1), (80, 1), (20, 10), (80, 10)])
def test_few_pairs_do_not_accuse_a_reference_that_never_saw_them(pairs, classes):
    """Values that know nothing exceed the limit once in a hundred; 55 % alone would accuse one in eight or more."""
    generator = np.random.default_rng(0)
    labels = np.arange(pairs) ** 2 % classes  # unequal classes
    areas = np.array([pair_values(generator.normal(size=(2, pairs)), labels).mean() for _ in range(2000)])
    accused = (areas > largest_area(pairs, len(np.unique(labels)))).mean()
    assert 0.002 < accused < 0.018 and (areas > 0.55).mean() > 0.12
