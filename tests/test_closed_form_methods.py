"""Closed-form methods against independent oracles. That each keeps the contract is in `test_methods.py`'s table."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rasura import InputError, Problem, predict
from rasura.data import Examples, examples_from
from rasura.methods import svd_projection
from rasura.methods.contract import name_of
from rasura.methods.head_reset import HeadReset
from rasura.methods.linear_filtration import LinearFiltration, filtration_matrix
from rasura.methods.ssd import Ssd, dampened, importances
from rasura.methods.svd_projection import SvdProjection, discriminatory, input_vectors, scaled_projection
from rasura.testing import check_method, small_problem


def mlp(bias: bool = True) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10, bias=bias))


def problem_for(net: str, classes: tuple[int, ...] = (3,)) -> Problem:
    return small_problem(mlp() if net == "mlp" else net, classes)


def recall(model: nn.Module, examples: Examples) -> float:
    return (predict(model, examples).argmax(1) == examples.labels).double().mean().item()


def everything(examples: Examples) -> tuple[Tensor, Tensor]:
    """All model inputs, in one batch, and labels."""
    inputs, labels = examples.batch(torch.arange(len(examples)))
    assert isinstance(inputs, Tensor)
    return inputs, labels


# ------------------------------------------------------------------------------------------------- ssd


def importances_by_loop(model: nn.Module, examples: Examples) -> dict[str, Tensor]:
    """One backward pass per example, the plain way."""
    model = copy.deepcopy(model).eval()
    totals = {name: torch.zeros(parameter.shape, dtype=torch.float64) for name, parameter in model.named_parameters()}
    for image, label in zip(*everything(examples), strict=True):
        model.zero_grad(set_to_none=True)
        F.cross_entropy(model(image[None]), label[None]).backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                totals[name] += parameter.grad.double() ** 2 / len(examples)
    return totals


@pytest.mark.parametrize("net", ["convnet,width=4", "resnet8,width=4", "vit,patch=2,width=16,depth=1", "mlp"])
def test_importances_are_the_mean_squares_of_each_examples_own_gradient(net):
    problem = problem_for(net)
    some = problem.retain.take(torch.arange(0, 350, 5))  # 70: more than one chunk
    found, expected = importances(problem.model, some), importances_by_loop(problem.model, some)
    assert found.keys() == expected.keys()
    for name, importance in found.items():
        torch.testing.assert_close(importance, expected[name], rtol=1e-3, atol=1e-6 * expected[name].max().item())


class Choosy(nn.Module):
    """Control flow on a value, which cannot be batched, and a parameter that is never used."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net
        self.idle = nn.Parameter(torch.ones(3))

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images) if images.sum().item() < 1e9 else self.net(-images)


def test_a_net_that_cannot_be_batched_is_taken_one_by_one():
    problem = problem_for("mlp")
    choosy = replace(problem, model=Choosy(problem.model).eval())
    model, record = Ssd()(choosy)
    plain, plain_record = Ssd()(problem)
    assert (record["gradients"], plain_record["gradients"]) == ("one by one", "batched")
    assert torch.equal(model.get_parameter("idle"), torch.ones(3))
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(model.get_parameter(f"net.{name}"), parameter, rtol=1e-4, atol=1e-7)


