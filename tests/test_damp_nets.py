"""DAMP on whole nets of every kind: what an edit does, in which order, what is skipped and what is refused."""

import contextlib
import copy
import functools
import json
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from rasura import InputError, Problem, Recipe, fit, predict
from rasura.activations import Point, features, stream
from rasura.data import Examples, examples_from
from rasura.methods import _orders, _sites
from rasura.methods._class_statistics import ClassStatistics, Summary
from rasura.methods._directions import directions
from rasura.methods._lockstep import lockstep
from rasura.methods._sites import Site, find_sites, opened
from rasura.methods.damp import Damp
from rasura.testing import check_method, small_problem

EVERYWHERE = {"depth": "constant", "head": "project", "shortcut": 0.0}
VIT = "vit,patch=2,width=16,depth=2"
SLOW_LEARNERS = ("vit", "grouped")
"""The usual six epochs leave them knowing the class to forget no better than by chance."""
STAYS_APART = {"convnet": 0.9, "timm resnet": float("inf")}
"""The share of `apart` that may stay, where 3/4 is too little. What the last map before convnet's head writes is mixed
again by a ReLU and a pooling. Behind the sum of this small timm net's two edited branches, a ReLU moves the mean out
again: 0.9 to 1.5 of the distance stays, depending on the seed."""


def seeded(*layers: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*(layer() for layer in layers))


def mlp() -> nn.Module:
    return seeded(
        nn.Flatten, lambda: nn.Linear(64, 16), nn.ReLU, lambda: nn.Linear(16, 16), nn.ReLU, lambda: nn.Linear(16, 10)
    )


def grouped() -> nn.Module:
    """Grouped and depthwise convolutions, one that feeds a BatchNorm, and a head that is a 1×1 convolution."""
    return seeded(
        lambda: nn.Conv2d(1, 8, 3),
        nn.ReLU,
        lambda: nn.Conv2d(8, 8, 3, groups=4),
        nn.ReLU,
        lambda: nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.ReLU,
        lambda: nn.Conv2d(8, 8, 1, bias=False),
        lambda: nn.BatchNorm2d(8),
        nn.ReLU,
        lambda: nn.Conv2d(8, 10, 1),
        lambda: nn.AdaptiveAvgPool2d(1),
        nn.Flatten,
    )


def vgg() -> nn.Module:
    """Convolutions with biases and without BatchNorm, and a classifier of several layers."""
    return seeded(
        lambda: nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU,
        lambda: nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU,
        lambda: nn.MaxPool2d(2),
        lambda: nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU,
        lambda: nn.MaxPool2d(2),
        nn.Flatten,
        lambda: nn.Linear(64, 24),
        nn.ReLU,
        lambda: nn.Linear(24, 10),
    )


def transposed() -> nn.Module:
    """Hugging Face's Conv1D, which stores its weight as [in, out]."""
    from transformers.pytorch_utils import Conv1D

    return seeded(
        nn.Flatten, lambda: Conv1D(16, 64), nn.ReLU, lambda: Conv1D(16, 16), nn.ReLU, lambda: nn.Linear(16, 10)
    )


class Attending(nn.Module):
    """A transformer of torch's own layers on the rows of an image, with a class token."""

    def __init__(self, batch_first: bool = True):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Linear(8, 16)
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=batch_first, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 10)
        self.batch_first = batch_first

    def forward(self, images: Tensor) -> Tensor:
        tokens = torch.cat([self.token.expand(len(images), -1, -1), self.embed(images[:, 0])], dim=1)
        if self.batch_first:
            return self.head(self.blocks(tokens)[:, 0])
        return self.head(self.blocks(tokens.transpose(0, 1)).mean(0))


