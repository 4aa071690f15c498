"""Negative gradient (NegGrad+): descend on the retained examples and climb on those to forget, at once."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from rasura.errors import InputError
from rasura.kinds import checked_kinds
from rasura.methods._examples import joined, reached
from rasura.methods._losses import contrast
from rasura.methods._recipes import constant_sgd
from rasura.methods._strength import Strength
from rasura.methods.contract import Problem, Reads
from rasura.training import Recipe, fit, predict


@checked_kinds
@dataclass(frozen=True)
class NegativeGradient:
    """Minimise b · mean loss of the retained examples − (1 − b) · mean loss of the examples to forget.

    "NegGrad+" of Kurmanji et al. (2023, "Towards unbounded machine unlearning").

    Rate, epochs and b are those of the paper's small experiments; its large ones have b 0.9999 and 5 epochs.

    Differs: batches are drawn from both sides together, so that BatchNorm sees them as it did in training. Weight decay
    is that of the large experiments (the small ones have 0.1). The run ends at the first step after which at most a
    share `target` of the examples to forget (128 of them at most) is still recognised: the climb has no bound.
    Gradients are clipped at norm 5.

    Attributes:
        epochs: passes over all examples, at most. 1 or more.
        learning_rate: of SGD with momentum 0.9 and weight decay 0.0005; 0 means 0.1.
        batch_size: examples per step. 1 or more.
        weight: b, the share of the retained examples in the objective. Above 0, below 1.
        target: accuracy on the examples to forget at which the run stops. 0 up to, not including, 1.
    """

    epochs: int = 10
    learning_rate: float = 0.01
    batch_size: int = 64
    weight: float = 0.95
    target: float = 0.01

    reads: ClassVar[tuple[Reads, ...]] = ("forget", "retain")
    strength: ClassVar[Strength] = Strength("weight", 0.9999, 0.5, "logit")

    def __post_init__(self) -> None:
        Recipe(self.epochs, self.batch_size, "sgd", self.learning_rate)
        if not 0 < self.weight < 1:
            raise InputError(f"weight: {self.weight}; allowed: above 0, below 1")
        if not 0 <= self.target < 1:
            raise InputError(f"target: {self.target}; allowed: 0 up to, not including, 1")

    def __call__(self, problem: Problem) -> tuple[nn.Module, dict[str, Any]]:
        model, both = problem.copy_of_model(), joined(problem.forget, problem.retain)
        recipe = constant_sgd(self.epochs, self.batch_size, self.learning_rate, problem)
        loss, enough = contrast(len(problem.forget), self.weight), reached(problem, self.target)
        fit(model, both, recipe, problem.seed, loss, progress=problem.progress, label="negative gradient", after=enough)
        right = predict(model, problem.forget).argmax(1) == problem.forget.labels
        return model, {"forget_accuracy": right.double().mean().item()}
