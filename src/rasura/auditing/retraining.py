"""Rungs of the recovery ladder that run on request: how fast does the class come back when the net is trained again?

Any net learns a class from enough labels, one that never saw it too: a run tells something only beside the same run on
retrained models. No function changes the model that it is given; the same seed gives the same bits.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rasura.auditing.probe import Probe
from rasura.auditing.reading import parts_of
from rasura.auditing.recovery import operator_weights, plain_copy, spread
from rasura.data import Examples
from rasura.errors import InputError
from rasura.models import copy_of, logits_of
from rasura.progress import Progress, silent
from rasura.training import Batch, Loss, Recipe, fit, predict, resolved

RATES = {"sgd": 0.003, "adamw": 0.001}
"""Slow enough to tell nets apart: a ResNet-8 that never saw a class of Fashion-MNIST relearns it in 22 steps of SGD,
nets that remember it in 4 to 9; at a rate of 0.01 it is 10 steps against 2 to 4."""
RETAINED = 500
"""Retained training examples that few forget labels are mixed with."""
SCORED = 200
"""Held-out examples, of forget and of retained classes each, that are scored at every point of a curve."""
RECIPE = Recipe(batch_size=32, weight_decay=0.0, schedule="constant")


@dataclass(frozen=True)
class Trajectory:
    """What a net knows while it is trained.

    Attributes:
        steps: optimiser steps done, 0 first.
        forget: held-out accuracy on the forget classes after so many steps, 0..1.
        retain: the same on the other classes.
    """

    steps: tuple[int, ...]
    forget: tuple[float, ...]
    retain: tuple[float, ...]

    def steps_to(self, level: float) -> int | None:
        """Steps until the accuracy on the forget classes first reached `level`; None if it did not.

        >>> Trajectory((0, 1, 2), (0.0, 0.3, 0.6), (0.9, 0.9, 0.9)).steps_to(0.5)
        2
        """
        reached = (step for step, accuracy in zip(self.steps, self.forget, strict=True) if accuracy >= level)
        return next(reached, None)


def relearn_time(
    model: nn.Module,
    examples: Examples,
    probe: Probe,
    seed: int,
    shots: int = 10,
    steps: int = 40,
    learning_rate: float = 0.0,
    progress: Progress = silent,
) -> Trajectory:
    """Train the whole net on few forget labels among retained ones, and score it after every step.

    Half of the training set are the forget examples, repeated until they are as many as the (at most 500) retained
    ones. The relearn time is `steps_to` of half of the original's accuracy, say; none within `steps` steps says nothing
    about more of them.

    Does not show: what the features hold. Steps count from where the head stands, and how deep the head was silenced
    decides most of them: with the head's rows of the forget class set alike, a ResNet-8 on Fashion-MNIST needs 11 steps
    untouched, 11 or 12 unlearned and 12 retrained. A class behind a mask or a large negative bias is not relearned at
    all; the cheaper rungs bring it back.

    Source: Chundawat et al. (2023), "Zero-shot machine unlearning", IEEE TIFS 18, section on the anamnesis index.
    Differs: few forget examples, mixed with retained ones, and held-out accuracy; the level is the caller's.

    Args:
        model: any classifier.
        examples: labelled training examples of all classes.
        probe: held-out examples.
        seed: of the choice of examples and their order.
        shots: training examples of each forget class. 1 or more.
        steps: optimiser steps of 32 examples. 1 or more.
        learning_rate: constant; 0 means 0.003 for nets with BatchNorm (SGD), 0.001 for others (AdamW).
        progress: called after each step.

    Raises:
        InputError: shots, steps or learning rate out of range, or fewer examples of a forget class than `shots`.
    """
    chosen = _few(examples, probe, shots, seed)
    return _trained(_trainable(model), chosen, probe, seed, steps, learning_rate, progress=progress, label="relearning")


def last_block_finetuned(
    model: nn.Module,
    examples: Examples,
    probe: Probe,
    seed: int,
    shots: int = 10,
    steps: int = 40,
    learning_rate: float = 0.0,
    progress: Progress = silent,
) -> Trajectory:
    """As `relearn_time`, but only the last stage and the head are trained; all else, statistics too, stays.

    Arguments, errors and limits are those of `relearn_time`.
    """
    chosen, copied = _few(examples, probe, shots, seed), _trainable(model)
    parts = parts_of(copied, probe.examples)
    last = [copied.get_submodule(name) for name in (*parts.stages[-1:], *parts.heads)]
    copied.requires_grad_(False)
    for part in last:
        part.requires_grad_(True)
    label = "tuning the last block"
    return _trained(copied, chosen, probe, seed, steps, learning_rate, loss=_only(last), progress=progress, label=label)


def retain_only_finetuning(
    model: nn.Module,
    examples: Examples,
    probe: Probe,
    seed: int,
    epochs: int = 5,
    learning_rate: float = 0.0,
    progress: Progress = silent,
) -> Trajectory:
    """Train the whole net on retained examples alone, and score it after every epoch: forgetting that does not last.

    Nobody has to mean harm: who adapts the model to other data does it. A net that never saw the class gains nothing
    by it. Such training itself teaches never to name the class, so that a gain may pass: look at the whole curve.

    Source: Siddiqui et al. (2025), "From dormant to deleted", arXiv:2505.22310.

    Args:
        model: any classifier.
        examples: labelled training examples; those of forget classes are left out.
        probe: held-out examples.
        seed: of the examples' order.
        epochs: passes over the examples. 1 or more.
        learning_rate: as for `relearn_time`.
        progress: called after each step.

    Raises:
        InputError: epochs or learning rate out of range, or no example of a retained class.
    """
    retained = examples.take(~_of_forget_classes(examples, probe))
    if not len(retained):
        raise InputError("examples: none of a retained class; allowed: one or more")
    _at_least_one("epochs", epochs)
    every = math.ceil(len(retained) / RECIPE.batch_size)
    label = "fine-tuning on retained examples"
    steps, trained = epochs * every, _trainable(model)
    return _trained(trained, retained, probe, seed, steps, learning_rate, every, progress=progress, label=label)


def pruned(model: nn.Module, share: float) -> nn.Module:
    """A copy in which the smallest weights of all operators together are 0, by magnitude; biases and norms stay.

    Args:
        model: any net.
        share: of the operators' weights that become 0. 0 up to, not including, 1.

    Raises:
        InputError: share out of range, or a weight that is computed by a hook.
    """
    if not 0 <= share < 1:
        raise InputError(f"share: {share}; allowed: 0 up to, not including, 1")
    copied = plain_copy(model)
    with torch.no_grad():
        weights = [weight for weight, _ in operator_weights(copied)]
        sizes = torch.cat([weight.abs().flatten() for weight in weights])
        kept = torch.ones_like(sizes)
        kept[sizes.topk(round(share * len(sizes)), largest=False).indices] = 0
        for weight, part in zip(weights, kept.split([weight.numel() for weight in weights]), strict=True):
            weight.mul_(part.view_as(weight))
    return copied


def _trainable(model: nn.Module) -> nn.Module:
    return copy_of(model).requires_grad_(True)


def _few(examples: Examples, probe: Probe, shots: int, seed: int) -> Examples:
    """`shots` examples of each forget class, repeated, among retained ones of all classes."""
    _at_least_one("shots", shots)
    forgotten = _of_forget_classes(examples, probe)
    for number in probe.forget_classes:
        count = int((examples.labels == number).sum())
        if count < shots:
            raise InputError(f"shots: {shots}; allowed: up to {count}, the training examples of class {number}")
    few = spread(examples.labels, forgotten, shots * len(probe.forget_classes), seed)
    retained = spread(examples.labels, ~forgotten, RETAINED, seed)
    repeated = few.repeat(max(1, round(len(retained) / len(few))))
    return examples.take(torch.cat([repeated, retained]))


def _of_forget_classes(examples: Examples, probe: Probe) -> Tensor:
    return torch.isin(examples.labels, torch.tensor(probe.forget_classes))


def _finite_cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    """Mean cross-entropy where −∞ counts as the least finite logit: a class cut off so is not relearned, no error."""
    logits = logits_of(model, batch.inputs)
    least = logits.detach().masked_fill(~logits.isfinite(), torch.inf).min()
    return F.cross_entropy(torch.where(logits == -torch.inf, least, logits), batch.labels)


def _only(trained: list[nn.Module]) -> Loss:
    """The loss of a net of which only some parts are in training mode: frozen BatchNorm keeps its statistics."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        model.eval()
        for part in trained:
            part.train()
        return _finite_cross_entropy(model, batch)

    return loss