def text_problem() -> Problem:
    """A DistilBERT-shaped classifier: which of three words is in a sentence."""
    import transformers

    torch.manual_seed(0)
    small = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "max_position_embeddings": 8}
    config = transformers.DistilBertConfig(vocab_size=20, num_labels=3, **small)
    labels = torch.arange(240) % 3
    ids = torch.randint(5, 20, (240, 6), generator=torch.Generator().manual_seed(0))
    ids[torch.arange(240), 1 + torch.arange(240) % 5] = labels + 1
    examples = examples_from({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, labels)
    net = transformers.DistilBertForSequenceClassification(config)
    model = fit(net, examples, Recipe(epochs=12, batch_size=32, learning_rate=0.003), 0)
    going = labels == 1
    return Problem(model, examples.take(going), examples.take(~going), (1,), 3)


def torchvision_net(name: str) -> nn.Module:
    vision = pytest.importorskip("torchvision").models
    torch.manual_seed(0)
    if name == "resnet":
        net = vision.ResNet(vision.resnet.BasicBlock, [1, 1, 1, 1], num_classes=10)
        net.conv1, net.maxpool = nn.Conv2d(1, 64, 3, 1, 1, bias=False), nn.Identity()
        return net
    sizes = {"image_size": 8, "patch_size": 4, "num_layers": 2, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 32}
    net = vision.VisionTransformer(num_classes=10, **sizes)
    net.conv_proj = nn.Conv2d(1, 16, 4, 4)
    return net


def hugging_face_net(name: str) -> nn.Module:
    import transformers

    torch.manual_seed(0)
    if name == "resnet":
        sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
        return transformers.ResNetForImageClassification(
            transformers.ResNetConfig(num_channels=1, num_labels=10, **sizes)
        )
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.ViTConfig(image_size=8, patch_size=4, num_channels=1, num_labels=10, **sizes)
    return transformers.ViTForImageClassification(config)


def timm_net(name: str) -> nn.Module:
    zoo = pytest.importorskip("timm").models
    torch.manual_seed(0)
    if name == "resnet":
        sizes = {"layers": [1, 1, 1, 1], "channels": (8, 8, 16, 16)}
        net = zoo.resnet.ResNet(zoo.resnet.BasicBlock, in_chans=1, num_classes=10, **sizes)
        net.conv1, net.maxpool = nn.Conv2d(1, 64, 3, 1, 1, bias=False), nn.Identity()
        return net
    sizes = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}
    return zoo.vision_transformer.VisionTransformer(in_chans=1, num_classes=10, **sizes)


NETS: dict[str, Any] = {
    "mlp": mlp,
    "convnet": lambda: "convnet,width=8",
    "resnet8": lambda: "resnet8,width=4",
    "vit": lambda: VIT,
    "vgg": vgg,
    "grouped": grouped,
    "Hugging Face Conv1D": transposed,
    "attention": Attending,
    "attention, tokens first": lambda: Attending(batch_first=False),
    "torchvision vit": lambda: torchvision_net("vit"),
    "timm resnet": lambda: timm_net("resnet"),
    "timm vit": lambda: timm_net("vit"),
    "Hugging Face resnet": lambda: hugging_face_net("resnet"),
    "Hugging Face vit": lambda: hugging_face_net("vit"),
}


def problem_for(net: str, classes: tuple[int, ...] = (3,)) -> Problem:
    if net in SLOW_LEARNERS:
        return replace(small_problem(VIT, classes), model=copy.deepcopy(trained_longer(net)))
    return small_problem(NETS[net](), classes)


@functools.cache
def trained_longer(net: str) -> nn.Module:
    problem = small_problem(NETS[net]())
    everything = joined(problem.forget, problem.retain)
    return fit(problem.model, everything, Recipe(epochs=10, batch_size=32, learning_rate=0.01), 0)


def joined(one: Examples, other: Examples) -> Examples:
    """The examples of two parts of the same data."""
    labels, rows = torch.cat([one.labels, other.labels]), torch.cat([one.rows, other.rows])
    return replace(one, labels=labels, rows=rows)


def recall(model: nn.Module, examples: Examples) -> float:
    return (predict(model, examples).argmax(1) == examples.labels).double().mean().item()


def apart(model: nn.Module, problem: Problem, head: str) -> float:
    """How far the forgotten class's mean lies from the nearest mixture of retained classes' means, at the head's input.

    A retired head answers the class with nothing, whatever the edits before it did: this is what they are for. In units
    of the retained means' spread. Mixtures are convex: few channels leave no room beside the affine ones.
    """
    examples, point = joined(problem.forget, problem.retain), Point(head, "input")
    vectors = features(model, examples, [point])[0][point].double().numpy()
    labels = examples.labels.numpy()
    means = np.stack([vectors[labels == number].mean(0) for number in range(problem.classes)])
    (forgotten,) = means[list(problem.forget_classes)]
    retained = np.delete(means, problem.forget_classes, axis=0)
    spread = np.linalg.norm(retained - retained.mean(0), axis=1).mean()
    sum_to_one = 100 * np.ones(len(retained))
    shares, _ = nnls(np.vstack([retained.T / spread, sum_to_one]), np.append(forgotten / spread, 100))
    return float(np.linalg.norm(forgotten - shares @ retained) / spread)


