"""Boundary shrink: give each example to forget the label of the class that lies nearest behind its boundary."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rasura.data import Examples
from rasura.errors import InputError
from rasura.kinds import checked_kinds
from rasura.methods._examples import float_inputs
from rasura.methods._losses import Statistics, check_statistics, frozen, with_statistics
from rasura.methods._recipes import constant_sgd
from rasura.methods._strength import Strength
from rasura.methods.contract import Problem, Reads
from rasura.models import device_of, logits_of
from rasura.progress import Progress, silent
from rasura.training import Recipe, fit


@checked_kinds
@dataclass(frozen=True)
class BoundaryShrink:
    """Train the examples to forget towards their nearest other class.

    Chen et al. (2023, "Boundary unlearning", CVPR): each example is moved one step of size `step` along
    the sign of the loss gradient (FGSM); the class that the original sees there becomes its label, and the original
    is fine-tuned on the unmoved examples with these labels.

    Differs: the label is the best class that is neither the example's own nor to be forgotten, also where the step does
    not cross a boundary; inputs are not clipped to the pixel range, and the step is in units of model inputs
    (standardised pixels), because a model says nothing about its pixels. Gradients are clipped at norm 5. The published
    rate, 0.00001, is made for thousands of examples; on a few it changes next to nothing.

    BatchNorm's running statistics follow the examples to forget alone while it runs, as in the papers' own training
    mode; on a net with BatchNorm that by itself costs accuracy on all classes. `statistics="hold"` keeps them.

    Attributes:
        epochs: passes over the examples to forget. 1 or more.
        learning_rate: of SGD with momentum 0.9; 0 means 0.1.
        batch_size: examples per step. 1 or more.
        step: size of the step, in units of model inputs. Above 0.
        statistics: of BatchNorm, "follow" the examples to forget (the papers' training mode) or "hold" still.
    """

    epochs: int = 10
    learning_rate: float = 1e-5
    batch_size: int = 64
    step: float = 0.1
    statistics: Statistics = "follow"

    reads: ClassVar[tuple[Reads, ...]] = ("forget",)
    strength: ClassVar[Strength] = Strength("learning_rate", 1e-6, 1e-1, otherwise={"statistics": "hold"})

    def __post_init__(self) -> None:
        Recipe(self.epochs, self.batch_size, "sgd", self.learning_rate)
        check_statistics(self.statistics)
        if not 0 < self.step < torch.inf:
            raise InputError(f"step: {self.step}; allowed: above 0")

    def __call__(self, problem: Problem) -> tuple[nn.Module, dict[str, Any]]:
        float_inputs("boundary-shrink", problem.forget)
        closed = (*problem.forget_classes, *problem.gone)
        labels = nearest_classes(problem.model, problem.forget, closed, self.step, problem.progress)
        model = problem.copy_of_model()
        recipe = constant_sgd(self.epochs, self.batch_size, self.learning_rate, problem, weight_decay=0)
        relabelled = replace(problem.forget, labels=labels)
        loss = with_statistics(self.statistics)
        fit(model, relabelled, recipe, problem.seed, loss, progress=problem.progress, label="boundary shrink")
        return model, {"relabelled": torch.bincount(labels, minlength=problem.classes).tolist()}


def nearest_classes(
    model: nn.Module, examples: Examples, excluded: tuple[int, ...], step: float, progress: Progress = silent
) -> Tensor:
    """For each example the class that wins after one FGSM step, its own and the excluded ones aside: int64 `[N]`."""
    judge, found, done = frozen(model), [], 0
    for inputs, labels in examples.batches(256):
        assert isinstance(inputs, Tensor), "checked by float_inputs"
        moved, own = inputs.to(device_of(judge)).requires_grad_(True), labels.to(device_of(judge))
        # A sum, because each example has its own gradient; its sign is that of the mean's.
        (slope,) = torch.autograd.grad(F.cross_entropy(logits_of(judge, moved), own, reduction="sum"), moved)
        logits = logits_of(judge, moved.detach() + step * slope.sign())
        logits[:, list(excluded)] = -torch.inf
        found.append(logits.scatter(1, own[:, None], -torch.inf).argmax(1).cpu())
        done += len(labels)
        progress("nearest classes", done, len(examples))
    return torch.cat(found)
