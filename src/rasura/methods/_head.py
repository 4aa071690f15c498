"""The head of a net: the last linear map, whose outputs are the logits."""

import torch
from torch import Tensor, nn

from rasura.activations import anatomy
from rasura.data.examples import Inputs
from rasura.errors import InputError


def head_of(model: nn.Module, inputs: Inputs, classes: int) -> nn.Module:
    """The module whose outputs are the logits.

    Raises:
        InputError: the last linear map has another number of outputs than there are classes.
    """
    head = model.get_submodule(anatomy(model, inputs).head)
    rows = head_rows(head)
    if len(rows) != classes:
        raise InputError(f"model: the head has {len(rows)} outputs; allowed: {classes}, one per class")
    return head


def head_rows(head: nn.Module) -> Tensor:
    """The head's weights as rows, one per class: `[K, …]`, a view of the parameter."""
    weight = head.weight
    assert isinstance(weight, Tensor)
    return weight.T if type(head).__name__ == "Conv1D" else weight


def chosen_mask(classes: int, chosen: tuple[int, ...]) -> Tensor:
    """A boolean mask `[K]` that is true at the chosen classes."""
    return torch.isin(torch.arange(classes), torch.tensor(chosen))
