"""What a model was told to forget so far, as its card's history says."""

from typing import Any

import torch
from torch import Tensor, nn

from rasura.data import Data, ForgetClasses, ForgetSamples, Request, mask_of
from rasura.errors import InputError
from rasura.models import Card, card_of, class_names_of


def forgotten_classes(model: nn.Module) -> ForgetClasses:
    """One request for all classes that the model was told to forget, over all requests in its history.

    They are named as the model names them, if it does; else they are the numbers of its outputs.

    Raises:
        InputError: the history names no class.
    """
    numbers = _classes_in(card_of(model))
    if not numbers:
        raise InputError("forget: the model's history names no class; allowed: classes of the data")
    names = class_names_of(model)
    return ForgetClasses([names[number] if number < len(names) else number for number in numbers])


def earlier(model: nn.Module, data: Data) -> tuple[tuple[int, ...], Tensor]:
    """What earlier requests took out of the data: numbers of classes, and a mask `[N]` over the training examples.

    Raises:
        InputError: single examples were forgotten from data of another size, where positions mean other examples; or
            the history names a class that the data does not have.
    """
    card = card_of(model)
    classes = _classes_in(card)
    if classes and not 0 <= classes[0] <= classes[-1] < len(data.classes):
        raise InputError(f"history: classes {classes} were forgotten; allowed: 0 to {len(data.classes) - 1}")
    taken = torch.isin(data.train.labels, torch.tensor(classes, dtype=torch.int64))
    for size, indices in _samples_in(card):
        if size != len(data.train):
            raise InputError(
                f"data: {len(data.train)} training examples; allowed: the {size} from which samples were forgotten"
            )
        taken |= mask_of(indices, size)
    return classes, taken


def remembered(request: Request, data: Data) -> dict[str, Any]:
    """What the history must hold of a request for samples, so that later requests leave them out too."""
    if not isinstance(request, ForgetSamples):
        return {}
    return {"samples": {"indices": list(request.indices), "of": len(data.train)}}


def _samples_in(card: Card) -> list[tuple[int, tuple[int, ...]]]:
    """Of each request for samples: how many training examples there were, and which of them were forgotten."""
    found = [entry["samples"] for entry in card.history if "samples" in entry]
    try:
        return [(one["of"], tuple(int(index) for index in one["indices"])) for one in found]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"history: an entry names no samples ({error!r}); allowed: as rasura wrote it") from None


def _classes_in(card: Card) -> tuple[int, ...]:
    try:
        return tuple(sorted({int(number) for entry in card.history for number in entry["request"]["classes"]}))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"history: an entry names no classes ({error!r}); allowed: as rasura wrote it") from None
