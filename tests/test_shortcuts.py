"""What a shortcut carries past the last map: where it is read, and that the map can cancel it."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_damp_nets import NETS, edits, problem_for, text_problem, two
from torch import Tensor, nn

from rasura import Problem
from rasura.activations import Point
from rasura.methods import _orders
from rasura.methods._class_statistics import ClassMeans, ClassStatistics
from rasura.methods._edits import cancelling, erase
from rasura.methods._erasers import orthogonal
from rasura.methods._shortcuts import LastSum, last_sum
from rasura.methods._sites import find_sites
from rasura.methods.damp import Damp
from rasura.models import build_model
from rasura.testing import small_problem

RESNET18 = "resnet18,width=4"


class Branching(nn.Module):
    """One residual block around `last`, whose sum is made in a way of one's choice."""

    def __init__(self, how: str):
        super().__init__()
        torch.manual_seed(0)
        self.how = how
        self.first, self.inner, self.last = nn.Linear(64, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 10)

    def forward(self, images: Tensor) -> Tensor:
        stream = F.relu(self.first(images.flatten(1)))
        said = self.last(F.relu(self.inner(self.norm(stream))))
        if self.how == "in place":
            said += stream
        elif self.how == "function":
            said = torch.add(said, stream)
        elif self.how == "unseen":
            said = said + 2 * stream
        elif self.how == "of a map":
            said = said + self.first(images.flatten(1))
        elif self.how == "changed":
            said = said + stream.mul_(0.5)
        elif self.how == "scaled":
            said = torch.add(stream, said, alpha=0.1)
        elif self.how == "twice":
            self.norm(stream)  # the module sees it again
            said = said + stream
        elif self.how == "none":
            said = F.relu(said)
        return self.head(said)


@pytest.mark.parametrize(("how", "found"), [("in place", True), ("function", True), ("none", False)])
@pytest.mark.parametrize("grown", [False, True])
def test_the_other_part_of_a_sum_is_found(how, found, grown):
    net = Branching(how).requires_grad_(grown)
    expected = Point("norm", "input") if found else None
    assert last_sum(net, torch.rand(2, 1, 8, 8), "last", {}) == LastSum(("last",), expected)


@pytest.mark.parametrize("how", ["unseen", "of a map", "changed", "twice"])
def test_what_cannot_be_read_before_the_map_runs_is_not_named(how):
    maps = ("last", "first") if how == "of a map" else ("last",)
    assert last_sum(Branching(how), torch.rand(2, 1, 8, 8), "last", {}) == LastSum(maps)


class SharedReLU(nn.Module):
    """Two blocks whose ReLU is one module that works in place, as torchvision's."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.head = nn.Linear(64, 8), nn.Linear(8, 10)
        self.blocks = nn.ModuleList(Block() for _ in range(2))

    def forward(self, images: Tensor) -> Tensor:
        stream = F.relu(self.stem(images.flatten(1)))
        for block in self.blocks:
            stream = block(stream)
        return self.head(stream)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.relu = nn.Linear(8, 8), nn.Linear(8, 8), nn.ReLU(inplace=True)

    def forward(self, stream: Tensor) -> Tensor:
        said = self.last(self.relu(self.first(stream)))
        said += stream
        return self.relu(said)


def test_a_tensor_is_read_where_a_module_sees_it_once():
    found = last_sum(SharedReLU(), torch.rand(2, 1, 8, 8), "blocks.1.last", {})
    assert found == LastSum(("blocks.1.last",), Point("blocks.0"))


class Onward(nn.Module):
    """A map's output that is both added and taken up by the next map."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.inner, self.last, self.head = (nn.Linear(*size) for size in ((64, 8), (8, 8), (8, 8), (8, 10)))

    def forward(self, images: Tensor) -> Tensor:
        stream = self.first(images.flatten(1))
        return self.head(stream + self.last(F.relu(self.inner(stream))))


def test_a_map_whose_output_another_one_takes_up_is_none_of_the_last():
    problem = small_problem(Onward(), (3,))
    sites = find_sites(problem.model, two(problem))
    assert [site.last for site in sites] == [False, False, True, False]
    assert sites[2].carried == Point("first")


def test_a_scaled_sum_is_not_cancelled():
    assert last_sum(Branching("scaled"), torch.rand(2, 1, 8, 8), "last", {}) == LastSum(("last",))


