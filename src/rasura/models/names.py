"""What a model calls its outputs."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from rasura.models.card import card_of, with_card


def class_names_of(model: nn.Module) -> tuple[str, ...]:
    """The names of a model's outputs in their order, as far as it knows them itself; empty if it does not.

    They are those of its card, else those that its library keeps (see `library_names`). A head that the user has put on
    since may have another number of outputs.
    """
    return card_of(model).classes or library_names(model)


def library_names(model: nn.Module) -> tuple[str, ...]:
    """The names in a Hugging Face model's configuration (`id2label`) or in timm's (`label_names`).

    "LABEL_0", "LABEL_1" and so on, which transformers makes up, are none.
    """
    named = getattr(getattr(model, "config", None), "id2label", None)
    if isinstance(named, Mapping) and named:
        by_number = {str(number): str(name) for number, name in named.items()}
        names = tuple(by_number.get(str(number), "") for number in range(len(by_number)))
        made_up = all(name == f"LABEL_{number}" for number, name in enumerate(names))
        return () if made_up or not all(names) else names
    for field in ("pretrained_cfg", "default_cfg"):
        settings: Any = getattr(model, field, None)
        labels = settings.get("label_names") if isinstance(settings, Mapping) else None
        if isinstance(labels, (list, tuple)):
            return tuple(map(str, labels))
    return ()


def named(model: nn.Module, classes: Sequence[str]) -> nn.Module:
    """The same module, whose card and Hugging Face configuration now name the outputs so."""
    config: Any = getattr(model, "config", None)
    if isinstance(getattr(config, "id2label", None), Mapping):
        config.id2label = dict(enumerate(classes))
        config.label2id = {name: number for number, name in enumerate(classes)}
    return with_card(model, replace(card_of(model), classes=tuple(classes)))
