"""The data of a command, prepared as the model brings it along or as the data themselves suggest."""

import sys

from rasura.data import Data, load_data
from rasura.errors import InputError
from rasura.models import preprocessing_named, preprocessing_of
from rasura.options import Audit, Compare, Forget, Train


def prepared_data(options: Train | Forget | Audit | Compare) -> Data:
    """Load the data that a command names, as its `preprocess` says; one line on stderr where the model decided.

    Raises:
        InputError: the model's own preprocessing is asked for where there is none, or where the data leave no choice.
    """
    if options.preprocess == "data":
        return load_data(options.data)
    if isinstance(options, Train):
        own = preprocessing_named(options.model)
    else:
        own = preprocessing_of(options.model, options.architecture)
    data = load_data(options.data, own)
    if own is not None and data.preprocessing:
        print(f"rasura: inputs are prepared by {own.said_by}; --preprocess data leaves it to the data", file=sys.stderr)
    elif options.preprocess == "model":
        lacking = f"{options.model} brings none" if own is None else f"{options.data} comes as it is"
        raise InputError(f"preprocess: {lacking}; allowed: --preprocess data")
    return data
