"""Re-initialise a net, and prove that nothing learned is left in it."""

import copy
import math

import torch
from torch import nn

from rasura.errors import InputError
from rasura.models.card import card_of
from rasura.models.copies import copy_of
from rasura.models.load import fresh_model
from rasura.models.logits import device_of
from rasura.randomness import seeded

RESETS = ("reset_parameters", "_reset_parameters", "reset_running_stats")


def reinitialised(model: nn.Module, seed: int) -> nn.Module:
    """A copy of `model` whose every parameter and running statistic was drawn anew from `seed`.

    Every parameter of the copy is first filled with NaN; one that still holds a NaN afterwards was not
    re-initialised. (One public repository resets the last layer alone and calls the result retrained.) A net whose
    modules cannot reset themselves is built again by its name or its Hugging Face configuration.

    Raises:
        InputError: some parameters belong to modules that cannot re-initialise themselves, and there is no name to
            build the net by; the message names the first.
    """
    with torch.no_grad(), seeded(seed, device_of(model)):
        fresh, stale = _reset_all(model)
        if stale:
            fresh = _rebuilt(model)
    if fresh is None:
        raise InputError(
            f"model: {stale[0]} ({len(stale)} in all) was not re-initialised: its module has no reset_parameters(); "
            "allowed: a model that was built by name, or modules with reset_parameters()"
        )
    return fresh.to(next(model.parameters()))


def _reset_all(model: nn.Module) -> tuple[nn.Module, list[str]]:
    """A copy after every module's own reset, and the names of the parameters that none of them reached."""
    fresh = copy_of(model).requires_grad_(True)
    for parameter in fresh.parameters():
        parameter.fill_(math.nan)
    for module in fresh.modules():
        for name in RESETS:
            if callable(getattr(module, name, None)):
                getattr(module, name)()
    return fresh, [name for name, parameter in fresh.named_parameters() if not parameter.isfinite().all()]


def _rebuilt(model: nn.Module) -> nn.Module | None:
    """A new net from the model's configuration or name; None if it has neither, or the name brings trained weights."""
    architecture = card_of(model).architecture or ""
    if type(model).__module__.startswith("transformers."):
        fresh = type(model)(copy.deepcopy(model.config))  # pyright: ignore[reportCallIssue]
    elif architecture and "pretrained" not in architecture:
        fresh = fresh_model(card_of(model))
    else:
        return None
    trained = {parameter.data_ptr() for parameter in model.parameters()}
    assert not any(parameter.data_ptr() in trained for parameter in fresh.parameters()), "storage was carried over"
    return fresh