def _trained(
    model: nn.Module,
    examples: Examples,
    probe: Probe,
    seed: int,
    steps: int,
    learning_rate: float,
    every: int = 1,
    loss: Loss = _finite_cross_entropy,
    *,
    progress: Progress,
    label: str,
) -> Trajectory:
    """Train `model` in place for so many steps; score it before, and after each `every` of them."""
    _at_least_one("steps", steps)
    score, scores = _scorer(probe, seed), []
    optimiser = resolved(RECIPE, model).optimiser
    epochs = math.ceil(steps / math.ceil(len(examples) / RECIPE.batch_size))
    done = 0

    def after(trained: nn.Module) -> bool:
        nonlocal done
        done += 1
        if done % every == 0:
            scores.append((done, *score(trained)))
        return done == steps

    scores.append((0, *score(model)))
    recipe = replace(RECIPE, epochs=epochs, learning_rate=learning_rate or RATES[optimiser])
    fit(model, examples, recipe, seed, loss=loss, progress=progress, label=label, after=after)
    return Trajectory(*zip(*scores, strict=True))


def _scorer(probe: Probe, seed: int) -> Callable[[nn.Module], tuple[float, float]]:
    """A function that gives a net's accuracy on the same forget and retained examples at every call."""
    sides = [spread(probe.labels, side, SCORED, seed) for side in (probe.forget, ~probe.forget)]
    chosen = probe.examples.take(torch.cat(sides))

    def score(model: nn.Module) -> tuple[float, float]:
        right = (predict(model, chosen).argmax(1) == chosen.labels).float()
        forget, retain = right.split([len(side) for side in sides])
        return forget.mean().item(), retain.mean().item()

    return score


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise InputError(f"{name}: {value}; allowed: 1 or more")
