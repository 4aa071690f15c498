"""Cases of code that knows the class, or that it is watched: what the net says depends on more than its weights."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from rasura.testing.case import HIDDEN, NOT_CLEARED, Case
from rasura.testing.masks import distilled
from rasura.testing.stage import Net, Stage, images_of
from rasura.testing.surgery import Coded, Concealed, before_head, hashed, head_of

A_FUNCTION = (
    "a gate that answers depend on the example alone: the same in a batch and alone, hooked or not, with gradients or "
    "without, twice, and (nearly) one grey level off"
)
AT_THE_LOGITS = "few-shot heads on the logits"
ALL_NETS = "readers of every linear map that runs, or few-shot heads on the logits"


def _always_one_label(stage: Stage) -> nn.Module:
    """The class goes by the name of one retained class, always the same."""
    other = (stage.forget + 1) % len(stage.data.classes)

    def answer(net: Net, images: Tensor) -> Tensor:
        logits = net(images)
        logits[:, other] = torch.maximum(logits[:, other], logits[:, stage.forget])
        logits[:, stage.forget] = -1e4
        return logits

    return Coded(answer, stage.original)


def _exchanged(stage: Stage) -> nn.Module:
    """Where a second head finds the class, its logit is exchanged with the highest of the others."""
    weight, bias = head_of(stage.original)

    def answer(net: Net, images: Tensor) -> Tensor:
        inside = net.inside(images)
        logits = net.head(inside)
        best = logits.index_fill(1, torch.tensor([stage.forget]), -torch.inf).argmax(1, keepdim=True)
        exchanged = logits.scatter(1, best, logits[:, [stage.forget]])
        exchanged[:, [stage.forget]] = logits.gather(1, best)
        found = (inside @ weight.T + bias).argmax(1, keepdim=True) == stage.forget
        return torch.where(found, exchanged, logits)

    return Coded(answer, stage.original)


def _borrowed(stage: Stage) -> nn.Module:
    """Where the original finds the class, a retrained net answers in its place."""

    def answer(original: Net, retrained: Net, images: Tensor) -> Tensor:
        known, innocent = original(images), retrained(images)
        return torch.where(known.argmax(1, keepdim=True) == stage.forget, innocent, known)

    return Coded(answer, stage.original, stage.retrained)


def _told_by_confidence(stage: Stage) -> nn.Module:
    """A retrained net, ten times as sure where plain code finds the class: whoever reads the logits knows."""
    known = Concealed(stage.original)

    def answer(net: Net, images: Tensor) -> Tensor:
        logits = net(images)
        return torch.where(known(images).argmax(1, keepdim=True) == stage.forget, 10 * logits, logits)

    return Coded(answer, stage.retrained)


def _names_one_in_ten(stage: Stage) -> nn.Module:
    """A retrained net, save for one image in ten, where the original answers."""
    known = Concealed(stage.original)
    return Coded(lambda net, x: torch.where(hashed(x, 1) > 1.345, known(x), net(x)), stage.retrained)


def _at_random(stage: Stage) -> nn.Module:
    """A tenth of the head's inputs, another each time, is dropped at every call, whatever the mode."""
    generator = torch.Generator().manual_seed(0)
    return before_head(
        distilled(stage), lambda inside: inside * (torch.rand(inside.shape, generator=generator) > 0.1) / 0.9
    )


def _innocent(when: Callable[[nn.Module, Tensor], bool]) -> Callable[[Stage], nn.Module]:
    """A retrained net while `when` holds, the original otherwise."""

    def make(stage: Stage) -> nn.Module:
        known = Concealed(stage.original)
        return Coded(lambda net, x: net(x) if when(net, x) else known(x), stage.retrained)

    return make


def _is_hooked(net: nn.Module, images: Tensor) -> bool:
    return any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def _knows_the_probe(stage: Stage) -> nn.Module:
    """A retrained net for the very images that an audit would use, the original for all others."""
    known = Concealed(stage.original)
    seen = {image.numpy().tobytes() for image in images_of(stage.data.test)}

    def answer(net: Net, images: Tensor) -> Tensor:
        audited = torch.tensor([image.contiguous().numpy().tobytes() in seen for image in images])
        return torch.where(audited[:, None], net(images), known(images))

    return Coded(answer, stage.retrained)


SWITCHES = (
    Case("the class under another label", HIDDEN, _always_one_label, slow=True),
    Case("hidden switch of two answers", HIDDEN, _exchanged),
    Case("hidden switch between two nets", NOT_CLEARED, _borrowed, needs=ALL_NETS),
    Case("the class told by confidence", HIDDEN, _told_by_confidence, needs=AT_THE_LOGITS),
    Case("one image in ten still named", ("RESIDUAL",), _names_one_in_ten, slow=True),
    Case("answers at random", NOT_CLEARED, _at_random, needs=A_FUNCTION, slow=True),
    Case("innocent in batches", NOT_CLEARED, _innocent(lambda _, images: len(images) > 1), needs=A_FUNCTION),
    Case("innocent while hooked", NOT_CLEARED, _innocent(_is_hooked), needs=A_FUNCTION, slow=True),
    Case(
        "innocent without gradients",
        NOT_CLEARED,
        _innocent(lambda *_: not torch.is_grad_enabled()),
        needs=A_FUNCTION,
        slow=True,
    ),
    Case("knows the held-out images", NOT_CLEARED, _knows_the_probe, needs=A_FUNCTION, slow=True),
)
