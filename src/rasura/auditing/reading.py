"""One model on some examples, as vectors: its stages, what its heads get and say. What cannot be read is named."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rasura.activations import Anatomy, NoLinearMapError, Point, anatomy, features, unreadable
from rasura.auditing.decoded import Anchor, Head
from rasura.auditing.probe import Probe
from rasura.data import Examples
from rasura.data.examples import Inputs
from rasura.errors import InputError
from rasura.models import by_class
from rasura.progress import Progress, silent
from rasura.training import evaluating

NO_MAP = "no linear layer gives the answers"
UNREADABLE = "its rows are not examples"


@dataclass(frozen=True, eq=False)
class Reading:
    """What passed inside a model.

    Attributes:
        logits: `[N, K]`.
        inner: what the head gets, `[N, d]`: of several heads, all that they get. Where no head can be read, what the
            last stage gives; where no stage can be read either, the logits.
        said: what the head itself says, `[N, K']`: of several, the mean. The logits where none can be read.
        stages: module → its output, `[N, d]`.
        unread: module → why it was not read.
    """

    logits: Tensor
    inner: Tensor
    said: Tensor
    stages: dict[str, Tensor]
    unread: dict[str, str]


def parts_of(model: nn.Module, some: Examples | Inputs) -> Anatomy:
    """The model's parts, from some examples or a small batch; none for a net without a linear map."""
    try:
        return anatomy(model, _two_of(some) if isinstance(some, Examples) else some)
    except NoLinearMapError:
        return Anatomy((), (), (), {})


def read(
    model: nn.Module,
    examples: Examples,
    parts: Anatomy,
    stages: bool = False,
    progress: Progress = silent,
    label: str = "audit",
) -> Reading:
    """Run the model once over the examples.

    Args:
        model: any classifier.
        examples: N of them.
        parts: the model's (`parts_of`).
        stages: whether to read the stages as well.
        progress: called per batch.
        label: what the progress bar says.

    Raises:
        InputError: NaN logits or features.
    """
    unread = unreadable(model, _two_of(examples), parts)
    heads, readable = ([one for one in each if one not in unread] for each in (parts.heads, parts.stages))
    wanted, failed = readable if stages else [] if heads else readable[-1:], set()
    points = [*map(Point, wanted), *(Point(head, side) for head in heads for side in ("input", "output"))]
    found, logits = features(model, examples, points, progress=progress, label=label, unread=failed)
    _check_finite({point: found[point] for point in found if point.module in wanted or point.side == "input"}, logits)
    kept = [head for head in heads if head not in failed]
    before = {stage: found[Point(stage)] for stage in wanted if stage not in failed}
    deepest = next(reversed(before.values()), logits)
    said = [by_class(model, found[Point(head)].T).T for head in kept]
    return Reading(
        logits=logits,
        inner=torch.cat([found[Point(head, "input")] for head in kept], dim=1) if kept else deepest,
        said=_mean(said) if kept else logits,
        stages=before,
        unread=unread | dict.fromkeys(sorted(failed), UNREADABLE) | ({} if kept else {"the head": NO_MAP}),
    )


def read_head(model: nn.Module, parts: Anatomy, inner: Tensor, classes: int) -> Head | None:
    """The model's last linear map (of several, their mean); None if it does not act on `inner` `[N, d]`."""
    with evaluating(model):  # some weights are computed, and move on while a net is in training mode
        found = [_as_matrix(model.get_submodule(name)) for name in parts.heads]
    whole = [(by_class(model, weight), by_class(model, bias)) for weight, bias in found if weight is not None]
    if not whole or len(whole) < len(found) or {len(weight) for weight, _ in whole} != {classes}:
        return None
    weight = torch.cat([weight for weight, _ in whole], dim=1) / len(whole)
    return Head(weight, _mean([bias for _, bias in whole])) if weight.shape[1] == inner.shape[1] else None


def read_anchor(original: nn.Module, probe: Probe) -> Anchor | None:
    """The original's head and what goes into it; None if its head does not act on a vector."""
    parts = parts_of(original, probe.examples)
    inner = read(original, probe.examples, parts).inner
    head = read_head(original, parts, inner, probe.classes)
    return None if head is None else Anchor(head, inner)


def inner_of(model: nn.Module, examples: Examples, progress: Progress = silent, label: str = "audit") -> Tensor:
    """What the model's head gets of each example, `[N, d]`."""
    return read(model, examples, parts_of(model, examples), progress=progress, label=label).inner


def _two_of(examples: Examples) -> Inputs:
    return examples.batch(torch.arange(min(2, len(examples))))[0]


def _as_matrix(module: Any) -> tuple[Tensor | None, Tensor]:
    """Weight `[K, d]` and bias `[K]`; no weight for a k×k convolution."""
    weight = module.weight.detach().float().cpu()
    weight = weight.T if type(module).__name__ == "Conv1D" else weight
    bias = torch.zeros(len(weight)) if module.bias is None else module.bias.detach().float().cpu()
    return (weight.flatten(1) if weight.flatten(1).shape[1] == weight.shape[1] else None), bias


def _mean(alike: list[Tensor]) -> Tensor:
    """The mean of tensors of one shape; of others, the last of them."""
    same = len({one.shape for one in alike}) == 1
    return alike[-1] if len(alike) == 1 or not same else torch.stack(alike).mean(0)


def _check_finite(found: dict[Point, Tensor], logits: Tensor) -> None:
    if logits.isnan().any():
        raise InputError(f"model: {int(logits.isnan().any(1).sum())} examples have NaN logits; allowed: finite logits")
    for point, vectors in found.items():
        if not vectors.isfinite().all():
            raise InputError(f"model: NaN or infinite values at {point.module}; allowed: finite features")
