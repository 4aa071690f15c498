"""SCRUB: disobey the original on the examples to forget, obey it on the retained ones, in turns."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from rasura.errors import InputError
from rasura.kinds import checked_kinds
from rasura.methods._losses import disobey, frozen, obey
from rasura.methods._strength import Strength
from rasura.methods.contract import Problem, Reads
from rasura.progress import Progress
from rasura.training import Recipe, fit


@checked_kinds
@dataclass(frozen=True)
class Scrub:
    """Alternate passes that climb KL(original ‖ student) on forget and descend a KL and label loss on retain.

    Kurmanji et al. (2023, "Towards unbounded machine unlearning", NeurIPS): the first
    `max_epochs` rounds begin with a pass over the examples to forget, every round ends with one over the retained
    ones, with loss alpha · KL + gamma · cross-entropy. Small forget batches mean more steps away from the original and
    decide how much is forgotten. At the start the student is the teacher, where the divergence has no slope: without
    dropout or BatchNorm the climb begins in earnest with the second round.

    Differs: Adam's moments start anew at each pass; the divergence is that of softened outputs times the squared
    temperature, as in Hinton et al. (2015), which the paper's formula leaves out; gradients are clipped at norm 5.

    Attributes:
        epochs: rounds, each with one pass over the retained examples. 1 or more.
        max_epochs: rounds that begin with a pass over the examples to forget. 1 up to `epochs`.
        learning_rate: of Adam (weight decay 0.0005); 0 means 0.001.
        batch_size: retained examples per step. 1 or more.
        forget_batch_size: examples to forget per step. 1 or more.
        alpha: weight of the divergence on the retained examples. 0 or more.
        gamma: weight of their cross-entropy. 0 or more.
        temperature: by which logits are divided in the divergences. Above 0.
    """

    epochs: int = 3
    max_epochs: int = 2
    learning_rate: float = 5e-4
    batch_size: int = 128
    forget_batch_size: int = 32
    alpha: float = 0.001
    gamma: float = 0.99
    temperature: float = 4.0

    reads: ClassVar[tuple[Reads, ...]] = ("forget", "retain")
    strength: ClassVar[Strength] = Strength("learning_rate", 1e-5, 1e-2)

    def __post_init__(self) -> None:
        Recipe(self.epochs, self.batch_size, "adamw", self.learning_rate)
        if not isinstance(self.forget_batch_size, int) or self.forget_batch_size < 1:
            raise InputError(f"forget_batch_size: {self.forget_batch_size!r}; allowed: a whole number, 1 or more")
        if not isinstance(self.max_epochs, int) or not 1 <= self.max_epochs <= self.epochs:
            raise InputError(f"max_epochs: {self.max_epochs!r}; allowed: 1 up to epochs, {self.epochs}")
        for name in ("alpha", "gamma"):
            if not 0 <= getattr(self, name) < torch.inf:
                raise InputError(f"{name}: {getattr(self, name)}; allowed: 0 or more")
        if not 0 < self.temperature < torch.inf:
            raise InputError(f"temperature: {self.temperature}; allowed: above 0")

    def __call__(self, problem: Problem) -> tuple[nn.Module, dict[str, Any]]:
        model, teacher = problem.copy_of_model(), frozen(problem.model)
        away = disobey(teacher, self.temperature)
        near = obey(teacher, self.temperature, self.alpha, self.gamma)
        seeds = torch.randint(2**31, (self.epochs, 2), generator=torch.Generator().manual_seed(problem.seed)).tolist()
        for number, (first, second) in enumerate(seeds):
            show = _part(problem.progress, number, self.epochs)
            if number < self.max_epochs:
                fit(model, problem.forget, self._pass(problem, self.forget_batch_size), first, away)
            fit(model, problem.retain, self._pass(problem, self.batch_size), second, near, progress=show)
        return model, {"forget_steps": self.max_epochs * -(-len(problem.forget) // self.forget_batch_size)}

    def _pass(self, problem: Problem, batch_size: int) -> Recipe:
        return Recipe(
            epochs=1,
            batch_size=batch_size,
            optimiser="adamw",
            learning_rate=self.learning_rate,
            weight_decay=5e-4,
            schedule="constant",
            augment=problem.recipe.augment,
        )


def _part(progress: Progress, number: int, parts: int) -> Progress:
    """Progress of part `number` of a whole of `parts` parts of one length."""
    return lambda _, done, total: progress("scrub", number * total + done, parts * total)
