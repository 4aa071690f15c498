"""UNSIR: noise that the model errs on most takes the forgotten class's place, impairs the net, and a repair follows."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rasura.data import Examples, examples_from
from rasura.errors import InputError
from rasura.kinds import checked_kinds
from rasura.methods._examples import float_inputs, joined, some
from rasura.methods._losses import frozen
from rasura.methods._strength import Strength
from rasura.methods.contract import Problem, Reads
from rasura.models import device_of, logits_of
from rasura.training import Batch, Recipe, fit

IMPAIRING = 0.57
"""Noise examples per retained one while impairing: 20 batches of 256 beside 9 classes of 1,000."""


@checked_kinds
@dataclass(frozen=True)
class Unsir:
    """Impair with error-maximising noise under the forgotten label, then repair on retained examples.

    Tarun et al. (2023, "Fast yet effective machine unlearning", IEEE TNNLS): noise is optimised, from
    standard normal pixels, to maximise the original's loss of the forgotten class, under the penalty `penalty` · mean
    squared norm; one pass over noise and retained examples impairs the net, one over the retained examples alone
    repairs it. It reads no example to forget.

    Differs: there are as many noise examples per retained one as in the paper, in units of model inputs (standardised
    pixels); Adam has no weight decay; while the net is changed, gradients are clipped at norm 5. Rates as high as these
    are made for nets with BatchNorm and thousands of examples; others may not recover.

    Attributes:
        impair_rate: learning rate of Adam while impairing; 0 means 0.001.
        repair_rate: learning rate of Adam while repairing; 0 means 0.001.
        batch_size: examples per step. 1 or more.
        retained: retained examples per class that are used, on average and at most. 1 or more.
        noise: noise examples that are optimised for each forgotten class. 1 or more.
        noise_steps: steps of Adam (rate 0.1) on the noise. 1 or more.
        penalty: weight of the noise's mean squared norm. 0 or more.
    """

    impair_rate: float = 0.02
    repair_rate: float = 0.01
    batch_size: int = 256
    retained: int = 1000
    noise: int = 256
    noise_steps: int = 40
    penalty: float = 0.1

    reads: ClassVar[tuple[Reads, ...]] = ("retain",)
    strength: ClassVar[Strength] = Strength("impair_rate", 1e-4, 1e-1)

    def __post_init__(self) -> None:
        for name in ("impair_rate", "repair_rate", "penalty"):
            if not 0 <= getattr(self, name) < torch.inf:
                raise InputError(f"{name}: {getattr(self, name)}; allowed: 0 or more")
        for name in ("batch_size", "retained", "noise", "noise_steps"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise InputError(f"{name}: {value!r}; allowed: a whole number, 1 or more")

    def __call__(self, problem: Problem) -> tuple[nn.Module, dict[str, Any]]:
        classes = problem.require_classes("unsir")
        float_inputs("unsir", problem.retain)
        kept = some(problem.retain, self.retained * (problem.classes - len(classes) - len(problem.gone)), problem.seed)
        noise = self._noise(problem)
        count = max(len(classes), round(IMPAIRING * len(kept)))
        repeated = noise.take(torch.arange(count) % len(noise))
        model = problem.copy_of_model()
        impair, repair = self._pass(problem, self.impair_rate), self._pass(problem, self.repair_rate)
        fit(model, joined(repeated, kept), impair, problem.seed, progress=problem.progress, label="unsir: impair")
        fit(model, kept, repair, problem.seed, progress=problem.progress, label="unsir: repair")
        return model, {"noise_examples": count, "retained_examples": len(kept)}

    def _noise(self, problem: Problem) -> Examples:
        """Error-maximising noise, the forgotten classes taking turns."""
        labels = torch.tensor(problem.forget_classes).repeat(self.noise)
        inputs, _ = problem.retain.batch(torch.arange(1))
        assert isinstance(inputs, Tensor), "checked by float_inputs"
        generator = torch.Generator().manual_seed(problem.seed)
        start = torch.randn(len(labels), *inputs.shape[1:], generator=generator)
        made = Noise(start.to(device_of(problem.model)))
        recipe = Recipe(self.noise_steps, len(labels), "adamw", 0.1, weight_decay=0, schedule="constant", clip=0)
        loss = Opposed(frozen(problem.model), self.penalty)
        fit(
            made,
            examples_from(torch.zeros(len(labels), 1), labels),
            recipe,
            problem.seed,
            loss,
            progress=problem.progress,
        )
        return examples_from(made.inputs.detach().cpu(), labels)

    def _pass(self, problem: Problem, rate: float) -> Recipe:
        augment = problem.recipe.augment
        return Recipe(1, self.batch_size, "adamw", rate, weight_decay=0, schedule="constant", augment=augment)


class Noise(nn.Module):
    """Inputs `[N, …]` as parameters, so that `fit` can train them."""

    def __init__(self, start: Tensor):
        super().__init__()
        self.inputs = nn.Parameter(start)


@dataclass(frozen=True)
class Opposed:
    """The loss of noise: minus the judge's cross-entropy, + `penalty` · mean squared norm."""

    judge: nn.Module
    penalty: float

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        noise = model.get_parameter("inputs")[batch.index.to(batch.labels.device)]
        size = noise.flatten(1).square().sum(1).mean()
        return self.penalty * size - F.cross_entropy(logits_of(self.judge, noise), batch.labels)
