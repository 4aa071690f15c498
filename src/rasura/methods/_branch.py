"""A net with a second way out: a small net that reads what the head reads, trained beside it and then dropped."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from rasura.activations import Point, anatomy, pooling_of, tap
from rasura.data.examples import Inputs
from rasura.models import device_of, logits_of, to_device
from rasura.randomness import seeded
from rasura.training import evaluating


class Branched(nn.Module):
    """A net and its branch, so that one `fit` trains both.

    Attributes:
        net: the net itself; `head` names the module in it whose inputs the branch reads.
        branch: takes features `[B, d]`.
    """

    def __init__(self, net: nn.Module, head: str, branch: nn.Module):
        super().__init__()
        self.net, self.branch = net, branch
        self.head = head

    def read(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """Logits `[B, K]` and pooled head inputs `[B, d]` of one forward pass, both with their gradients."""
        seen: list[Tensor] = []
        with (
            pooling_of(self.net) as pool,
            tap(self.net, {Point(self.head, "input"): lambda one: seen.append(pool(one))}),
        ):
            logits = logits_of(self.net, inputs)
        return logits, seen[-1]


def branched(net: nn.Module, inputs: Inputs, make: Callable[[int], nn.Module], seed: int) -> Branched:
    """The net with a branch that `make` builds for features of `d` numbers, its weights drawn from `seed`.

    Args:
        inputs: a small batch, by which head and `d` are found.
    """
    head = anatomy(net, inputs).head
    with torch.no_grad(), evaluating(net):
        _, features = Branched(net, head, nn.Identity()).read(to_device(inputs, device_of(net)))
    with seeded(seed):
        branch = make(features.shape[1])
    return Branched(net, head, branch.to(features))
