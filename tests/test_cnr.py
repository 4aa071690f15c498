"""CNR: each stage against a direct computation, a planted net whose forget units are known, the contract, bad input."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn

from rasura import InputError, Problem, predict
from rasura.activations import Point
from rasura.data import examples_from
from rasura.methods import _generator as generator
from rasura.methods import cnr
from rasura.methods._counterfactuals import Objective, synthesise, total_variation
from rasura.methods._examples import joined, some_of_each
from rasura.methods._generator import LATENT, Pair, Pixels, adversarial_losses, trained_pair
from rasura.methods._losses import frozen
from rasura.methods._reset import (
    Reset,
    likely_labels,
    mismatch,
    nearest_labels,
    penalty,
    thinned,
    trainable,
    uniform_labels,
)
from rasura.methods._selectivity import (
    class_centroids,
    detect,
    gradient_maps,
    mean_activation,
    profile,
    representative_stages,
    retain_centroid,
    selectivity,
    top_units,
)
from rasura.methods.cnr import Cnr
from rasura.testing import check_method, small_problem
from rasura.training import Batch, DivergedError, flip

QUICK = Cnr(generator_epochs=1, steps=2, epochs=1, examined=20, images=8)
VIT = "vit,patch=2,width=16,depth=2"


@pytest.fixture(scope="module")
def problem() -> Problem:
    return small_problem("resnet8,width=4")


def all_of(problem: Problem):
    return joined(problem.forget, problem.retain)


# ---------------------------------------------------------------------------------------------- detection


@pytest.mark.parametrize("net", ["resnet8,width=4", VIT])
def test_selectivity_is_the_difference_of_class_means_in_every_coordinate(net):
    problem = small_problem(net, (1, 4))
    model = problem.model.eval()
    inputs, labels = all_of(problem).batch(torch.arange(400))
    point = representative_stages(model, inputs[:2], 4)[1]
    seen: list[Tensor] = []
    handle = model.get_submodule(point.module).register_forward_hook(lambda *parts: seen.append(parts[2]))
    with torch.no_grad():
        model(inputs)
    handle.remove()
    flat, numbers = seen[0].double().numpy().reshape(400, -1), labels.numpy()
    means = {number: flat[numbers == number].mean(0) for number in range(10)}
    others = np.mean([mean for number, mean in means.items() if number not in (1, 4)], axis=0)
    centroids = class_centroids(model, all_of(problem), [point], 10)[point]
    np.testing.assert_allclose(retain_centroid(centroids, (1, 4)).numpy(), others, atol=1e-5)
    found = selectivity(centroids, (1, 4)).numpy()
    np.testing.assert_allclose(found, np.stack([means[1], means[4]]) - others, atol=1e-5)


def test_the_retain_centroid_gives_classes_of_any_size_one_weight():
    centroids = {0: torch.tensor([5.0]), 1: torch.tensor([1.0]), 3: torch.tensor([3.0])}
    assert retain_centroid(centroids, (0,)).item() == 2


@given(st.integers(2, 40), st.integers(1, 60), st.integers(1, 3), st.integers(0, 99))
@settings(max_examples=40)
def test_chosen_units_are_the_largest_and_smallest_and_at_most_half(width, wanted, classes, seed):
    maps = torch.randn(classes, width, generator=torch.Generator().manual_seed(seed))
    units, count = top_units(maps, wanted), min(wanted, max(1, width // 2))
    assert units.per_class.shape == (classes, count) and units.of == width
    order = np.argsort(-maps.numpy(), axis=1)
    assert set(units.forget.tolist()) == set(order[:, :count].reshape(-1).tolist())
    assert set(units.retain.tolist()) == set(order[:, -count:].reshape(-1).tolist())
    expected = np.take_along_axis(maps.numpy(), order[:, :count], axis=1).mean()
    assert units.selectivity(maps) == pytest.approx(expected, abs=1e-6)


def test_mean_activation_is_the_mean_over_the_chosen_coordinates():
    maps = torch.arange(24.0).view(2, 3, 2, 2)
    assert mean_activation(maps, torch.tensor([0, 5, 11])).tolist() == pytest.approx([16 / 3, 16 / 3 + 12])


class Planted(nn.Module):
    """Eight hidden units: unit k answers to pixel k alone; the classes are pixels 0, 1, 2 and 3."""

    def __init__(self):
        super().__init__()
        self.flat = nn.Flatten()
        self.hidden = nn.Sequential(nn.Linear(64, 8), nn.ReLU())
        self.head = nn.Linear(8, 4)
        with torch.no_grad():
            self.hidden[0].weight.copy_(torch.eye(8, 64))
            self.hidden[0].bias.zero_()
            self.head.weight.copy_(5 * torch.eye(4, 8))
            self.head.bias.zero_()

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.hidden(self.flat(images)))


def planted() -> Problem:
    labels = torch.arange(240) % 4
    images = 0.1 * torch.rand(240, 64, generator=torch.Generator().manual_seed(0))
    images[torch.arange(240), labels] = 1.0
    examples = examples_from(images.view(240, 1, 8, 8), labels)
    return Problem(Planted(), examples.take(labels == 2), examples.take(labels != 2), (2,), 4)


@pytest.mark.parametrize("selection", ["mean-activation", "gradient"])
def test_planted_units_are_found(selection):
    problem = planted()
    found = detect(problem.model, all_of(problem), (Point("hidden"),), (2,), selection, 1, 0)
    units = found.units[Point("hidden")]
    assert units.forget.tolist() == [2]
    if selection == "mean-activation":
        assert units.retain.tolist()[0] in (0, 1, 3)


def test_random_units_do_not_depend_on_the_net():
    problem, point = planted(), Point("hidden")
    found = [
        detect(problem.model, all_of(problem), (point,), (2,), "random", 3, seed).units[point] for seed in (0, 0, 1)
    ]
    assert torch.equal(found[0].per_class, found[1].per_class)
    assert not torch.equal(found[0].per_class, found[2].per_class)


def test_gradient_maps_are_mean_gradients_of_the_class_logit(problem):
    model, point = frozen(problem.model), Point("layer2")
    inputs, _ = problem.forget.batch(torch.arange(len(problem.forget)))
    offsets = torch.zeros(len(inputs), 1, 1, 1, requires_grad=True)
    handle = model.get_submodule("layer2").register_forward_hook(lambda *parts: parts[2] + offsets)
    model(inputs)[:, 3].sum().backward()  # the gradient of a shift of all coordinates is the sum of theirs
    handle.remove()
    found = gradient_maps(model, problem.forget, (point,), (3,))[point]
    assert offsets.grad is not None
    assert found.sum().item() == pytest.approx(offsets.grad.mean().item(), rel=1e-4)


# ---------------------------------------------------------------------------------------------- synthesis


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 96, 96), (2, 30, 17)])
def test_generator_and_discriminator_fit_any_size(shape):
    pair = Pair(*shape, 4).eval()
    images = pair.generator(torch.zeros(2, LATENT))
    assert images.shape == (2, *shape) and images.abs().max() <= 1
    assert pair.discriminator(images).shape == (2,)


def test_pixels_are_squeezed_to_the_range_of_tanh_and_back():
    inputs = (
        torch.randn(9, 3, 5, 5, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 7, 0.1])[:, None, None]
    )
    pixels = Pixels.of(inputs)
    squeezed = pixels.squeezed(inputs)
    assert squeezed.amin((0, 2, 3)).tolist() == [-1] * 3 and squeezed.amax((0, 2, 3)).tolist() == pytest.approx([1] * 3)
    torch.testing.assert_close(pixels.stretched(squeezed), inputs)


def test_adversarial_losses_are_cross_entropies_each_for_its_own_net():
    torch.manual_seed(0)
    pair, real, codes = Pair(1, 8, 8, 4).eval(), torch.rand(6, 1, 8, 8), torch.randn(6, LATENT)
    flattered, told = adversarial_losses(pair, real, codes)
    said = [pair.discriminator(images).sigmoid().double() for images in (real, pair.generator(codes))]
    assert flattered.item() == pytest.approx(-said[1].log().mean().item(), rel=1e-5)
    assert told.item() == pytest.approx(-(said[0].log().mean() + (1 - said[1]).log().mean()).item() / 2, rel=1e-5)
    for loss, own, other in [(flattered, "generator", "discriminator"), (told, "discriminator", "generator")]:
        pair.zero_grad()
        loss.backward(retain_graph=True)
        assert all(p.grad is not None for p in pair.get_submodule(own).body.parameters())
        assert all(p.grad is None for p in pair.get_submodule(other).parameters())


def test_total_variation_is_the_sum_of_its_roots():
    images = torch.randn(3, 2, 4, 5, generator=torch.Generator().manual_seed(0)).double()
    expected = np.zeros(3)
    for row in range(4):
        for column in range(5):
            down = images[:, :, row + 1, column] - images[:, :, row, column] if row < 3 else torch.zeros(3, 2)
            right = images[:, :, row, column + 1] - images[:, :, row, column] if column < 4 else torch.zeros(3, 2)
            expected += (down**2 + right**2).sqrt().sum(1).numpy()
    np.testing.assert_allclose(total_variation(images).numpy(), expected, atol=1e-9)
    flat = torch.zeros(1, 1, 4, 4, requires_grad=True)
    total_variation(flat).sum().backward()
    assert flat.grad is not None and flat.grad.isfinite().all()


@pytest.fixture(scope="module")
def learned(problem) -> tuple[Problem, Pixels, Pair]:
    inputs, _ = problem.forget.batch(torch.arange(len(problem.forget)))
    pixels = Pixels.of(inputs)
    return problem, pixels, trained_pair(pixels.squeezed(inputs), 8, 20, 1e-3, 0).pair


def objective_of(learned, alpha=1.5, realism=0.1, smoothness=0.01) -> Objective:
    problem, pixels, pair = learned
    points = representative_stages(problem.model, problem.forget.batch(torch.arange(2))[0], 4)
    units = detect(problem.model, all_of(problem), points, (3,), "mean-activation", 5, 0).units
    return Objective(frozen(problem.model), pair.discriminator, pixels, units, alpha, realism, smoothness)


def test_the_selective_term_is_equation_6(learned):
    objective, (problem, pixels, _) = objective_of(learned), learned
    images = 2 * torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)) - 1
    total, model = 0.0, problem.model.eval()
    for point, units in objective.units.items():
        seen: list[Tensor] = []
        handle = model.get_submodule(point.module).register_forward_hook(
            lambda *parts, seen=seen: seen.append(parts[2])
        )
        with torch.no_grad():
            model(pixels.stretched(images))
        handle.remove()
        flat = seen[0].flatten(1)
        total += flat[:, units.forget].mean().item() - 1.5 * flat[:, units.retain].mean().item()
    selective, real, smooth = objective.terms(images)
    assert selective.item() == pytest.approx(total / len(objective.units), rel=1e-4)
    odds = objective.discriminator(images).sigmoid()
    assert real.item() == pytest.approx(-odds.log().mean().item(), rel=1e-4)
    assert objective(images).item() == pytest.approx((selective + 0.1 * real + 0.01 * smooth).item(), rel=1e-5)


@pytest.mark.parametrize("term", ["all", "selective", "real", "smooth"])
def test_optimising_the_codes_lowers_the_objective_and_each_term_that_counts(learned, term):
    objective = objective_of(learned)
    if term in ("real", "smooth"):
        heavy = {"real": {"realism": 1e4, "smoothness": 0.0}, "smooth": {"realism": 0.0, "smoothness": 1e4}}[term]
        objective = replace(objective, **heavy)
    elif term == "selective":
        objective = replace(objective, realism=0.0, smoothness=0.0)
    images = [synthesise(learned[2], objective, 16, steps, 0.05, 0)[0] for steps in (0, 25)]
    value = {"all": objective, "selective": objective.selective}.get(term)
    place = {"real": 1, "smooth": 2}.get(term, 0)
    before, after = (value(one) if value else objective.terms(one)[place] for one in images)
    assert after.item() < before.item() - 0.01 * abs(before.item())


def test_synthesis_leaves_generator_and_judge_as_they_were(learned):
    objective, (problem, _, pair) = objective_of(learned), learned
    before = {
        name: tensor.clone() for name, tensor in (*pair.state_dict().items(), *problem.model.state_dict().items())
    }
    images, course = synthesise(pair, objective, 8, 3, 0.01, 0)
    after = {**pair.state_dict(), **problem.model.state_dict()}
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in pair.parameters())
    assert len(course) == 4 and course[-1] == pytest.approx(objective(images).item(), rel=1e-5)


def test_a_generator_that_diverges_is_tried_once_more_with_a_smaller_step(monkeypatch):
    images = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with pytest.raises(
        InputError, match=r"generator_rate: 1000000.0 and 100000 both diverged .*; allowed: a smaller one"
    ):
        trained_pair(images, 4, 2, 1e6, 0)
    rates: list[float] = []
    attempt = generator._attempt

    def first_fails(*parts):
        rates.append(parts[3])
        if len(rates) == 1:
            raise DivergedError("the losses ended at 12 and 0")
        return attempt(*parts)

    monkeypatch.setattr(generator, "_attempt", first_fails)
    assert trained_pair(images, 4, 1, 1e-3, 0).restarts == 1
    assert rates == pytest.approx([1e-3, 1e-4])


def test_a_generator_whose_images_are_all_one_is_refused():
    images = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    pair = Pair(1, 8, 8, 4).eval()
    varied = generator._spread(pair)
    generator._check_sound(pair, images, [(0.7, 0.7)], varied / 2)
    with torch.no_grad():
        pair.generator.body[-1].weight.zero_()
    with pytest.raises(InputError, match="all generated images are one"):
        generator._check_sound(pair, images, [(0.7, 0.7)], varied / 2)
    with pytest.raises(InputError, match=r"the losses ended at 9 and 0\.01"):
        generator._check_sound(Pair(1, 8, 8, 4).eval(), images, [(9.0, 0.01)], 0.0)


def test_a_stored_generator_gives_the_same_bits_and_another_class_its_own(problem, tmp_path):
    method = replace(QUICK, store=str(tmp_path / "kept"))
    first, record = method(problem)
    again, second = method(problem)
    assert not record["generator"]["stored"] and second["generator"]["stored"]
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    plain, _ = QUICK(problem)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), plain.parameters(), strict=True))
    assert not method(small_problem("resnet8,width=4", (5,)))[1]["generator"]["stored"]
    (one, _) = sorted((tmp_path / "kept").iterdir())
    for path in (tmp_path / "kept").iterdir():
        path.write_bytes(b"no generator")
    with pytest.raises(InputError, match=r"store: .* is not a stored generator"):
        method(problem)
    assert one.suffix == ".safetensors"


# -------------------------------------------------------------------------------------------------- reset


def test_labels_are_even_over_the_retained_classes():
    retained = torch.tensor([0, 2, 5, 7])
    labels = uniform_labels(8000, retained, 0)
    assert labels.unique().tolist() == retained.tolist()
    counts = torch.bincount(labels)[retained]
    assert counts.min() > 1850 and counts.max() < 2150  # 2,000 expected, standard deviation 39
    assert torch.equal(labels, uniform_labels(8000, retained, 0))
    assert not torch.equal(labels, uniform_labels(8000, retained, 1))


def reset_of(problem: Problem, model: nn.Module, **changes) -> Reset:
    inputs, _ = problem.forget.batch(torch.arange(len(problem.forget)))
    labels = torch.zeros(len(inputs), dtype=torch.int64)
    base = Reset(inputs, labels, 1.0, trainable(model), 0.0, torch.Generator().manual_seed(0))
    return replace(base, **changes)


def test_the_penalty_anchors_at_the_start(problem):
    model = problem.copy_of_model()
    start = trainable(model)
    assert penalty(model, start).item() == 0
    with torch.no_grad():
        model.get_parameter("head.bias").add_(2.0)
    assert penalty(model, start).item() == pytest.approx(0.5 * 4 * 10, rel=1e-5)
    (slope,) = torch.autograd.grad(penalty(model, start), model.get_parameter("head.bias"))
    assert slope.tolist() == pytest.approx([2.0] * 10, rel=1e-5)


def test_the_reset_loss_is_equation_7(problem):
    model = problem.copy_of_model().eval()
    inputs, labels = problem.retain.batch(torch.arange(16))
    reset = reset_of(problem, model, gamma=0.3)
    with torch.no_grad():
        model.get_parameter("head.bias").add_(1.0)
    value = reset(model, Batch(inputs, labels, torch.arange(16)))
    rows = torch.randint(len(reset.labels), (16,), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        made = F.cross_entropy(model(reset.inputs[rows]), reset.labels[rows])
        expected = made + F.cross_entropy(model(inputs), labels) + 0.3 * 0.5 * 10
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    assert reset.course == [value.item()]


def test_counterfactuals_are_augmented_as_the_retained_examples_are(problem):
    model = problem.copy_of_model().eval()
    inputs, labels = problem.retain.batch(torch.arange(16))
    value = reset_of(problem, model, augment=("flip",))(model, Batch(inputs, labels, torch.arange(16)))
    draw, plain = torch.Generator().manual_seed(0), reset_of(problem, model)
    made = flip(plain.inputs[torch.randint(len(plain.labels), (16,), generator=draw)], draw)
    with torch.no_grad():
        expected = F.cross_entropy(model(made), plain.labels[:16]) + F.cross_entropy(model(inputs), labels)
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    assert value.item() != pytest.approx(plain(model, Batch(inputs, labels, torch.arange(16))).item(), rel=1e-3)


def test_the_mismatch_is_the_difference_of_class_means_in_units_of_the_deviation_within_classes():
    draw = torch.Generator().manual_seed(0)
    made, kept = (torch.randn(count, 6, generator=draw) * torch.arange(6) for count in (12, 20))  # one is always still
    labels, kept_labels = torch.tensor([0, 2, 2, 5] * 3), torch.tensor([0, 2, 2, 3] * 5)  # no retained example has 5
    total, squares = np.zeros(6), np.zeros(6)
    for number in (0, 2, 3):
        own = kept[kept_labels == number].double().numpy()
        squares += ((own - own.mean(0)) ** 2).sum(0)
        if number != 3:
            group = made[labels == number].double().numpy()
            total += len(group) * (group.mean(0) - own.mean(0)) ** 2
    variance = squares / (20 - 3)
    expected = (total / 9 / (variance + 0.1 * variance.mean())).mean()
    assert mismatch(made, labels, kept, kept_labels).item() == pytest.approx(expected, rel=1e-5)
    assert mismatch(made, torch.full((12,), 5), kept, kept_labels).item() == 0


def test_the_mismatch_moves_the_counterfactuals_alone_and_to_where_there_is_none():
    draw = torch.Generator().manual_seed(0)
    kept, kept_labels = torch.randn(20, 4, generator=draw), torch.arange(20) % 2
    made, anchored = (torch.randn(6, 4, generator=draw).requires_grad_(), kept.clone().requires_grad_())
    mismatch(made, torch.ones(6).long(), anchored, kept_labels).backward()
    assert made.grad is not None and anchored.grad is None
    target = kept[kept_labels == 1].mean(0)
    assert torch.allclose(made.grad, made.grad[0].expand(6, 4))  # the mean is moved, not the spread
    assert (made.grad[0].sign() == (made.mean(0) - target).sign()).all()
    there = target.expand(3, 4)
    assert mismatch(there, torch.ones(3).long(), kept, kept_labels).item() == pytest.approx(0, abs=1e-10)


def test_the_pull_is_the_mismatch_at_the_stage(problem):
    model, point = problem.copy_of_model().eval(), Point("layer3")
    inputs, labels = problem.retain.batch(torch.arange(16))
    batch = Batch(inputs, labels, torch.arange(16))
    plain, pulled = reset_of(problem, model), reset_of(problem, model, stage=point, pull=2.0)
    more = pulled(model, batch).item() - plain(model, batch).item()
    rows = torch.randint(len(plain.labels), (16,), generator=torch.Generator().manual_seed(0))
    seen: list[Tensor] = []
    handle = model.get_submodule("layer3").register_forward_hook(lambda *parts: seen.append(parts[2].mean((2, 3))))
    with torch.no_grad():
        model(torch.cat([inputs, plain.inputs[rows]]))
    handle.remove()
    expected = 2 * mismatch(seen[0][16:], plain.labels[rows], seen[0][:16], labels).item()
    assert more == pytest.approx(expected, rel=1e-3) and more > 0


def test_nearest_labels_are_those_of_a_nearest_neighbour_classifier(problem):
    inputs, _ = problem.forget.batch(torch.arange(len(problem.forget)))
    seen: list[Tensor] = []
    handle = problem.model.get_submodule("layer3").register_forward_hook(
        lambda *parts: seen.append(parts[2].mean((2, 3)))
    )
    with torch.no_grad():
        for part in (inputs, problem.retain.batch(torch.arange(len(problem.retain)))[0]):
            problem.model.eval()(part)
    handle.remove()
    classifier = KNeighborsClassifier(15).fit(seen[1].numpy(), problem.retain.labels.numpy())
    found = nearest_labels(problem.model, inputs, problem.retain, Point("layer3")).numpy()
    assert (found == classifier.predict(seen[0].numpy())).mean() > 0.98  # the two may add up in another order


@given(st.lists(st.floats(-5, 5), max_size=200), st.integers(1, 70))
def test_a_thinned_curve_is_short_and_keeps_its_mean(course, most):
    short = thinned(course, most)
    assert len(short) == min(most, len(course))
    if course and len(course) % len(short) == 0:
        assert np.mean(short) == pytest.approx(np.mean(course), abs=0.01)


# --------------------------------------------------------------------------------------------- the method


@pytest.mark.parametrize("classes", [(3,), (1, 4, 7)], ids=["one class", "three classes"])
@pytest.mark.parametrize("net", ["convnet,width=8", "resnet8,width=4", VIT])
def test_cnr_keeps_the_contract(net, classes):
    check_method(QUICK, small_problem(net, classes))


SWITCHES = {
    "published": {"variant": "published"},
    "no synthesis": {"synthesis": False},
    "no synthesis, published": {"variant": "published", "synthesis": False},
    "no realism": {"realism": 0.0},
    "no smoothness": {"smoothness": 0.0},
    "gradient": {"selection": "gradient"},
    "random": {"selection": "random"},
    "no pull": {"pull": 0.0},
    "even labels": {"labels": "uniform"},
    "likely labels": {"labels": "likely"},
    "no steps": {"steps": 0},
}


@pytest.mark.parametrize("name", SWITCHES)
def test_every_switch_changes_the_result(problem, name):
    model, record = replace(QUICK, **SWITCHES[name])(problem)
    plain, _ = QUICK(problem)
    assert any(not torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))
    assert bool(record["generator"]) == ("synthesis" not in SWITCHES[name])


@pytest.mark.parametrize("scope", ["all", "head"])
def test_the_rows_of_absent_classes_are_the_mean_of_the_others_before_and_after(monkeypatch, scope):
    problem = small_problem("resnet8,width=4", (3, 8))
    later = replace(problem, retain=problem.retain.take(problem.retain.labels != 5), gone=(5,))
    kept, seen = [0, 1, 2, 4, 6, 7, 9], watched_resets(monkeypatch)
    model, _ = replace(QUICK, scope=scope)(later)
    for name in ("head.weight", "head.bias"):
        for values in (seen[0].start[name], model.get_parameter(name).detach()):
            assert torch.allclose(values[[3, 5, 8]], values[kept].mean(0).expand_as(values[[3, 5, 8]]), atol=1e-6)
    replace(QUICK, variant="published")(problem)
    assert torch.equal(seen[1].start["head.weight"], problem.model.get_parameter("head.weight"))


def test_a_single_class_cannot_be_left():
    with pytest.raises(InputError, match="classes: 1 would be left; allowed: 2 or more"):
        QUICK(small_problem("resnet8,width=4", tuple(range(9))))


def test_the_published_form_has_the_published_settings():
    found = vars(Cnr.published())
    expected = {"stages": 4, "units": 12, "generator_epochs": 50, "images": 64, "steps": 500, "latent_rate": 0.01}
    expected |= {"alpha": 1.5, "realism": 0.1, "smoothness": 0.01, "epochs": 10, "settle": 5, "learning_rate": 1e-4}
    assert {name: found[name] for name in expected} == expected


def watched_resets(monkeypatch) -> list[Reset]:
    """Every reset loss that the method makes from now on."""
    seen: list[Reset] = []
    monkeypatch.setattr(cnr, "Reset", lambda *parts: seen.append(Reset(*parts)) or seen[-1])
    return seen


def test_the_published_form_trains_on_synthetic_images_alone_and_without_a_pull(problem, monkeypatch):
    seen = watched_resets(monkeypatch)
    replace(QUICK, variant="published")(problem)
    QUICK(problem)
    published, swift = seen
    assert len(published.inputs) == 8 and published.stage is None
    assert len(swift.inputs) == 8 + len(problem.forget) and swift.stage == Point("layer3")
    assert torch.equal(swift.inputs[8:], problem.forget.batch(torch.arange(len(problem.forget)))[0])


def test_selectivity_falls_and_the_class_with_it(problem):
    model, record = Cnr(epochs=6)(problem)
    accuracy = {
        part: (predict(model, getattr(problem, part)).argmax(1) == getattr(problem, part).labels)
        for part in ("forget", "retain")
    }
    assert accuracy["forget"].double().mean() <= 0.05
    assert accuracy["retain"].double().mean() >= 0.9
    last = record["units"][-1]
    assert (
        last["after"] < 0.75 * last["before"]
    )  # not to 0: images of the class still look like those of its neighbours


def test_the_profile_of_an_unchanged_net_is_one_of_no_change(problem):
    points = representative_stages(problem.model, problem.forget.batch(torch.arange(2))[0], 4)
    found = detect(problem.model, all_of(problem), points, (3,), "mean-activation", 5, 0)
    rows = profile(found, problem.copy_of_model(), all_of(problem), (3,))
    assert [row["stage"] for row in rows] == [point.module for point in points]
    assert all(row["before"] == row["after"] > 0 for row in rows)


def test_with_a_frozen_backbone_only_the_head_changes(problem):
    model, _ = replace(QUICK, scope="head", epochs=2)(problem)
    pairs = zip(problem.model.state_dict().items(), model.state_dict().values(), strict=True)
    assert {name for (name, old), new in pairs if not torch.equal(old, new)} == {"head.weight", "head.bias"}
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_classes_of_earlier_rounds_get_no_label(monkeypatch):
    problem = small_problem("resnet8,width=4", (3,))
    gone = problem.retain.labels == 5
    later = replace(problem, retain=problem.retain.take(~gone), gone=(5,))
    seen = watched_resets(monkeypatch)
    for labels in ("uniform", "likely", "nearest"):
        replace(QUICK, labels=labels)(later)
    assert set(seen[0].labels.tolist()) == set(range(10)) - {3, 5}
    assert all(set(one.labels.tolist()) <= set(range(10)) - {3, 5} for one in seen)


def test_likely_labels_are_the_originals_answers_without_the_class(problem):
    inputs, _ = problem.forget.batch(torch.arange(len(problem.forget)))
    kept = problem.retain.labels.unique()
    logits = predict(problem.model, problem.forget).numpy()
    logits[:, 3] = -np.inf
    assert (likely_labels(problem.model, inputs, kept).numpy() == logits.argmax(1)).all()


def test_few_and_uneven_examples_are_enough():
    problem = small_problem("resnet8,width=4")
    rare = (problem.retain.labels != 6) | (torch.arange(len(problem.retain)) % 10 == 0)
    few = replace(problem, forget=problem.forget.take(torch.arange(3)), retain=problem.retain.take(rare))
    model, record = QUICK(few)
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())
    assert record["warnings"] == ["few images: the generator learned from 3 images to forget; 50 or more are advised"]


def test_nets_without_batch_norm_learn_at_a_quarter_of_the_rate():
    for architecture, share in [("resnet8,width=4", 1.0), (VIT, 0.25)]:
        problem = small_problem(architecture)
        assert QUICK(problem)[1]["learning_rate"] == share * QUICK.learning_rate
        published = replace(QUICK, variant="published", labels="uniform", pull=0.0)
        assert published(problem)[1]["learning_rate"] == published.learning_rate


def test_the_drawn_examples_are_at_most_so_many_of_each_class(problem):
    drawn = some_of_each(problem.retain, 7, 1)
    assert torch.bincount(drawn.labels, minlength=10).tolist() == [7, 7, 7, 0, 7, 7, 7, 7, 7, 7]
    assert torch.equal(drawn.rows, some_of_each(problem.retain, 7, 1).rows)
    assert len(some_of_each(problem.retain, 10**9, 0)) == len(problem.retain)


def test_more_units_than_half_are_capped_and_said(problem):
    _, record = replace(QUICK, units=100)(problem)
    line = record["warnings"][0]
    assert line == "units: 100 is more than half of the units of layer2, layer3; half were taken"
    assert record["units"][-1]["forget"] == record["units"][-1]["of"] // 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variant": "swft"}, "variant: 'swft' is unknown; did you mean 'swift'"),
        ({"selection": "magnitude"}, "selection: 'magnitude' is unknown"),
        ({"scope": "tail"}, "scope: 'tail' is unknown"),
        ({"labels": "nearby"}, "labels: 'nearby' is unknown"),
        ({"units": 0}, "units: 0; allowed: a whole number, 1 or more"),
        ({"images": 1}, "images: 1; allowed: a whole number, 2 or more"),
        ({"steps": 1.5}, "steps: 1.5; allowed: a whole number, 0 or more"),
        ({"alpha": -1.0}, "alpha: -1.0; allowed: 0 or more"),
        ({"gamma": math.inf}, "gamma: inf; allowed: 0 or more"),
        ({"learning_rate": -1.0}, "learning_rate: -1.0; allowed: a finite number above 0"),
        ({"calm": 0.0}, "calm: 0.0; allowed: a finite number above 0"),
        ({"generator_rate": math.nan}, "generator_rate: nan; allowed: a finite number above 0"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_settings_that_cannot_be_are_refused(changes, message):
    with pytest.raises(InputError) as caught:
        Cnr(**changes)
    assert str(caught.value).startswith(message)


def with_inputs(inputs) -> Problem:
    labels = torch.arange(20) % 4
    examples = examples_from(inputs, labels)
    return Problem(Planted(), examples.take(labels == 2), examples.take(labels != 2), (2,), 4)


def test_texts_and_small_images_are_refused_with_the_reason():
    tokens = {"input_ids": torch.ones(20, 5, dtype=torch.int64)}
    for inputs in (tokens, torch.rand(20, 64)):
        with pytest.raises(InputError, match=r"cnr moves images along gradients .* texts and columns do not allow"):
            QUICK(with_inputs(inputs))
    with pytest.raises(InputError, match="images of 6×9 pixels are too small for cnr's generator; allowed: 8 or more"):
        QUICK(with_inputs(torch.rand(20, 1, 6, 9)))


def test_samples_are_refused(problem):
    with pytest.raises(InputError, match="cnr cannot forget samples"):
        QUICK(replace(problem, forget_classes=()))
