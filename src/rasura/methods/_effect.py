"""What a method did to a model, on training examples, and the alarms that a person should read."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from rasura.data import Examples
from rasura.errors import InputError
from rasura.training import predict

VALIDATION = 512
"""Training examples of each side, at most, on which the effect of a method is checked."""
WEAK = 0.05
"""Accuracy on forgotten classes above which forgetting is called weak; retrained models stay below 0.01."""
STILL = 1e-3
"""Mean total variation of the outputs on forgotten samples below which nothing has happened."""
LOSS = 0.1
"""Loss of accuracy on the examples to keep, or on one class of them, that is called damage."""
SUSPECTS, FEW, ENOUGH = 10, 30, 100
"""Of the classes that lost most, so many are looked at again if the sample holds few of them: at up to so many."""
SURE = 0.05 / 2
"""Chance of a false alarm over all classes together, for each of the two looks at them."""


def measure_effect(
    before: nn.Module, after: nn.Module, forget: Examples, retain: Examples, seed: int
) -> dict[str, float]:
    """Accuracies (0..1) on both sides before and after, how far outputs moved, and the retained class that lost most.

    A sample of the examples is enough for an alarm. `output_change` is the mean total variation (0..1) between the
    class probabilities before and after, on the examples to forget; `worst_class_chance` the chance of so many lost
    answers in that class, if answers become right as often as wrong (sign test).

    Raises:
        InputError: outputs became NaN or infinite.
    """
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, float] = {}
    for part, examples in (("forget", forget), ("retain", retain)):
        order = torch.randperm(len(examples), generator=generator)
        chosen = examples.take(order[:VALIDATION])
        logits = [predict(net, chosen) for net in (before, after)]
        if not logits[1].isfinite().all():
            raise InputError("method: outputs became NaN or infinite; allowed: gentler settings")
        right = torch.stack([one.argmax(1) == chosen.labels for one in logits]).double()
        for when, values in zip(("before", "after"), right, strict=True):
            found[f"{part}_accuracy_{when}"] = values.mean().item()
        if part == "forget":
            shares = [one.double().softmax(1) for one in logits]
            found["output_change"] = ((shares[0] - shares[1]).abs().sum(1) / 2).mean().item()
        else:
            rest = examples.take(order[VALIDATION:])
            again = rest.take(_looked_at_again(chosen.labels, right, rest.labels))
            if len(again):
                further = torch.stack([predict(net, again).argmax(1) == again.labels for net in (before, after)])
                right = torch.cat([right, further.double()], dim=1)
            found |= _worst_class(torch.cat([chosen.labels, again.labels]), right)
    return found


def alarms(effect: dict[str, Any], whole_classes: bool, classes: tuple[str, ...]) -> Iterator[str]:
    """Lines about no effect, a weak effect, collapse and damage; nothing if all is well."""
    forget_before, forget_after = effect["forget_accuracy_before"], effect["forget_accuracy_after"]
    retain_before, retain_after = effect["retain_accuracy_before"], effect["retain_accuracy_after"]
    forget = f"accuracy on the examples to forget is {forget_after:.1%}, was {forget_before:.1%}"
    retain = f"accuracy on the examples to keep is {retain_after:.1%}, was {retain_before:.1%}"
    if whole_classes and forget_after > 0.5 * forget_before:
        yield f"no effect: {forget}; try stronger settings"
    elif whole_classes and forget_after > WEAK:
        yield f"weak effect: {forget}; a retrained model stays below 1%; try stronger settings"
    elif not whole_classes and effect["output_change"] < STILL:
        yield f"no effect: outputs on the samples moved by {effect['output_change']:.2%}; try stronger settings"
    worst, lost = int(effect["worst_class"]), effect["worst_class_before"] - effect["worst_class_after"]
    if retain_after < max(2 / len(classes), 0.5 * retain_before):
        yield f"collapse: {retain}; try gentler settings"
    elif retain_after < retain_before - LOSS:
        yield f"damage: {retain}; try gentler settings"
    elif lost > LOSS and effect["worst_class_chance"] * len(classes) <= SURE:  # a mean over many hides the loss of one
        yield (
            f"damage: accuracy on {classes[worst]} is {effect['worst_class_after']:.1%}, was "
            f"{effect['worst_class_before']:.1%}; try gentler settings"
        )


def _looked_at_again(labels: Tensor, right: Tensor, rest: Tensor) -> Tensor:
    """Positions in `rest` of further examples of the classes that lost most, where `labels` holds few of them."""
    losses = {number: _loss(labels == number, right) for number in labels.unique().tolist()}
    suspects = sorted(losses, key=lambda number: -losses[number])[:SUSPECTS]
    counts = {number: int((labels == number).sum()) for number in suspects}
    further = [(rest == number).nonzero()[: ENOUGH - counts[number], 0] for number in suspects if counts[number] < FEW]
    return torch.cat([torch.empty(0, dtype=torch.int64), *further])


def _worst_class(labels: Tensor, right: Tensor) -> dict[str, float]:
    """The class whose accuracy fell most, its accuracies and its chance; of classes with few examples only if all are.

    Args:
        labels: `[N]`.
        right: 0 or 1 `[2, N]`, before and after.
    """
    from scipy.stats import binom

    numbers = labels.unique().tolist()
    numbers = [number for number in numbers if (labels == number).sum() >= FEW] or numbers
    worst = max(numbers, key=lambda number: _loss(labels == number, right))
    before, after = right[:, labels == worst]
    lost, won = int((before > after).sum()), int((after > before).sum())
    return {
        "worst_class": worst,
        "worst_class_before": before.mean().item(),
        "worst_class_after": after.mean().item(),
        "worst_class_chance": float(binom.sf(lost - 1, lost + won, 0.5)),
    }


def _loss(of_class: Tensor, right: Tensor) -> float:
    before, after = right[:, of_class].mean(1).tolist()
    return before - after
