"""What examples are (`Data`, `Examples`), what is to be forgotten (requests), and where data comes from (sources)."""

from rasura.data.dataset import Data, hash_of_data, input_shape
from rasura.data.examples import Examples, Standardise, examples_from
from rasura.data.preprocessing import ModelsOwn, OwnTokenizer, Preprocessing
from rasura.data.requests import ForgetClasses, ForgetSamples, Parts, Request, describe, mask_of, read_samples, resolve
from rasura.data.sources import DATA_SOURCES, load_data

__all__ = [
    "DATA_SOURCES",
    "Data",
    "Examples",
    "ForgetClasses",
    "ForgetSamples",
    "ModelsOwn",
    "OwnTokenizer",
    "Parts",
    "Preprocessing",
    "Request",
    "Standardise",
    "describe",
    "examples_from",
    "hash_of_data",
    "input_shape",
    "load_data",
    "mask_of",
    "read_samples",
    "resolve",
]
