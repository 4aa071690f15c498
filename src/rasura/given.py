"""What the words of a command stand for: data, classes, requests, models, a search."""

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from rasura.data import Data, ForgetClasses, ForgetSamples, load_data, read_samples
from rasura.errors import InputError, each_once
from rasura.exits import say
from rasura.models import load_model, preprocessing_named, preprocessing_of, to_card
from rasura.models.adapters import merged, with_adapters
from rasura.options import Audit, Compare, Forget, Train
from rasura.strength import Search


def prepared_data(options: Train | Forget | Audit | Compare) -> Data:
    """Load the data that a command names, as its `preprocess` says; one line on stderr where the model decided.

    Raises:
        InputError: the model's own preprocessing is asked for where there is none, or where the data leave no choice.
    """
    if options.preprocess == "data":
        return load_data(options.data, held_out=options.held_out)
    if isinstance(options, Train):
        own = preprocessing_named(options.model)
    else:
        own = preprocessing_of(options.model, options.architecture)
    data = load_data(options.data, own, options.held_out)
    if own is not None and data.preprocessing:
        say(f"inputs are prepared by {own.said_by}; --preprocess data leaves it to the data")
    elif options.preprocess == "model":
        lacking = f"{options.model} brings none" if own is None else f"{options.data} comes as it is"
        raise InputError(f"preprocess: {lacking}; allowed: --preprocess data")
    return data


def named(data: Data, option: str, given: Sequence[str]) -> tuple[str, ...]:
    """The data's own names of classes, in their order."""
    names = each_once(option, [data.classes[data.class_numbers([one])[0]] for one in given])
    return tuple(data.classes[number] for number in data.class_numbers(names)) if names else ()


def requested(data: Data, options: Forget | Audit) -> ForgetClasses | ForgetSamples:
    """Classes or samples to forget."""
    if bool(options.forget) == (options.forget_samples is not None):
        given = "both" if options.forget else "neither"
        raise InputError(f"forget: {given} given; allowed: classes (--forget) or training examples (--forget-samples)")
    if options.forget_samples is not None:
        return read_samples(options.forget_samples, data)
    return ForgetClasses(named(data, "forget", options.forget))


def search_of(data: Data, options: Forget | Compare) -> Search | None:
    """How a strength is to be searched, if it is."""
    names = [name for name in ("budget", "forget_accuracy", "tolerance", "validation") if hasattr(options, name)]
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if not options.strength:
        for name, value in given.items():
            raise InputError(f"{name}: {value}; allowed: with --strength auto")
        return None
    if "validation" in given:
        given["validation"] = read_samples(given["validation"], data).indices
    return Search(**given)


def loaded(path: Path, options: Forget | Audit | Compare, data: Data) -> nn.Module:
    """The model in a folder or a file of weights."""
    named = options.architecture
    return load_model(path, named, like=to_card(named, data), trust=options.trust)


def all_loaded(option: str, options: Audit | Compare, data: Data) -> list[nn.Module]:
    """The models of an option that takes several, none of them twice."""
    paths = each_once(option, [path.resolve() for path in getattr(options, option)])
    return [loaded(path, options, data) for path in paths]


def adapted(model: nn.Module, folders: Sequence[Path]) -> nn.Module:
    """The model with stored adapters folded in."""
    return merged(with_adapters(model, folders)) if folders else model
