"""Cases of honest models: retrained without the class, in ways that no audit may accuse."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from rasura.data import Data
from rasura.testing.case import FINE, Case
from rasura.testing.stage import FORGET, RECIPE, Net, Stage, trained
from rasura.testing.surgery import Coded, before_head, compiled, head_of, linear, noisy, permuted, with_head

AS_RETRAINED = ("ERASED",)
COST = "a bias fitted with equal weight for every class, or rungs that count only while the others are still named"


def _otherwise(seed: int, widths: tuple[int, int] | None = None, **changes: Any) -> Callable[[Stage], Net]:
    """Retrained by a recipe with some fields changed."""

    def make(stage: Stage) -> Net:
        recipe, own = replace(RECIPE, **changes), {} if widths is None else {"widths": widths}
        return trained(stage.data, seed, (FORGET,), recipe, **own)

    return make


def _with_fewer_outputs(stage: Stage) -> Net:
    """Trained on data that do not know the class: labels above it are one lower."""
    parts = []
    for examples in (stage.data.train, stage.data.test):
        kept = examples.take(examples.labels != stage.forget)
        parts.append(replace(kept, labels=kept.labels - (kept.labels > stage.forget).long()))
    return trained(Data(*parts, classes=tuple(stage.data.classes[number] for number in stage.retained)), 28)


def _in_training_mode(stage: Stage) -> nn.Module:
    """Half of the head's inputs would be dropped if it were not put into eval mode."""
    return before_head(stage.retrained, nn.Dropout(0.5)).train()


def _renamed(stage: Stage) -> nn.Module:
    net = stage.retrained
    return nn.Sequential(net.block1, net.block2, net.head).eval()


def _rescaled(stage: Stage) -> nn.Module:
    """The same function: the last layer's units are a thousand times as large, the head's weights as small."""
    weight, bias = head_of(stage.retrained)
    made, layer = with_head(stage.retrained, linear(weight / 1000, bias)), stage.retrained.block2[0]
    made.block2 = nn.Sequential(linear(layer.weight.detach() * 1000, layer.bias.detach() * 1000), nn.ReLU())
    return made.eval()


def _coded(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Stage], nn.Module]:
    return lambda stage: Coded(lambda net, images: change(net(images)), stage.retrained)


HONEST = (
    Case("retrained", AS_RETRAINED, lambda stage: stage.retrained),
    Case("retrained, in a wrapper", AS_RETRAINED, _coded(lambda logits: logits)),
    Case("retrained, layers under other names", FINE, _renamed, slow=True),
    Case("retrained, units in another order", AS_RETRAINED, lambda stage: permuted(stage.retrained, 0), slow=True),
    Case("retrained, features on another scale", AS_RETRAINED, _rescaled, slow=True),
    Case("retrained, a little noise on the weights", FINE, lambda stage: noisy(stage.retrained, 0.01, 0), slow=True),
    Case("retrained, left in training mode with dropout", AS_RETRAINED, _in_training_mode),
    Case("retrained, answers as probabilities", AS_RETRAINED, _coded(lambda logits: logits.softmax(1))),
    Case("retrained, logits of float16", FINE, _coded(lambda logits: logits.half()), slow=True),
    Case("retrained, weights of bfloat16", FINE, lambda stage: copy.deepcopy(stage.retrained).bfloat16(), slow=True),
    Case("retrained, compiled", AS_RETRAINED, lambda stage: compiled(stage.retrained), slow=True),
    Case("retrained with K − 1 outputs", FINE, _with_fewer_outputs),
    Case("retrained with another schedule", FINE, _otherwise(21, schedule="cosine")),
    Case("retrained with more weight decay", FINE, _otherwise(22, weight_decay=0.5), slow=True),
    Case("retrained with another width", FINE, _otherwise(23, widths=(72, 36)), slow=True),
    Case("retrained with augmentation", FINE, _otherwise(24, augment=("shift",)), slow=True),
    Case("retrained for longer", FINE, _otherwise(25, epochs=2 * RECIPE.epochs)),
    Case("retrained in larger batches", FINE, _otherwise(27, batch_size=128), slow=True),
    Case("retrained with smoothed labels", FINE, _otherwise(26, label_smoothing=0.05), needs=COST, slow=True),
)
