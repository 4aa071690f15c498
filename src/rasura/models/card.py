"""What is known of a model: how to build it, what it was trained on, what it was told to forget.

The card travels with the module as one attribute, so that it survives a deep copy and reaches `model.json`.
"""

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from torch import nn

from rasura.errors import InputError
from rasura.identity import hash_of_tensors

_ATTRIBUTE = "_rasura_card"


@dataclass(frozen=True)
class Card:
    """How to build a model and where it comes from.

    Attributes:
        architecture: a name that `build_model` takes; None for a module from the user's own code.
        classes: the names of the classes, in the order of the outputs; empty if unknown.
        input_shape: one input without the batch dimension, e.g. (1, 28, 28); None if unknown.
        mean: per channel, what was subtracted from the inputs; empty if nothing is known.
        std: per channel, what the inputs were divided by.
        data: the name of the data it was trained on.
        training: recipe, seed and left-out classes, for the record.
        history: one entry per forgetting, oldest first.
        preprocessing: the settings of the model's own preprocessing, if that makes its inputs; empty if the data make
            them; None if nothing is known.
    """

    architecture: str | None = None
    classes: tuple[str, ...] = ()
    input_shape: tuple[int, ...] | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    data: str = ""
    training: dict[str, Any] = field(default_factory=dict)
    history: tuple[dict[str, Any], ...] = ()
    preprocessing: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """The card as JSON values."""
        return asdict(self)

    @staticmethod
    def from_json(content: Any) -> "Card":
        """The card that `to_json` wrote.

        Raises:
            InputError: fields are missing, unknown or of another type.
        """
        try:
            known = {"preprocessing": {}} | content  # older cards are of models that took the data's
            known = {name: known[name] for name in Card.__dataclass_fields__}
            if content.get("format", 1) != 1:
                raise ValueError(f"format {content['format']!r}, not 1")
            shape = known["input_shape"]
            if not all(isinstance(known[name], list) for name in ("classes", "mean", "std", "history")):
                raise TypeError("classes, mean, std, history: lists")
            if shape is not None and not all(side >= 1 for side in shape):
                raise ValueError("input_shape: sides of 1 or more")
            return Card(
                architecture=None if known["architecture"] is None else str(known["architecture"]),
                classes=tuple(str(name) for name in known["classes"]),
                input_shape=None if shape is None else tuple(int(side) for side in shape),
                mean=tuple(float(value) for value in known["mean"]),
                std=tuple(float(value) for value in known["std"]),
                data=str(known["data"]),
                training=dict(known["training"]),
                history=tuple(dict(entry) for entry in known["history"]),
                preprocessing=None if known["preprocessing"] is None else dict(known["preprocessing"]),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InputError(f"model.json: not a model card ({error!r}); allowed: a file as rasura wrote it") from None

    def after(self, entry: dict[str, Any]) -> "Card":
        """The card with one more forgetting in its history."""
        return replace(self, history=(*self.history, entry))


def card_of(model: nn.Module) -> Card:
    """The model's card; an empty one for a module that has none."""
    return getattr(model, _ATTRIBUTE, Card())


def with_card(model: nn.Module, card: Card) -> nn.Module:
    """The same module, now carrying `card`."""
    setattr(model, _ATTRIBUTE, card)
    return model


def hash_of_model(model: nn.Module) -> str:
    """The hash of the weights: SHA-256 of all weights and buffers, with their names, dtypes and shapes.

    It says whether two models hold the same numbers, not whether they compute the same: see `identity_of_model`.
    """
    return hash_of_tensors(sorted(model.state_dict().items()))
