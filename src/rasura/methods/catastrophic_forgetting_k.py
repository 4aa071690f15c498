"""CF-k: fine-tune the last blocks on the retained examples, the others frozen."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from rasura.errors import InputError
from rasura.kinds import checked_kinds
from rasura.methods._blocks import freeze_all_but, last_blocks
from rasura.methods._strength import Strength
from rasura.methods.contract import Problem, Reads
from rasura.training import RATES, Recipe, fit, resolved


@checked_kinds
@dataclass(frozen=True)
class CatastrophicForgettingK:
    """Fine-tune the last k blocks on the retained examples and leave all before them as it is.

    Goel et al. (2022, "Towards adversarial evaluation of inexact machine unlearning", CF-k).

    Differs: k counts the net's stages and its head (as the audit's depth profile does), not single layers; the paper
    sweeps k and has no one value. BatchNorm of frozen blocks keeps its running statistics. Gradients are clipped at
    norm 5.

    Attributes:
        blocks: k, the head among them. 1 or more; all of the net if it has no more.
        epochs: passes over the retained examples. 1 or more.
        learning_rate: the highest rate; 0 means a tenth of the optimiser's usual one.
        batch_size: examples per step. 1 or more.
    """

    blocks: int = 2
    epochs: int = 10
    learning_rate: float = 0.0
    batch_size: int = 64

    reads: ClassVar[tuple[Reads, ...]] = ("retain",)
    strength: ClassVar[Strength] = Strength("learning_rate", 1e-4, 1.0)

    def __post_init__(self) -> None:
        Recipe(epochs=self.epochs, batch_size=self.batch_size, learning_rate=self.learning_rate)
        if not isinstance(self.blocks, int) or self.blocks < 1:
            raise InputError(f"blocks: {self.blocks!r}; allowed: a whole number, 1 or more")

    def __call__(self, problem: Problem) -> tuple[nn.Module, dict[str, Any]]:
        model, label = problem.copy_of_model(), "catastrophic forgetting"
        inputs, _ = problem.retain.batch(torch.arange(min(2, len(problem.retain))))
        blocks, names = last_blocks(model, inputs, self.blocks)
        optimiser = resolved(problem.recipe, model).optimiser
        recipe = Recipe(
            epochs=self.epochs,
            batch_size=self.batch_size,
            optimiser=optimiser,
            learning_rate=self.learning_rate or RATES[optimiser] / 10,
            augment=problem.recipe.augment,
        )
        loss = freeze_all_but(model, names)
        fit(model, problem.retain, recipe, problem.seed, loss, progress=problem.progress, label=label)
        return model.requires_grad_(True), {"blocks": list(blocks)}
