"""Random relabelling: teach the examples to forget as if each belonged to some other class."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import nn

from rasura.errors import InputError
from rasura.kinds import checked_kinds
from rasura.methods._examples import joined, other_labels
from rasura.methods._losses import balanced
from rasura.methods._recipes import constant_sgd
from rasura.methods._strength import Strength
from rasura.methods.contract import Problem, Reads
from rasura.training import Recipe, fit


@checked_kinds
@dataclass(frozen=True)
class RandomRelabel:
    """Train on the retained examples, and on those to forget with random labels of retained classes.

    The "random labels" of Golatkar et al. (2020, "Eternal sunshine of the spotless net") and "amnesiac unlearning" of
    Graves et al. (2021); settings as in Fan et al. (2024, "SalUn", its baseline RL).

    Differs: the labels are drawn once, evenly from the retained classes (Graves: from all other classes), so that no
    forgotten class is taught again. The objective is mean loss of the relabelled + `retain_weight` · mean loss of the
    retained examples of each batch, as in `salun`. Gradients are clipped at norm 5.

    Attributes:
        epochs: passes over all examples. 1 or more.
        learning_rate: of SGD with momentum 0.9 and weight decay 0.0005; 0 means 0.1.
        batch_size: examples per step. 1 or more.
        retain_weight: weight of the retained examples' mean loss. 0 or more.
    """

    epochs: int = 10
    learning_rate: float = 0.013
    batch_size: int = 64
    retain_weight: float = 1.0

    reads: ClassVar[tuple[Reads, ...]] = ("forget", "retain")
    strength: ClassVar[Strength] = Strength("learning_rate", 1e-5, 1e-1)

    def __post_init__(self) -> None:
        Recipe(self.epochs, self.batch_size, "sgd", self.learning_rate)
        if not 0 <= self.retain_weight < torch.inf:
            raise InputError(f"retain_weight: {self.retain_weight}; allowed: 0 or more")

    def __call__(self, problem: Problem) -> tuple[nn.Module, dict[str, Any]]:
        model, labels = problem.copy_of_model(), other_labels(problem)
        recipe = constant_sgd(self.epochs, self.batch_size, self.learning_rate, problem)
        both = joined(replace(problem.forget, labels=labels), problem.retain)
        loss = balanced(len(labels), self.retain_weight)
        fit(model, both, recipe, problem.seed, loss, progress=problem.progress, label="random relabel")
        return model, {"relabelled": torch.bincount(labels, minlength=problem.classes).tolist()}
