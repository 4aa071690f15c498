"""Linear filtration (Baumhauer et al., 2022): a linear map of the logits, absorbed by the head, deletes a class."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from rasura.data import Examples
from rasura.errors import InputError, unknown
from rasura.kinds import checked_kinds
from rasura.methods._head import chosen_mask, head_of, head_rows
from rasura.methods.contract import Problem, Reads
from rasura.training import predict

Variant = Literal["normalisation", "naive", "zeroing"]
SILENT = -1e4
"""Added to a deleted class's bias: its probability is zero in float32."""
RELATIVE_RANK = 1e-6
"""Logits are float32: a singular value of their means that is a smaller share of the largest says nothing."""


@checked_kinds
@dataclass(frozen=True)
class LinearFiltration:
    """Delete the forgotten classes' outputs and move their examples' mean logits to where they tell nothing.

    With a_j the mean logits of class j over the retained outputs (A all of them, K by K, as columns), the filtration
    F = B A^-1 maps the mean of every retained class to itself and the mean of a forgotten class to a target z:
    B holds a_j without the forgotten outputs, and z in the forgotten columns. The head's weights become F W, its bias
    F b. Nothing before the head changes, so the class stays readable there: a control, and a baseline.

    Source: T. Baumhauer, P. Schöttle, M. Zeppelzauer, "Machine unlearning: linear filtration for logit-based
    classifiers", Machine Learning 111 (2022), arXiv 2002.02730, section "Linear filtration" (A, B_Z, F_Z = B_Z A^-1 and
    its variants). The text was not at hand; the target of "normalisation" follows descriptions of it.
    Differs: the outputs of deleted classes cannot leave a net that keeps its shape. Their rows become the mean of the
    retained ones, which holds nothing that those do not hold, and their bias is lowered until their probability is
    zero; a head without bias keeps them as the mean of the other logits, which never exceeds the largest. Where the
    means are linearly dependent (a head that began at zero: its logits sum to zero), A has no inverse, and its
    pseudo-inverse meets the targets as nearly as can be.

    Attributes:
        variant: z from the forgotten class's mean logits a over the retained outputs. "normalisation": a, shifted by
            one number to the level that the retained classes' mean logits have on average; "naive": a itself (F only
            deletes); "zeroing": 0.
    """

    variant: Variant = "normalisation"

    reads: ClassVar[tuple[Reads, ...]] = ("forget", "retain")

    def __post_init__(self) -> None:
        if self.variant not in Variant.__args__:
            raise unknown("variant", self.variant, Variant.__args__)

    def __call__(self, problem: Problem) -> tuple[nn.Module, dict[str, Any]]:
        chosen = chosen_mask(problem.classes, problem.require_classes("linear-filtration"))
        model = problem.copy_of_model().eval()
        head = head_of(model, problem.retain.batch(torch.arange(min(2, len(problem.retain))))[0], problem.classes)
        if head.bias is None and int((~chosen).sum()) - len(problem.gone) == 1:
            raise InputError("classes: 1 is retained by a head without bias; allowed: 2 or more")
        present = ~chosen_mask(problem.classes, problem.gone)
        means = _mean_logits(model, problem, present)
        filtration = filtration_matrix(means, chosen[present], self.variant)
        rows, deleted = head_rows(head), chosen | ~present
        with torch.no_grad():
            rows.copy_(_filtered(filtration, present, deleted, rows.flatten(1)).view_as(rows))
            if isinstance(head.bias, Tensor):
                head.bias.copy_(_filtered(filtration, present, deleted, head.bias.unsqueeze(1))[:, 0])
                head.bias[deleted.to(head.bias.device)] += SILENT
        return model, {"rank": int(torch.linalg.matrix_rank(means, rtol=RELATIVE_RANK))}


def filtration_matrix(means: Tensor, chosen: Tensor, variant: Variant) -> Tensor:
    """F, `[retained, K]`: what the retained logits become, as combinations of all.

    Args:
        means: mean logits of each class as columns, `[K, K]`, float64.
        chosen: which classes are forgotten, `[K]`, boolean.
        variant: see `LinearFiltration`.
    """
    kept = means[~chosen]
    going = kept[:, chosen]
    # B A^-1 with B = P A + (z - P a) E: the deletion P, corrected for the forgotten classes only. The same matrix, but
    # exact where nothing is corrected, and stable where A is nearly singular.
    correction = _targets(kept, chosen, variant) - going
    inverse = torch.linalg.pinv(means, rtol=RELATIVE_RANK)
    return torch.eye(len(means), dtype=means.dtype)[~chosen] + correction @ inverse[chosen]


def _targets(kept: Tensor, chosen: Tensor, variant: Variant) -> Tensor:
    """Where the mean logits of the forgotten classes go, `[retained, forgotten]`."""
    going = kept[:, chosen]
    if variant == "naive":
        return going
    if variant == "zeroing":
        return torch.zeros_like(going)
    return going - going.mean(0) + kept[:, ~chosen].mean()


def _mean_logits(model: nn.Module, problem: Problem, present: Tensor) -> Tensor:
    """Mean logits of the examples of each present class over these classes, as columns `[P, P]`, float64."""
    problem.require_every_class()
    means = torch.zeros(problem.classes, problem.classes, dtype=torch.float64)
    found = [_logits(model, part, problem) for part in (problem.forget, problem.retain)]
    logits, labels = torch.cat([one[0] for one in found]), torch.cat([one[1] for one in found])
    for number in present.nonzero()[:, 0].tolist():
        means[:, number] = logits[labels == number].double().mean(0)
    return means[present][:, present]


def _logits(model: nn.Module, examples: Examples, problem: Problem) -> tuple[Tensor, Tensor]:
    return predict(model, examples, progress=problem.progress, label="mean logits"), examples.labels


def _filtered(filtration: Tensor, present: Tensor, deleted: Tensor, rows: Tensor) -> Tensor:
    """Rows `[K, …]` after the filtration: the retained ones, and their mean in the place of each deleted one."""
    kept = filtration @ rows.double().cpu()[present]
    mixed = torch.empty(rows.shape, dtype=torch.float64)
    mixed[~deleted], mixed[deleted] = kept, kept.mean(0)
    return mixed.to(rows)
