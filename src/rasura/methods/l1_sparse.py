"""L1-sparse: fine-tuning on the retained examples under an L1 penalty, which prunes what they do not need."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from rasura.errors import InputError
from rasura.kinds import checked_kinds
from rasura.methods._losses import with_l1
from rasura.methods._recipes import constant_sgd
from rasura.methods._strength import Strength
from rasura.methods.contract import Problem, Reads
from rasura.training import Recipe, fit


@checked_kinds
@dataclass(frozen=True)
class L1Sparse:
    """Minimise the retained examples' loss + gamma · the sum of all absolute weights.

    Jia et al. (2023, "Model sparsity can simplify machine unlearning", NeurIPS).

    Gamma falls evenly to 0 over the run, the schedule that the paper prefers.

    Differs: it falls at every step. Gradients are clipped at norm 5.

    Attributes:
        epochs: passes over the retained examples. 1 or more.
        learning_rate: of SGD with momentum 0.9 and weight decay 0.0005; 0 means 0.1.
        batch_size: examples per step. 1 or more.
        gamma: weight of the penalty in the first step. Above 0.
    """

    epochs: int = 10
    learning_rate: float = 0.01
    batch_size: int = 64
    gamma: float = 5e-4

    reads: ClassVar[tuple[Reads, ...]] = ("retain",)
    strength: ClassVar[Strength] = Strength("gamma", 1e-6, 1e-2)

    def __post_init__(self) -> None:
        Recipe(self.epochs, self.batch_size, "sgd", self.learning_rate)
        if not 0 < self.gamma < math.inf:
            raise InputError(f"gamma: {self.gamma}; allowed: above 0")

    def __call__(self, problem: Problem) -> tuple[nn.Module, dict[str, Any]]:
        model = problem.copy_of_model()
        recipe = constant_sgd(self.epochs, self.batch_size, self.learning_rate, problem)
        steps = self.epochs * math.ceil(len(problem.retain) / self.batch_size)
        loss = with_l1(iter(torch.linspace(self.gamma, 0, steps + 1).tolist()))
        fit(model, problem.retain, recipe, problem.seed, loss, progress=problem.progress, label="l1-sparse")
        return model, {"absolute_sum": [_absolute_sum(problem.model), _absolute_sum(model)]}


def _absolute_sum(model: nn.Module) -> float:
    return sum(parameter.detach().abs().sum().item() for parameter in model.parameters())
