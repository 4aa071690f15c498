"""SVD projection (Kodge et al., 2024): what only the forgotten examples activate is projected out of the weights."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rasura.activations import Point, anatomy, stream
from rasura.data import Examples
from rasura.errors import InputError, unknown
from rasura.kinds import checked_kinds
from rasura.methods._operator import as_taps, from_taps
from rasura.methods._strength import Strength
from rasura.methods.contract import Problem, Reads

Order = Literal["forget-first", "retain-first"]
CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
MOST_NUMBERS = 2**26
"""At most so many numbers of second moments are held at a time (512 MiB), unless one operator has more."""
MOST_PATCHES = 2**23
"""At most so many numbers of unfolded inputs are held at a time, unless one image has more."""


@checked_kinds
@dataclass(frozen=True)
class SvdProjection:
    """Remove from every linear map's input what is special to the forgotten classes. No gradient.

    The inputs of an operator (of a convolution: the patches under its kernel) span a space, for the forgotten as for
    the retained examples. Each basis vector, a left singular vector of the inputs, counts by its share s of their
    squared length: alpha s / ((alpha - 1) s + 1), from 0 to 1. With U the vectors and L these numbers,
    M = U L U^T and P = M_f - M_f M_r, the edit is W' = W (I - P)^T. An input x, as a row, loses x P: it is projected on
    the forget space, and what of that lies in the retained space is given back.

    Source: S. Kodge, G. Saha, K. Roy, "Deep unlearning: fast and efficient gradient-free class forgetting", TMLR 2024,
    arXiv 2312.00761, section "Methodology" (space estimation, importance scaling, projection). The text was not at
    hand; `order` has both readings of "W (I - P)": only that with inputs as rows forgets much at the paper's settings.
    Differs: singular vectors come from the streamed second moments in float64, over all patches and tokens, which is
    the same decomposition without holding the inputs. Inputs are those of the original net at every operator. A grouped
    convolution is edited group by group. Biases and BatchNorm stay. The paper searches for alpha_r and alpha_f; here
    they are the values it names most.

    Attributes:
        alpha_retain: alpha for the retained space. Above 0; higher protects more and forgets less.
        alpha_forget: alpha for the forget space. Above 0; higher forgets more.
        samples: the most examples of each side, forget and retain, that are read. 1 or more.
        order: "forget-first": W (I - P)^T; "retain-first": W (I - P), where what lies in the retained space is taken
            out of an input before the rest is projected on the forget space. It edits less.
    """

    alpha_retain: float = 100.0
    alpha_forget: float = 3.0
    samples: int = 900
    order: Order = "forget-first"

    reads: ClassVar[tuple[Reads, ...]] = ("forget", "retain")
    strength: ClassVar[Strength] = Strength("alpha_forget", 0.1, 1000.0)

    def __post_init__(self) -> None:
        for field in ("alpha_retain", "alpha_forget"):
            if not 0 < getattr(self, field) < math.inf:
                raise InputError(f"{field}: {getattr(self, field)}; allowed: a finite number above 0")
        if self.samples < 1:
            raise InputError(f"samples: {self.samples}; allowed: 1 or more")
        if self.order not in Order.__args__:
            raise unknown("order", self.order, Order.__args__)

    def __call__(self, problem: Problem) -> tuple[nn.Module, dict[str, Any]]:
        problem.require_classes("svd-projection")
        # Inputs are read from one copy while the other is edited: an edit must not change the inputs after it.
        model, original = problem.copy_of_model().eval(), problem.copy_of_model().eval()
        generator = torch.Generator().manual_seed(problem.seed)
        forget, retain = (_some(part, self.samples, generator) for part in (problem.forget, problem.retain))
        operators = anatomy(model, forget.batch(torch.arange(min(2, len(forget))))[0]).operators
        records = []
        for names in _portions(original, operators):
            forgotten = second_moments(original, forget, names, problem.progress, "forget space")
            retained = second_moments(original, retain, names, problem.progress, "retain space")
            for name in names:
                special = discriminatory(forgotten[name], retained[name], self.alpha_forget, self.alpha_retain)
                away = special.mT if self.order == "forget-first" else special
                records.append({"operator": name, "removed": _remove(model.get_submodule(name), away)})
        return model, {"examples": [len(forget), len(retain)], "operators": records}


def second_moments(
    model: nn.Module, examples: Examples, names: list[str], progress: Any, label: str
) -> dict[str, Tensor]:
    """The sum of outer products of each operator's input vectors, `[groups, d, d]`, float64."""
    totals: dict[str, Tensor] = {}

    def add(point: Point, tensor: Tensor, _: Tensor) -> None:
        module = model.get_submodule(point.module)
        for some in tensor.split(_most_images(module, tensor)):
            vectors = input_vectors(module, some).double()
            products = vectors.transpose(1, 2) @ vectors
            totals[point.module] = totals.get(point.module, 0) + products

    stream(model, examples, [Point(name, "input") for name in names], add, progress=progress, label=label)
    return totals