def edits(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {entry["operator"]: entry for entry in record["operators"]}


def two(problem: Problem) -> Any:
    return problem.retain.batch(torch.arange(2))[0]


def summaries(model: nn.Module, problem: Problem) -> Iterator[tuple[Site, Summary]]:
    """What every map of a finished model is given, by plain streaming."""
    calibration = _orders.calibration_of(problem, 2000)
    sites = {site.point: site for site in find_sites(model, two(problem)) if not site.skipped}
    forget = torch.tensor(problem.forget_classes)
    found = {point: ClassStatistics(site.name, problem.classes, forget) for point, site in sites.items()}
    for part, named in ((~calibration.held_out, "fit"), (calibration.held_out, "score")):

        def take(point: Point, tensor: Tensor, labels: Tensor, named: str = named) -> Tensor | None:
            getattr(found[point], named)(sites[point].vectors(tensor), labels)
            return sites[point].resumed(tensor)

        with opened(list(sites.values())):
            stream(model, calibration.examples.take(part), list(found), take)
        for one in found.values():
            if named == "fit":
                one.settle()
    return ((site, found[point].summary()) for point, site in sites.items())


# -------------------------------------------------------------------------------------- what edits do


@pytest.mark.parametrize("classes", [(3,), (1, 4, 7)], ids=["one class", "three classes"])
@pytest.mark.parametrize("net", NETS)
def test_at_full_strength_no_map_answers_to_its_forget_directions_any_more(net, classes):
    problem = problem_for(net, classes)
    model, record = Damp(**EVERYWHERE)(problem)
    found, checked = edits(record), 0
    for site, summary in summaries(model, problem):
        if found[site.name]["edit"] != "project":
            assert found[site.name]["skipped"]
            continue
        width = summary.prototypes.shape[1] // site.groups
        weight = site.weight.T if type(site.module).__name__ == "Conv1D" else site.weight
        for group, rows in enumerate(weight.detach().double().chunk(site.groups)):
            part = summary.channels(slice(group * width, (group + 1) * width))
            basis = directions(part.prototypes, part.forget, "routed", routing=part.routing)
            assert torch.einsum("oi...,ir->or...", rows, basis).norm() <= 1e-5 * max(1, rows.norm().item())
        checked += 1
    assert checked >= 2


@pytest.mark.parametrize("net", [*NETS, pytest.param("torchvision resnet", marks=pytest.mark.slow)])
def test_the_defaults_keep_the_contract_forget_the_class_and_keep_the_others(net, monkeypatch):
    monkeypatch.setitem(NETS, "torchvision resnet", lambda: torchvision_net("resnet"))
    problem = problem_for(net)
    check_method(Damp(), problem)
    model, record = Damp()(problem)
    assert recall(model, problem.forget) == 0
    assert recall(model, problem.retain) >= recall(problem.model, problem.retain) - 0.1
    assert record["operators"][-1]["edit"] == "retire"
    assert any(entry["edit"] == "project" and entry["rank"] == 1 for entry in record["operators"])
    head = record["operators"][-1]["operator"]
    assert apart(model, problem, head) < STAYS_APART.get(net, 0.75) * apart(problem.model, problem, head)


@pytest.mark.parametrize("net", SLOW_LEARNERS)
def test_slow_learners_know_the_class_that_they_are_to_forget(net):
    problem = problem_for(net)
    assert recall(problem.model, problem.forget) > 0.5


def test_a_text_classifier_forgets_a_class():
    problem = text_problem()
    assert recall(problem.model, problem.forget) > 0.9
    check_method(Damp(), problem)
    model, record = Damp()(problem)
    assert recall(model, problem.forget) == 0 and recall(model, problem.retain) > 0.9
    assert {"distilbert.transformer.layer.1.attention.q_lin", "pre_classifier"} <= set(edits(record))
    assert apart(problem.model, problem, "classifier") > 0.5 > 0.05 > apart(model, problem, "classifier")


def retained_means(module: nn.Module, problem: Problem, point: str) -> Tensor:
    examples = _orders.calibration_of(problem, 2000)
    kept = examples.examples.take(~examples.held_out & (examples.examples.labels != 3))
    found: list[Tensor] = []
    handle = module.get_submodule(point).register_forward_hook(lambda *given: found.append(given[2].double()))
    with torch.no_grad():
        module(kept.batch(torch.arange(len(kept)))[0])
    handle.remove()
    return found[0].transpose(0, 1).flatten(1).mean(1)


@pytest.mark.parametrize(("net", "layer", "point"), [("mlp", "3", "3"), ("grouped", "6", "7")])
@pytest.mark.parametrize("bias", ["preserve-mean", "keep"])
def test_preserve_mean_keeps_the_mean_of_retained_outputs(net, layer, point, bias):
    # The only edit, so that the map's inputs stay as they are: the last but the head.
    problem = problem_for(net)
    model, record = Damp(bias=bias)(problem)
    assert [entry["operator"] for entry in record["operators"] if entry["edit"] == "project"] == [layer]
    assert edits(record)[layer]["mean"] == ("" if bias == "keep" else "batch norm" if net == "grouped" else "bias")
    moved = (retained_means(model, problem, point) - retained_means(problem.model, problem, point)).abs().max()
    assert moved <= 1e-5 if bias == "preserve-mean" else moved > 1e-3


def test_the_published_form_is_the_formula():
    """W' = W (I - s Q Qᵀ), all from the original model, computed here with NumPy alone."""
    problem = problem_for("convnet")
    model, record = Damp.published()(problem)
    calibration = _orders.calibration_of(problem, 2000)
    examples, held_out = calibration.examples, calibration.held_out.numpy()
    labels, going = examples.labels.numpy(), examples.labels.numpy() == 3
    seen: dict[str, np.ndarray] = {}
    for name in edits(record):
        hook = lambda _, given, name=name: seen.update({name: given[0].double().numpy()})  # noqa: E731
        problem.model.get_submodule(name).register_forward_pre_hook(hook)
    with torch.no_grad():
        problem.model(examples.batch(torch.arange(len(examples)))[0])
    for name, inputs in seen.items():
        vectors = inputs.mean((2, 3)) if inputs.ndim == 4 else inputs
        fitted = vectors[~held_out]
        means = np.stack([fitted[labels[~held_out] == number].mean(0) for number in range(10)])
        retained = np.delete(means, 3, 0)
        residual = means[3] - np.linalg.pinv(retained, rcond=1e-7) @ retained @ means[3]
        sides = [fitted[going[~held_out]], fitted[~going[~held_out]]]
        within = sum(np.cov(side.T, bias=True).reshape(len(means[0]), -1) for side in sides)
        within = within + (1e-3 * np.trace(within) / len(within) + 1e-12) * np.eye(len(within))
        probe = np.linalg.solve(within, sides[0].mean(0) - sides[1].mean(0))
        said = (vectors[held_out] - (sides[0].mean(0) + sides[1].mean(0)) / 2) @ probe > 0
        truth = going[held_out]
        strength = max(0, said[truth].mean() + (~said[~truth]).mean() - 1)
        before, after = (net.get_submodule(name).weight.detach().double().numpy() for net in (problem.model, model))
        if not edits(record)[name]["edit"]:  # few channels, in which the span of the others holds everything
            assert np.linalg.norm(residual) < 1e-5 * np.linalg.norm(means) and np.array_equal(before, after)
            continue
        projection = np.outer(residual, residual) / (residual @ residual)
        expected = before - strength * np.einsum("oi...,ij->oj...", before, projection)
        np.testing.assert_allclose(after, expected, atol=2e-5)
        assert edits(record)[name]["alpha"] == pytest.approx(strength, abs=0.03)
    assert sum(entry["edit"] == "project" for entry in record["operators"]) >= 2
    for name, parameter in model.named_parameters():
        assert not name.endswith("bias") or torch.equal(parameter, problem.model.get_parameter(name))


def test_depth_rules_use_each_maps_separability():
    problem = problem_for("convnet")
    for depth, rule in [
        ("probe", lambda s, share: s),
        ("probe^2", lambda s, share: s * s),
        ("probe*ramp", lambda s, share: s * share),
    ]:
        _, record = Damp(depth=depth, order="one-shot", head="project", alpha=0.5)(problem)
        for place, entry in enumerate(record["operators"], start=1):
            assert entry["alpha"] == pytest.approx(0.5 * rule(entry["separability"], place / 4))
        assert any(0 < entry["separability"] < 1 for entry in record["operators"])


# ------------------------------------------------------------------------------------------ the orders


def test_in_sequence_each_map_is_edited_by_what_the_edited_net_shows_it():
    """The whole default method on a perceptron, layer by layer, in NumPy."""
    problem = problem_for("mlp")
    model, record = Damp(**EVERYWHERE)(problem)
    calibration = _orders.calibration_of(problem, 2000)
    examples, fitted = calibration.examples, ~calibration.held_out.numpy()
    labels, staying = examples.labels.numpy(), [number for number in range(10) if number != 3]
    vectors = examples.batch(torch.arange(len(examples)))[0].double().flatten(1).numpy()
    for place, name in enumerate(["1", "3", "5"]):
        layer = problem.model.get_submodule(name)
        weight, bias = (getattr(layer, part).detach().double().numpy() for part in ("weight", "bias"))
        x, y = vectors[fitted], labels[fitted]
        means = np.stack([x[y == number].mean(0) for number in range(10)])
        retained, kept = x[y != 3], means[staying]
        within = np.cov((x - means[y])[y != 3].T, bias=True)
        metric = np.linalg.inv(within + (0.1 * np.trace(within) / len(within) + 1e-12) * np.eye(len(within)))
        new = vectors[~fitted][labels[~fitted] == 3][:, None] - kept
        answers = np.einsum("nkd,de,nke->nk", new, metric, new).argmin(1)
        away = means[3] - np.bincount(answers, minlength=9) / len(answers) @ kept
        spread = np.cov(retained.T, bias=True)
        reading = np.linalg.solve(spread + (0.1 * np.trace(spread) / len(spread) + 1e-12) * np.eye(len(spread)), away)
        projection = np.outer(away, reading) / (reading @ away)
        bias = bias + weight @ projection @ retained.mean(0)
        weight = weight - weight @ projection
        np.testing.assert_allclose(model.get_submodule(name).weight.detach(), weight, atol=1e-4)
        np.testing.assert_allclose(model.get_submodule(name).bias.detach(), bias, atol=1e-4)
        assert record["operators"][place]["rank"] == 1
        vectors = np.maximum(vectors @ weight.T + bias, 0)


@pytest.mark.parametrize("settings", [{}, {"norms": "re-estimate", **EVERYWHERE}], ids=["defaults", "norms too"])
@pytest.mark.parametrize("net", ["resnet8", "attention"])
def test_micro_batches_in_lockstep_are_one_batch(net, settings, monkeypatch):
    problem, found = problem_for(net), []
    for size in (10_000, 37):
        monkeypatch.setattr(_orders, "MICRO_BATCH", size)
        found.append(Damp(**settings)(problem))
    whole, parts = (model.state_dict() for model, _ in found)
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], atol=2e-4, rtol=2e-4)
    for one, other in zip(*(record["operators"] for _, record in found), strict=True):
        assert one["edit"] == other["edit"] and one["separability"] == pytest.approx(other["separability"], abs=0.02)