def test_dampening_on_a_case_worked_out_by_hand():
    weight = torch.tensor([1.0, 2.0, -4.0, 8.0, 5.0, 7.0])
    forget = torch.tensor([10.0, 40.0, 40.0, 3.0, 1.0, 0.0], dtype=torch.float64)
    reference = torch.tensor([1.0, 1.0, 2.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    # Ten times as much is not more than ten times; nothing to compare with is all gone; no importance at all stays.
    found = dampened(weight, forget, reference, alpha=10.0, dampening=1.0)
    torch.testing.assert_close(found, torch.tensor([1.0, 2.0 / 40, -4.0 * 2 / 40, 8.0, 0.0, 7.0]))
    gentle = dampened(weight, forget, reference, alpha=2.0, dampening=5.0)
    torch.testing.assert_close(gentle, torch.tensor([0.5, 2.0 * 5 / 40, -1.0, 8.0, 0.0, 7.0]))  # never grows


@pytest.mark.parametrize("reference", ["retain", "all"])
def test_ssd_shrinks_exactly_the_weights_that_its_formula_selects(reference):
    problem = problem_for("resnet8,width=4", (3,))
    method = Ssd(alpha=4.0, dampening=0.5, reference=reference)
    model, record = method(problem)
    forget, others = (importances_by_loop(problem.model, part) for part in (problem.forget, problem.retain))
    if reference == "all":
        others = {name: (40 * forget[name] + 360 * others[name]) / 400 for name in forget}
    selected = total = 0
    for name, before in problem.model.named_parameters():
        after, ratio = model.get_parameter(name), forget[name] / others[name].clamp(min=1e-300)
        clear = (ratio / 4 - 1).abs() > 1e-2  # rounding may decide the others
        chosen = clear & (ratio > 4)
        assert torch.equal(after[clear & (ratio < 4)], before[clear & (ratio < 4)])
        expected = before.double() * 0.5 * others[name] / forget[name]
        torch.testing.assert_close(after[chosen].double(), expected[chosen], rtol=1e-2, atol=1e-9)
        selected, total = selected + int((ratio > 4).sum()), total + before.numel()
    assert 0 < selected < total
    assert record["selected"] == pytest.approx(selected / total, abs=2e-3)
    buffers = dict(problem.model.named_buffers())
    assert buffers and all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())


@pytest.mark.parametrize("net", ["convnet,width=8", "resnet8,width=4"])
def test_ssd_takes_the_class_away_and_leaves_the_others(net):
    problem = problem_for(net)
    model, _ = Ssd()(problem)
    assert recall(problem.model, problem.forget) > 0.9
    assert recall(model, problem.forget) < 0.05
    assert recall(model, problem.retain) > recall(problem.model, problem.retain) - 0.03


def test_ssd_forgets_samples_too():
    problem = problem_for("mlp")
    check_method(Ssd(calibration=30), replace(problem, forget_classes=()))


def test_ssd_against_all_examples_says_when_no_weight_can_be_selected():
    with pytest.raises(InputError, match=r"alpha: 10.0 selects no weight where 10.0% .* allowed: below 10, or"):
        Ssd(reference="all")(problem_for("mlp"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": 0.0}, "alpha: 0.0; allowed: a finite number above 0"),
        ({"alpha": float("nan")}, "alpha: nan; allowed"),
        ({"dampening": -1.0}, "dampening: -1.0; allowed"),
        ({"dampening": float("inf")}, "dampening: inf; allowed"),
        ({"reference": "retian"}, "reference: 'retian' is unknown; did you mean 'retain'"),
        ({"calibration": -1}, "calibration: -1; allowed: 1 or more, or 0 for all"),
    ],
)
def test_ssd_refuses_impossible_settings(settings, message):
    with pytest.raises(InputError, match=message):
        Ssd(**settings)


# -------------------------------------------------------------------------------------- svd-projection


def hugging_face_conv1d() -> nn.Module:
    from transformers.pytorch_utils import Conv1D

    return Conv1D(5, 6)


OPERATORS = {
    "Linear on tokens": (lambda: nn.Linear(6, 5), (4, 7, 6)),
    "Hugging Face Conv1D": (hugging_face_conv1d, (4, 7, 6)),
    "Conv1d": (lambda: nn.Conv1d(6, 5, 3, padding=1), (4, 6, 9)),
    "Conv2d with stride": (lambda: nn.Conv2d(6, 5, 3, stride=2, padding=1), (4, 6, 8, 7)),
    "Conv2d, dilated": (lambda: nn.Conv2d(6, 5, (3, 2), dilation=2), (4, 6, 8, 8)),
    "Conv2d, padded to the same size": (lambda: nn.Conv2d(6, 5, (4, 3), padding="same"), (4, 6, 8, 8)),
    "Conv2d, circular": (lambda: nn.Conv2d(6, 5, 3, padding=1, padding_mode="circular"), (4, 6, 8, 8)),
    "Conv2d in groups": (lambda: nn.Conv2d(6, 4, 3, padding=1, groups=2), (4, 6, 8, 8)),
    "Conv2d by channel": (lambda: nn.Conv2d(6, 12, 3, groups=6), (4, 6, 8, 8)),
    "Conv3d": (lambda: nn.Conv3d(6, 5, 2, padding=1), (4, 6, 5, 4, 3)),
}


@pytest.mark.filterwarnings("ignore:Using padding='same'")  # torch on even kernels, whose borders differ
@pytest.mark.parametrize("kind", OPERATORS)
def test_input_vectors_times_the_weights_are_the_operators_output(kind):
    make, shape = OPERATORS[kind]
    torch.manual_seed(0)
    module, inputs = make(), torch.randn(shape)
    groups = getattr(module, "groups", 1)
    rows = module.weight.T if "Hugging" in kind else module.weight.flatten(1)
    by_group = rows.unflatten(0, (groups, -1))  # [groups, out / groups, d]
    found = input_vectors(module, inputs) @ by_group.transpose(1, 2)  # [groups, positions, out / groups]
    output = module(inputs)
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        output = output.flatten(2).transpose(1, 2)
    expected = output.flatten(0, 1).detach() - module.bias
    torch.testing.assert_close(found.transpose(0, 1).flatten(1), expected, atol=1e-5, rtol=1e-5)


def grouped() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=4),
        nn.Flatten(),
        nn.Linear(72, 10),
    )


