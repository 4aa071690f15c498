"""The contract of a method: what it is given, what it returns, and the checks around every call."""

import copy
import time
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from rasura.class_order import check_order, ordered
from rasura.data import Data, Examples, Request, as_request, describe, resolve
from rasura.errors import InputError, check_seed, said
from rasura.methods._effect import alarms, measure_effect
from rasura.methods._found import method_class, name_of
from rasura.methods._history import earlier, remembered
from rasura.models import Card, card_of, save_model, with_card
from rasura.progress import Progress, reporting, silent
from rasura.training import Recipe, predict

Reads = Literal["forget", "retain"]


@dataclass(frozen=True, eq=False)
class Problem:
    """A trained model and what it must forget. A method sees only the examples that it declares to read.

    Attributes:
        model: the trained model. A method never changes it.
        forget: training examples to forget; None for a method that does not declare them.
        retain: training examples to keep; None for a method that does not declare them.
        forget_classes: numbers of the classes to forget; empty for a sample request.
        classes: number of classes K.
        seed: where all of a method's randomness comes from.
        progress: where progress goes.
        recipe: how the original was trained, as far as known; `retrain` starts from it.
        gone: numbers of the classes that earlier requests took: neither part has examples of them, and a method must
            lead none to them.
        names: of the classes; empty if they have none.
    """

    model: nn.Module
    forget: Examples
    retain: Examples
    forget_classes: tuple[int, ...]
    classes: int
    seed: int = 0
    progress: Progress = silent
    recipe: Recipe = field(default_factory=Recipe)
    gone: tuple[int, ...] = ()
    names: tuple[str, ...] = ()

    def copy_of_model(self) -> nn.Module:
        """A deep copy to work on, every parameter trainable."""
        return copy.deepcopy(self.model).requires_grad_(True)

    def require_classes(self, method: str) -> tuple[int, ...]:
        """The classes to forget.

        Raises:
            InputError: the request is for samples.
        """
        if not self.forget_classes:
            raise InputError(f"request: {method} cannot forget samples; allowed: ForgetClasses")
        return self.forget_classes

    def require_every_class(self) -> None:
        """Refuse a problem that has no example of some class.

        Raises:
            InputError: with the first such class; classes that are gone need none.
        """
        there = {*self.gone, *torch.cat([self.forget.labels, self.retain.labels]).tolist()}
        for number in sorted(set(range(self.classes)) - there):
            name = f" ({self.names[number]!r})" if self.names else ""
            raise InputError(f"data: class {number}{name} has no example; allowed: at least 1 of every class")


@runtime_checkable
class Method(Protocol):
    """A frozen dataclass whose fields are the hyperparameters; calling it solves a problem.

    It returns a new model and a record of JSON values; lines under its key "warnings" join the outcome's
    warnings. See `rasura.testing.check_method` for all it must keep. A class variable `strength: ClassVar[Strength]`
    names the field that `rasura.search_strength` may set.
    """

    reads: ClassVar[tuple[Reads, ...]]

    def __call__(self, problem: Problem) -> tuple[nn.Module, dict[str, Any]]: ...


class UnchangedError(InputError):
    """A method changed no weight."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """What `forget` returns.

    Attributes:
        model: the unlearned model, in eval mode.
        record: JSON values: method, settings, request, seed, the method's own record, accuracies before and after.
        seconds: wall-clock time of the method itself.
        warnings: lines a person should read, e.g. that nothing was forgotten.
    """

    model: nn.Module
    record: dict[str, Any]
    seconds: float
    warnings: tuple[str, ...]

    def save(self, folder: str | Path) -> None:
        """Write a model folder, whole or not at all; `model.json` keeps the record in the model's history."""
        save_model(self.model, folder)


def forget(
    model: nn.Module, data: Data, request: Request, method: Method, seed: int = 0, progress: Progress | None = None
) -> Outcome:
    """Make a trained model forget.

    Args:
        model: any trained classifier; it is not changed.
        data: what it was trained on. The held-out part is not looked at.
        request: `ForgetClasses` or `ForgetSamples`.
        method: one of `rasura.methods`, or your own dataclass that keeps the contract.
        seed: same seed, same bits on the CPU.
        progress: default: a bar on stderr for work of more than two seconds.

    Returns:
        The outcome. Its warnings say if forgetting had no effect or broke the model.

    Raises:
        InputError: a request or setting that cannot be served; weights that became NaN; a method that changed nothing.
    """
    check_seed(seed)
    method, asked = as_method(method), ordered(model, data, as_request(request))
    with reporting(progress) as report:
        problem = problem_of(model, asked.data, asked.request, seed, report)
        doubts = check_order(model, asked.data, problem.forget_classes, by_number=asked.by_number)
        result, own_record, seconds = solve(problem, method)
        outcome = outcome_of(problem, asked.data, asked.request, method, result, own_record, seconds)
    return replace(outcome, warnings=(*asked.warnings, *doubts, *outcome.warnings))