def test_lockstep_stops_every_micro_batch_at_every_point():
    model, seen = mlp().eval(), []
    examples = examples_from(torch.rand(10, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(10))
    held: list[Tensor] = []

    def act(point: Point) -> None:
        seen.append(("all", point.module, torch.cat(held).shape[0]))
        held.clear()
        if point.module == "3":
            model.get_submodule("3").weight.data.zero_()

    def gather(point: Point, tensor: Tensor, labels: Tensor) -> None:
        seen.append((point.module, labels.tolist()))
        held.append(tensor)

    points = [Point("1", "input"), Point("3", "input"), Point("5", "input")]
    lockstep(model, examples, points, gather, act, lambda point, tensor: None, 4)
    parts = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert seen == [one for name in "135" for one in [*((name, part) for part in parts), ("all", name, 10)]]
    assert not model.get_submodule("3").weight.any()


def test_where_nothing_is_changed_no_micro_batch_waits():
    examples = examples_from(torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(8))
    points, seen = [Point("1", "input"), Point("3", "input"), Point("5", "input")], []

    def gather(point: Point, tensor: Tensor, labels: Tensor) -> None:
        seen.append((point.module, labels.tolist()))

    def act(point: Point) -> None:
        seen.append(("all", point.module))

    lockstep(mlp().eval(), examples, points, gather, act, lambda point, tensor: None, 4, passing={points[0]})
    parts = [[0, 1, 2, 3], [4, 5, 6, 7]]
    first = [("1", parts[0]), ("3", parts[0]), ("1", parts[1]), ("all", "1"), ("3", parts[1]), ("all", "3")]
    assert seen == [*first, ("5", parts[0]), ("5", parts[1]), ("all", "5")]


class Counted(nn.Linear):
    """Counts the examples that pass, and those whose outputs are alive at the same time."""

    passed = alive = most = 0

    def forward(self, inputs: Tensor) -> Tensor:
        outputs, number = super().forward(inputs), len(inputs)
        Counted.passed, Counted.alive = Counted.passed + number, Counted.alive + number
        Counted.most = max(Counted.most, Counted.alive)
        weakref.finalize(outputs, Counted.died, number)
        return outputs

    @classmethod
    def died(cls, number: int) -> None:
        Counted.alive -= number


@pytest.mark.parametrize("order", ["sequential", "one-shot"])
def test_every_example_passes_once_and_few_are_held_at_a_time(order, monkeypatch):
    monkeypatch.setattr(_orders, "MICRO_BATCH", 16)
    monkeypatch.setattr(_orders, "PORTION", 16)
    net = seeded(nn.Flatten, lambda: nn.Linear(64, 16), nn.ReLU, lambda: Counted(16, 16), lambda: nn.Linear(16, 10))
    problem, held, passed = small_problem(net), [], []
    for most in (80, 160):
        Counted.passed = Counted.alive = Counted.most = 0
        _, record = Damp(order=order, calibration=most)(problem)
        held.append(Counted.most)
        passed.append(Counted.passed - record["calibration"])
    assert passed[0] == passed[1] <= 10  # besides the calibration, a few examples that show how the net is built
    # Sequential holds all micro-batches at most, one-shot two: the one that runs and the one before it.
    assert held[0] == held[1] <= 32 if order == "one-shot" else held[1] <= 160 + 40


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.one(inputs) if inputs[0, 0] > 0 else self.two(inputs))


