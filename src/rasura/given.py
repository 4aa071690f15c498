"""What the words of a command stand for: classes, requests, models, a search."""

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from rasura.data import Data, ForgetClasses, ForgetSamples, read_samples
from rasura.errors import InputError, each_once
from rasura.models import load_model, to_card
from rasura.models.adapters import merged, with_adapters
from rasura.options import Audit, Compare, Forget
from rasura.strength import Search


def named(data: Data, option: str, given: Sequence[str]) -> tuple[str, ...]:
    """Names of classes, in their order; a number that is not itself a name stands for the class at that place."""
    numbered = [int(one) if one.isdecimal() and len(one) < 10 and one not in data.classes else one for one in given]
    names = each_once(option, [data.classes[data.class_numbers([one])[0]] for one in numbered])
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


def loaded(path: Path, architecture: str | None, data: Data) -> nn.Module:
    """The model in a folder or a file of weights."""
    return load_model(path, architecture, like=to_card(architecture, data))


def all_loaded(option: str, paths: Sequence[Path], architecture: str | None, data: Data) -> list[nn.Module]:
    """Models that stand beside each other, none of them twice."""
    each_once(option, [path.resolve() for path in paths])
    return [loaded(path, architecture, data) for path in paths]


def adapted(model: nn.Module, folders: Sequence[Path]) -> nn.Module:
    """The model with stored adapters folded in."""
    return merged(with_adapters(model, folders)) if folders else model
