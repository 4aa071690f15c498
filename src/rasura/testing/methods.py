"""The contract of a method as a check that anyone can call: `check_method(MyMethod())`."""

import copy
import functools
import json
from collections.abc import Sequence
from dataclasses import MISSING, asdict, fields, is_dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from rasura.data import Data, load_data
from rasura.methods import Strength
from rasura.methods.contract import Method, Problem, UndeclaredError, only_declared
from rasura.models import fresh_model, to_card, with_card
from rasura.randomness import seeded
from rasura.testing._watched import (
    PARTS,
    fingerprint,
    hooks_of,
    own_generators,
    portrait_of,
    quiet,
    recorded,
    same_bits,
    storage_of,
    tensors_of,
)
from rasura.training import Recipe, fit

PER_CLASS = 40
"""Training examples of each class in the small problem."""
BRIEFLY = Recipe(epochs=6, batch_size=32, learning_rate=0.01)


def check_method(method: Method, problem: Problem | None = None) -> None:
    """Check that a method keeps the contract; the first breach is an `AssertionError` that says what to do.

    The method is called two or three times on the CPU. Checked are:

    * it is a frozen dataclass, every field has a default, the settings are JSON values, and `reads` is a class
      variable that holds "forget", "retain", both or neither; a `strength`, if it has one, names a field;
    * it reads only the examples that it declares: it runs where the others are None, gives the same bits where they
      are there, and no row but theirs is ever fetched; labels and rows of the examples stay as they are;
    * randomness comes from the problem's seed alone: another state of the global generators (torch, numpy, random)
      gives the same bits, and leaves that state as it was;
    * the result is a new model that shares no memory with the one given: same class, same modules, same names, shapes
      and dtypes in the state dict, eval mode, no hook more than the given one has, no parametrisation, finite weights,
      and every parameter can be trained;
    * the model given is unchanged: weights and gradients bit for bit, modes, `requires_grad`, hooks, attributes;
    * nothing is printed, no file appears in the current folder, and each call of the progress callback has a label
      and 0 <= done <= total;
    * the record is a dict of finite JSON values.

    Args:
        method: the method with the settings to check.
        problem: what to solve; default: `small_problem()`.
    """
    _check_declaration(method)
    problem = problem or small_problem()
    labels = {part: fingerprint(getattr(problem, part)) for part in PARTS}
    first, record = _solved(method, problem, hidden=True, state=1)
    _check_record(record)
    _check_result(problem.model, first)
    again, _ = _solved(method, problem, hidden=True, state=2)
    assert same_bits(first, again), (
        "the same seed gave other weights from another state of the global generators; "
        "draw from torch.Generator().manual_seed(problem.seed)"
    )
    if set(method.reads) != set(PARTS):
        full, _ = _solved(method, problem, hidden=False, state=1)
        assert same_bits(first, full), "examples that `reads` does not declare changed the result; declare them"
    for part in PARTS:
        assert labels[part] == fingerprint(getattr(problem, part)), f"labels or rows of problem.{part} were changed"


def small_problem(
    architecture: str | nn.Module = "convnet,width=8", classes: Sequence[int] = (3,), seed: int = 0
) -> Problem:
    """A problem that is solved in a moment: a net trained briefly on 400 of scikit-learn's digits (8×8, ten classes).

    Args:
        architecture: a name that `rasura.build_model` takes, or a net for images `[B, 1, 8, 8]` with ten outputs, of
            which a copy is trained.
        classes: numbers of the classes to forget.
        seed: of initialisation, training and the problem.
    """
    data = _few_digits()
    if isinstance(architecture, str):
        model = copy.deepcopy(_briefly_trained(architecture, seed))
    else:
        model = with_card(fit(copy.deepcopy(architecture), data.train, BRIEFLY, seed), to_card(None, data))
    going = torch.isin(data.train.labels, torch.tensor(tuple(classes)))
    return Problem(
        model=model,
        forget=data.train.take(going),
        retain=data.train.take(~going),
        forget_classes=tuple(sorted(classes)),
        classes=len(data.classes),
        seed=seed,
        recipe=BRIEFLY,
    )


@functools.cache
def _few_digits() -> Data:
    data = load_data("digits")
    chosen = [(data.train.labels == number).nonzero()[:PER_CLASS, 0] for number in range(len(data.classes))]
    return replace(data, train=data.train.take(torch.cat(chosen)), name="few digits")


@functools.cache
def _briefly_trained(architecture: str, seed: int) -> nn.Module:
    with seeded(seed):
        model = fresh_model(to_card(architecture, _few_digits()))
    return fit(model, _few_digits().train, BRIEFLY, seed)