def test_lockstep_refuses_nets_that_branch_and_hands_on_every_failure():
    examples = examples_from(torch.tensor([[1.0, 0, 0, 0], [-1.0, 0, 0, 0], [1.0, 0, 0, 0]]), torch.arange(3))
    points = [Point(name, "input") for name in ("one", "two", "head")]
    go_on = {"gather": lambda *_: None, "resume": lambda *_: None, "batch_size": 1}
    with pytest.raises(InputError, match=r"examples take different ways \(one, two\)"):
        lockstep(Branching(), examples, points, act=lambda _: None, **go_on)

    def fail(_: Point) -> None:
        raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        lockstep(mlp(), small_problem(mlp()).retain, [Point("3", "input")], act=fail, **go_on | {"batch_size": 100})


class Casting(nn.Module):
    """Computes its middle in half precision, counts who is in there, and turns gradients on."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.inside = 0

    def forward(self, inputs: Tensor) -> Tensor:
        first = self.one(inputs)
        assert first.dtype == torch.float32 and not first.requires_grad
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False), torch.enable_grad(), self.counted():
            middle = self.two(first)
        assert middle.dtype == torch.bfloat16 and middle.requires_grad
        return self.head(middle.float())

    @contextlib.contextmanager
    def counted(self):
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1


def test_micro_batches_keep_their_own_settings_and_close_what_they_opened():
    model, examples = Casting().eval(), examples_from(torch.rand(6, 4), torch.arange(6) % 3)
    points, most = [Point(name, side) for name, side in (("two", "input"), ("two", "output"), ("head", "input"))], []

    def act(point: Point) -> None:
        most.append(model.inside)
        if fail and point.side == "output":
            raise KeyError("inside")

    given = examples, points, lambda *_: None, act, lambda *_: None, 2
    fail = False
    lockstep(model, *given)
    assert most == [3, 3, 0] and model.inside == 0
    fail = True
    with pytest.raises(KeyError, match="inside"):
        lockstep(model, *given)
    assert model.inside == 0 and torch.is_grad_enabled()
    assert torch.is_autocast_cache_enabled() and not torch.is_autocast_enabled("cpu")


def test_batch_norms_get_the_statistics_of_retained_examples():
    problem = problem_for("resnet8")
    model, _ = Damp(norms="re-estimate")(problem)
    calibration = _orders.calibration_of(problem, 2000).examples
    kept, found = calibration.take(calibration.labels != 3), {}
    name = "layer3.0.bn2"
    model.get_submodule(name).register_forward_pre_hook(lambda _, given: found.update(it=given[0].double()))
    with torch.no_grad():
        model(kept.batch(torch.arange(len(kept)))[0])
    norm: Any = model.get_submodule(name)
    torch.testing.assert_close(norm.running_mean.double(), found["it"].mean((0, 2, 3)), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        norm.running_var.double(), found["it"].var((0, 2, 3), correction=0), atol=1e-4, rtol=1e-4
    )


PROCESS = """
import json, sys, torch
from rasura.methods import Damp
from rasura.testing import small_problem

