"""Bias shift: lower the forget classes' bias just enough. A control that is harder to see than a logit mask."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from rasura.data import Examples
from rasura.errors import InputError
from rasura.kinds import checked_kinds
from rasura.methods._head import chosen_mask, head_of, head_rows
from rasura.methods._strength import Strength
from rasura.methods.contract import Problem, Reads
from rasura.training import predict


@checked_kinds
@dataclass(frozen=True)
class BiasShift:
    """Lower the forget classes' logits by the smallest amount that takes them out of the winning place.

    After the shift a share `accuracy` of the forget examples is still recognised. Nothing but the head's bias
    changes ("Classification-Head Bias in Class-Level Machine Unlearning", arXiv 2605.08730, describes the shortcut
    that many methods end in). A control: the class stays readable.

    Differs: a head without bias has each forgotten row moved against the mean feature direction by the same amount of
    logit at the mean feature of the forget examples.

    Attributes:
        accuracy: share of the forget examples that may stay recognised. 0 up to, not including, 1.
    """

    accuracy: float = 0.01

    reads: ClassVar[tuple[Reads, ...]] = ("forget",)
    strength: ClassVar[Strength] = Strength("accuracy", 0.9, 0.0, "linear")

    def __post_init__(self) -> None:
        if not 0 <= self.accuracy < 1:
            raise InputError(f"accuracy: {self.accuracy}; allowed: 0 up to, not including, 1")

    def __call__(self, problem: Problem) -> tuple[nn.Module, dict[str, Any]]:
        classes = problem.require_classes("bias-shift")
        model = problem.copy_of_model()
        inputs, _ = problem.forget.batch(torch.arange(min(2, len(problem.forget))))
        head = head_of(model, inputs, problem.classes)
        chosen = chosen_mask(problem.classes, classes)
        shift = _needed_shift(predict(model, problem.forget, progress=problem.progress), chosen, self.accuracy)
        with torch.no_grad():
            if isinstance(head.bias, Tensor):
                head.bias[chosen.to(head.bias.device)] -= shift
            else:
                _shift_without_bias(model, head, problem.forget, chosen, shift)
        return model.eval(), {"shift": shift}


def _needed_shift(logits: Tensor, chosen: Tensor, accuracy: float) -> float:
    """The amount that leaves at most a share `accuracy` of the rows `[N, K]` with a chosen class on top."""
    lead = logits[:, chosen].amax(1) - logits[:, ~chosen].amax(1)
    return max(0.0, torch.quantile(lead.double(), 1 - accuracy, interpolation="higher").item()) + 1e-3


def _shift_without_bias(model: nn.Module, head: nn.Module, forget: Examples, chosen: Tensor, shift: float) -> None:
    from rasura.activations import Point, features

    name = next(name for name, module in model.named_modules() if module is head)
    found, _ = features(model, forget, [Point(name, "input")])
    mean = found[Point(name, "input")].mean(0)
    rows = head_rows(head)
    step = (shift * mean / mean.square().sum()).to(rows)
    rows[chosen.to(rows.device)] -= step.view(1, -1, *[1] * (rows.ndim - 2))
