"""DAMP's linear algebra and its statistics, each against an independent oracle in float64."""

import numpy as np
import pytest
import scipy.optimize
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rasura.activations import Moments, Point
from rasura.errors import InputError
from rasura.methods._class_statistics import SHRINKAGE, ClassStatistics
from rasura.methods._depth import alpha, discriminant, separability
from rasura.methods._directions import directions
from rasura.methods._edits import erase
from rasura.methods._erasers import Erasure, leace, oblique, orthogonal
from rasura.methods._retire import best_biases, recalibrate, retire
from rasura.methods._sites import Site
from rasura.methods.damp import Damp


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def orthonormal(d: int, rank: int, seed: int = 0) -> Tensor:
    return torch.linalg.qr(normal(d, rank, seed=seed))[0]


def covariance(d: int, seed: int = 0) -> Tensor:
    spread = normal(d, 2 * d, seed=seed)
    return spread @ spread.T / (2 * d)


# ------------------------------------------------------------------------------------- edits of a weight


def hugging_face_conv1d() -> nn.Module:
    from transformers.pytorch_utils import Conv1D

    return Conv1D(6, 8)


MAPS = {
    "Linear": lambda: nn.Linear(8, 6),
    "Conv2d 1×1": lambda: nn.Conv2d(8, 6, 1),
    "Conv2d 3×3": lambda: nn.Conv2d(8, 6, 3, padding=1),
    "Conv2d in two groups": lambda: nn.Conv2d(8, 6, 3, groups=2),
    "Conv1d": lambda: nn.Conv1d(8, 6, 3),
    "Hugging Face Conv1D": hugging_face_conv1d,
}


def site_of(module: nn.Module) -> Site:
    weight, groups = module.weight, getattr(module, "groups", 1)
    return Site("it", Point("it", "input"), module, weight, module.bias, groups, "tokens", "", "")


def dense(module: nn.Module) -> Tensor:
    """The map as one matrix on all patches `[out, 8 · taps]`, channels outermost."""
    weight = module.weight.detach().double()
    if type(module).__name__ == "Conv1D":  # stores [in, out]
        weight = weight.T
    if getattr(module, "groups", 1) == 1:
        return weight.flatten(1)
    halves = weight.chunk(2)
    return torch.block_diag(*(half.flatten(1) for half in halves))


@pytest.mark.parametrize("strength", [0.3, 1.0])
@pytest.mark.parametrize("kind", MAPS)
def test_an_edit_is_a_dense_projection_of_the_input(kind, strength):
    torch.manual_seed(1)
    site = site_of(MAPS[kind]())
    before, d = dense(site.module), 8 // site.groups
    ones = [oblique(orthonormal(d, 2, seed), covariance(d, seed), normal(d, seed=seed)) for seed in range(site.groups)]
    taps = before.shape[1] // 8
    projection = torch.block_diag(*(one.left @ one.right.T for one in ones))
    expected = before - strength * before @ torch.kron(projection, torch.eye(taps, dtype=torch.float64))
    share, shift = erase(site, ones, strength)
    after = dense(site.module)
    torch.testing.assert_close(after, expected, atol=1e-6, rtol=0)
    assert share == pytest.approx(((before - expected).norm() / before.norm()).item(), rel=1e-6)
    centre = torch.cat([one.centre for one in ones]).repeat_interleave(taps)
    torch.testing.assert_close(shift, (before - expected) @ centre, atol=1e-9, rtol=0)
    if strength == 1:
        left = torch.block_diag(*(one.left for one in ones))
        assert (after @ torch.kron(left, torch.eye(taps, dtype=torch.float64))).norm() <= 1e-5


def test_an_erasure_of_rank_zero_is_the_identity():
    site = site_of(nn.Conv2d(8, 6, 3))
    before = site.weight.detach().clone()
    share, shift = erase(site, [orthogonal(torch.zeros(8, 0, dtype=torch.float64), normal(8))], 1.0)
    assert torch.equal(site.weight, before) and share == 0 and not shift.any()


