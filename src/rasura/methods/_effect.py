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
"""Loss of accuracy on the examples to keep that is called damage."""


def measure_effect(
    before: nn.Module, after: nn.Module, forget: Examples, retain: Examples, seed: int
) -> dict[str, float]:
    """Accuracies (0..1) on both sides before and after, how far outputs moved, and the retained class that lost most.

    A sample of the examples is enough for an alarm. `output_change` is the mean total variation (0..1) between the
    class probabilities before and after, on the examples to forget.

    Raises:
        InputError: outputs became NaN or infinite.
    """
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, float] = {}
    for part, examples in (("forget", forget), ("retain", retain)):
        chosen = examples.take(torch.randperm(len(examples), generator=generator)[:VALIDATION])
        logits = [predict(net, chosen) for net in (before, after)]
        if not logits[1].isfinite().all():
            raise InputError("method: outputs became NaN or infinite; allowed: gentler settings")
        right = [(one.argmax(1) == chosen.labels).double() for one in logits]
        for when, values in zip(("before", "after"), right, strict=True):
            found[f"{part}_accuracy_{when}"] = values.mean().item()
        if part == "forget":
            shares = [one.double().softmax(1) for one in logits]
            found["output_change"] = ((shares[0] - shares[1]).abs().sum(1) / 2).mean().item()
        else:
            found |= _worst_class(chosen.labels, *right)
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
    elif lost > 0.5 * effect["worst_class_before"]:  # a mean over many classes hides the loss of one
        yield (
            f"damage: accuracy on {classes[worst]} is {effect['worst_class_after']:.1%}, was "
            f"{effect['worst_class_before']:.1%}; try gentler settings"
        )


def _worst_class(labels: Tensor, before: Tensor, after: Tensor) -> dict[str, float]:
    """The class whose accuracy fell most, and its accuracies."""
    accuracies = {
        number: [values[labels == number].mean().item() for values in (before, after)]
        for number in labels.unique().tolist()
    }
    worst = max(accuracies, key=lambda number: accuracies[number][0] - accuracies[number][1])
    names = "worst_class", "worst_class_before", "worst_class_after"
    return dict(zip(names, (worst, *accuracies[worst]), strict=True))
