"""Small nets of our own, and loading of anyone's."""

from rasura.models.build import FAMILIES, build_model
from rasura.models.card import Card, card_of, hash_of_model, with_card
from rasura.models.complete import by_class, complete, own_outputs
from rasura.models.fresh import reinitialised
from rasura.models.load import fresh_model, load_model, save_model, to_card, write_model
from rasura.models.logits import MISFITS, device_of, logits_of, misfit, of_machine, to_device
from rasura.models.names import class_names_of, library_names, named
from rasura.models.text import TEXT_ZOO, for_data
from rasura.models.zoo import ZOO

__all__ = [
    "FAMILIES",
    "MISFITS",
    "TEXT_ZOO",
    "ZOO",
    "Card",
    "build_model",
    "by_class",
    "card_of",
    "class_names_of",
    "complete",
    "device_of",
    "for_data",
    "fresh_model",
    "hash_of_model",
    "library_names",
    "load_model",
    "logits_of",
    "misfit",
    "named",
    "of_machine",
    "own_outputs",
    "reinitialised",
    "save_model",
    "to_card",
    "to_device",
    "with_card",
    "write_model",
]
