"""Head reset: the forgotten rows of the head are drawn anew. A control: the net before the head stays as it was."""

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from rasura.kinds import checked_kinds
from rasura.methods._head import chosen_mask, head_of, head_rows
from rasura.methods.contract import Problem, Reads
from rasura.randomness import seeded

NORMAL = 0.02
"""Standard deviation that Hugging Face's Conv1D starts with; it cannot reset itself."""


@checked_kinds
@dataclass(frozen=True)
class HeadReset:
    """Draw the forgotten classes' weights and biases in the head from the distribution they started from.

    The features that the class was read from are untouched, and a few labels bring it back: a cheat, and a control that
    every audit must expose. EU-k (Goel et al., 2022, "Towards adversarial evaluations for inexact machine unlearning",
    arXiv 2201.06640) begins like this with the last k layers, but then trains them again on the retained examples.
    A row drawn anew can still win by chance, most of all in a head without bias on features of great length.

    Differs: the distribution is the layer's own default (`reset_parameters`: uniform within 1 / sqrt(inputs) for Linear
    and Conv layers), whatever the net's author may have done after that.
    """

    reads: ClassVar[tuple[Reads, ...]] = ("retain",)

    def __call__(self, problem: Problem) -> tuple[nn.Module, dict[str, Any]]:
        classes = problem.require_classes("head-reset")
        model = problem.copy_of_model()
        inputs, _ = problem.retain.batch(torch.arange(min(2, len(problem.retain))))
        head = head_of(model, inputs, problem.classes)
        fresh = _fresh(head, problem.seed)
        chosen = chosen_mask(problem.classes, classes)
        with torch.no_grad():
            rows = head_rows(head)
            rows[chosen.to(rows.device)] = head_rows(fresh)[chosen].to(rows)
            if isinstance(head.bias, Tensor) and isinstance(fresh.bias, Tensor):
                head.bias[chosen.to(head.bias.device)] = fresh.bias[chosen].to(head.bias)
        return model.eval(), {"rows": len(classes)}


def _fresh(head: nn.Module, seed: int) -> nn.Module:
    """A copy of the head on the CPU, so that a seed gives the same numbers everywhere, with all of it drawn anew."""
    fresh = copy.deepcopy(head).cpu()
    with torch.no_grad(), seeded(seed):
        if callable(getattr(fresh, "reset_parameters", None)):
            fresh.reset_parameters()  # pyright: ignore[reportCallIssue]
        else:
            head_rows(fresh).normal_(std=NORMAL)
            nn.init.zeros_(fresh.bias)  # pyright: ignore[reportArgumentType]
    return fresh
