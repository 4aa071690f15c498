"""SSD: Selective Synaptic Dampening (Foster et al., 2024). Weights that matter to the forgotten examples are shrunk."""

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from rasura.data import Examples
from rasura.data.examples import Inputs
from rasura.errors import InputError, unknown
from rasura.kinds import checked_kinds
from rasura.methods._strength import Strength
from rasura.methods.contract import Problem, Reads
from rasura.models import MISFITS, device_of, logits_of, of_machine, to_device
from rasura.progress import Progress, silent

Reference = Literal["retain", "all"]
Parameters = dict[str, Tensor]
MOST_NUMBERS = 2**25
"""At most so many numbers of gradients are held at a time (256 MiB in float64), unless one example has more."""
MOST_EXAMPLES = 64
"""Examples in a chunk, at most: what a net computes inside takes memory too."""


@checked_kinds
@dataclass(frozen=True)
class Ssd:
    """Shrink the weights that matter far more to the forgotten examples than to the others. No training.

    The importance of a weight is the diagonal of the Fisher information: the mean, over examples, of the squared
    derivative of one example's loss. With importances f (forget) and r (reference), a weight w with f > alpha r
    becomes min(lambda r / f, 1) w; all others stay.

    Source: J. Foster, S. Schoepf, A. Brintrup, "Fast machine unlearning without retraining through selective synaptic
    dampening", AAAI 2024, arXiv 2308.07707, section "Proposed method" (importance, selection and dampening).
    Differs: the reference is the retained examples, not all training examples. With a share s to forget, the mean over
    all is s f + (1 - s) r, and no weight exceeds alpha times that once s is 1 / alpha or more: one class of ten at
    the authors' alpha. Gradients are taken example by example, as the formula says, not of a batch's mean loss.

    Where a net cannot be differentiated in batches (`torch.func.vmap` fails: control flow on values, in-place changes),
    its examples are taken one by one: the same numbers up to rounding, many times slower. The record says which.

    Attributes:
        alpha: how many times more important to the forgotten examples a weight must be to be shrunk. Above 0; the
            authors take 10 for convolutional nets and 5 for vision transformers.
        dampening: lambda, the factor on the strength that is left. Above 0; smaller forgets more.
        reference: what importance is compared with: "retain", or "all" training examples (the paper).
        calibration: the most examples of each side, forget and retain, that are read; 0 means all (the paper). With few
            retained examples many a weight seems of no importance to them, and the net is destroyed: take 100 or more
            per retained class.
    """

    alpha: float = 10.0
    dampening: float = 1.0
    reference: Reference = "retain"
    calibration: int = 0

    reads: ClassVar[tuple[Reads, ...]] = ("forget", "retain")
    strength: ClassVar[Strength] = Strength("alpha", 100.0, 1.0, otherwise={"dampening": 0.1})

    def __post_init__(self) -> None:
        for field in ("alpha", "dampening"):
            if not 0 < getattr(self, field) < math.inf:
                raise InputError(f"{field}: {getattr(self, field)}; allowed: a finite number above 0")
        if self.reference not in Reference.__args__:
            raise unknown("reference", self.reference, Reference.__args__)
        if self.calibration < 0:
            raise InputError(f"calibration: {self.calibration}; allowed: 1 or more, or 0 for all")

    def __call__(self, problem: Problem) -> tuple[nn.Module, dict[str, Any]]:
        share = len(problem.forget) / (len(problem.forget) + len(problem.retain))
        if self.reference == "all" and self.alpha * share >= 1:
            raise InputError(
                f"alpha: {self.alpha} selects no weight where {share:.1%} of all is to be forgotten; "
                f"allowed: below {1 / share:.3g}, or reference retain"
            )
        model = problem.copy_of_model().eval()
        generator = torch.Generator().manual_seed(problem.seed)
        found = {}
        for part, examples in (("forget", problem.forget), ("retain", problem.retain)):
            chosen = _some(examples, self.calibration, generator)
            found[part] = importances(model, chosen, problem.progress, f"importance to {part}")
        forget, reference = found["forget"], found["retain"]
        if self.reference == "all":
            reference = {name: share * forget[name] + (1 - share) * reference[name] for name in forget}
        batched = _can_batch(model, problem.forget)
        return model, _dampen(model, forget, reference, self) | {"gradients": "batched" if batched else "one by one"}


