"""EU-k: train the last blocks from scratch on the retained examples, the others frozen."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import nn

from rasura.errors import InputError
from rasura.kinds import checked_kinds
from rasura.methods._blocks import copy_all_but, freeze_all_but, last_blocks
from rasura.methods._strength import Strength
from rasura.methods.contract import Problem, Reads
from rasura.models import reinitialised
from rasura.training import Recipe, fit


@checked_kinds
@dataclass(frozen=True)
class ExactK:
    """Re-initialise the last k blocks and train them, and only them, on the retained examples.

    Goel et al. (2022, "Towards adversarial evaluation of inexact machine unlearning", EU-k).

    Differs: k counts the net's stages and its head (as the audit's depth profile does), not single layers; the paper
    sweeps k and has no one value. BatchNorm of frozen blocks keeps its running statistics.

    Attributes:
        blocks: k, the head among them. 1 or more; all of the net, which is retraining, if it has no more.
        epochs: passes over the retained examples; 0 means as many as the original's recipe, or 10 if that is unknown.
        learning_rate: the highest rate; 0 means that of the original's recipe.
    """

    blocks: int = 2
    epochs: int = 0
    learning_rate: float = 0.0

    reads: ClassVar[tuple[Reads, ...]] = ("retain",)
    strength: ClassVar[Strength] = Strength("blocks", 1, 9, "linear")

    def __post_init__(self) -> None:
        Recipe(epochs=self.epochs or 1, learning_rate=self.learning_rate)
        if not isinstance(self.blocks, int) or self.blocks < 1:
            raise InputError(f"blocks: {self.blocks!r}; allowed: a whole number, 1 or more")

    def __call__(self, problem: Problem) -> tuple[nn.Module, dict[str, Any]]:
        model = reinitialised(problem.model, problem.seed)
        inputs, _ = problem.retain.batch(torch.arange(min(2, len(problem.retain))))
        blocks, names = last_blocks(problem.model, inputs, self.blocks)
        copy_all_but(problem.model, model, names)
        recipe = replace(
            problem.recipe,
            epochs=self.epochs or problem.recipe.epochs,
            learning_rate=self.learning_rate or problem.recipe.learning_rate,
        )
        loss = freeze_all_but(model, names)
        fit(model, problem.retain, recipe, problem.seed, loss, progress=problem.progress, label="exact-k")
        return model.requires_grad_(True), {"blocks": list(blocks), "epochs": recipe.epochs}
