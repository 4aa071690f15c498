"""What the gradient methods minimise. Each is a few lines, from the formula of its paper.

A batch of `_examples.joined(forget, retain)` holds both sides: positions below `border` are to be forgotten.
"""

from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rasura.errors import unknown
from rasura.methods._branch import Branched
from rasura.models import copy_of, logits_of
from rasura.training import Batch, Loss, cross_entropy

Statistics = Literal["follow", "hold"]
"""What BatchNorm's running statistics do while a net trains on the examples to forget alone."""


def frozen(model: nn.Module) -> nn.Module:
    """A copy that only speaks: eval mode, no gradients."""
    return copy_of(model).eval().requires_grad_(False)


def divergence(target: Tensor, logits: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(target ‖ prediction) of each row of two logit tables `[B, K]`: `[B]`, in nats, times the squared temperature.

    The sum over classes, with the target's probabilities as weights. (A widely copied implementation divides by the
    number of classes as well and has the two swapped.) The target may be minus infinity at a class.
    """
    wanted, predicted = (target / temperature).softmax(1), (logits / temperature).log_softmax(1)
    return F.kl_div(predicted, wanted, reduction="none").sum(1) * temperature**2


def ascent(model: nn.Module, batch: Batch) -> Tensor:
    """Minus the cross-entropy: descending on it climbs."""
    return -cross_entropy(model, batch)


def contrast(border: int, weight: float) -> Loss:
    """`weight` · mean cross-entropy of the retained examples − (1 − `weight`) · that of those to forget."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        values = F.cross_entropy(logits_of(model, batch.inputs), batch.labels, reduction="none")
        going = _going(batch, border)
        return weight * _mean_at(values, ~going) - (1 - weight) * _mean_at(values, going)

    return loss


def balanced(border: int, weight: float) -> Loss:
    """Mean cross-entropy of the examples to forget (under their new labels) + `weight` · that of the retained ones."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        values = F.cross_entropy(logits_of(model, batch.inputs), batch.labels, reduction="none")
        going = _going(batch, border)
        return _mean_at(values, going) + weight * _mean_at(values, ~going)

    return loss


def two_teachers(border: int, competent: nn.Module, incompetent: nn.Module) -> Loss:
    """Mean over the batch of KL(teacher ‖ student); the incompetent one teaches the examples to forget."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        going = _going(batch, border)
        target = torch.where(going[:, None], logits_of(incompetent, batch.inputs), logits_of(competent, batch.inputs))
        return divergence(target, logits_of(model, batch.inputs)).mean()

    return loss


def disobey(teacher: nn.Module, temperature: float) -> Loss:
    """Minus the mean KL(teacher ‖ student)."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        target = logits_of(teacher, batch.inputs)
        return -divergence(target, logits_of(model, batch.inputs), temperature).mean()

    return loss


def obey(teacher: nn.Module, temperature: float, distillation: float, labels: float) -> Loss:
    """`distillation` · mean KL(teacher ‖ student) + `labels` · mean cross-entropy."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        logits = logits_of(model, batch.inputs)
        near = divergence(logits_of(teacher, batch.inputs), logits, temperature).mean()
        return distillation * near + labels * F.cross_entropy(logits, batch.labels)

    return loss


def masked_distillation(teacher: nn.Module, closed: tuple[int, ...]) -> Loss:
    """Mean KL(teacher without the closed classes and the example's own ‖ student)."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        target = logits_of(teacher, batch.inputs).clone()
        target[:, list(closed)] = -torch.inf
        target.scatter_(1, batch.labels[:, None], -torch.inf)
        return divergence(target, logits_of(model, batch.inputs)).mean()

    return loss


def shadowed(model: nn.Module, batch: Batch) -> Tensor:
    """Mean cross-entropy of a `Branched` net towards one more class than it has; the branch `[B, 1]` is its logit."""
    assert isinstance(model, Branched)
    logits, features = model.read(batch.inputs)
    widened = torch.cat([logits, model.branch(features)], dim=1)
    return F.cross_entropy(widened, torch.full_like(batch.labels, logits.shape[1]))


def confusion(border: int, reversal: float) -> Loss:
    """Mean cross-entropy of the retained examples + how badly the branch of a `Branched` net tells the two sides apart.

    The branch `[B, 1]` gives the logit of "to be forgotten"; its binary cross-entropy is averaged on each side and then
    over both. The branch descends on it; the features climb, `reversal` times as steeply.
    """

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        assert isinstance(model, Branched)
        logits, features = model.read(batch.inputs)
        going = _going(batch, border)
        fixed = features.detach()
        said = model.branch(fixed + reversal * (fixed - features))[:, 0]  # the features' value, the gradient reversed
        errors = F.binary_cross_entropy_with_logits(said, going.to(said), reduction="none")
        kept = F.cross_entropy(logits, batch.labels, reduction="none")
        return _mean_at(kept, ~going) + (_mean_at(errors, going) + _mean_at(errors, ~going)) / 2

    return loss


def check_statistics(statistics: str) -> None:
    """Whether a setting is one of `Statistics`."""
    if statistics not in Statistics.__args__:
        raise unknown("statistics", statistics, Statistics.__args__)


def with_statistics(statistics: Statistics, loss: Loss = cross_entropy) -> Loss:
    """The loss itself ("follow"), or with every BatchNorm in eval mode, so that its statistics stay ("hold")."""

    def held(model: nn.Module, batch: Batch) -> Tensor:
        for module in model.modules():  # `fit` has put the whole net into training mode
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.training = False
        return loss(model, batch)

    return loss if statistics == "follow" else held


def with_l1(penalties: Iterator[float]) -> Loss:
    """Cross-entropy + the step's penalty · the sum of all absolute weights."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        size = torch.stack([parameter.abs().sum() for parameter in model.parameters()]).sum()
        return cross_entropy(model, batch) + next(penalties) * size

    return loss


def _going(batch: Batch, border: int) -> Tensor:
    return (batch.index < border).to(batch.labels.device)


def _mean_at(values: Tensor, chosen: Tensor) -> Tensor:
    """The mean of the chosen values; 0 where a batch has none."""
    return (values * chosen).sum() / chosen.sum().clamp(min=1)
