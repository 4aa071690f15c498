"""Rungs of the recovery ladder that need no training: does the class come back when the net is merely touched?

No function changes the model that it is given. What they bring back says something only beside retrained models.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rasura.activations import is_operator
from rasura.auditing.decoders import standardised
from rasura.auditing.probe import Probe
from rasura.errors import InputError
from rasura.models import copy_of, device_of, logits_of, settle_weight, to_device
from rasura.training import predict

SCORED_FORGET, SCORED_RETAINED = 300, 250
"""Retained examples that a changed net answers; enough to see whether it still works."""
RECALIBRATION, BATCH = 500, 125
"""Retained examples that BatchNorm statistics are estimated from, and how many at a time."""
PROTOTYPE_SHOTS = (1, 5, 10, 50)
STRENGTHS = tuple(10.0**power for power in range(-8, 1))
"""Ridge strengths per example that generalised cross-validation chooses from; features are standardised."""
LEAST_FREEDOM = 1e-6
"""Share of residual degrees of freedom below which a ridge regression fits anything."""


def answers(model: nn.Module, probe: Probe, seed: int) -> Tensor:
    """The class `[N]` that a net says of 300 forget examples and 250 retained ones at most; −1 for the others.

    A full pass for each changed copy of a net would cost more than all decoders together. The same seed chooses the
    same examples for every model.
    """
    sides = (probe.forget, SCORED_FORGET), (~probe.forget, SCORED_RETAINED)
    chosen = torch.cat([spread(probe.labels, among, most, seed) for among, most in sides]).sort().values
    said = torch.full_like(probe.labels, -1)
    said[chosen] = predict(model, probe.examples.take(chosen)).argmax(1)
    return said


def spread(labels: Tensor, among: Tensor, most: int, seed: int) -> Tensor:
    """At most `most` positions of those that the mask `[N]` allows, in a random order in which classes take turns.

    >>> labels = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2])
    >>> labels[spread(labels, labels < 2, 4, seed=0)].bincount()
    tensor([2, 2])
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    order = order[among[order]]
    turn = torch.empty_like(order)
    for number in labels[order].unique().tolist():
        members = labels[order] == number
        turn[members] = torch.arange(int(members.sum()))
    return order[turn.argsort(stable=True)][:most]


@torch.no_grad()
def batch_norm_recalibrated(model: nn.Module, probe: Probe, seed: int) -> Tensor | None:
    """Answers (see `answers`) after BatchNorm's running statistics were estimated anew; None if there are none.

    Statistics that no longer fit the weights can hide a class that the weights still know. They are the mean over
    batches of 125 retained held-out examples, 500 in all, in which the classes take turns. No forget example takes
    part: what they brought in would be knowledge from outside, and anyone who keeps the model has retained examples.

    Source: Izmailov et al. (2018), "Averaging weights leads to wider optima and better generalization": statistics
    are computed anew after weights were changed. Differs: dropout stays off.
    """
    copied = copy_of(model).eval()
    norms = [module for module in copied.modules() if isinstance(module, _BatchNorm) and _is_running(module)]
    if not norms:
        return None
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    chosen = spread(probe.labels, ~probe.forget, RECALIBRATION, seed)
    for batch in chosen.tensor_split(math.ceil(len(chosen) / BATCH)):
        logits_of(copied, to_device(probe.examples.batch(batch)[0], device_of(copied)))
    return answers(copied, probe, seed)


