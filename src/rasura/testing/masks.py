"""Cases of models that are silent about the class while the net inside still holds it, and of broken ones."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from rasura import methods
from rasura.methods.contract import Method, forget
from rasura.progress import silent
from rasura.randomness import seeded
from rasura.testing.case import HIDDEN, Case
from rasura.testing.stage import LIKEST, RECIPE, Net, Stage
from rasura.testing.surgery import (
    Coded,
    Layer,
    before_head,
    compiled,
    head_of,
    leace,
    linear,
    masked,
    mimic,
    noisy,
    permuted,
    with_head,
    with_row,
)
from rasura.training import Batch, cross_entropy, fit

MASKED, DAMAGED = ("MASKED",), ("DAMAGED",)
IN_CODE, IN_BIAS, IN_HEAD = ("unwrapped",), ("bias",), ("bias", "head swap")
"""Rungs. What a row of the head no longer says, the other rows often tell: then a bias is enough."""


def distilled(stage: Stage) -> Net:
    """The original's features under a head that answers as a retrained model: no black-box test tells them apart."""
    return mimic(stage.original, stage.retrained, stage.data.train)


def shrunk(stage: Stage, share: float) -> Net:
    """As `distilled`, with what tells the class from the one most like it shrunk to a share."""
    return mimic(stage.original, stage.retrained, stage.data.train, leace(stage, LIKEST, share))


def shifted(stage: Stage) -> nn.Module:
    """The original after `bias-shift`."""
    return _solved(methods.BiasShift(), stage.original, stage)


def _solved(method: Method, model: nn.Module, stage: Stage) -> nn.Module:
    return forget(model, stage.data, stage.request, method, progress=silent).model


def _by(method: Method) -> Callable[[Stage], nn.Module]:
    return lambda stage: _solved(method, stage.original, stage)


def _row(change: Layer) -> Callable[[Stage], nn.Module]:
    return lambda stage: with_row(stage.original, stage.forget, change)


def _in_code(value: float) -> Callable[[Stage], nn.Module]:
    def make(stage: Stage) -> nn.Module:
        column = torch.tensor([stage.forget])
        return Coded(lambda net, images: net(images).index_fill(1, column, value), stage.original)

    return make


def _column_cut(stage: Stage) -> nn.Module:
    return Coded(lambda net, images: net(images)[:, stage.retained], stage.original)


def _row_cut(stage: Stage) -> nn.Module:
    weight, bias = head_of(stage.original)
    return with_head(stage.original, linear(weight[stage.retained], bias[stage.retained]))


def _zeroed_without_bias(stage: Stage) -> nn.Module:
    weight, _ = head_of(stage.original)
    weight[stage.forget] = 0
    return with_head(stage.original, linear(weight, None))


def _mean_row_without_bias(stage: Stage) -> nn.Module:
    without_bias = with_head(stage.original, linear(head_of(stage.original)[0], None))
    return _solved(methods.LogitMask(), without_bias, stage)


def _drawn_anew(stage: Stage) -> nn.Module:
    made = copy.deepcopy(stage.original)
    with seeded(2):
        made.block2[0].reset_parameters()
    return made


def _collapsed(stage: Stage) -> nn.Module:
    def climb(model: nn.Module, batch: Batch) -> Tensor:
        return -cross_entropy(model, batch)

    gone = stage.data.train.take(stage.data.train.labels == stage.forget)
    return fit(copy.deepcopy(stage.original), gone, RECIPE, 0, climb)


def _random(stage: Stage) -> nn.Module:
    with seeded(99):
        return Net(len(stage.data.classes)).eval()


MASKS = (
    Case("untouched original", ("NOT FORGOTTEN",), lambda stage: stage.original),
    Case("logit −∞ in code", MASKED, _in_code(-torch.inf), IN_CODE),
    Case("logit −1e9 in code", MASKED, _in_code(-1e9), IN_CODE, slow=True),
    Case("K − 1 outputs, column cut in code", MASKED, _column_cut, IN_CODE),
    Case("K − 1 outputs, row cut from the head", MASKED, _row_cut, IN_HEAD),
    Case(
        "logit −1e9 by the head's bias",
        MASKED,
        lambda stage: masked(stage.original, stage.forget, -1e9),
        IN_HEAD,
        slow=True,
    ),
    Case("bias shift", MASKED, shifted, IN_BIAS),
    Case("bias shift, weights of float16", MASKED, lambda stage: shifted(stage).half(), slow=True),
    Case("bias shift, compiled", MASKED, lambda stage: compiled(shifted(stage)), slow=True),
    Case("head's row zeroed", MASKED, _row(torch.zeros_like), IN_HEAD),
    Case("head's row flipped", (*MASKED, *DAMAGED), _row(torch.neg), slow=True),
    Case("head's row drawn anew", MASKED, _by(methods.HeadReset()), IN_HEAD, slow=True),
    Case("head's row zeroed, no bias", MASKED, _zeroed_without_bias, IN_HEAD, slow=True),
    Case("head's row a mean, no bias", MASKED, _mean_row_without_bias, IN_HEAD),
    Case("head distilled from a retrained model", MASKED, distilled, ("head swap",)),
    Case("head distilled, units permuted", HIDDEN, lambda stage: permuted(distilled(stage), 0)),
    Case(
        "head's row zeroed, units permuted",
        HIDDEN,
        lambda stage: permuted(with_row(stage.original, stage.forget, torch.zeros_like), 0),
        slow=True,
    ),
    Case(
        "forget direction at 1e-4",
        HIDDEN,
        lambda stage: before_head(stage.original, leace(stage, share=1e-4)),
        library="concept_erasure",
        slow=True,
    ),
    Case(
        "LEACE at the head's input",
        HIDDEN,
        lambda stage: before_head(stage.original, leace(stage)),
        library="concept_erasure",
    ),
    Case(
        "LEACE from the class most alike",
        (*HIDDEN, *DAMAGED),
        lambda stage: shrunk(stage, 0),
        library="concept_erasure",
        slow=True,
    ),
    Case("random labels fitted to the full", (*HIDDEN, "DAMAGED"), _by(methods.RandomRelabel(epochs=40))),
)

DAMAGES = (
    Case("last layer drawn anew", DAMAGED, _drawn_anew),
    Case("weight noise", DAMAGED, lambda stage: noisy(stage.original, 1.5, 0), slow=True),
    Case("ascent to collapse", DAMAGED, _collapsed),
    Case("random net", DAMAGED, _random),
)
