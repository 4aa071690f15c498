"""Neuron reset: the loss under which a net loses what sets a class apart, on counterfactuals and retained examples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rasura.activations import Point
from rasura.data import examples_from
from rasura.methods._counterfactuals import outputs_at
from rasura.methods._head import head_rows
from rasura.models import logits_of
from rasura.training import AUGMENTATIONS, Augmentation, Batch, Loss, predict

POINTS = 60
"""Values that a record keeps of a curve, at most."""
STILL = 1e-6
"""The least variance that a scale may have."""


def uniform_labels(count: int, retained: Tensor, seed: int) -> Tensor:
    """`count` labels, each drawn from the numbers in `retained` with equal chances."""
    return retained[torch.randint(len(retained), (count,), generator=torch.Generator().manual_seed(seed))]


def likely_labels(original: nn.Module, inputs: Tensor, retained: Tensor) -> Tensor:
    """For each of `inputs` `[N, …]` the one among the `retained` classes that the original takes it for."""
    said = predict(original, examples_from(inputs, torch.zeros(len(inputs), dtype=torch.int64)))
    return retained[said[:, retained].argmax(1)]


def trainable(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the parameters that may change: θ₀."""
    return {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}


@torch.no_grad()
def renew_outputs(head: nn.Module, classes: Sequence[int], generator: torch.Generator) -> None:
    """Draw the head's weights of some classes anew, with the others' mean and deviation; biases become their mean.

    Args:
        head: the module whose outputs are the logits; it is changed.
    """
    rows, going = head_rows(head), list(classes)
    others = torch.tensor([number for number in range(len(rows)) if number not in going])
    noise = torch.randn(rows[going].shape, generator=generator, dtype=rows.dtype)
    rows[going] = rows[others].mean() + rows[others].std() * noise.to(rows.device)
    if isinstance(head.bias, Tensor):
        head.bias[going] = head.bias[others].mean()


def penalty(model: nn.Module, start: Mapping[str, Tensor]) -> Tensor:
    """½‖θ − θ₀‖², over the parameters named in `start`."""
    moved = [(value - start[name]).square().sum() for name, value in model.named_parameters() if name in start]
    return torch.stack(moved).sum() / 2


@dataclass(frozen=True, eq=False)
class Reset:
    """Eq. 7 on a batch of retained examples and as many counterfactuals as `share` says, drawn anew at every step.

    Mean cross-entropy of the counterfactuals under their labels + that of the retained examples + `gamma` · ½‖θ − θ₀‖²,
    and, where centroids are given, `pull` · the mean over stages of how far the counterfactuals' outputs are
    from the retain centroid, squared and relative to how far the retained examples of the batch are.

    Attributes:
        inputs: counterfactuals `[N, C, H, W]` as the model takes them.
        labels: int64 `[N]`.
        share: counterfactuals per retained example of a step. Above 0.
        start: θ₀.
        gamma: weight of the distance from it.
        draw: where the rows of each step come from.
        centroids: retain centroid `[d]` per stage, flattened.
        pull: weight of the pull towards it.
        augment: random changes of the counterfactuals, those that the retained examples undergo.
        course: the loss at every step is appended here.
    """

    inputs: Tensor
    labels: Tensor
    share: float
    start: Mapping[str, Tensor]
    gamma: float
    draw: torch.Generator
    centroids: Mapping[Point, Tensor] = field(default_factory=dict)
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
        with outputs_at(model, self.centroids) as seen:
            logits = logits_of(model, torch.cat([batch.inputs, made.to(device)]))
        value = F.cross_entropy(logits[kept:], self.labels[rows].to(device))
        value = value + F.cross_entropy(logits[:kept], batch.labels)
        value = value + self.gamma * penalty(model, self.start)
        if self.centroids and self.pull:
            value = value + self.pull * torch.stack([self._distance(seen[p], p, kept) for p in self.centroids]).mean()
        self.course.append(value.item())
        return value

    def _distance(self, output: Tensor, point: Point, kept: int) -> Tensor:
        offsets = output.flatten(1) - self.centroids[point].to(output.device)
        usual = offsets[:kept].detach().square().mean()
        return offsets[kept:].square().mean() / usual.clamp(min=STILL)


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
