"""Retraining from scratch on the retained examples (RFS): the reference that every other method is measured by."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import nn

from rasura.kinds import checked_kinds
from rasura.methods.contract import Problem, Reads
from rasura.models import reinitialised
from rasura.training import Recipe, fit


@checked_kinds
@dataclass(frozen=True)
class Retrain:
    """Train a newly initialised net of the same architecture on the retained examples.

    It is verified, parameter by parameter, that nothing of the trained model was carried over (`reinitialised`).

    Attributes:
        epochs: passes over the retained examples; 0 means as many as the original's recipe, or 10 if that is unknown.
        learning_rate: the highest rate; 0 means that of the original's recipe.
    """

    epochs: int = 0
    learning_rate: float = 0.0

    reads: ClassVar[tuple[Reads, ...]] = ("retain",)

    def __post_init__(self) -> None:
        # Refuses what cannot be.
        Recipe(epochs=self.epochs or 1, learning_rate=self.learning_rate)

    def __call__(self, problem: Problem) -> tuple[nn.Module, dict[str, Any]]:
        recipe = replace(
            problem.recipe,
            epochs=self.epochs or problem.recipe.epochs,
            learning_rate=self.learning_rate or problem.recipe.learning_rate,
        )
        model = reinitialised(problem.model, problem.seed)
        fit(model, problem.retain, recipe, problem.seed, progress=problem.progress, label="retrain")
        return model, {"epochs": recipe.epochs, "reinitialised": sum(1 for _ in model.parameters())}
