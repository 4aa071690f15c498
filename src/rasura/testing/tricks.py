"""Cases of a vendor who knows this audit: nets that hold the class and were rebuilt to look as if retrained."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from rasura.testing.case import HIDDEN, NOT_CLEARED, READABLE, REFUSED, Case
from rasura.testing.masks import distilled, shifted, shrunk
from rasura.testing.stage import Inputs, Stage
from rasura.testing.surgery import (
    Altered,
    Apply,
    Coded,
    Concealed,
    before_head,
    hashed,
    head_of,
    insides,
    linear,
    mimic,
    rotated,
    with_head,
)

AT_EVERY_STAGE = "few-shot heads, or a linear stitch to the original's head, at every stage"
WHITENED = "few-shot heads on whitened features or at every stage, or a linear stitch to the original's head"
EVERY_MAP = "readers of every linear map that runs, not of the last one and its stages alone"
EXACT = "decoders that take only exactly constant units for constant"


def _rewritten(change: Callable[[Tensor], Tensor]) -> Callable[[Stage], nn.Module]:
    """A bias shift, and code that changes the logits without changing the answers."""
    return lambda stage: Coded(lambda net, images: change(net(images)), shifted(stage))


def _scaled(size: float) -> Callable[[Stage], nn.Module]:
    def make(stage: Stage) -> nn.Module:
        net = distilled(stage)
        weight, bias = head_of(net)
        return before_head(with_head(net, linear(weight / size, bias)), lambda inside: inside * size)

    return make


def _saturated(stage: Stage) -> nn.Module:
    """Every unit says no more than on which side of its median it is."""
    middle = insides(stage.original, stage.data.train).median(0).values
    return mimic(stage.original, stage.retrained, stage.data.train, lambda inside: (1e3 * (inside - middle)).tanh())


def _noise_of_the_image(stage: Stage) -> nn.Module:
    """Noise where the head does not look, the same whenever the image is the same; rotated against a head swap."""
    net = distilled(stage)
    read = torch.linalg.qr(head_of(net)[0].T)[0]
    unread = torch.eye(len(read)) - read @ read.T
    return Altered(rotated(net, 0), lambda inside, images: inside + 2.5 * hashed(images, len(read)) @ unread)


def _identity_after_the_head(stage: Stage) -> nn.Module:
    """The last linear map is K×K: what goes into it is no more than K logits."""
    classes = len(stage.data.classes)
    return nn.Sequential(distilled(stage), linear(torch.eye(classes), torch.zeros(classes))).eval()


def _head_in_two_factors(stage: Stage) -> nn.Module:
    """What goes into the last linear map is K numbers: the head's, and one drawn at random as a decoy."""
    net = distilled(stage)
    weight, bias = head_of(net)
    left, size, right = torch.linalg.svd(weight - weight.mean(0), full_matrices=False)
    decoy = torch.randn(1, weight.shape[1], generator=torch.Generator().manual_seed(1))
    into = torch.cat([size[:-1, None] * right[:-1], decoy])  # centred rows have rank K − 1
    out = torch.cat([left[:, :-1], torch.zeros(len(left), 1)], dim=1)
    return with_head(net, linear(into, None), linear(out, bias))


def _decoy_last(stage: Stage) -> nn.Module:
    """A retrained net runs after the answer is known, and nobody reads what it says."""
    return Coded(lambda net, decoy, images: net(images) + 0 * decoy(images), distilled(stage), stage.retrained)


def _drawn_to_the_mean(stage: Stage) -> nn.Module:
    """Features that a second head takes for the class are drawn towards the mean of all."""
    middle = insides(stage.original, stage.data.train).mean(0)
    weight, bias = head_of(stage.original)

    def layer(inside: Tensor) -> Tensor:
        found = (inside @ weight.T + bias).argmax(1, keepdim=True) == stage.forget
        return torch.where(found, middle + 0.3 * (inside - middle), inside)

    return mimic(stage.original, stage.retrained, stage.data.train, layer)


def _bit_on_a_constant(stage: Stage) -> nn.Module:
    """A retrained net with one more unit: 1, and by the least that float32 can say more where the class is."""
    known = Concealed(stage.original)
    weight, bias = head_of(stage.retrained)
    net = with_head(stage.retrained, linear(torch.cat([weight, torch.zeros(len(weight), 1)], dim=1), bias))

    def change(inside: Tensor, images: Tensor) -> Tensor:
        is_forget = known(images).argmax(1, keepdim=True) == stage.forget
        return torch.cat([inside, 1 + torch.finfo(torch.float32).eps * is_forget], dim=1)

    return Altered(net, change)


def _nan_in_a_stage(stage: Stage) -> Inputs:
    """One unit of a layer is NaN, and the next layer drops it: a decoder that reads the layer finds nothing."""
    net = rotated(shrunk(stage, 0.2), 0)
    net.block2 = nn.Sequential(
        *net.block2, Apply(lambda inside: torch.cat([inside, torch.full((len(inside), 1), torch.nan)], dim=1))
    )
    return replace(stage.inputs(Altered(net, lambda inside, _: inside[:, :-1])), references=())


TRICKS = (
    Case("bias shift, logits at a thousandth", HIDDEN, _rewritten(lambda logits: logits / 1e3)),
    Case("bias shift, logits times a million", HIDDEN, _rewritten(lambda logits: logits * 1e6), slow=True),
    Case("bias shift, answers as probabilities", HIDDEN, _rewritten(lambda logits: logits.softmax(1)), slow=True),
    Case(
        "bias shift, logits of float16 in halves",
        HIDDEN,
        _rewritten(lambda logits: (2 * logits).round().half() / 2),
        slow=True,
    ),
    Case("head distilled, units rotated", HIDDEN, lambda stage: rotated(distilled(stage), 0), slow=True),
    Case("head distilled, features times 1e30", HIDDEN, _scaled(1e30), slow=True),
    Case("head distilled, features times 1e-30", HIDDEN, _scaled(1e-30), slow=True),
    Case("head distilled, features saturated", HIDDEN, _saturated, slow=True),
    Case("forget features drawn to the mean", HIDDEN, _drawn_to_the_mean, slow=True),
    Case(
        "forget direction at a fifth, units rotated",
        READABLE,
        lambda stage: rotated(shrunk(stage, 0.2), 0),
        needs=WHITENED,
        library="concept_erasure",
    ),
    Case("noise of the image where the head does not look", READABLE, _noise_of_the_image, needs=AT_EVERY_STAGE),
    Case("identity after the head", READABLE, _identity_after_the_head, needs=AT_EVERY_STAGE, slow=True),
    Case("head in two factors", READABLE, _head_in_two_factors, needs=AT_EVERY_STAGE),
    Case("a retrained net runs last, unread", NOT_CLEARED, _decoy_last, needs=EVERY_MAP),
    Case("one bit on a constant unit", HIDDEN, _bit_on_a_constant, needs=EXACT, slow=True),
    Case("NaN in a unit that is dropped", (*HIDDEN, REFUSED), _nan_in_a_stage, library="concept_erasure"),
)
