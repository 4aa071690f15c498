"""Small nets of our own, and loading of anyone's."""

from rasura.models.build import FAMILIES, brings_weights, build_model
from rasura.models.card import Card, card_of, hash_of_model, with_card
from rasura.models.complete import by_class, complete, own_outputs
from rasura.models.copies import copy_of, settle_weight, unwrapped
from rasura.models.fresh import reinitialised
from rasura.models.identity import identity_of_model
from rasura.models.load import fresh_model, load_model, remembering_inputs, save_model, to_card, write_model
from rasura.models.logits import MISFITS, check_weights, device_of, logits_of, misfit, of_machine, to_device
from rasura.models.names import class_names_of, library_names, named
from rasura.models.preprocessing import preprocessing_named, preprocessing_of
from rasura.models.text import TEXT_ZOO, for_data
from rasura.models.zoo import ZOO

__all__ = [
    "FAMILIES",
    "MISFITS",
    "TEXT_ZOO",
    "ZOO",
    "Card",
    "brings_weights",
    "build_model",
    "by_class",
    "card_of",
    "check_weights",
    "class_names_of",
    "complete",
    "copy_of",
    "device_of",
    "for_data",
    "fresh_model",
    "hash_of_model",
    "identity_of_model",
    "library_names",
    "load_model",
    "logits_of",
    "misfit",
    "named",
    "of_machine",
    "own_outputs",
    "preprocessing_named",
    "preprocessing_of",
    "reinitialised",
    "remembering_inputs",
    "save_model",
    "settle_weight",
    "to_card",
    "to_device",
    "unwrapped",
    "with_card",
    "write_model",
]