def input_vectors(module: nn.Module, tensor: Tensor) -> Tensor:
    """All vectors `[groups, n, d]` that a linear map multiplies with its weights, in the weights' order.

    Of a convolution these are the patches under its kernel, padding included.
    """
    if not isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return tensor.reshape(1, -1, tensor.shape[-1])
    border = module._reversed_padding_repeated_twice
    padded = F.pad(tensor, border, mode="constant" if module.padding_mode == "zeros" else module.padding_mode)
    # A convolution with one-hot kernels copies every place of the patch: it serves any number of axes alike.
    positions = math.prod(module.kernel_size)
    kernels = torch.eye(positions, dtype=tensor.dtype, device=tensor.device).repeat(module.in_channels, 1)
    kernels = kernels.view(-1, 1, *module.kernel_size)
    convolve = CONVOLUTIONS[len(module.kernel_size)]
    patches = convolve(padded, kernels, None, module.stride, 0, module.dilation, module.in_channels)
    split = patches.flatten(2).unflatten(1, (module.groups, -1))  # [B, groups, d, n]
    return split.permute(1, 0, 3, 2).flatten(1, 2)


def discriminatory(forgotten: Tensor, retained: Tensor, alpha_forget: float, alpha_retain: float) -> Tensor:
    """P = M_f - M_f M_r from second moments, `[…, d, d]`: it keeps of a row what is special to the forget space."""
    forget, retain = scaled_projection(forgotten, alpha_forget), scaled_projection(retained, alpha_retain)
    return forget - forget @ retain


def scaled_projection(moments: Tensor, alpha: float) -> Tensor:
    """M = U L U^T of second moments `[…, d, d]`: a projection in which each direction counts by its importance."""
    squares, vectors = torch.linalg.eigh(moments)  # eigenvalues are the squared singular values of the inputs
    squares = squares.clamp(min=0)
    share = squares / squares.sum(-1, keepdim=True).clamp(min=1e-300)
    importance = alpha * share / ((alpha - 1) * share + 1)
    return (vectors * importance.unsqueeze(-2)) @ vectors.mT


def _remove(module: nn.Module, away: Tensor) -> float:
    """W' = W - W `away` in place, group by group; the removed share of the weight's length."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    taps = as_taps(weight, module)
    grouped = taps.flatten(1).unflatten(0, (len(away), -1))  # [groups, out / groups, d]
    removed = (grouped @ away.to(grouped)).flatten(0, 1).view_as(taps)
    with torch.no_grad():
        weight.copy_(from_taps(taps - removed, module, weight))
    return (removed.norm() / taps.norm().clamp(min=1e-300)).item()


def _some(examples: Examples, most: int, generator: torch.Generator) -> Examples:
    return examples.take(torch.randperm(len(examples), generator=generator)[:most])


def _portions(model: nn.Module, operators: tuple[str, ...]) -> Iterator[list[str]]:
    """The operators in order, in portions whose second moments are held together: one pass over the examples each."""
    portion, held = [], 0
    for name in operators:
        module = model.get_submodule(name)
        assert isinstance(module.weight, Tensor)
        groups = getattr(module, "groups", 1)
        size = 2 * groups * as_taps(module.weight, module)[0].numel() ** 2
        if portion and held + size > MOST_NUMBERS:
            yield portion
            portion, held = [], 0
        portion, held = [*portion, name], held + size
    yield portion


def _most_images(module: nn.Module, tensor: Tensor) -> int:
    positions = math.prod(getattr(module, "kernel_size", (1,)))
    return max(1, MOST_PATCHES // max(1, positions * tensor[0].numel()))
