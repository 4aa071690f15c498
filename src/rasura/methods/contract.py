"""The contract of a method: what it is given, what it returns, and the checks around every call."""

import time
from collections.abc import Collection
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rasura.class_order import check_order, ordered
from rasura.data import Data, Request, as_request, describe, resolve
from rasura.errors import InputError, check_seed, said
from rasura.methods._effect import alarms, measure_effect
from rasura.methods._found import method_class, name_of
from rasura.methods._history import earlier, remembered
from rasura.methods._problem import Method, Problem, Reads, UndeclaredError, only_declared
from rasura.models import Card, card_of, check_weights, remembering_inputs, save_model, with_card
from rasura.progress import Progress, reporting
from rasura.training import Recipe, predict

__all__ = [
    "Method",
    "Outcome",
    "Problem",
    "Reads",
    "UnchangedError",
    "UndeclaredError",
    "as_method",
    "check_fits",
    "forget",
    "method_class",
    "name_of",
    "only_declared",
    "outcome_of",
    "problem_of",
    "solve",
]


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
    solved: Any = method(only_declared(method, problem))
    seconds = time.perf_counter() - begun
    result, own_record = _two_of(solved, method)
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
    card = remembering_inputs(card_of(problem.model), data)
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


def check_fits(model: nn.Module, data: Data, optional: Collection[int] = ()) -> None:
    """Whether the model takes the data's inputs and has one output per class.

    Args:
        model: a classifier.
        data: what it is to be used on.
        optional: numbers of classes that the model may have no outputs for, as one that was trained without them.

    Raises:
        InputError: weights of an unusable kind, wrong image size or channels, another preprocessing than the model was
            trained with, or another number of outputs.
    """
    card = card_of(model)
    check_weights(model)
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
    if data.preprocessing and card.preprocessing not in (None, data.preprocessing):
        raise InputError(
            f"data: inputs prepared by another {', '.join(data.preprocessing)} than the model was made with; allowed: "
            "load_data(…, preprocessing_of(model))"
        )


def _close(left: tuple[float, ...], right: tuple[float, ...]) -> bool:
    return len(left) == len(right) and all(abs(a - b) <= 1e-3 for a, b in zip(left, right, strict=True))


def _two_of(solved: Any, method: Method) -> tuple[nn.Module, dict[str, Any]]:
    """What a method returned: the new model and its record."""
    kinds = [type(one) for one in solved] if isinstance(solved, tuple) else []
    if len(kinds) != 2 or not (issubclass(kinds[0], nn.Module) and issubclass(kinds[1], dict)):
        raise InputError(f"{name_of(method)}: returned {said(solved)}; allowed: a model and a dict of JSON values")
    return solved[0], solved[1]


def _check_result(model: nn.Module, result: nn.Module, method: Method) -> None:
    before, after = model.state_dict(), result.state_dict()
    if result is model or before.keys() != after.keys():
        raise InputError(f"{name_of(method)}: returned another net, or the one it was given; allowed: a changed copy")
    for name, tensor in after.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise InputError(f"{name_of(method)}: {name} became NaN or infinite; allowed: gentler settings")
    if all(torch.equal(before[name], after[name]) for name in before):
        raise UnchangedError(
            f"{name_of(method)}: no weight changed; allowed: settings or a request that change the model"
        )