# --------------------------------------------------------------------------------------------- erasers


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(2, 10), st.integers(1, 3))
def test_the_oblique_projection_moves_inputs_least_of_all_that_erase_the_directions(seed, d, rank):
    rank = min(rank, d - 1)
    basis, metric = orthonormal(d, rank, seed), covariance(d, seed + 1)
    found = oblique(basis, metric, normal(d))
    projection = found.left @ found.right.T
    torch.testing.assert_close(projection @ basis, basis, atol=1e-8, rtol=0)
    torch.testing.assert_close(projection @ projection, projection, atol=1e-7, rtol=0)

    def cost(one: Tensor) -> float:
        return torch.trace(one @ metric @ one.T).item()

    # Every other projection along the same directions differs by something that vanishes on them.
    other = projection + 0.1 * basis @ normal(rank, d, seed=seed) @ (torch.eye(d) - basis @ basis.T)
    torch.testing.assert_close(other @ basis, basis, atol=1e-8, rtol=0)
    assert cost(projection) <= cost(other) + 1e-9
    assert cost(projection) <= cost(basis @ basis.T) + 1e-9


def test_an_oblique_projection_in_a_round_metric_is_orthogonal():
    basis = orthonormal(7, 2)
    found = oblique(basis, 3.0 * torch.eye(7, dtype=torch.float64), normal(7))
    torch.testing.assert_close(found.left @ found.right.T, basis @ basis.T)


def labelled(seed: int = 0, d: int = 6, count: int = 400, classes: int = 5) -> tuple[Tensor, Tensor]:
    """Vectors of classes with means of their own, in a stretched space."""
    labels = torch.arange(count) % classes
    vectors = normal(classes, d, seed=seed)[labels] + normal(count, d, seed=seed + 1) @ normal(d, d, seed=seed + 2)
    return vectors, labels


def statistics_of(vectors: Tensor, labels: Tensor, forget: list[int], classes: int = 5) -> ClassStatistics:
    """Every fourth vector is held out."""
    found, held_out = ClassStatistics("it", classes, torch.tensor(forget)), torch.arange(len(labels)) % 4 == 0
    found.fit(vectors[~held_out], labels[~held_out])
    found.settle()
    found.score(vectors[held_out], labels[held_out])
    return found


@pytest.mark.parametrize("forget", [[3], [0, 2, 4]], ids=["one class", "three classes"])
def test_leace_is_the_eraser_of_the_concept_erasure_library(forget):
    library = pytest.importorskip("concept_erasure")
    vectors, labels = labelled()
    fitted = torch.arange(len(labels)) % 4 != 0
    found: Erasure = leace(statistics_of(vectors, labels, forget).summary())
    concept = torch.nn.functional.one_hot(labels, 5)[:, forget].double()
    exact = {"shrinkage": False, "constrain_cov_trace": False, "svd_tol": 1e-6}
    theirs = library.LeaceFitter.fit(vectors[fitted], concept[fitted], **exact).eraser
    ours = vectors - (vectors - found.centre) @ found.right @ found.left.T
    torch.testing.assert_close(ours, theirs(vectors), atol=1e-8, rtol=0)
    assert found.rank == len(forget)


def test_leace_leaves_no_difference_of_means():
    vectors, labels = labelled()
    fitted = torch.arange(len(labels)) % 4 != 0
    found = leace(statistics_of(vectors, labels, [3]).summary())
    erased = vectors - (vectors - found.centre) @ found.right @ found.left.T
    going = labels == 3
    difference = erased[going & fitted].mean(0) - erased[~going & fitted].mean(0)
    assert difference.norm() <= 1e-9 < (vectors[going].mean(0) - vectors[~going].mean(0)).norm()


# ------------------------------------------------------------------------------------------ directions


random_prototypes = st.tuples(
    st.integers(0, 10_000), st.integers(2, 12), st.integers(1, 6), st.integers(1, 8), st.sampled_from([0.5, 0.95, 1.0])
)


