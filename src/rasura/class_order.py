"""Which class each of a model's outputs means: by the names that it keeps, and by what it answers."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rasura.data import Data, Examples, ForgetClasses, Request, asked_in, in_order, listed, matched, only_numbered
from rasura.errors import InputError, expect
from rasura.models import brings_weights, card_of, class_names_of, library_names
from rasura.training import predict

LOOKED, MOST_CLASSES = 256, 32
"""Training examples whose answers are looked at, and how many classes they are of."""
SURE = 4.0
"""Standard errors by which other names must explain the answers better than the data's own."""
HARDLY = 0.05
"""Accuracy on a class at which a model hardly knows it; at chance, where that is more."""
UNLIKELY = 0.01
"""Chance of so low an accuracy on a class, were it known as well as others, below which it is no accident."""


@dataclass(frozen=True, eq=False)
class Ordered:
    """Data and request in the order of a model's outputs.

    Attributes:
        data: whose labels are numbers of the model's outputs.
        request: for these data.
        warnings: what a person should know of the order.
        by_number: whether the data name no class, so that their numbers were taken for those of the outputs.
    """

    data: Data
    request: Request
    warnings: tuple[str, ...] = ()
    by_number: bool = False


def ordered(model: nn.Module, data: Data, request: Request) -> Ordered:
    """Data and request as the model counts its classes; as they are where it keeps no names, or the data's.

    Raises:
        InputError: the data have a class that the model does not name, or the request one that neither knows.
    """
    expect("model", model, nn.Module, "an nn.Module that maps a batch to logits")
    expect("data", data, Data, "a rasura.Data (Data.from_tensors, Data.from_datasets, load_data)")
    names = _names_of_outputs(model, data)
    if not names:
        return Ordered(data, request)
    turned = in_order(data, names)
    asked = asked_in(request, data, turned)
    first = asked.classes if isinstance(asked, ForgetClasses) else ()
    return Ordered(turned, asked, order_warnings(data, turned, first), only_numbered(data, names))


def in_order_of_pretrained(model: nn.Module, data: Data) -> Data:
    """The data in the order of a model that brings the names of these very classes with it from its pretraining."""
    names = library_names(model)
    same = len(matched(data.classes, names)) == len(data.classes) == len(names)
    return in_order(data, names) if same else data


def check_never_saw(without: Sequence[str], model: nn.Module, architecture: str) -> None:
    """Refuse to train without classes what starts from weights that were trained with them."""
    seen = [without[number] for number in matched(without, library_names(model))]
    if seen and brings_weights(architecture):
        name = architecture.partition(",")[0]
        raise InputError(
            f"without: {listed(seen)}; allowed: classes that the weights of {name} were not trained with, or an "
            f"untrained net, {name},pretrained=false"
        )


def order_warnings(data: Data, turned: Data, first: Collection[str | int] = ()) -> tuple[str, ...]:
    """What a person should know of data that were brought into another order; nothing if they were not.

    Args:
        data: as they were.
        turned: as they are now.
        first: classes of `turned` to name before others.
    """
    if turned is data:
        return ()
    how = "were matched by name"
    if only_numbered(data, turned.classes):
        how = f"have no names in {data.name}, so that their numbers were taken for the model's"
    elif len(turned.classes) > len(data.classes):
        how = f"were matched by name; {len(turned.classes) - len(data.classes)} of the model's have no examples"
    return (f"classes: the model counts them otherwise than {data.name}; they {how}: {_moved(data, turned, first)}",)


def places(model: nn.Module, data: Data, outputs: int, lacking: Collection[int] = ()) -> list[int]:
    """The class in `data` of each of a model's outputs.

    Args:
        model: a classifier.
        data: whose order counts.
        outputs: how many it has: one per class, or one per class but for those in `lacking`.
        lacking: numbers of classes that it may have no outputs for, as one that was trained without them.

    Raises:
        InputError: it names its outputs, and not as the data do.
    """
    names = class_names_of(model)
    if len(names) != outputs or names == data.classes or only_numbered(data, names):
        return [number for number in range(len(data.classes)) if outputs == len(data.classes) or number not in lacking]
    place = matched(names, data.classes)
    unknown = [name for at, name in enumerate(names) if at not in place]
    missing = [name for at, name in enumerate(data.classes) if at not in {*place.values(), *lacking}]
    if unknown or missing:
        what = f"names {listed(unknown)}" if unknown else f"names no {listed(missing)}"
        raise InputError(f"classes: a model {what}; allowed: those of {data.name}, {listed(data.classes)}")
    return list(place.values())


