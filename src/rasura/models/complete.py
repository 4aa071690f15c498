"""Models that answer in another form than with logits of all classes, brought into that form."""

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from rasura.models.card import card_of, with_card
from rasura.models.logits import answer_in


class Complete(nn.Module):
    """A model whose answers become logits `[B, K]`: logarithms of probabilities, −∞ for classes that it lacks."""

    def __init__(self, net: nn.Module, classes: int, lacking: Collection[int], as_shares: bool):
        super().__init__()
        self.net, self.classes, self.as_shares = net, classes, as_shares
        self.present = [number for number in range(classes) if number not in lacking]

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        answers = answer_in(self.net(*inputs, **named))
        logits = answers.log() if self.as_shares else answers
        if logits.shape[1] == self.classes:
            return logits
        whole = logits.new_full((len(logits), self.classes), -torch.inf)
        whole[:, self.present] = logits
        return whole


def complete(model: nn.Module, answers: Tensor, classes: int, lacking: Collection[int] = ()) -> nn.Module:
    """The model itself if it gives logits of all classes; else the same one inside a `Complete`.

    Args:
        model: any classifier.
        answers: what it says of some examples, `[n, K]`, or `[n, K − len(lacking)]` if it has no outputs for these.
        classes: K.
        lacking: numbers of the classes that it may have no outputs for.
    """
    as_shares = bool((answers >= 0).all()) and bool(((answers.sum(1) - 1).abs() < 1e-2).all())
    if not as_shares and answers.shape[1] == classes:
        return model
    return with_card(Complete(model, classes, lacking, as_shares), card_of(model))
