"""What examples are (`Data`, `Examples`), what is to be forgotten (requests), and where data comes from (sources)."""

from rasura.data.dataset import Data, hash_of_data, identity_of_data, input_shape
from rasura.data.examples import Examples, Standardise, examples_from
from rasura.data.requests import ForgetClasses, ForgetSamples, Parts, Request, describe, mask_of, read_samples, resolve
from rasura.data.sources import DATA_SOURCES, load_data
from rasura.data.tensors import are_images, unusable

__all__ = [
    "DATA_SOURCES",
    "Data",
    "Examples",
    "ForgetClasses",
    "ForgetSamples",
    "Parts",
    "Request",
    "Standardise",
    "are_images",
    "describe",
    "examples_from",
    "hash_of_data",
    "identity_of_data",
    "input_shape",
    "load_data",
    "mask_of",
    "read_samples",
    "resolve",
    "unusable",
]