def inputs_of(model: nn.Module, operator: str, examples: Examples) -> Tensor:
    """What goes into a module, by a hook of this test."""
    kept: list[Tensor] = []
    handle = model.get_submodule(operator).register_forward_pre_hook(lambda _, given: kept.append(given[0]))
    with torch.no_grad():
        model(everything(examples)[0])
    handle.remove()
    return kept[0]


def scaled_basis(columns: Tensor, alpha: float) -> np.ndarray:
    """M of inputs `[d, n]` as published: singular vectors, each by its scaled share of the squared length."""
    left, lengths, _ = np.linalg.svd(columns.double().numpy(), full_matrices=False)
    share = lengths**2 / (lengths**2).sum()
    return left @ np.diag(alpha * share / ((alpha - 1) * share + 1)) @ left.T


def projected_densely(module: nn.Module, forget: Tensor, retain: Tensor, method: SvdProjection) -> np.ndarray:
    """W (I - (M_f - M_f M_r))^T, or without the transposition, from the inputs themselves."""
    weight = module.get_parameter("weight").detach().double()
    groups = getattr(module, "groups", 1)
    edited = []
    for group, rows in enumerate(weight.flatten(1).chunk(groups)):
        sides = []
        for inputs, alpha in ((forget, method.alpha_forget), (retain, method.alpha_retain)):
            if isinstance(module, nn.Conv2d):
                own = inputs.chunk(groups, dim=1)[group]
                patches = F.unfold(own, module.kernel_size, module.dilation, module.padding, module.stride)
                columns = patches.transpose(0, 1).flatten(1)
            else:
                columns = inputs.reshape(-1, inputs.shape[-1]).T
            sides.append(scaled_basis(columns, alpha))
        going, staying = sides
        projection = np.eye(len(going)) - (going - going @ staying)
        edited.append(rows.numpy() @ (projection.T if method.order == "forget-first" else projection))
    return np.concatenate(edited).reshape(tuple(weight.shape))


@pytest.mark.parametrize("classes", [(3,), (1, 4, 7)], ids=["one class", "three classes"])
@pytest.mark.parametrize("order", ["forget-first", "retain-first"])
@pytest.mark.parametrize("net", ["convnet,width=4", "resnet8,width=2", "vit,patch=4,width=8,depth=1", "grouped"])
def test_svd_projection_is_its_published_formula(net, classes, order):
    problem = small_problem(grouped() if net == "grouped" else net, classes)
    method = SvdProjection(alpha_retain=20.0, alpha_forget=40.0, order=order)
    model, record = method(problem)
    names = [entry["operator"] for entry in record["operators"]]
    assert set(names) == {
        name for name, module in problem.model.named_modules() if type(module) in (nn.Linear, nn.Conv2d)
    }
    for entry in record["operators"]:
        before = problem.model.get_submodule(entry["operator"])
        sides = [inputs_of(problem.model, entry["operator"], part) for part in (problem.forget, problem.retain)]
        expected = projected_densely(before, *sides, method)
        weight, after = (net.get_parameter(f"{entry['operator']}.weight") for net in (problem.model, model))
        np.testing.assert_allclose(after.detach().numpy(), expected, atol=1e-5)
        away = np.linalg.norm(weight.detach().numpy() - expected) / weight.norm().item()
        assert away > 1e-3 and entry["removed"] == pytest.approx(away, rel=1e-3)
    others = {f"{name}.weight" for name in names}
    for name, tensor in problem.model.state_dict().items():
        assert name in others or torch.equal(tensor, model.state_dict()[name])


