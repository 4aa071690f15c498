"""What examples are (`Data`, `Examples`), what is to be forgotten (requests), and where data comes from (sources)."""

from rasura.data.dataset import Data, hash_of_data, identity_of_data, input_shape
from rasura.data.examples import Examples, Standardise, examples_from
from rasura.data.names import listed, matched
from rasura.data.order import asked_in, in_order, only_numbered
from rasura.data.preprocessing import ModelsOwn, OwnTokenizer, Preprocessing
from rasura.data.requests import (
    ForgetClasses,
    ForgetSamples,
    Parts,
    Request,
    as_request,
    describe,
    mask_of,
    read_samples,
    resolve,
)
from rasura.data.sources import DATA_SOURCES, load_data
from rasura.data.tensors import are_images, unusable

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
    "are_images",
    "as_request",
    "asked_in",
    "describe",
    "examples_from",
    "hash_of_data",
    "identity_of_data",
    "in_order",
    "input_shape",
    "listed",
    "load_data",
    "mask_of",
    "matched",
    "only_numbered",
    "read_samples",
    "resolve",
    "unusable",
]
