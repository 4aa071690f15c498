"""Models that answer in another form than with logits of all classes in order, brought into that form."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rasura.models.card import card_of, with_card
from rasura.models.logits import answer_in


class Complete(nn.Module):
    """A model whose answers become logits `[B, K]`: logarithms of probabilities, −∞ for classes that it lacks.

    Attributes:
        places: the class of each of the model's outputs.
    """

    def __init__(self, net: nn.Module, classes: int, places: Sequence[int], as_shares: bool):
        super().__init__()
        self.net, self.classes, self.places, self.as_shares = net, classes, list(places), as_shares

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        answers = answer_in(self.net(*inputs, **named))
        logits = answers.log() if self.as_shares else answers
        if self.places == list(range(self.classes)):
            return logits
        whole = logits.new_full((len(logits), self.classes), -torch.inf)
        whole[:, self.places] = logits
        return whole


def complete(model: nn.Module, answers: Tensor, classes: int, places: Sequence[int]) -> nn.Module:
    """The model itself if it gives logits of all classes in order; else the same one inside a `Complete`.

    Args:
        model: any classifier.
        answers: what it says of some examples, `[n, len(places)]`.
        classes: K.
        places: the class of each of its outputs, each once; K of them, or fewer where it has no outputs for the others.
    """
    as_shares = bool((answers >= 0).all()) and bool(((answers.sum(1) - 1).abs() < 1e-2).all())
    if not as_shares and list(places) == list(range(classes)):
        return model
    return with_card(Complete(model, classes, places, as_shares), card_of(model))


def own_outputs(model: nn.Module, logits: Tensor) -> Tensor:
    """The columns of a model's logits `[B, K]` that are outputs of its own, in their order."""
    return logits[:, model.places] if isinstance(model, Complete) else logits


def by_class(model: nn.Module, outputs: Tensor) -> Tensor:
    """Rows that belong to a model's outputs (its head's weights, say) in the order of the classes.

    Rows of another number than K, or of a model that needs no other order, stay as they are.
    """
    if not isinstance(model, Complete) or not len(model.places) == len(outputs) == model.classes:
        return outputs
    return outputs[torch.tensor(model.places).argsort()]