@settings(max_examples=60)
@given(random_prototypes, st.sampled_from(["centred", "span"]))
def test_directions_are_orthonormal_few_and_orthogonal_to_what_is_known(drawn, residual):
    seed, d, going, staying, energy = drawn
    prototypes = normal(going + staying, d, seed=seed)
    basis = directions(prototypes, torch.arange(going), residual, energy)
    rank = basis.shape[1]
    assert rank <= going
    torch.testing.assert_close(basis.T @ basis, torch.eye(rank, dtype=torch.float64), atol=1e-9, rtol=0)
    retained = prototypes[going:].numpy()
    if residual == "span":
        known = retained
    else:
        rows = retained - retained.mean(0)
        # scikit-learn's rule for a share of variance: the fewest components that reach it.
        variances = np.linalg.svd(rows)[1] ** 2
        needed = int(np.searchsorted(np.cumsum(variances) / max(variances.sum(), 1e-300), energy - 1e-9)) + 1
        known = np.linalg.svd(rows)[2][: min(needed, np.linalg.matrix_rank(rows))]
    assert np.abs(known @ basis.numpy()).max(initial=0) <= 1e-6


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(2, 10))
def test_one_direction_is_the_least_squares_residual(seed, d):
    prototypes = normal(4, d + 4, seed=seed)
    forgotten, retained = prototypes[0].numpy(), prototypes[1:].numpy()
    plain = forgotten - retained.T @ np.linalg.lstsq(retained.T, forgotten, rcond=None)[0]
    centred = retained - retained.mean(0)
    away = forgotten - retained.mean(0)
    middle = away - centred.T @ np.linalg.lstsq(centred.T, away, rcond=1e-10)[0]
    for residual, expected in [("span", plain), ("centred", middle)]:
        found = directions(prototypes, torch.tensor([0]), residual, 1.0)[:, 0].numpy()
        assert abs(abs(found @ expected) / np.linalg.norm(expected) - 1) <= 1e-9


def test_routed_directions_lead_to_the_mixture_of_retained_prototypes():
    prototypes, routing = normal(6, 9), torch.tensor([[0.5, 0.5, 0, 0], [0, 0.1, 0, 0.9]], dtype=torch.float64)
    basis = directions(prototypes, torch.tensor([1, 4]), "routed", routing=routing)
    retained = prototypes[[0, 2, 3, 5]]
    away = torch.stack([prototypes[1] - (retained[0] + retained[1]) / 2, prototypes[4] - routing[1] @ retained])
    torch.testing.assert_close(away @ basis @ basis.T, away, atol=1e-12, rtol=0)
    assert basis.shape == (9, 2)


def test_the_span_residual_vanishes_where_the_retained_prototypes_span_the_space():
    prototypes = normal(10, 6)
    assert directions(prototypes, torch.tensor([2, 5]), "span", 0.95).shape == (6, 0)
    assert directions(prototypes, torch.tensor([2, 5]), "centred", 0.5).shape == (6, 2)


@pytest.mark.parametrize("residual", ["centred", "span", "routed"])
def test_rounding_errors_of_constant_prototypes_are_no_direction(residual):
    prototypes = torch.full((5, 6), 0.1, dtype=torch.float64)
    prototypes[2] += 1e-9
    routing = torch.full((1, 4), 0.25, dtype=torch.float64)
    assert directions(prototypes, torch.tensor([2]), residual, 0.95, routing).shape == (6, 0)


# --------------------------------------------------------------------------------------- strength, probe


def test_the_discriminant_is_fishers():
    rng = np.random.default_rng(0)
    groups = rng.normal(size=(40, 5)) @ rng.normal(size=(5, 5)) + 1.0, rng.normal(size=(90, 5))
    fed = []
    for group in groups:
        fed.append(Moments(5, scatter=True))
        fed[-1].update(torch.from_numpy(group))
    direction, threshold = discriminant(*fed)
    within = sum(np.cov(group.T, bias=True) for group in groups)
    means = [group.mean(0) for group in groups]
    within = within + 1e-3 * np.trace(within) / 5 * np.eye(5)
    expected = np.linalg.inv(within) @ (means[0] - means[1])
    np.testing.assert_allclose(direction.numpy(), expected, rtol=1e-6)
    assert threshold.item() == pytest.approx(expected @ (means[0] + means[1]) / 2)


def test_separability_is_that_of_balanced_answers():
    assert separability(torch.tensor([[90.0, 10.0], [1.0, 3.0]])) == pytest.approx(0.9 + 0.75 - 1)
    assert separability(torch.tensor([[10.0, 90.0], [3.0, 1.0]])) == 0


def test_depth_rules():
    assert [alpha("late", 0.1, place, 11) for place in (5, 6, 8, 11)] == pytest.approx([0, 0, 1, 1])
    assert [alpha("late", 0.1, place, 101) for place in (60, 65, 70, 75, 80)] == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert [alpha("late", 0.1, place, 101, in_stream=True) for place in (30, 40, 55)] == pytest.approx([0, 0.4, 1])
    assert alpha("probe", 0.6, 2, 4) == 0.6
    assert alpha("probe^2", 0.6, 2, 4) == pytest.approx(0.36)
    assert alpha("probe*ramp", 0.6, 2, 4) == pytest.approx(0.3)
    assert alpha("constant", 0.0, 1, 4) == 1