def prototypes(
    features: Tensor,
    labels: Tensor,
    halves: Tensor,
    forget_classes: Sequence[int],
    classes: int,
    shots: Sequence[int] = PROTOTYPE_SHOTS,
    draws: int = 10,
    seed: int = 0,
) -> dict[int, Tensor]:
    """Nearest class mean with n labels of each forget class: shots → predictions `[draws, N]`.

    Each half is scored with means of the other. Retained classes have the mean of all their labels in that half, the
    same in every draw; of the labels of a forget class, a draw's first n count. Features are standardised. Shots that
    a half cannot give, with a label to spare, are left out.

    A mean of few labels lies off the true one, and farther from every example: recall is low at small n for any
    model. Only more recall than retrained models have tells something.

    Source: Snell et al. (2017), "Prototypical networks for few-shot learning", equations 1 and 2 (squared Euclidean);
    as an attack on unlearned classes: Ha et al. (2025), arXiv:2506.01318.

    Args:
        features: `[N, d]`, the head's inputs.
        labels: int64 `[N]`.
        halves: `[N]`, 0 or 1.
        forget_classes: their numbers.
        classes: K.
        shots: labels per forget class.
        draws: how many random choices of these labels.
        seed: of the draws.
    """
    design, generator = standardised(features).double(), torch.Generator().manual_seed(seed)
    counts = [int(((labels == number) & (halves == half)).sum()) for number in forget_classes for half in (0, 1)]
    given = [count for count in shots if count < min(counts)]
    said = {count: torch.empty(draws, len(labels), dtype=torch.int64) for count in given}
    for half in (0, 1):
        pool, test = halves == half, halves != half
        means = torch.stack([design[pool & (labels == number)].mean(0) for number in range(classes)])
        members = [(pool & (labels == number)).nonzero()[:, 0] for number in forget_classes]
        orders = [torch.rand(draws, len(one), generator=generator).argsort(1) for one in members]
        for count in given:
            drawn = [design[one[order[:, :count]]].mean(1) for one, order in zip(members, orders, strict=True)]
            said[count][:, test] = _nearest(design[test], means, torch.stack(drawn, 1), forget_classes)
    return said


def quantised(model: nn.Module, bits: int) -> nn.Module:
    """A copy whose every operator has weights on a grid of 2^bits − 1 values; biases and norms stay.

    Each output channel's weights become the nearest multiples of max|w| / (2^(bits−1) − 1). Where unlearning moved
    weights by little beside that step, most fall back on the values that the original's would have.

    Source: Zhang et al. (2025), "Catastrophic failure of LLM unlearning via quantization", arXiv:2410.16454, with the
    plainest of its quantisers, round to nearest.

    Args:
        model: any net.
        bits: 2 to 8.

    Raises:
        InputError: bits out of range, or a weight that is computed by a hook.
    """
    if bits not in range(2, 9):
        raise InputError(f"bits: {bits}; allowed: 2 to 8")
    copied, largest = plain_copy(model), 2 ** (bits - 1) - 1
    with torch.no_grad():
        for weight, outputs in operator_weights(copied):
            others = [dimension for dimension in range(weight.ndim) if dimension != outputs]
            step = weight.double().abs().amax(others, keepdim=True) / largest
            step[step == 0] = 1
            weight.copy_((weight / step).round() * step)
    return copied


def linear_stitch(
    features_model: Tensor,
    features_original: Tensor,
    retain_mask: Tensor,
    head: Callable[[Tensor], Tensor],
    folds: Tensor,
) -> Tensor:
    """Classes `[N]` that the original's head says of the model's features after an affine map onto the original's.

    The map is a ridge regression on *retained* examples outside the example's fold, so that none is scored by a map
    that saw it; its strength has the least generalised cross-validation error. It undoes any permutation, rotation
    or scaling of channels, which make a plain head swap fail. Ridge solutions are linear in their targets: to regress
    the head's logits is to map the features and then apply the head.

    Does not show: what lies in directions that retained examples leave unused. Retained examples do tell what the
    original's forget logit looks like, so that the map can bring back part of a class that a model never saw.

    Source: Bansal, Nakkiran and Barak (2021), "Revisiting model stitching to compare neural representations";
    strength: Golub, Heath and Wahba (1979), "Generalized cross-validation as a method for choosing a good ridge
    parameter".

    Args:
        features_model: `[N, d]`, what the model's head gets.
        features_original: `[N, e]`, what the original's head gets.
        retain_mask: bool `[N]`.
        head: the original's: logits `[n, K]` of head inputs `[n, e]`, affine.
        folds: `[N]`.
    """
    design, logits = standardised(features_model).double(), head(features_original).double()
    said = torch.empty(len(folds), dtype=torch.int64)
    for fold in folds.unique():
        train, test = retain_mask & (folds != fold), folds == fold
        said[test] = _ridge(design[train], logits[train], design[test]).argmax(1)
    return said


