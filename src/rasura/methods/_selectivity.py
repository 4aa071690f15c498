"""Class-selective units: which coordinates of a net's stages respond to a class more than to the others."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from rasura.activations import Point, anatomy, moments, tap
from rasura.data import Examples
from rasura.data.examples import Inputs
from rasura.errors import InputError
from rasura.models import device_of, logits_of, to_device
from rasura.progress import Progress, silent
from rasura.training import evaluating

Selection = Literal["mean-activation", "gradient", "random"]


@dataclass(frozen=True, eq=False)
class Units:
    """Chosen coordinates of one stage, as positions in its flattened output.

    Attributes:
        forget: int64, those that respond to the forgotten classes most, each once.
        retain: int64, those that respond to the retained classes most, each once.
        per_class: int64 `[F, K]`, the forget units of each forgotten class.
        of: how many coordinates the stage has.
    """

    forget: Tensor
    retain: Tensor
    per_class: Tensor
    of: int

    def selectivity(self, maps: Tensor) -> float:
        """Mean over forgotten classes and their units of selectivity maps `[F, d]`."""
        return maps.cpu().gather(1, self.per_class).mean().item()


@dataclass(frozen=True, eq=False)
class Detected:
    """What detection hands on.

    Attributes:
        units: the chosen coordinates of each stage.
        maps: selectivity by mean activation, `[F, d]` per stage, whatever the units were chosen by.
        scales: standard deviation of a coordinate over class centroids, averaged over the stage.
    """

    units: dict[Point, Units]
    maps: dict[Point, Tensor]
    scales: dict[Point, float]


def detect(
    model: nn.Module,
    examples: Examples,
    points: Sequence[Point],
    forget_classes: Sequence[int],
    selection: Selection,
    wanted: int,
    seed: int,
    progress: Progress = silent,
) -> Detected:
    """Selective units of each stage, from examples of all classes that are left in the data."""
    classes = int(examples.labels.max()) + 1
    centroids = class_centroids(model, examples, points, classes, progress)
    measured = {point: selectivity(found, forget_classes) for point, found in centroids.items()}
    maps = measured
    if selection == "gradient":
        maps = gradient_maps(model, examples, points, forget_classes)
    elif selection == "random":
        maps = random_maps(measured, seed)
    units = {point: top_units(maps[point].cpu(), wanted) for point in points}
    return Detected(
        units,
        measured,
        {point: torch.stack(list(found.values())).std(0).mean().item() for point, found in centroids.items()},
    )


def profile(
    found: Detected, model: nn.Module, examples: Examples, forget_classes: Sequence[int]
) -> list[dict[str, Any]]:
    """Per stage: how many units were chosen of how many, and their mean selectivity before and in `model`.

    Selectivity is given in standard deviations of the original's class centroids.
    """
    now, rows = class_centroids(model, examples, list(found.units), int(examples.labels.max()) + 1), []
    for point, one in found.units.items():
        scale = max(found.scales[point], 1e-12)
        maps = found.maps[point], selectivity(now[point], forget_classes)
        before, after = (one.selectivity(each) / scale for each in maps)
        chosen = {"forget": len(one.forget), "retain": len(one.retain), "of": one.of}
        rows.append({"stage": point.module, **chosen, "before": before, "after": after})
    return rows


def representative_stages(model: nn.Module, inputs: Inputs, count: int) -> tuple[Point, ...]:
    """Outputs of at most `count` of the net's stages, evenly spaced, the last always.

    Raises:
        InputError: the net has no stage before its head.
    """
    stages = anatomy(model, inputs).stages
    if not stages:
        raise InputError("model: no stage before the head; allowed: a net with one linear map or more before its last")
    places = {round(place) for place in np.linspace(len(stages) - 1, 0, min(count, len(stages)))}
    return tuple(Point(stages[place]) for place in sorted(places))


def class_centroids(
    model: nn.Module, examples: Examples, points: Sequence[Point], classes: int, progress: Progress = silent
) -> dict[Point, dict[int, Tensor]]:
    """Mean of each class's outputs at each point, every coordinate by itself: `result[point][class]` is float32 `[d]`.

    Classes without examples are left out. Source: CNR, eq. 1.
    """
    found = moments(model, examples, points, classes, lambda _, tensor: tensor.flatten(1), progress)
    return {
        point: {number: one.mean.float() for number, one in enumerate(per_class) if one.count}
        for point, per_class in found.items()
    }


def retain_centroid(centroids: Mapping[int, Tensor], forget_classes: Sequence[int]) -> Tensor:
    """`[d]`: mean of the centroids of all other classes, each with the same weight (eq. 2)."""
    return torch.stack([mean for number, mean in centroids.items() if number not in forget_classes]).mean(0)


def selectivity(centroids: Mapping[int, Tensor], forget_classes: Sequence[int]) -> Tensor:
    """`[F, d]`: centroid of each forgotten class less the retain centroid; above 0 where it responds more (eq. 3)."""
    return torch.stack([centroids[number] for number in forget_classes]) - retain_centroid(centroids, forget_classes)


def gradient_maps(
    model: nn.Module, examples: Examples, points: Sequence[Point], forget_classes: Sequence[int]
) -> dict[Point, Tensor]:
    """`[F, d]` per point: mean gradient of a forgotten class's logit over its own examples.

    Above 0 where a larger activation speaks for the class. The paper names gradient-based selection without a formula.
    """
    found: dict[Point, Tensor] = {}
    for place, number in enumerate(forget_classes):
        own = examples.take(examples.labels == number)
        for inputs, _ in own.batches(256):
            for point, gradient in zip(points, _gradients(model, inputs, points, number), strict=True):
                total = found.setdefault(point, torch.zeros(len(forget_classes), gradient.shape[1]))
                total[place] += gradient.sum(0).cpu() / len(own)
    return found


def random_maps(maps: Mapping[Point, Tensor], seed: int) -> dict[Point, Tensor]:
    """Normal random numbers in the place of every map: the control of the selection."""
    generator = torch.Generator().manual_seed(seed)
    return {point: torch.randn(values.shape, generator=generator) for point, values in maps.items()}


def top_units(maps: Tensor, wanted: int) -> Units:
    """The `wanted` largest (forget) and smallest (retain) coordinates of each class's map `[F, d]`, at most half."""
    count = min(wanted, max(1, maps.shape[1] // 2))
    forget, retain = (torch.topk(sign * maps, count, dim=1).indices for sign in (1, -1))
    return Units(forget.unique(), retain.unique(), forget, maps.shape[1])


def mean_activation(tensor: Tensor, units: Tensor) -> Tensor:
    """`[B]`: mean output of a stage `[B, …]` over chosen coordinates (eq. 4)."""
    return tensor.flatten(1)[:, units.to(tensor.device)].mean(1)


def _gradients(model: nn.Module, inputs: Inputs, points: Sequence[Point], number: int) -> tuple[Tensor, ...]:
    """Gradient of the sum of a class's logits with respect to each point's output, `[B, d]` each."""
    seen: dict[Point, Tensor] = {}

    def traced(point: Point) -> Callable[[Tensor], Tensor]:
        def receive(tensor: Tensor) -> Tensor:
            seen[point] = tensor if tensor.requires_grad else tensor.requires_grad_(True)
            return seen[point]

        return receive

    with evaluating(model), tap(model, {point: traced(point) for point in points}):
        logits = logits_of(model, to_device(inputs, device_of(model)))
    found = torch.autograd.grad(logits[:, number].sum(), [seen[point] for point in points])
    return tuple(gradient.flatten(1) for gradient in found)