rank, folder, cases = int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
torch.distributed.init_process_group("gloo", f"file://{folder}/meeting", world_size=2, rank=rank)
for name, (settings, classes) in cases.items():
    problem, seen = small_problem("resnet8,width=4", classes), []
    # The net that Damp copies notes what its copies are given. A few examples show how it is built.
    problem.model.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    model, record = Damp(**settings)(problem)
    read = torch.cat([images for images in seen if len(images) > 2]).flatten(1)
    torch.save((model.state_dict(), record["calibration"], read), f"{folder}/{name}-{rank}.pt")
torch.distributed.destroy_process_group()
"""

SHARED = {
    "defaults": ({}, [3]),
    "one shot": ({"order": "one-shot"}, [3]),
    "two classes": ({}, [1, 7]),
    "single examples": ({"within": 1.0}, [1, 7]),
    "as published": ({"residual": "span", "eraser": "orthogonal", "depth": "probe", "head": "project"}, [3]),
}


@pytest.mark.slow
def test_two_processes_that_read_half_each_find_the_edit_of_one(tmp_path):
    commands = [[sys.executable, "-c", PROCESS, str(rank), str(tmp_path), json.dumps(SHARED)] for rank in (0, 1)]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    said = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    for case, (settings, classes) in SHARED.items():
        problem = problem_for("resnet8", tuple(classes))
        whole, record = Damp(**settings)(problem)
        results = [torch.load(tmp_path / f"{case}-{rank}.pt") for rank in (0, 1)]
        (first, size, _), (second, _, _) = results
        for name, tensor in whole.state_dict().items():
            assert torch.equal(first[name], second[name])
            torch.testing.assert_close(first[name], tensor, atol=1e-4, rtol=1e-4)
        assert size == record["calibration"] == 400
        shares = [read for _, _, read in results]
        assert [len(read) for read in shares] == [200, 200], case
        images = joined(problem.forget, problem.retain).batch(torch.arange(400))[0].flatten(1)
        assert len(torch.cat(shares).unique(dim=0)) == len(images.unique(dim=0)), case


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_weights_are_edited_and_stay_half(kind):
    problem = problem_for("mlp")
    cast = lambda images: images.to(kind)  # noqa: E731
    parts = {part: getattr(problem, part) for part in ("forget", "retain")}
    inputs = {part: cast(one.batch(torch.arange(len(one)))[0]) for part, one in parts.items()}
    halves = {part: examples_from(inputs[part], parts[part].labels) for part in parts}
    both = torch.cat([inputs["forget"], inputs["retain"]])
    joined = examples_from(both, torch.cat([parts["forget"].labels, parts["retain"].labels]))
    count = len(halves["forget"])
    halves = {"forget": joined.take(torch.arange(count)), "retain": joined.take(torch.arange(count, len(joined)))}
    small = replace(problem, model=copy.deepcopy(problem.model).to(kind), **halves)
    model, record = Damp()(small)
    assert {parameter.dtype for parameter in model.parameters()} == {kind}
    whole = replace(problem, model=copy.deepcopy(small.model).float())
    exact, _ = Damp()(whole)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.float(), exact.get_parameter(name), atol=0.03, rtol=0.05)
    assert edits(record)["3"]["edit"] == "project"


# --------------------------------------------------------------------------------------------- the maps


@pytest.mark.parametrize("batch_first", [True, False])
def test_an_opened_attention_computes_what_it_did(batch_first):
    model = Attending(batch_first).eval()
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    examples = examples_from(images, torch.arange(4))
    before, weights = predict(model, examples), copy.deepcopy(model.state_dict())
    sites = find_sites(model, images)
    names = [site.name for site in sites]
    assert names[1:3] == ["blocks.layers.0.self_attn.in_proj", "blocks.layers.0.self_attn.out_proj"]
    assert [site.pool for site in sites[1:3]] == ["first token" if batch_first else "tokens first"] * 2
    outputs: list[Tensor] = []
    reads = {site.point: site for site in sites}
    with opened(sites):
        take = lambda point, tensor, _: reads[point].resumed(tensor)  # noqa: E731
        stream(
            model,
            examples,
            list(reads),
            lambda point, tensor, labels: outputs.append(tensor) or take(point, tensor, labels),
        )
        after = outputs[-1]
    torch.testing.assert_close(model.get_submodule("head")(after), before, atol=1e-6, rtol=0)
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())
    # What an opened out_proj is given is what the closed one would multiply.
    attention: Any = model.get_submodule("blocks.layers.0.self_attn")
    tokens, mixed = outputs[1], outputs[2]
    closed, _ = attention(tokens, tokens, tokens, need_weights=False)
    torch.testing.assert_close(attention.out_proj(mixed), closed, atol=1e-6, rtol=0)


class Odd(nn.Module):
    """Everything that cannot be edited, beside what can."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.again = nn.Linear(64, 16), nn.Linear(16, 16)
        self.tied, self.normed = nn.Linear(16, 16), weight_norm(nn.Linear(16, 16))
        self.tied.weight = self.first_twin = nn.Parameter(torch.eye(16))
        self.twin = nn.Linear(16, 16)
        self.twin.weight = self.tied.weight
        self.words, self.spoken = nn.Embedding(16, 16), nn.Linear(16, 16)
        self.spoken.weight = self.words.weight
        self.cross = nn.MultiheadAttention(16, 2, batch_first=True)
        self.folded, self.last, self.head = nn.Linear(8, 8), nn.Linear(16, 16), nn.Linear(16, 10)

    def forward(self, images: Tensor) -> Tensor:
        vectors = self.again(self.again(self.first(images.flatten(1)).relu()).relu()).relu()
        vectors = self.spoken(self.normed(self.twin(self.tied(vectors)).relu()).relu())
        tokens, others = vectors.unsqueeze(1).expand(-1, 2, -1), images[:, 0, :, :2].flatten(1).unsqueeze(1)
        vectors = self.cross(tokens, others, others, need_weights=False)[0].mean(1)
        folded = self.folded(vectors.view(-1, 8)).view(-1, 16)
        return self.head(self.last(folded).relu())