def problem_of(model: nn.Module, data: Data, request: Request, seed: int, progress: Progress) -> Problem:
    """A request on a model as a problem. What earlier requests in the model's history took is in neither part.

    Raises:
        InputError: a request that cannot be served, or data that the model does not fit.
    """
    resolve(request, data)  # a request that cannot be served is refused before the model runs
    check_fits(model, data)
    gone, taken = earlier(model, data)
    parts = resolve(request, data, taken)
    return Problem(
        model=model,
        forget=parts.forget,
        retain=parts.retain,
        forget_classes=parts.forget_classes,
        classes=len(data.classes),
        names=data.classes,
        gone=tuple(number for number in gone if number not in parts.forget_classes),
        seed=seed,
        progress=progress,
        recipe=Recipe.from_json(card_of(model).training.get("recipe", {})),
    )


def solve(problem: Problem, method: Method) -> tuple[nn.Module, dict[str, Any], float]:
    """Call a method and check its weights: the new model, the method's own record, and the seconds of the call.

    Raises:
        UnchangedError: no weight changed.
        InputError: settings that the problem does not allow; weights that became NaN.
    """
    begun = time.perf_counter()
    result, own_record = method(only_declared(method, problem))
    seconds = time.perf_counter() - begun
    _check_result(problem.model, result, method)
    return result, own_record, seconds


def outcome_of(
    problem: Problem,
    data: Data,
    request: Request,
    method: Method,
    result: nn.Module,
    details: dict[str, Any],
    seconds: float,
    **extra: Any,
) -> Outcome:
    """Measure the effect, write the record (and `extra`) into the model's history, and raise the alarms."""
    effect = measure_effect(problem.model, result, problem.forget, problem.retain, problem.seed)
    card = card_of(problem.model)
    record = {
        "method": name_of(method),
        "settings": asdict(method),  # pyright: ignore[reportArgumentType]
        "request": {"forget": describe(request, data), "classes": list(problem.forget_classes)},
        **remembered(request, data),
        "earlier": [entry["request"] for entry in card.history if "request" in entry],
        "seed": problem.seed,
        "effect": effect,
        "details": details,
        **extra,
    }
    with_card(result, card.after({**record, "seconds": round(seconds, 3)}))
    raised = *alarms(effect, bool(problem.forget_classes), data.classes), *details.get("warnings", ())
    return Outcome(result, record, seconds, raised)


def only_declared(method: Method, problem: Problem) -> Problem:
    """The problem without the examples that the method does not declare to read."""
    hidden: dict[str, Any] = {part: None for part in ("forget", "retain") if part not in method.reads}
    return replace(problem, **hidden)


def check_fits(model: nn.Module, data: Data, optional: Collection[int] = ()) -> None:
    """Whether the model takes the data's inputs and has one output per class.

    Args:
        model: a classifier.
        data: what it is to be used on.
        optional: numbers of classes that the model may have no outputs for, as one that was trained without them.

    Raises:
        InputError: wrong image size or channels, another preprocessing than the model was trained with, or another
            number of outputs.
    """
    card = card_of(model)
    inputs, _ = data.train.batch(torch.arange(min(2, len(data.train))))
    shape = tuple(inputs.shape[1:]) if isinstance(inputs, Tensor) else None
    if card.input_shape and shape and card.input_shape != shape:
        raise InputError(f"data: inputs of shape {shape}; allowed: {card.input_shape}, as the model was trained on")
    _check_preprocessing(card, data)
    outputs = predict(model, data.train.take(torch.arange(min(2, len(data.train))))).shape[1]
    if outputs not in (len(data.classes), len(data.classes) - len(set(optional))):
        raise InputError(f"model: {outputs} outputs; allowed: {len(data.classes)}, one per class of {data.name}")


def as_method(given: Any) -> Method:
    """A method as it is given; by its name or class, one with its default settings.

    Raises:
        InputError: anything else.

    >>> name_of(as_method("logit-mask"))
    'logit-mask'
    """
    if isinstance(given, str):
        return method_class(given)()
    kept = given() if isinstance(given, type) and is_dataclass(given) else given
    if not is_dataclass(kept) or isinstance(kept, type) or not isinstance(kept, Method):
        wanted = "a method of rasura.methods, its name, or a dataclass of your own (rasura.testing.check_method)"
        raise InputError(f"method: got {said(given)}; allowed: {wanted}")
    return kept


def _check_preprocessing(card: Card, data: Data) -> None:
    given: Any = data.train.transform
    mean: tuple[float, ...] = tuple(getattr(given, "mean", ()))
    std: tuple[float, ...] = tuple(getattr(given, "std", ()))
    if card.mean and mean and not _close((*card.mean, *card.std), (*mean, *std)):
        raise InputError(
            f"data: standardised with mean {mean} and std {std}; allowed: mean {card.mean} and std {card.std}, "
            "as the model was trained with"
        )


def _close(left: tuple[float, ...], right: tuple[float, ...]) -> bool:
    return len(left) == len(right) and all(abs(a - b) <= 1e-3 for a, b in zip(left, right, strict=True))


def _check_result(model: nn.Module, result: nn.Module, method: Method) -> None:
    before, after = model.state_dict(), result.state_dict()
    assert result is not model and before.keys() == after.keys(), "a method returns a new model with the same names"
    for name, tensor in after.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise InputError(f"{name_of(method)}: {name} became NaN or infinite; allowed: gentler settings")
    if all(torch.equal(before[name], after[name]) for name in before):
        raise UnchangedError(
            f"{name_of(method)}: no weight changed; allowed: settings or a request that change the model"
        )
