"""Logit mask (LM): the forget classes can no longer win. A control: it silences the output and erases nothing."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from rasura.errors import InputError
from rasura.kinds import checked_kinds
from rasura.methods._head import chosen_mask, head_of, head_rows
from rasura.methods.contract import Problem, Reads


@checked_kinds
@dataclass(frozen=True)
class LogitMask:
    """Push the logits of the forget classes below all others by the head's bias.

    The cheapest cheat, and the control that every audit must expose: the whole net stays as it was.

    Differs: a mask is usually code outside the net; here it lies in the head's bias, so that the result is an ordinary
    checkpoint. A head without bias gets the mean of the retained rows in the place of each forgotten row: the mean of
    numbers never exceeds their largest, so the class never wins.

    Attributes:
        logit: what the bias of a forgotten class becomes. Any negative number, in units of logits.
    """

    logit: float = -1e4

    reads: ClassVar[tuple[Reads, ...]] = ("retain",)

    def __post_init__(self) -> None:
        if not -1e30 <= self.logit < 0:
            raise InputError(f"logit: {self.logit}; allowed: -1e30 up to, not including, 0")

    def __call__(self, problem: Problem) -> tuple[nn.Module, dict[str, Any]]:
        classes = problem.require_classes("logit-mask")
        model = problem.copy_of_model()
        inputs, _ = problem.retain.batch(torch.arange(min(2, len(problem.retain))))
        head = head_of(model, inputs, problem.classes)
        chosen = chosen_mask(problem.classes, classes)
        with torch.no_grad():
            if isinstance(head.bias, Tensor):
                head.bias[chosen.to(head.bias.device)] = self.logit
            else:
                rows = head_rows(head)
                rows[chosen.to(rows.device)] = rows[~chosen.to(rows.device)].mean(0)
        return model.eval(), {"edited": "bias" if isinstance(head.bias, Tensor) else "weight rows"}