def test_svd_projection_changes_next_to_nothing_at_alpha_forget_next_to_zero():
    problem = problem_for("resnet8,width=4")
    _, record = SvdProjection(alpha_forget=1e-7)(problem)
    assert 0 < max(entry["removed"] for entry in record["operators"]) < 1e-4
    _, record = SvdProjection(alpha_forget=30.0)(problem)
    assert max(entry["removed"] for entry in record["operators"]) > 0.05


def test_a_forget_space_inside_the_retained_space_loses_nothing():
    generator = torch.Generator().manual_seed(0)
    retained = torch.randn(6, 50, generator=generator, dtype=torch.float64)
    retained[4:] = 0  # a space of four dimensions
    inside = retained @ torch.randn(50, 9, generator=generator, dtype=torch.float64)
    outside = inside + torch.eye(6, 9, dtype=torch.float64) * 30
    moments = {name: vectors @ vectors.T for name, vectors in [("r", retained), ("in", inside), ("out", outside)]}
    assert discriminatory(moments["in"], moments["r"], 3.0, 1e12).norm() < 1e-9
    assert discriminatory(moments["in"], moments["r"], 3.0, 1.0).norm() > 0.1
    away = discriminatory(moments["out"], moments["r"], 1e12, 1e12)
    torch.testing.assert_close(away[4:, 4:], torch.eye(2, dtype=torch.float64), atol=1e-6, rtol=0)


def test_a_scaled_projection_lies_between_the_moments_and_the_projection_on_their_range():
    vectors = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moments = vectors @ vectors.T
    torch.testing.assert_close(scaled_projection(moments, 1.0), moments / moments.trace())
    torch.testing.assert_close(scaled_projection(moments, 1e9), vectors @ torch.linalg.pinv(vectors), atol=1e-6, rtol=0)
    assert scaled_projection(torch.zeros(5, 5, dtype=torch.float64), 3.0).norm() == 0  # inputs that are always zero


def test_svd_projection_takes_classes_away_and_leaves_the_others():
    problem = problem_for("resnet8,width=4", (1, 4, 7))
    model, _ = SvdProjection(alpha_retain=30.0)(problem)
    assert recall(problem.model, problem.forget) > 0.9
    assert recall(model, problem.forget) < 0.2
    assert recall(model, problem.retain) > recall(problem.model, problem.retain) - 0.05
    gentle, _ = SvdProjection(alpha_retain=30.0, order="retain-first")(problem)
    assert recall(gentle, problem.forget) > recall(model, problem.forget) + 0.3


def test_svd_projection_in_portions_and_small_chunks_is_the_same(monkeypatch):
    problem = problem_for("resnet8,width=4")
    whole, _ = SvdProjection()(problem)
    monkeypatch.setattr(svd_projection, "MOST_NUMBERS", 20_000)
    portions, _ = SvdProjection()(problem)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), portions.parameters(), strict=True))
    monkeypatch.setattr(svd_projection, "MOST_PATCHES", 1)
    singly, _ = SvdProjection()(problem)
    for a, b in zip(whole.parameters(), singly.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_svd_projection_reads_so_many_samples_and_no_more():
    problem = problem_for("mlp")
    model, record = SvdProjection(samples=50)(problem)
    assert record["examples"] == [40, 50]
    other, _ = SvdProjection(samples=50)(replace(problem, seed=1))
    assert not torch.equal(model.get_parameter("1.weight"), other.get_parameter("1.weight"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha_retain": 0.0}, "alpha_retain: 0.0; allowed: a finite number above 0"),
        ({"alpha_forget": -3.0}, "alpha_forget: -3.0; allowed"),
        ({"alpha_forget": float("inf")}, "alpha_forget: inf; allowed"),
        ({"samples": 0}, "samples: 0; allowed: 1 or more"),
        ({"order": "forget-frist"}, "order: 'forget-frist' is unknown; did you mean 'forget-first'"),
    ],
)
def test_svd_projection_refuses_impossible_settings(settings, message):
    with pytest.raises(InputError, match=message):
        SvdProjection(**settings)


def test_svd_projection_is_for_classes():
    with pytest.raises(InputError, match="svd-projection cannot forget samples; allowed: ForgetClasses"):
        SvdProjection()(replace(problem_for("mlp"), forget_classes=()))


# ----------------------------------------------------------------------------------- linear-filtration


def conv_head() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 24, 3, stride=2), nn.ReLU(), nn.Conv2d(24, 10, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers)


