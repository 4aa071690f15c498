"""Bad teacher: distil from the original on retained examples and from an untrained net on those to forget."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from rasura.errors import InputError
from rasura.kinds import checked_kinds
from rasura.methods._examples import joined, some
from rasura.methods._losses import frozen, two_teachers
from rasura.methods._strength import Strength
from rasura.methods.contract import Problem, Reads
from rasura.models import reinitialised
from rasura.training import Recipe, fit


@checked_kinds
@dataclass(frozen=True)
class BadTeacher:
    """Two teachers: the original for what stays, a randomly initialised net for what goes.

    Chundawat et al. (2023, "Can bad teaching induce forgetting?", AAAI): the mean over a batch of
    KL(teacher ‖ student), from the incompetent teacher where the example is to be forgotten. The divergence runs from
    teacher to student and is summed over classes, as the formula says; the code that is widely copied divides it by
    the number of classes as well.

    Differs: Adam has no weight decay; gradients are clipped at norm 5; batches hold 64 examples (paper: 256), for
    data as small as ours.

    Attributes:
        epochs: passes over the examples to forget and the chosen retained ones. 1 or more.
        learning_rate: of Adam; 0 means 0.001.
        batch_size: examples per step. 1 or more.
        retain_share: share of the retained examples that is used. Above 0, up to 1.
    """

    epochs: int = 1
    learning_rate: float = 1e-4
    batch_size: int = 64
    retain_share: float = 0.3

    reads: ClassVar[tuple[Reads, ...]] = ("forget", "retain")
    strength: ClassVar[Strength] = Strength("learning_rate", 1e-5, 1e-2, otherwise={"epochs": 5})

    def __post_init__(self) -> None:
        Recipe(self.epochs, self.batch_size, "adamw", self.learning_rate)
        if not 0 < self.retain_share <= 1:
            raise InputError(f"retain_share: {self.retain_share}; allowed: above 0, up to 1")

    def __call__(self, problem: Problem) -> tuple[nn.Module, dict[str, Any]]:
        model, incompetent = problem.copy_of_model(), frozen(reinitialised(problem.model, problem.seed))
        kept = some(problem.retain, max(1, round(self.retain_share * len(problem.retain))), problem.seed)
        recipe = Recipe(
            epochs=self.epochs,
            batch_size=self.batch_size,
            optimiser="adamw",
            learning_rate=self.learning_rate,
            weight_decay=0,
            schedule="constant",
            augment=problem.recipe.augment,
        )
        loss = two_teachers(len(problem.forget), frozen(problem.model), incompetent)
        both = joined(problem.forget, kept)
        fit(model, both, recipe, problem.seed, loss, progress=problem.progress, label="bad teacher")
        return model, {"retained_examples": len(kept)}
