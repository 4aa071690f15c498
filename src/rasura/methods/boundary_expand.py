"""Boundary expanding: the examples to forget are led into a shadow class, which is then cut off."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from rasura.kinds import checked_kinds
from rasura.methods._branch import branched
from rasura.methods._losses import Statistics, check_statistics, shadowed, with_statistics
from rasura.methods._recipes import constant_sgd
from rasura.methods._strength import Strength
from rasura.methods.contract import Problem, Reads
from rasura.training import Recipe, fit


@checked_kinds
@dataclass(frozen=True)
class BoundaryExpand:
    """Train the examples to forget towards one more class than the net has, and take that class away.

    Chen et al. (2023, "Boundary unlearning", CVPR): the head gets a neuron for a shadow class; the widened net is
    fine-tuned on the examples to forget, all of them with the shadow's label; the neuron is pruned. What is left of the
    class is then spread over the others. It reads no retained example.

    Differs: the shadow neuron is a layer of its own beside the head, drawn as PyTorch draws one (the text says nothing
    of it); several classes share one shadow. Gradients are clipped at norm 5. The published rate, 0.00001, is made for
    thousands of examples; on a few it changes next to nothing.

    BatchNorm's running statistics follow the examples to forget alone while it runs, as in the papers' own training
    mode; on a net with BatchNorm that by itself costs accuracy on all classes. `statistics="hold"` keeps them.

    Attributes:
        epochs: passes over the examples to forget. 1 or more.
        learning_rate: of SGD with momentum 0.9; 0 means 0.1.
        batch_size: examples per step. 1 or more.
        statistics: of BatchNorm, "follow" the examples to forget (the papers' training mode) or "hold" still.
    """

    epochs: int = 10
    learning_rate: float = 1e-5
    batch_size: int = 64
    statistics: Statistics = "follow"

    reads: ClassVar[tuple[Reads, ...]] = ("forget",)
    strength: ClassVar[Strength] = Strength("learning_rate", 1e-6, 1e-1, otherwise={"statistics": "hold"})

    def __post_init__(self) -> None:
        Recipe(self.epochs, self.batch_size, "sgd", self.learning_rate)
        check_statistics(self.statistics)

    def __call__(self, problem: Problem) -> tuple[nn.Module, dict[str, Any]]:
        inputs, _ = problem.forget.batch(torch.arange(min(2, len(problem.forget))))
        widened = branched(problem.copy_of_model(), inputs, lambda width: nn.Linear(width, 1), problem.seed)
        recipe = constant_sgd(self.epochs, self.batch_size, self.learning_rate, problem, weight_decay=0)
        loss = with_statistics(self.statistics, shadowed)
        fit(widened, problem.forget, recipe, problem.seed, loss, progress=problem.progress, label="boundary expand")
        return widened.net, {"head": widened.head}