def test_what_cannot_be_edited_is_named_with_its_reason():
    problem = small_problem(Odd())
    model, record = Damp(depth="constant")(problem)
    reasons = {name: entry["skipped"] for name, entry in edits(record).items()}
    assert reasons == {
        "first": "",
        "again": "it runs 2 times in one pass",
        "tied": "its weight is shared with another kind of module",
        "twin": "its weight is shared with another kind of module",
        "normed": "its weight is computed from other parameters",
        "spoken": "its weight is shared with another kind of module",
        "cross.in_proj": "its keys and values are other tokens than its queries",
        "cross.out_proj": "",
        "folded": "its inputs (4, 8) are not one per example",
        "last": "",
        "head": "",
    }
    for name in ("again", "tied", "spoken", "folded"):
        assert torch.equal(model.get_submodule(name).weight, problem.model.get_submodule(name).weight)


def test_a_weight_that_two_maps_share_is_edited_once():
    net = mlp()
    net.add_module("3", nn.Linear(16, 16))
    net.insert(4, nn.Linear(16, 16))
    net[4].weight = net[3].weight
    _, record = Damp(depth="constant")(small_problem(net))
    assert edits(record)["3"]["edit"] == "project" and edits(record)["4"]["skipped"] == "its weight is shared with 3"