def importances(
    model: nn.Module, examples: Examples, progress: Progress = silent, label: str = "importance"
) -> Parameters:
    """The diagonal of the empirical Fisher information: each parameter's mean squared derivative of one example's loss.

    Returns:
        By parameter name, a float64 tensor of the parameter's shape. The model should be in eval mode.
    """
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    squares = _squares_in_batches if _can_batch(model, examples) else _squares_one_by_one
    totals = {name: torch.zeros_like(parameter, dtype=torch.float64) for name, parameter in parameters.items()}
    size = sum(parameter.numel() for parameter in parameters.values())
    done = 0
    for index in torch.arange(len(examples)).split(max(1, min(MOST_EXAMPLES, MOST_NUMBERS // size))):
        inputs, labels = examples.batch(index)
        found = squares(model, to_device(inputs, device_of(model)), labels.to(device_of(model)))
        for name, total in totals.items():
            total += found[name]
        done += len(index)
        progress(label, done, len(examples))
    return {name: total / len(examples) for name, total in totals.items()}


def dampened(weight: Tensor, forget: Tensor, reference: Tensor, alpha: float, dampening: float) -> Tensor:
    """The weights with min(dampening · reference / forget, 1) in front wherever forget > alpha · reference."""
    chosen = forget > alpha * reference
    factor = (dampening * reference / forget.where(chosen, 1.0)).clamp(max=1)
    return torch.where(chosen, (weight * factor).to(weight), weight)


def _dampen(model: nn.Module, forget: Parameters, reference: Parameters, method: Ssd) -> dict[str, Any]:
    """Shrink in place; how many weights were shrunk, for the record."""
    chosen = count = 0
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(dampened(weight, forget[name], reference[name], method.alpha, method.dampening))
            chosen += int((forget[name] > method.alpha * reference[name]).sum())
            count += weight.numel()
    return {"selected": chosen / count}


def _some(examples: Examples, most: int, generator: torch.Generator) -> Examples:
    if not most:
        return examples
    return examples.take(torch.randperm(len(examples), generator=generator)[:most])


def _can_batch(model: nn.Module, examples: Examples) -> bool:
    """Whether two examples' gradients can be had in one go. A net that is at fault itself fails one by one too."""
    inputs, labels = examples.batch(torch.arange(min(2, len(examples))))
    try:
        _squares_in_batches(model, to_device(inputs, device_of(model)), labels.to(device_of(model)))
    except MISFITS as error:
        if of_machine(error):
            raise
        return False
    return True


def _squares_in_batches(model: nn.Module, inputs: Inputs, labels: Tensor) -> Parameters:
    """Sum over the batch of each example's squared derivatives, all examples at once."""
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    with _batchable():
        gradients = vmap(grad(_loss_of(model)), in_dims=(None, 0, 0))(parameters, inputs, labels)
    return {name: gradient.double().square().sum(0) for name, gradient in gradients.items()}


@contextlib.contextmanager
def _batchable() -> Iterator[None]:
    """Attention as plain products, which can be batched; no word about operators that are batched by a slow loop."""
    with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH):
        warnings.filterwarnings("ignore", message="There is a performance drop")
        yield


def _loss_of(model: nn.Module) -> Callable[[Parameters, Inputs, Tensor], Tensor]:
    """The loss of one example as a function of the parameters."""
    whole = _Logits(model)

    def loss(parameters: Parameters, inputs: Inputs, label: Tensor) -> Tensor:
        within = {f"net.{name}": parameter for name, parameter in parameters.items()}
        return F.cross_entropy(functional_call(whole, within, (_as_batch(inputs),)), label.unsqueeze(0))

    return loss


class _Logits(nn.Module):
    """A net that returns its logits and nothing else."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, inputs: Inputs) -> Tensor:
        return logits_of(self.net, inputs)


def _as_batch(inputs: Inputs) -> Inputs:
    if isinstance(inputs, dict):
        return {name: column.unsqueeze(0) for name, column in inputs.items()}
    return inputs.unsqueeze(0)


def _squares_one_by_one(model: nn.Module, inputs: Inputs, labels: Tensor) -> Parameters:
    """The same as in batches, with plain autograd."""
    named = dict(model.named_parameters())
    totals = {name: torch.zeros_like(parameter, dtype=torch.float64) for name, parameter in named.items()}
    for row in range(len(labels)):
        loss = F.cross_entropy(logits_of(model, _as_batch(_row(inputs, row))), labels[row : row + 1])
        gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
        for total, gradient in zip(totals.values(), gradients, strict=True):
            total += 0 if gradient is None else gradient.double().square()
    return totals


def _row(inputs: Inputs, row: int) -> Inputs:
    return {name: column[row] for name, column in inputs.items()} if isinstance(inputs, dict) else inputs[row]