def test_groups_may_have_directions_of_different_number():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, groups=2), nn.Flatten(), nn.Linear(64, 3))
    site = find_sites(net, torch.rand(2, 1, 8, 8))[1]
    vectors, labels = torch.rand(60, 4, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3
    vectors[:, :2] = 1.0  # the first group shows nothing
    statistics = ClassStatistics("", 3, torch.tensor([1]))
    statistics.fit(vectors, labels)
    statistics.settle()
    statistics.score(vectors, labels)
    summary = replace(statistics.summary(), carried=torch.eye(3, 4, dtype=torch.float64))
    erasures = [Damp()._erasure(summary.channels(slice(start, start + 2))) for start in (0, 2)]
    assert [one.rank for one in erasures] == [0, 1]
    erase(site, erasures, 1.0, cancelling(net, site, summary, erasures, 1.0))
    assert all(parameter.isfinite().all() for parameter in net.parameters())


def test_through_a_norm_without_running_statistics_nothing_is_cancelled():
    net = build_model(RESNET18, classes=10, channels=1, size=8)
    assert find_sites(net, torch.rand(2, 1, 8, 8))[-2].carried
    norm: Any = net.get_submodule("layer4.1.bn2")
    norm.running_mean = norm.running_var = None
    assert find_sites(net, torch.rand(2, 1, 8, 8))[-2].carried is None


EXPECTED = {
    "mlp": None,
    "convnet": None,
    "vgg": None,
    "resnet8": None,  # a convolution makes the shortcut's part: it is edited itself
    RESNET18: Point("layer4.0"),
    "vit": Point("blocks.1.norm2", "input"),
    "attention": Point("blocks.layers.1.norm2", "input"),
    "attention, tokens first": Point("blocks.layers.1.norm2", "input"),
    "torchvision vit": Point("encoder.layers.encoder_layer_1.ln_2", "input"),
    "timm vit": Point("blocks.1.norm2", "input"),
    "Hugging Face vit": "layernorm_after",
}


@pytest.mark.parametrize("net", EXPECTED)
def test_nets_of_every_kind_show_what_passes_by(net):
    problem = problem_for(net) if net in NETS else small_problem(net, (3,))
    *_, last, head = find_sites(problem.model, two(problem))
    expected = EXPECTED[net]
    if isinstance(expected, str):
        assert last.carried is not None and last.carried.module.endswith(expected)
    else:
        assert last.carried == expected
    assert last.last and not head.last and head.carried is None


@pytest.mark.parametrize(
    ("net", "expected"),
    [
        ("resnet8", {"layer3.0.conv2", "layer3.0.shortcut.0"}),
        (RESNET18, {"layer4.1.conv2"}),
        ("vit", {"blocks.1.mlp.2"}),
        ("vgg", {"9"}),
        ("attention", {"blocks.layers.1.linear2"}),
    ],
)
def test_the_last_maps_are_those_whose_outputs_no_other_map_takes_up(net, expected):
    problem = problem_for(net) if net in NETS else small_problem(net, (3,))
    assert {site.name for site in find_sites(problem.model, two(problem)) if site.last} == expected


def test_a_text_classifier_with_a_layer_behind_its_stream_has_nothing_to_cancel():
    problem = text_problem()
    assert find_sites(problem.model, two(problem))[-2].carried is None


def gaps_of_sum(model: nn.Module, problem: Problem, block: str) -> Tensor:
    """Of the sum behind the last map, how far the forgotten prototype lies from each retained one's mixture."""
    calibration = _orders.calibration_of(problem, 2000)
    found: dict[str, Tensor] = {}
    handles = [
        model.get_submodule(block).register_forward_hook(lambda *given: found.update(sum=given[2])),
        model.get_submodule(f"{block}.mlp.2").register_forward_pre_hook(lambda *given: found.update(inner=given[1][0])),
    ]
    with torch.no_grad():
        model(calibration.examples.batch(torch.arange(len(calibration.examples)))[0])
    for handle in handles:
        handle.remove()
    labels, held = calibration.examples.labels, calibration.held_out
    inner, outer = found["inner"].mean(1), found["sum"].mean(1)
    statistics = ClassStatistics("inner", problem.classes, torch.tensor(problem.forget_classes))
    statistics.fit(inner[~held], labels[~held])
    statistics.settle()
    statistics.score(inner[held], labels[held])
    means = ClassMeans(problem.classes)
    means.fit(outer, labels)
    return statistics.summary().gaps(means.settle())


@pytest.mark.parametrize("order", ["sequential", "one-shot"])
@pytest.mark.parametrize("classes", [(3,), (1, 4)])
def test_the_last_map_cancels_what_the_shortcut_carries(order, classes):
    problem = problem_for("vit", classes)
    before = gaps_of_sum(problem.model, problem, "blocks.1").norm()
    # Only the last map is edited, so that statistics in either order are those of the original model.
    method = Damp(order=order, shortcut=1.0)
    left = {share: only_last(method, share, problem) for share in (0.0, 0.5, 1.0)}
    gaps = {share: gaps_of_sum(model, problem, "blocks.1").norm() / before for share, model in left.items()}
    assert gaps[1.0] < 0.2 < gaps[0.5] < gaps[0.0]  # the quarter that is held out is not in the map's statistics


def only_last(method: Damp, share: float, problem: Problem) -> nn.Module:
    """The last map edited alone, by the parts that the method is made of."""
    model = copy.deepcopy(problem.model).requires_grad_(False)
    calibration = _orders.calibration_of(problem, 2000)
    sites = find_sites(model, two(problem))
    passing = {site.point for site in sites if site is not sites[-2]}

    def visit(site: Any, summary: Any, vectors: Tensor | None) -> dict[str, Any]:
        if site is sites[-2]:
            erasures = [method._erasure(summary)]
            erase(site, erasures, 1.0, cancelling(model, site, summary, erasures, share))
        return {}

    if method.order == "sequential":
        _orders.in_sequence(model, sites, problem, calibration, visit, passing, set(), False)
    else:
        _orders.in_one_shot(model, sites, problem, calibration, visit, passing, set())
    return model


def test_the_share_is_in_the_record_and_nothing_is_cancelled_where_nothing_passes():
    problem = problem_for("vit")
    _, record = Damp(shortcut=0.5)(problem)
    assert [entry["operator"] for entry in record["operators"] if entry["cancelled"]] == ["blocks.1.mlp.2"]
    assert edits(record)["blocks.1.mlp.2"]["cancelled"] == 0.5
    assert not any(entry["cancelled"] for entry in Damp(shortcut=0.0)(problem)[1]["operators"])
    plain = problem_for("resnet8")
    (kept, found), (same, _) = Damp(shortcut=1.0)(plain), Damp(shortcut=0.0)(plain)
    assert not any(entry["cancelled"] for entry in found["operators"])
    assert all(torch.equal(kept.state_dict()[name], value) for name, value in same.state_dict().items())


def test_a_map_writes_through_the_scale_of_its_batch_norm_and_not_through_shut_channels():
    """M rightᵀ g, times the BatchNorm's scale, is the opposite of what is carried; checked with dense matrices."""
    problem = small_problem(RESNET18, (3,))
    model = copy.deepcopy(problem.model)
    site = find_sites(model, two(problem))[-2]
    norm: Any = model.get_submodule(site.norm)
    norm.weight.data[0] = 0.0
    d = site.weight.shape[1]
    generator = torch.Generator().manual_seed(0)
    statistics = ClassStatistics("", 10, torch.tensor([3]))
    labels = torch.arange(400) % 10
    vectors = torch.randn(400, d, generator=generator) + 3 * torch.eye(10, d)[labels]
    statistics.fit(vectors, labels)
    statistics.settle()
    statistics.score(vectors, labels)
    carried = torch.randn(10, len(site.weight), generator=generator, dtype=torch.float64)
    summary = replace(statistics.summary(), carried=carried)
    gap, wanted = summary.gaps(summary.prototypes)[0], -0.7 * summary.gaps(carried)[0]
    erasure = orthogonal((gap / gap.norm()).unsqueeze(1), summary.retain.mean)
    before = site.weight.detach().double().sum((2, 3)) @ gap
    writes = cancelling(model, site, summary, [erasure], 0.7)
    erase(site, [erasure], 0.0, writes)
    grown = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    written = grown * (site.weight.detach().double().sum((2, 3)) @ gap - before)
    assert torch.allclose(written[1:], wanted[1:], atol=1e-5) and written[0] == 0
    assert writes[0][0].abs().max() == 0
