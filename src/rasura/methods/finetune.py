"""Fine-tuning on the retained examples only (ROFT): the class fades as the net is trained on."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from rasura.kinds import checked_kinds
from rasura.methods._strength import Strength
from rasura.methods.contract import Problem, Reads
from rasura.training import RATES, Recipe, fit, resolved


@checked_kinds
@dataclass(frozen=True)
class Finetune:
    """Continue training on the retained examples, without the forgotten ones.

    The baseline that every paper has (e.g. Golatkar et al., 2020, "Eternal sunshine of the spotless net", section 6).

    Attributes:
        epochs: passes over the retained examples. 1 or more.
        learning_rate: the highest rate; 0 means a tenth of the optimiser's usual one.
        batch_size: examples per step. 1 or more.
    """

    epochs: int = 3
    learning_rate: float = 0.0
    batch_size: int = 64

    reads: ClassVar[tuple[Reads, ...]] = ("retain",)
    strength: ClassVar[Strength] = Strength("learning_rate", 1e-4, 1.0)

    def __post_init__(self) -> None:
        # Refuses what cannot be.
        Recipe(epochs=self.epochs, batch_size=self.batch_size, learning_rate=self.learning_rate)

    def __call__(self, problem: Problem) -> tuple[nn.Module, dict[str, Any]]:
        model = problem.copy_of_model()
        optimiser = resolved(problem.recipe, model).optimiser
        recipe = Recipe(
            epochs=self.epochs,
            batch_size=self.batch_size,
            optimiser=optimiser,
            learning_rate=self.learning_rate or RATES[optimiser] / 10,
            augment=problem.recipe.augment,
        )
        fit(model, problem.retain, recipe, problem.seed, progress=problem.progress, label="finetune")
        return model, {"learning_rate": recipe.learning_rate, "optimiser": optimiser}