def _check_declaration(method: Any) -> None:
    kind = type(method)
    frozen = is_dataclass(kind) and kind.__dataclass_params__.frozen  # pyright: ignore[reportAttributeAccessIssue]
    assert frozen, f"{kind.__name__} is no frozen dataclass; decorate it with @dataclass(frozen=True)"
    names = [field.name for field in fields(method)]
    bare = [field.name for field in fields(method) if field.default is MISSING and field.default_factory is MISSING]
    assert not bare, f"field {bare[0]!r} has no default; state one in the dataclass"
    assert "reads" not in names, "`reads` is a field; annotate it as ClassVar"
    reads = getattr(kind, "reads", None)
    allowed = isinstance(reads, tuple) and set(reads) <= set(PARTS)
    assert allowed, f"`reads` is {reads!r}; make it a tuple of 'forget' and 'retain', or ()"
    strength = getattr(kind, "strength", None)
    if isinstance(strength, Strength):
        assert strength.field in names, f"`strength` names {strength.field!r}; name a field of the dataclass"
    assert _is_json(asdict(method)), f"the settings {asdict(method)} are no JSON values; use numbers and strings"


def _check_record(record: Any) -> None:
    assert isinstance(record, dict) and _is_json(record), (
        "the record is no dict of finite JSON values; turn tensors into numbers with .item() or .tolist()"
    )


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


def _check_result(given: nn.Module, result: Any) -> None:
    assert isinstance(result, nn.Module), f"the result is {type(result).__name__}; return a model and a record"
    assert type(result) is type(given), (
        f"the result is a {type(result).__name__}; return the model's own class, {type(given).__name__}"
    )
    _check_new(given, result)
    wrapped = [name for name, module in result.named_modules() if is_parametrized(module)]
    assert not wrapped, f"module {wrapped[0]!r} kept a parametrisation; remove it before you return"
    _check_state(given, result)
    kinds = [[(name, type(module)) for name, module in model.named_modules()] for model in (given, result)]
    assert kinds[0] == kinds[1], "modules of the result have other names or classes than the given model's"
    training = [name or "the model" for name, module in result.named_modules() if module.training]
    assert not training, f"{training[0]} is in training mode; return model.eval()"
    kept = [name for name, hooks in hooks_of(result).items() if hooks > hooks_of(given).get(name, 0)]
    assert not kept, f"{kept[0]} kept a hook; remove it before you return"
    stuck = [name for name, p in result.named_parameters() if not p.requires_grad or p.is_inference()]
    assert not stuck, f"parameter {stuck[0]!r} cannot be trained; undo requires_grad_(False) and inference mode"


def _check_new(given: nn.Module, result: nn.Module) -> None:
    assert result is not given, "the method returned the model it was given; work on problem.copy_of_model()"
    stored = {storage_of(tensor) for tensor in tensors_of(given).values() if tensor.numel()}
    shared = [name for name, tensor in tensors_of(result).items() if tensor.numel() and storage_of(tensor) in stored]
    assert not shared, f"{shared[0]} shares memory with the given model; work on problem.copy_of_model()"


def _check_state(given: nn.Module, result: nn.Module) -> None:
    before, after = given.state_dict(), result.state_dict()
    assert list(before) == list(after), (
        f"names in the state dict differ: {sorted(before.keys() ^ after.keys()) or 'another order'}; keep them"
    )
    for name, tensor in after.items():
        assert tensor.shape == before[name].shape, (
            f"{name} has shape {tuple(tensor.shape)}; keep {tuple(before[name].shape)}"
        )
        assert tensor.dtype == before[name].dtype, f"{name} has dtype {tensor.dtype}; keep {before[name].dtype}"
        finite = not tensor.is_floating_point() or bool(tensor.isfinite().all())
        assert finite, f"{name} holds NaN or infinite weights; raise an InputError in its place"


def _solved(method: Method, problem: Problem, hidden: bool, state: int) -> tuple[nn.Module, Any]:
    """One call of the method, with everything around it watched.

    Args:
        hidden: whether undeclared examples are refused.
        state: the seed of the global generators during the call.
    """
    watched, sources = recorded(problem)
    steps: list[tuple[Any, Any, Any]] = []
    watched = replace(watched, progress=lambda *step: steps.append(step))  # pyright: ignore[reportArgumentType]
    before = portrait_of(problem.model)
    with own_generators(state), quiet():
        try:
            solved = method(only_declared(method, watched) if hidden else watched)
        except UndeclaredError as error:
            raise AssertionError(str(error)) from error
    changed = [what for what, bits in portrait_of(problem.model).items() if before.get(what) != bits]
    assert not changed, f"the given model was changed: {changed[0]}; work on problem.copy_of_model()"
    for source in sources:
        assert source.read <= source.declared(method.reads), (
            "rows of the source were fetched that belong to no declared examples; read problem.forget and "
            "problem.retain only, and declare them in `reads`"
        )
    for step in steps:
        assert _is_step(step), f"progress was called with {step}; allowed: a label, and 0 <= done <= total"
    assert isinstance(solved, tuple) and len(solved) == 2, "the method returned no pair; return a model and a record"
    return solved


def _is_step(step: tuple[Any, ...]) -> bool:
    if len(step) != 3 or not isinstance(step[0], str) or not step[0]:
        return False
    return all(isinstance(number, int) for number in step[1:]) and 0 <= step[1] <= step[2]