def test_the_last_maps_are_edited_in_full_and_those_before_as_far_as_the_class_can_be_told_apart():
    assert alpha("last", 0.1, 9, 11, last=True) == 1
    assert [alpha("last", 0.5, place, 11) for place in (5, 6, 8)] == pytest.approx([0, 0, 0.25])
    assert [alpha("last", 0.5, place, 101, in_stream=True) for place in (30, 40, 55)] == pytest.approx([0, 0.1, 0.25])


# ------------------------------------------------------------------------------------------- statistics


@pytest.mark.parametrize("forget", [[3], [0, 4]], ids=["one class", "two classes"])
def test_streamed_statistics_are_those_of_all_vectors_at_once(forget):
    vectors, labels = labelled()
    held_out = torch.arange(len(labels)) % 4 == 0
    streamed = ClassStatistics("it", 5, torch.tensor(forget))
    for some, names in zip(vectors[~held_out].split(17), labels[~held_out].split(17), strict=True):
        streamed.fit(some, names)
    streamed.settle()
    for some, names in zip(vectors[held_out].split(17), labels[held_out].split(17), strict=True):
        streamed.score(some, names)
    found = streamed.summary()
    x, y = vectors[~held_out].numpy(), labels[~held_out].numpy()
    means = np.stack([x[y == number].mean(0) for number in range(5)])
    going, staying = np.isin(y, forget), [number for number in range(5) if number not in forget]
    np.testing.assert_allclose(found.prototypes, means, atol=1e-10)
    np.testing.assert_allclose(found.retain.mean, x[~going].mean(0), atol=1e-10)
    np.testing.assert_allclose(found.retain.covariance, np.cov(x[~going].T, bias=True), atol=1e-10)
    np.testing.assert_allclose(found.everything.covariance, np.cov(x.T, bias=True), atol=1e-10)
    # Routing: the nearest retained prototype in the metric within the retained classes.
    within = np.cov((x - means[y])[~going].T, bias=True)
    metric = np.linalg.inv(within + SHRINKAGE * np.trace(within) / len(within) * np.eye(len(within)))
    new, names = vectors[held_out].numpy(), labels[held_out].numpy()
    for row, number in enumerate(forget):
        away = new[names == number][:, None] - means[staying]
        nearest = np.einsum("nkd,de,nke->nk", away, metric, away).argmin(1)
        np.testing.assert_allclose(found.routing[row], np.bincount(nearest, minlength=len(staying)) / len(nearest))
    sides = [x[going], x[~going]]
    spread = sum(np.cov(side.T, bias=True) for side in sides)
    spread = spread + 1e-3 * np.trace(spread) / len(spread) * np.eye(len(spread))
    direction = np.linalg.solve(spread, sides[0].mean(0) - sides[1].mean(0))
    said = (new - (sides[0].mean(0) + sides[1].mean(0)) / 2) @ direction > 0
    truth = np.isin(names, forget)
    assert found.separability == pytest.approx(max(0, said[truth].mean() + (~said[~truth]).mean() - 1))


def test_classes_that_are_gone_have_no_place_in_the_statistics():
    vectors, labels = labelled()
    smaller = statistics_of(vectors, labels, [2]).summary()
    wider, held_out = ClassStatistics("it", 7, torch.tensor([3]), gone=(1, 4)), torch.arange(len(labels)) % 4 == 0
    names = torch.tensor([0, 2, 3, 5, 6])[labels]
    wider.fit(vectors[~held_out], names[~held_out])
    wider.settle()
    wider.score(vectors[held_out], names[held_out])
    found = wider.summary()
    for part in ("prototypes", "forget", "routing"):
        assert torch.equal(getattr(found, part), getattr(smaller, part))
    assert found.separability == smaller.separability


def test_half_precision_vectors_give_statistics_in_float64():
    vectors, labels = labelled()
    found = statistics_of((vectors + 300).bfloat16(), labels, [3]).summary()
    exact = statistics_of((vectors + 300).bfloat16().double(), labels, [3]).summary()
    assert found.prototypes.dtype == found.retain.covariance.dtype == torch.float64
    assert torch.equal(found.prototypes, exact.prototypes) and torch.equal(found.routing, exact.routing)