def check_order(
    model: nn.Module,
    data: Data,
    forget: Sequence[int] = (),
    lacking: Collection[int] = (),
    by_number: bool = False,
) -> tuple[str, ...]:
    """Whether the model's answers to some training examples fit the names of the classes: what a person should know.

    Args:
        model: a classifier with an output per class.
        data: in the model's order, as far as that is known.
        forget: numbers of the classes to forget.
        lacking: numbers of the classes that it was trained without.
        by_number: see `Ordered`; then it must answer better than by chance.

    Raises:
        InputError: other names explain the answers, as a whole or for a class to forget.
    """
    gone = {*lacking, *_forgotten(model)}
    look = _Look.at(model, data, forget, [number for number in range(len(data.classes)) if number not in gone])
    if by_number and look.share <= look.chance:
        raise InputError(
            f"classes: {data.name} names none, and by number the model is right for {look.share:.0%} of the training "
            f"examples; allowed: data that name their classes as the model does, {listed(data.classes)}"
        )
    doubts = [*_wholesale(look, data)]
    for number in (one for one in forget if one not in gone):
        doubts += _unknown_class(look, model, data, number, gone)
    return tuple(doubts)


@dataclass(frozen=True, eq=False)
class _Look:
    """What a model said of some training examples: their classes `[n]`, and the answers `[n]`."""

    labels: Tensor
    said: Tensor

    @staticmethod
    def at(model: nn.Module, data: Data, first: Sequence[int], others: Sequence[int]) -> "_Look":
        """The first of these classes, and some of the others from all over, in equal parts."""
        there = set(data.train.labels.unique().tolist())
        chosen = [number for number in dict.fromkeys([*first, *others]) if number in there]
        step = max(1, -(-len(chosen) // MOST_CLASSES))
        chosen = [*chosen[: len(first)], *chosen[len(first) :: step]][:MOST_CLASSES]
        return _Look.of(model, data.train, chosen, max(2, LOOKED // max(1, len(chosen))))

    @staticmethod
    def of(model: nn.Module, examples: Examples, numbers: Sequence[int], each: int) -> "_Look":
        rows = [(examples.labels == number).nonzero()[:, 0] for number in numbers]
        spread = [one[torch.linspace(0, len(one) - 1, min(each, len(one))).long()] for one in rows]
        if not spread:
            return _Look(torch.empty(0).long(), torch.empty(0).long())
        chosen = examples.take(torch.cat(spread))
        return _Look(chosen.labels, predict(model, chosen).argmax(1))

    @property
    def right(self) -> Tensor:
        return self.said == self.labels

    @property
    def share(self) -> float:
        """Accuracy, 0..1; 0 without examples."""
        return self.right.double().sum().item() / max(1, len(self.labels))

    @property
    def chance(self) -> float:
        """What an answer that does not depend on the input gets, with two standard errors."""
        share = 1 / max(1, len(self.labels.unique()))
        return share + 2 * (share * (1 - share) / max(1, len(self.labels))) ** 0.5

    def among(self, mask: Tensor) -> "_Look":
        return _Look(self.labels[mask], self.said[mask])


def _wholesale(look: _Look, data: Data) -> Iterator[str]:
    """A renaming of the outputs, found on every other example, that is right for far more of the rest."""
    if not len(look.labels):
        return
    names, renamed = _renamed(look, len(data.classes))
    gained, lost = int((renamed & ~look.right).sum()), int((look.right & ~renamed).sum())
    better = renamed.double().mean().item()
    if look.share >= better / 2 or gained - lost <= SURE * (gained + lost) ** 0.5:
        return
    wrong = [f"{data.classes[n]!r} {data.classes[said]!r}" for n, said in names.items() if n != said][:3]
    found = (
        f"the model calls most of {', of '.join(wrong)}: with its outputs renamed it is right for {better:.0%} of the "
        f"training examples, as they stand for {look.share:.0%}"
    )
    chance = 1 / len(data.classes)
    if better >= (1 + chance) / 2:
        raise InputError(
            f"classes: {found}; allowed: classes in the order of the model's outputs, or a model that names them"
        )
    yield f"classes: {found}; is it the model of these data?"


def _renamed(look: _Look, classes: int) -> tuple[dict[int, int], Tensor]:
    """The answer that stands for each class, each once, and whether it is an example's, by a renaming without it."""
    from scipy.optimize import linear_sum_assignment

    numbers = torch.tensor(list(dict.fromkeys(look.labels.tolist())))
    rows = (look.labels[:, None] == numbers).long().argmax(1)
    halves, renamed = torch.arange(len(rows)) % 2, torch.zeros(len(rows), dtype=torch.bool)
    answer = torch.zeros(len(numbers), dtype=torch.int64)
    for used, scored in ((halves == 0, halves == 1), (halves == 1, halves == 0), (halves < 2, halves > 1)):
        counts = torch.zeros(len(numbers), classes, dtype=torch.int64)
        counts.index_put_((rows[used], look.said[used]), torch.tensor(1), accumulate=True)
        answer = torch.from_numpy(linear_sum_assignment(-counts.numpy())[1])
        renamed[scored] = look.said[scored] == answer[rows[scored]]
    return dict(zip(numbers.tolist(), answer.tolist(), strict=True)), renamed


def _unknown_class(look: _Look, model: nn.Module, data: Data, number: int, gone: set[int]) -> Iterator[str]:
    """A class that the model hardly names, though it names others: forgotten, or known under another name."""
    from scipy.stats import binom

    own, chance = look.among(look.labels == number), 1 / len(data.classes)
    if not len(own.labels) or own.share > max(chance, HARDLY):
        return
    answer = int(own.said.mode().values)
    others = look.among((look.labels != number) & (look.labels != answer))
    if others.share < (1 + chance) / 2:
        return
    if binom.cdf(int(own.right.sum()), len(own.labels), min(others.share, 0.95)) >= UNLIKELY:
        return
    called, name = int((own.said == answer).sum()) / len(own.said), data.classes[number]
    found = f"the model names {own.share:.0%} of the training examples of {name!r}, {others.share:.0%} of the others"
    there = _Look.of(model, data.train, [answer], LOOKED // MOST_CLASSES)
    if called >= 0.5 and answer not in gone and len(there.labels) and there.share < 0.5:
        raise InputError(
            f"classes: {found}, and calls {called:.0%} {data.classes[answer]!r}, whose own it does not; allowed: "
            "classes in the order of the model's outputs, or a model that names them"
        )
    yield f"classes: {found}; has it forgotten the class already, or is it not the model of these data?"


def _names_of_outputs(model: nn.Module, data: Data) -> tuple[str, ...]:
    """The names that a model keeps, if it has an output for each; nothing to ask where they are the data's."""
    names = class_names_of(model)
    if not names or names == data.classes:
        return ()
    outputs = predict(model, data.train.take(torch.arange(min(2, len(data.train))))).shape[1]
    return names if outputs == len(names) else ()


def _forgotten(model: nn.Module) -> set[int]:
    requests = [entry.get("request") for entry in card_of(model).history]
    return {number for one in requests if isinstance(one, dict) for number in one.get("classes", ())}


def _moved(data: Data, turned: Data, first: Collection[str | int], most: int = 3) -> str:
    """Some classes whose numbers or names are others now, those in `first` before others."""
    place = matched(data.classes, turned.classes)
    asked_first = sorted(place.items(), key=lambda pair: turned.classes[pair[1]] not in first)
    moved = [
        f"{data.classes[at]!r} is output {to}" for at, to in asked_first if at != to or turned.classes[to] in first
    ]
    moved = moved or [f"{at} is {name!r}" for at, name in enumerate(turned.classes)]
    return ", ".join(moved[:most]) + (f", … ({len(moved)} in all)" if len(moved) > most else "")