def test_grouped_convolutions_are_edited_group_by_group_and_depthwise_ones_are_not():
    _, record = Damp(depth="constant")(problem_for("grouped"))
    found = edits(record)
    assert found["2"]["edit"] == "project" and found["2"]["removed"] > 0
    assert found["4"]["skipped"] == "depthwise convolution: a group of one channel has no direction to lose"


def test_inputs_that_are_too_wide_are_left_alone(monkeypatch):
    monkeypatch.setattr(_sites, "MOST_FEATURES", 32)
    _, record = Damp(depth="constant")(problem_for("mlp"))
    assert edits(record)["1"]["skipped"] == "inputs of 64 features; at most 32"


def test_a_late_map_that_does_not_tell_the_class_says_so(monkeypatch):
    monkeypatch.setattr("rasura.methods._class_statistics.separability", lambda confusion: 0.0)
    _, record = Damp()(problem_for("resnet8"))
    skipped = edits(record)
    assert skipped["conv1"]["skipped"] == "too early in the net"
    assert skipped["layer3.0.conv1"]["skipped"] == "the class cannot be told apart here"


def test_the_record_says_which_maps_lie_too_early():
    _, record = Damp()(problem_for("convnet"))
    assert [entry["skipped"] for entry in record["operators"]] == ["too early in the net", "", "", ""]
    json.dumps(record, allow_nan=False)


# --------------------------------------------------------------------------------------------- refusals


def test_one_retained_class_is_refused():
    problem = small_problem(mlp())
    with pytest.raises(InputError, match="classes: 1 would be left; allowed: 2 or more"):
        Damp()(replace(problem, forget_classes=tuple(range(9))))


def test_a_class_without_examples_is_named():
    with pytest.raises(InputError, match="class 10 has no example"):
        Damp(head="project")(replace(small_problem(mlp()), classes=11))


@pytest.mark.parametrize("order", ["sequential", "one-shot"])
def test_nan_activations_are_named_with_their_place(order):
    problem = small_problem(mlp())
    broken = copy.deepcopy(problem.model)
    torch.nn.init.constant_(broken.get_parameter("1.weight"), float("nan"))
    with pytest.raises(InputError, match="model: NaN or infinite inputs of 3; allowed: finite activations"):
        Damp(order=order)(replace(problem, model=broken))


class Blind(nn.Module):
    """Answers the same whatever it sees."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(torch.full((len(images), 4), 0.1)))


@pytest.mark.parametrize("residual", ["routed", "centred", "span"])
def test_constant_activations_leave_nothing_to_project(residual):
    problem = replace(small_problem(), model=Blind().eval())
    with pytest.raises(InputError, match=r"damp: no map could be projected \(nothing sets the class apart"):
        Damp(residual=residual)(problem)


def test_a_net_without_linear_maps_is_refused_with_the_types_found():
    net = nn.Sequential(nn.AdaptiveAvgPool2d((1, 10)), nn.Flatten())
    with pytest.raises(InputError, match=r"no learnable linear map runs \(AdaptiveAvgPool2d, Flatten, Sequential\)"):
        Damp()(replace(small_problem(), model=net))


def test_a_head_alone_is_not_called_forgetting():
    linear = seeded(nn.Flatten, lambda: nn.Linear(64, 10))
    with pytest.raises(InputError, match="damp: no map could be projected"):
        Damp()(small_problem(linear))
    model, record = Damp(head="project")(small_problem(linear))
    assert record["operators"][0]["edit"] == "project" and isinstance(model, nn.Sequential)


def test_no_more_examples_are_read_than_allowed():
    problem = problem_for("mlp")
    _, record = Damp(calibration=200)(replace(problem, forget=problem.forget.take(torch.arange(12))))
    assert record["calibration"] == 212


def test_weights_of_zero_give_numbers_in_the_record():
    net = mlp()
    torch.nn.init.zeros_(net.get_parameter("5.weight"))
    _, record = Damp(**EVERYWHERE)(replace(small_problem(), model=net.eval()))
    assert edits(record)["5"]["removed"] == 0
    json.dumps(record, allow_nan=False)