def transposed_head() -> nn.Module:
    from transformers.pytorch_utils import Conv1D

    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), Conv1D(10, 16))


HEADS = {
    "Linear": "resnet8,width=4",
    "no bias": lambda: mlp(bias=False),
    "1×1 convolution": conv_head,
    "Hugging Face Conv1D": transposed_head,
}


def problem_with(head: str, classes: tuple[int, ...] = (3,)) -> Problem:
    net = HEADS[head]
    return small_problem(net if isinstance(net, str) else net(), classes)


def logits_by_class(model: nn.Module, problem: Problem) -> list[np.ndarray]:
    """Logits of every example of a class, in order of the classes."""
    parts = [(predict(model, part).double().numpy(), part.labels.numpy()) for part in (problem.forget, problem.retain)]
    return [np.concatenate([logits[labels == number] for logits, labels in parts]) for number in range(10)]


def targets_by_hand(means: np.ndarray, classes: tuple[int, ...], variant: str) -> np.ndarray:
    """B, column by column."""
    kept = [number for number in range(len(means)) if number not in classes]
    level = np.mean([means[kept, number].mean() for number in kept])
    columns = []
    for number in range(len(means)):
        column = means[kept, number]
        if number in classes and variant == "normalisation":
            column = column - column.mean() + level
        elif number in classes and variant == "zeroing":
            column = 0 * column
        columns.append(column)
    return np.stack(columns, axis=1)


VARIANTS = ["normalisation", "naive", "zeroing"]