def plain_copy(model: nn.Module) -> nn.Module:
    """A copy in eval mode in which no operator's weight is computed from others."""
    copied = copy_of(model).eval().requires_grad_(True)
    for module in filter(is_operator, copied.modules()):
        settle_weight(module)
    return copied


def operator_weights(model: nn.Module) -> Iterator[tuple[nn.Parameter, int]]:
    """The weight of every learnable linear map, attention's projections too, with the dimension of its outputs.

    Raises:
        InputError: a weight is no parameter: some other hook computes it at every pass, and would undo a change.
    """
    for name, module in model.named_modules():
        part: Any = module
        if is_operator(module):
            if not isinstance(part.weight, nn.Parameter):
                raise InputError(f"model: a hook computes the weight of {name}; allowed: weights that are parameters")
            yield part.weight, int(type(module).__name__ == "Conv1D")
        elif isinstance(module, nn.MultiheadAttention):
            projections = (part.in_proj_weight, part.q_proj_weight, part.k_proj_weight, part.v_proj_weight)
            yield from ((weight, 0) for weight in projections if weight is not None)


def _is_running(norm: _BatchNorm) -> bool:
    return norm.track_running_stats and norm.running_mean is not None


def _nearest(design: Tensor, means: Tensor, drawn: Tensor, forget_classes: Sequence[int]) -> Tensor:
    """The class `[draws, n]` whose mean is nearest; of a forget class, the mean in `drawn` `[draws, F, d]`."""
    closeness = _closeness(design, means)
    closeness[:, list(forget_classes)] = -torch.inf
    retained = closeness.max(1)
    forgotten = _closeness(design, drawn.flatten(0, 1)).view(len(design), *drawn.shape[:2]).max(2)
    numbers = torch.tensor(forget_classes)[forgotten.indices]
    return torch.where(forgotten.values > retained.values[:, None], numbers, retained.indices[:, None]).T


def _closeness(design: Tensor, means: Tensor) -> Tensor:
    """Falls as the distance of each example to each mean grows, `[n, M]`."""
    closeness = design @ means.T - means.square().sum(1) / 2
    return closeness.nan_to_num(nan=-torch.inf)  # a class without examples has no mean


def _ridge(design: Tensor, targets: Tensor, asked: Tensor) -> Tensor:
    """Predictions `[m, K]` for `asked` `[m, d]` by a ridge regression of `targets` `[n, K]` on `design` `[n, d]`."""
    centre, level, count = design.mean(0), targets.mean(0), len(design)
    centred, aims = design - centre, targets - level
    spectrum, axes = torch.linalg.eigh(centred.T @ centred)
    spectrum = spectrum.clamp(min=0)
    along = axes.T @ (centred.T @ aims)
    explained = torch.where(spectrum > 1e-12 * spectrum.max(), along.square().sum(1) / spectrum, 0)
    unexplained = (aims.square().sum() - explained.sum()).clamp(min=0)

    def error(strength: float) -> float:
        kept = spectrum / (spectrum + strength)
        residual = unexplained + (explained * (1 - kept).square()).sum()
        freedom = 1 - (1 + kept.sum()) / count
        return float(residual / freedom**2) if freedom > LEAST_FREEDOM else math.inf

    strength = min((count * share for share in STRENGTHS), key=error)
    return (asked - centre) @ axes @ (along / (spectrum + strength)[:, None]) + level
