"""Neuron reset: the loss under which a net loses what sets a class apart, on counterfactuals and retained examples."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rasura.activations import Point, features, pooling_of
from rasura.data import Examples, examples_from
from rasura.methods._counterfactuals import outputs_at
from rasura.models import logits_of
from rasura.training import AUGMENTATIONS, Augmentation, Batch, Loss, predict

POINTS = 60
"""Values that a record keeps of a curve, at most."""
NEIGHBOURS = 15
"""Retained examples that vote on a label."""
FLOOR = 0.1
"""Share of the mean variance that is added to each coordinate's, so that silent ones do not count without end."""
STILL = 1e-6
"""The least variance that a scale may have."""


def uniform_labels(count: int, retained: Tensor, seed: int) -> Tensor:
    """`count` labels, each drawn from the numbers in `retained` with equal chances."""
    return retained[torch.randint(len(retained), (count,), generator=torch.Generator().manual_seed(seed))]


def likely_labels(original: nn.Module, inputs: Tensor, retained: Tensor) -> Tensor:
    """For each of `inputs` `[N, …]` the one among the `retained` classes that the original takes it for."""
    said = predict(original, examples_from(inputs, torch.zeros(len(inputs), dtype=torch.int64)))
    return retained[said[:, retained].argmax(1)]


def nearest_labels(original: nn.Module, inputs: Tensor, retained: Examples, stage: Point) -> Tensor:
    """For each of `inputs` `[N, …]` the most frequent class among the nearest `retained` examples at a stage.

    Outputs there are pooled to one vector each (`rasura.activations.pooled`) and compared by their Euclidean distance.
    """
    made = examples_from(inputs, torch.zeros(len(inputs), dtype=torch.int64))
    own, others = (features(original, examples, [stage])[0][stage] for examples in (made, retained))
    nearest = torch.cdist(own, others).topk(min(NEIGHBOURS, len(retained)), largest=False).indices
    return F.one_hot(retained.labels[nearest]).sum(1).argmax(1)


def trainable(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the parameters that may change: θ₀."""
    return {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}


def penalty(model: nn.Module, start: Mapping[str, Tensor]) -> Tensor:
    """½‖θ − θ₀‖², over the parameters named in `start`."""
    moved = [(value - start[name]).square().sum() for name, value in model.named_parameters() if name in start]
    return torch.stack(moved).sum() / 2


@dataclass(frozen=True, eq=False)
class Reset:
    """Eq. 7 on a batch of retained examples and as many counterfactuals as `share` says, drawn anew at every step.

    Mean cross-entropy of the counterfactuals under their labels + that of the retained examples + `gamma` · ½‖θ − θ₀‖²,
    and, where a stage is given, `pull` · how far the counterfactuals under a label lie in its pooled output from the
    retained examples of that class (`mismatch`).

    Attributes:
        inputs: counterfactuals `[N, C, H, W]` as the model takes them.
        labels: int64 `[N]`.
        share: counterfactuals per retained example of a step. Above 0.
        start: θ₀.
        gamma: weight of the distance from it.
        draw: where the rows of each step come from.
        stage: whose outputs are matched; None matches nothing.
        pull: weight of the matching.
        augment: random changes of the counterfactuals, those that the retained examples undergo.
        course: the loss at every step is appended here.
    """

    inputs: Tensor
    labels: Tensor
    share: float
    start: Mapping[str, Tensor]
    gamma: float
    draw: torch.Generator
    stage: Point | None = None
    pull: float = 0.0
    augment: tuple[Augmentation, ...] = ()
    course: list[float] = field(default_factory=list)

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        assert isinstance(batch.inputs, Tensor)
        kept, device = len(batch.labels), batch.labels.device
        rows = torch.randint(len(self.labels), (max(1, round(self.share * kept)),), generator=self.draw)
        made = self.inputs[rows]
        for name in self.augment:
            made = AUGMENTATIONS[name](made, self.draw)
        labels = self.labels[rows].to(device)
        with pooling_of(model) as pool, outputs_at(model, () if self.stage is None else (self.stage,)) as seen:
            logits = logits_of(model, torch.cat([batch.inputs, made.to(device)]))
        value = F.cross_entropy(logits[kept:], labels) + F.cross_entropy(logits[:kept], batch.labels)
        value = value + self.gamma * penalty(model, self.start)
        if self.stage is not None:
            outputs = pool(seen[self.stage])
            value = value + self.pull * mismatch(outputs[kept:], labels, outputs[:kept], batch.labels)
        self.course.append(value.item())
        return value


def mismatch(made: Tensor, labels: Tensor, kept: Tensor, kept_labels: Tensor) -> Tensor:
    """Mean over `made` `[M, d]` of how far those of a label are, on average, from `kept` `[N, d]` of that class.

    The squared difference of the two means, coordinate by coordinate, over the pooled variance within the classes of
    `kept`, averaged over coordinates: in quiet coordinates a small difference tells a class apart. To each variance a
    share of their mean is added. `kept` is taken as given. 0 where no label is a class of `kept`.
    """
    classes = int(torch.cat([labels, kept_labels]).max()) + 1
    there, targets = _means(kept.detach(), kept_labels, classes)
    counts, means = _means(made, labels, classes)
    freedom = max(1, len(kept) - int((there > 0).sum()))
    variance = (kept.detach() - targets[kept_labels]).square().sum(0) / freedom
    scale = (variance + FLOOR * variance.mean()).clamp(min=STILL)
    weights = counts * (there > 0)
    distance = (weights * ((means - targets).square() / scale).mean(1)).sum()
    return distance / weights.sum().clamp(min=1)


def _means(values: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """How many rows of `values` `[N, d]` each class has, `[classes]`, and their means `[classes, d]`; 0 without any."""
    members = F.one_hot(labels, classes).T.to(values.dtype)
    counts = members.sum(1)
    return counts, members @ values / counts.clamp(min=1)[:, None]


@dataclass(frozen=True)
class Watched:
    """A loss whose value at every step is appended to `course`."""

    loss: Loss
    course: list[float] = field(default_factory=list)

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        value = self.loss(model, batch)
        self.course.append(value.item())
        return value


def thinned(course: list[float], most: int = POINTS) -> list[float]:
    """At most `most` means of even stretches of a curve, to four digits.

    >>> thinned([4.0, 2.0, 1.0, 0.5], most=2)
    [3.0, 0.75]
    """
    parts = torch.tensor(course).tensor_split(min(most, len(course))) if course else ()
    return [float(f"{part.mean().item():.4g}") for part in parts]
