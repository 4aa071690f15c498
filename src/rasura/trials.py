"""Settings of a method that are tried one after another, until one forgets and keeps accuracy."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from rasura.data import Examples
from rasura.errors import InputError
from rasura.methods import Strength
from rasura.methods.contract import Method, Problem, UnchangedError, solve
from rasura.training import predict

BEYOND = 1 / 16
"""How far beyond the ends of a range the search believes it may go, so that the ends themselves are reached."""
FINEST = 1 / 32
"""Share of the range that is not searched any further."""


@dataclass(frozen=True)
class Trial:
    """One setting and what it did to the examples kept aside. Accuracies are 0..1, or None where the method failed.

    Attributes:
        setting: value of the method's strength field.
        position: where it lies in the field's range, 0 (weakest) to 1 (strongest).
        forget_accuracy: of the examples to forget.
        retain_accuracy: of the examples to keep.
        forget_excess: by how much forget accuracy exceeds what counts as forgotten; 0 if it does not.
        retain_excess: by how much the loss of retain accuracy exceeds the tolerance; 0 if it does not.
        seconds: wall-clock time of the method.
        error: why the method failed; empty if it did not.
        besides: values of other fields that were set too (`Strength.otherwise`).
    """

    setting: float
    position: float
    forget_accuracy: float | None = None
    retain_accuracy: float | None = None
    forget_excess: float = 1.0
    retain_excess: float = 1.0
    seconds: float = 0.0
    error: str = ""
    besides: dict[str, Any] = field(default_factory=dict)

    @property
    def reached(self) -> bool:
        """Whether it forgets and keeps accuracy."""
        return not (self.error or self.forget_excess or self.retain_excess)

    @property
    def too_weak(self) -> bool:
        """Whether forgetting fails by more than retaining does: the next setting must be stronger."""
        return self.forget_excess > self.retain_excess


@dataclass(frozen=True, eq=False)
class Task:
    """What all trials of a search share: the problem, and the examples and limits by which each is judged."""

    problem: Problem
    strength: Strength
    aside: dict[str, Examples]
    limits: dict[str, float]


@dataclass(frozen=True, eq=False)
class Tried:
    """A trial that gave a model."""

    trial: Trial
    method: Method
    model: nn.Module
    details: dict[str, Any]


def explore(task: Task, method: Method, budget: int) -> tuple[list[Trial], Tried | None]:
    """Try settings until the budget is spent or nothing is left to learn: every trial, and the best that worked."""
    trials: list[Trial] = []
    best: Tried | None = None

    def attempt(position: float, besides: dict[str, Any]) -> None:
        nonlocal best
        task.problem.progress("strength: settings", len(trials), budget)
        changed: Any = replace(method, **besides)  # pyright: ignore[reportArgumentType, reportCallIssue]
        if trials or position != own:  # the first is the method's own, not rounded
            changed = task.strength.applied(changed, position)
        one = _attempt(task, changed, position, besides)
        trials.append(one if isinstance(one, Trial) else one.trial)
        if isinstance(one, Tried) and (best is None or _rank(one.trial) < _rank(best.trial)):
            best = one

    own = task.strength.position(getattr(method, task.strength.field))
    for besides, share in _rounds(task.strength, method, budget):
        first, start = len(trials), best.trial.position if best else own
        while len(trials) < (share if best and not best.trial.reached else budget):
            if (position := _next(trials[first:], task.strength, start)) is None:
                break
            attempt(position, besides)
        if best and best.trial.reached:
            break
    while best and not best.trial.reached and len(trials) < budget:
        if (position := _beside(best.trial, trials, task.strength)) is None:
            break
        attempt(position, best.trial.besides)
    task.problem.progress("strength: settings", budget, budget)
    return trials, best


def _rounds(strength: Strength, method: Method, budget: int) -> Iterator[tuple[dict[str, Any], int]]:
    """Values of other fields, and how many trials there may be by the end of their round if it shows none that does."""
    usual: Any = type(method)()
    otherwise = dict(strength.otherwise)
    if not otherwise or any(getattr(method, name) != getattr(usual, name) for name in otherwise):
        yield {}, -(-3 * budget // 4)
    else:
        yield {}, -(-budget // 2)
        yield otherwise, -(-7 * budget // 8)


def _next(trials: list[Trial], strength: Strength, start: float | None) -> float | None:
    """The next position of a round; None if what is left of the range is too small to matter."""
    if not trials and start is not None:
        return start
    low = max((trial.position for trial in trials if trial.too_weak), default=-BEYOND)
    high = min((trial.position for trial in trials if not trial.too_weak and trial.position > low), default=1 + BEYOND)
    position = min(max((low + high) / 2, 0.0), 1.0)
    seen = {trial.setting for trial in trials}
    return None if high - low < FINEST or strength.at(position) in seen else position


def _beside(nearest: Trial, trials: list[Trial], strength: Strength) -> float | None:
    """The middle of the wider gap next to the nearest setting: strength and effect need not go together."""
    alike = [trial for trial in trials if trial.besides == nearest.besides]
    low = max((one.position for one in alike if one.position < nearest.position), default=-BEYOND)
    high = min((one.position for one in alike if one.position > nearest.position), default=1 + BEYOND)
    end = low if nearest.position - low > high - nearest.position else high
    position = min(max((nearest.position + end) / 2, 0.0), 1.0)
    seen = {trial.setting for trial in alike}
    return None if abs(end - nearest.position) < FINEST or strength.at(position) in seen else position


def _attempt(task: Task, method: Method, position: float, besides: dict[str, Any]) -> Tried | Trial:
    """Run the method once; the trial alone if it failed."""
    setting = getattr(method, task.strength.field)
    try:
        model, details, seconds = solve(task.problem, method)
        forget, retain = (accuracy(model, task.aside[part]) for part in ("forget", "retain"))
    except UnchangedError as error:
        return Trial(setting, position, retain_excess=0.0, error=str(error), besides=besides)
    except InputError as error:
        return Trial(setting, position, forget_excess=0.0, error=str(error), besides=besides)
    excess = max(0.0, forget - task.limits["forget"]), max(0.0, task.limits["retain"] - retain)
    trial = Trial(setting, position, forget, retain, *excess, round(seconds, 3), besides=besides)
    return Tried(trial, method, model, details)


def _rank(trial: Trial) -> tuple[bool, float]:
    """Smaller is better: the weakest setting that reached both, else that which missed by the least."""
    return not trial.reached, trial.position if trial.reached else trial.forget_excess + trial.retain_excess


def accuracy(model: nn.Module, examples: Examples) -> float:
    """Share of the examples that a model names rightly, 0..1."""
    logits = predict(model, examples)
    if not logits.isfinite().all():
        raise InputError("model: outputs became NaN or infinite; allowed: gentler settings")
    return (logits.argmax(1) == examples.labels).double().mean().item()