@pytest.mark.parametrize("classes", [(3,), (0, 2, 5)], ids=["one class", "three classes"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_filtration_matrix_is_b_times_the_inverse_of_a(variant, classes):
    means = np.random.default_rng(0).normal(size=(6, 6)) + 3 * np.eye(6)
    chosen = torch.isin(torch.arange(6), torch.tensor(classes))
    found = filtration_matrix(torch.from_numpy(means), chosen, variant)
    expected = targets_by_hand(means, classes, variant) @ np.linalg.inv(means)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-10)


def test_of_dependent_means_the_filtration_is_the_nearest_to_its_targets():
    means = np.random.default_rng(0).normal(size=(6, 6)) + 3 * np.eye(6)
    means -= means.mean(0)  # logits that sum to zero
    chosen = torch.arange(6) == 2
    found = filtration_matrix(torch.from_numpy(means), chosen, "zeroing").numpy()
    kept = np.delete(np.eye(6), 2, axis=0)
    missing = targets_by_hand(means, (2,), "zeroing") - kept @ means
    change = np.linalg.lstsq(means.T, missing.T, rcond=1e-6)[0].T  # of all solutions the smallest
    np.testing.assert_allclose(found, kept + change, atol=1e-9)
    assert np.abs(change).max() < 10


@pytest.mark.parametrize("classes", [(3,), (1, 4, 7)], ids=["one class", "three classes"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("head", HEADS)
def test_after_filtration_every_class_has_the_mean_logits_it_should(head, variant, classes):
    problem = problem_with(head, classes)
    model, record = LinearFiltration(variant)(problem)
    before, after = logits_by_class(problem.model, problem), logits_by_class(model, problem)
    means = np.stack([logits.mean(0) for logits in before], axis=1)
    targets = targets_by_hand(means, classes, variant)
    kept = [number for number in range(10) if number not in classes]
    filtration = targets @ np.linalg.inv(means)
    assert record["rank"] == 10
    for number in range(10):
        scale = 1 + np.abs(before[number]).max() * np.abs(filtration).max()
        np.testing.assert_allclose(after[number][:, kept].mean(0), targets[:, number], atol=1e-5 * scale)
        np.testing.assert_allclose(after[number][:, kept], before[number] @ filtration.T, atol=1e-5 * scale)
        assert not np.isin(after[number].argmax(1), classes).any()
        gone = after[number][:, list(classes)]
        mean = after[number][:, kept].mean(1, keepdims=True)
        np.testing.assert_allclose(gone - mean, 0 if head == "no bias" else -1e4, atol=1e-2)


def test_naive_filtration_deletes_and_changes_nothing_else():
    problem = problem_with("Linear")
    model, _ = LinearFiltration("naive")(problem)
    kept = [number for number in range(10) if number != 3]
    for name, tensor in problem.model.state_dict().items():
        after = model.state_dict()[name]
        assert torch.equal(after[kept], tensor[kept]) if name.startswith("head.") else torch.equal(after, tensor)
    assert not torch.equal(model.get_parameter("head.weight")[3], problem.model.get_parameter("head.weight")[3])


def two_classes(bias: bool) -> Problem:
    images = torch.randn(40, 4, generator=torch.Generator().manual_seed(0)) + 1
    labels = (images.sum(1) > 4).long()
    examples = examples_from(images, labels)
    torch.manual_seed(0)
    return Problem(nn.Linear(4, 2, bias).eval(), *(examples.take(labels == k) for k in (0, 1)), (0,), 2)


def test_filtration_with_one_class_left_needs_a_bias():
    model, _ = LinearFiltration()(two_classes(bias=True))
    assert recall(model, two_classes(bias=True).forget) == 0
    with pytest.raises(InputError, match="classes: 1 is retained by a head without bias; allowed: 2 or more"):
        LinearFiltration()(two_classes(bias=False))


def test_filtration_needs_an_example_of_every_class():
    problem = problem_for("mlp")
    without = replace(problem, retain=problem.retain.take(problem.retain.labels != 5))
    with pytest.raises(InputError, match="data: class 5 has no example; allowed: at least 1 of every class"):
        LinearFiltration()(without)


def test_filtration_refuses_an_unknown_variant():
    with pytest.raises(InputError, match="variant: 'normalization' is unknown; did you mean 'normalisation'"):
        LinearFiltration("normalization")  # pyright: ignore[reportArgumentType]


# ------------------------------------------------------------------------------------------ head-reset


@pytest.mark.parametrize("head", HEADS)
def test_head_reset_draws_the_forgotten_rows_and_leaves_the_rest(head):
    problem = problem_with(head, (1, 4, 7))
    model, _ = HeadReset()(problem)
    changed = {}
    for name, before in problem.model.state_dict().items():
        differs = torch.atleast_1d(before != model.state_dict()[name])
        differs = differs.T if head == "Hugging Face Conv1D" and differs.ndim == 2 else differs  # stores [in, out]
        changed[name] = differs.nonzero()[:, 0].unique().tolist()
    last = [name for name in changed if name.endswith("weight")][-1].removesuffix("weight")
    assert all(rows == ([1, 4, 7] if name.startswith(last) else []) for name, rows in changed.items())
    again, other = HeadReset()(problem)[0], HeadReset()(replace(problem, seed=1))[0]
    weights = [net.get_parameter(f"{last}weight") for net in (model, again, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_reset_rows_are_uniform_within_one_over_the_root_of_the_inputs():
    problem = problem_for("mlp")
    drawn = [HeadReset()(replace(problem, seed=seed))[0] for seed in range(40)]
    weights = torch.stack([net.get_parameter("3.weight")[3] for net in drawn]).flatten()
    biases = torch.stack([net.get_parameter("3.bias")[3] for net in drawn])
    bound = 1 / 16**0.5
    for values in (weights, biases):
        assert bound * 0.9 < values.abs().max() <= bound
    assert weights.mean().abs() < 0.02 and weights.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)


@pytest.mark.parametrize("method", [LinearFiltration(), HeadReset()], ids=name_of)
def test_edits_of_the_head_are_for_classes(method):
    with pytest.raises(InputError, match=f"{name_of(method)} cannot forget samples; allowed: ForgetClasses"):
        method(replace(problem_for("mlp"), forget_classes=()))