def test_statistics_refuse_nan_and_missing_classes():
    vectors, labels = labelled()
    with pytest.raises(InputError, match="class 5 has no calibration example; allowed: at least 1"):
        statistics_of(vectors, labels, [3], classes=6).summary()
    vectors[7, 2] = torch.nan
    with pytest.raises(InputError, match="model: NaN or infinite inputs of it; allowed: finite activations"):
        statistics_of(vectors, labels, [3])


# -------------------------------------------------------------------------------------------- the head


@pytest.mark.parametrize("seed", range(3))
def test_the_best_biases_minimise_the_loss(seed):
    logits, labels = 2 * normal(200, 4, seed=seed), torch.arange(200) % 4
    logits[:, 1] += 3

    def loss(biases: np.ndarray) -> float:
        return torch.nn.functional.cross_entropy(logits + torch.from_numpy(biases), labels).item()

    found = best_biases(logits, labels)
    best = scipy.optimize.minimize(loss, np.zeros(4), tol=1e-12)
    np.testing.assert_allclose(found, best.x - best.x.mean(), atol=1e-4)
    assert abs(found.sum()) <= 1e-9


def test_a_class_without_examples_keeps_its_bias():
    logits, labels = normal(100, 4), torch.arange(100) % 3
    found = best_biases(logits, labels)
    assert found[3] == 0 and found.isfinite().all()


@pytest.mark.parametrize("kind", ["Linear", "Hugging Face Conv1D", "Linear without bias"])
def test_a_retired_class_never_wins_and_the_others_keep_their_rows(kind):
    torch.manual_seed(0)
    head = nn.Linear(8, 6, bias=False) if "without" in kind else MAPS[kind]()
    inputs, labels = normal(300, 8).float(), torch.arange(300) % 6
    before = head(inputs)
    share = retire(head, 6, (1, 4))
    recalibrate(head, inputs, labels, (1, 4))
    after = head(inputs)
    staying = [0, 2, 3, 5]
    assert not torch.isin(after.argmax(1), torch.tensor([1, 4])).any() and share > 0
    torch.testing.assert_close(after[:, 1], after[:, staying].mean(1), atol=1e-5, rtol=0)
    moved = (after - before)[:, staying]
    torch.testing.assert_close(moved, moved[:1].expand_as(moved), atol=1e-5, rtol=0)
    if head.bias is not None:
        kept = torch.isin(labels, torch.tensor(staying))
        odds = after[kept][:, staying].softmax(1).mean(0)
        torch.testing.assert_close(odds, torch.full((4,), 0.25), atol=1e-5, rtol=0)


def test_a_head_of_another_size_cannot_be_retired():
    with pytest.raises(InputError, match="the head has 6 outputs; allowed: 10, one per class, or head='project'"):
        retire(nn.Linear(8, 6), 10, (1,))


# ------------------------------------------------------------------------------------ invalid settings


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"residual": "centered"}, "residual: 'centered' is unknown; did you mean 'centred'"),
        ({"depth": "prob"}, "depth: 'prob' is unknown; did you mean 'probe'"),
        ({"bias": "drop"}, "bias: 'drop' is unknown"),
        ({"eraser": "obliq"}, "eraser: 'obliq' is unknown; did you mean 'oblique'"),
        ({"order": "oneshot"}, "order: 'oneshot' is unknown; did you mean 'one-shot'"),
        ({"head": "keep"}, "head: 'keep' is unknown"),
        ({"norms": "drop"}, "norms: 'drop' is unknown"),
        (
            {"norms": "re-estimate", "order": "one-shot"},
            "norms: 're-estimate' in one shot; allowed: order='sequential'",
        ),
        ({"energy": 0.0}, "energy: 0.0; allowed: above 0, up to 1"),
        ({"energy": float("nan")}, "energy: nan"),
        ({"alpha": 1.5}, "alpha: 1.5; allowed: above 0, up to 1"),
        ({"shortcut": -0.1}, "shortcut: -0.1; allowed: 0 to 1, or None"),
        ({"shortcut": float("nan")}, "shortcut: nan"),
        ({"ridge": 0.0}, "ridge: 0.0; allowed: a finite number above 0"),
        ({"ridge": float("inf")}, "ridge: inf"),
        ({"calibration": 7}, "calibration: 7; allowed: 8 or more"),
    ],
)
def test_an_impossible_setting_is_refused_at_once(wrong, message):
    with pytest.raises(InputError, match=message):
        Damp(**wrong)
