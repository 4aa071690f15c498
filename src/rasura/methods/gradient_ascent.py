"""Gradient ascent (GA): climb the loss of the examples to forget until they are no longer recognised."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from rasura.errors import InputError
from rasura.kinds import checked_kinds
from rasura.methods._examples import reached
from rasura.methods._losses import ascent
from rasura.methods._strength import Strength
from rasura.methods.contract import Problem, Reads
from rasura.training import Recipe, fit, predict


@checked_kinds
@dataclass(frozen=True)
class GradientAscent:
    """Gradient ascent on the examples to forget, and nothing else.

    The baseline "NegGrad" of Golatkar et al. (2020, "Eternal sunshine of the spotless net") and "GA" of Thudi et al.
    (2022, "Unrolling SGD"): theta + rate · gradient of the forget loss. It has no term that keeps the other classes.

    Differs: no source gives one learning rate for all. Ours is a high one, because the climb ends at the first step
    after which at most a share `target` of the examples to forget (128 of them at most) is still recognised. Gradients
    are clipped at norm 5.

    BatchNorm's running statistics follow the examples to forget alone while it runs, as in the papers' own training
    mode; on a net with BatchNorm that by itself costs accuracy on all classes.

    Attributes:
        epochs: passes over the examples to forget, at most. 1 or more.
        learning_rate: of SGD with momentum 0.9; 0 means 0.1.
        batch_size: examples per step. 1 or more.
        target: accuracy on the examples to forget at which the climb stops. 0 up to, not including, 1.
    """

    epochs: int = 10
    learning_rate: float = 0.01
    batch_size: int = 64
    target: float = 0.01

    reads: ClassVar[tuple[Reads, ...]] = ("forget",)
    strength: ClassVar[Strength] = Strength("learning_rate", 1e-6, 1e-1)

    def __post_init__(self) -> None:
        self._recipe()
        if not 0 <= self.target < 1:
            raise InputError(f"target: {self.target}; allowed: 0 up to, not including, 1")

    def _recipe(self) -> Recipe:
        return Recipe(self.epochs, self.batch_size, "sgd", self.learning_rate, weight_decay=0, schedule="constant")

    def __call__(self, problem: Problem) -> tuple[nn.Module, dict[str, Any]]:
        model, label = problem.copy_of_model(), "gradient ascent"
        enough = reached(problem, self.target)
        fit(
            model,
            problem.forget,
            self._recipe(),
            problem.seed,
            ascent,
            progress=problem.progress,
            label=label,
            after=enough,
        )
        right = predict(model, problem.forget).argmax(1) == problem.forget.labels
        return model, {"forget_accuracy": right.double().mean().item()}
