"""SalUn: random relabelling that may change only the weights on which the forget loss depends most."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rasura.data import Examples
from rasura.errors import InputError
from rasura.kinds import checked_kinds
from rasura.methods._examples import joined, other_labels
from rasura.methods._losses import balanced
from rasura.methods._recipes import constant_sgd
from rasura.methods._strength import Strength
from rasura.methods.contract import Problem, Reads
from rasura.models import device_of, logits_of, to_device
from rasura.progress import Progress, silent
from rasura.training import Recipe, evaluating, fit


@checked_kinds
@dataclass(frozen=True)
class Salun:
    """Random relabelling of the most salient weights: saliency unlearning.

    Fan et al. (2024, "SalUn", ICLR): the mask m is 1 where |gradient of the forget loss| at the original weights is
    among the largest (above its median, so half of them); the new weights are m · trained + (1 − m) · original, and
    what is trained is the mean loss on random labels + `retain_weight` · the mean loss on retained examples.

    Differs: labels are drawn once, from the retained classes. The mask holds exactly `round(share · weights)` weights,
    the earlier one where two gradients are equal. BatchNorm's running statistics are no weights and move. Gradients
    are clipped at norm 5.

    Attributes:
        epochs: passes over all examples. 1 or more.
        learning_rate: of SGD with momentum 0.9 and weight decay 0.0005; 0 means 0.1.
        batch_size: examples per step. 1 or more.
        retain_weight: weight of the retained examples' mean loss. 0 or more.
        share: share of all weights that may change. Above 0, up to 1.
    """

    epochs: int = 10
    learning_rate: float = 0.013
    batch_size: int = 64
    retain_weight: float = 1.0
    share: float = 0.5

    reads: ClassVar[tuple[Reads, ...]] = ("forget", "retain")
    strength: ClassVar[Strength] = Strength("learning_rate", 1e-5, 1e-1)

    def __post_init__(self) -> None:
        Recipe(self.epochs, self.batch_size, "sgd", self.learning_rate)
        if not 0 <= self.retain_weight < torch.inf:
            raise InputError(f"retain_weight: {self.retain_weight}; allowed: 0 or more")
        if not 0 < self.share <= 1:
            raise InputError(f"share: {self.share}; allowed: above 0, up to 1")

    def __call__(self, problem: Problem) -> tuple[nn.Module, dict[str, Any]]:
        model, labels = problem.copy_of_model(), other_labels(problem)
        chosen = most_salient(saliency(model, problem.forget, problem.progress), self.share)
        recipe = constant_sgd(self.epochs, self.batch_size, self.learning_rate, problem)
        both = joined(replace(problem.forget, labels=labels), problem.retain)
        loss, after = balanced(len(labels), self.retain_weight), _keeping(problem.model, chosen)
        fit(model, both, recipe, problem.seed, loss, progress=problem.progress, label="salun", after=after)
        return model, {"chosen": {name: int(mask.sum()) for name, mask in chosen.items()}}


def saliency(model: nn.Module, examples: Examples, progress: Progress = silent) -> dict[str, Tensor]:
    """|gradient of the mean cross-entropy| of every parameter, in eval mode."""
    found = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    device, done = device_of(model), 0
    with evaluating(model):
        for inputs, labels in examples.batches(256):
            loss = F.cross_entropy(logits_of(model, to_device(inputs, device)), labels.to(device), reduction="sum")
            gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
            for total, gradient in zip(found.values(), gradients, strict=True):
                if gradient is not None:
                    total += gradient / len(examples)
            done += len(labels)
            progress("saliency", done, len(examples))
    return {name: total.abs() for name, total in found.items()}


def most_salient(saliencies: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """Masks that hold exactly `round(share · weights)` weights, one at least: those with the largest values."""
    flat = torch.cat([values.reshape(-1) for values in saliencies.values()])
    order = flat.argsort(descending=True, stable=True)
    mask = torch.zeros_like(flat, dtype=torch.bool)
    mask[order[: max(1, round(share * len(flat)))]] = True
    parts = mask.split([values.numel() for values in saliencies.values()])
    return {name: part.view(values.shape) for (name, values), part in zip(saliencies.items(), parts, strict=True)}


def _keeping(original: nn.Module, chosen: dict[str, Tensor]) -> Callable[[nn.Module], None]:
    """Puts every weight that was not chosen back, after momentum and weight decay had their way with it."""

    @torch.no_grad()
    def keep(model: nn.Module) -> None:
        for (name, changed), kept in zip(model.named_parameters(), original.parameters(), strict=True):
            changed.copy_(torch.where(chosen[name], changed, kept))

    return keep
