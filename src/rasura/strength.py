"""Strength search: the weakest setting with which a method forgets, found on training examples that are kept aside."""

from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor, nn

from rasura.class_order import check_order, ordered
from rasura.data import Data, Examples, Request, as_request, mask_of
from rasura.errors import InputError, check_seed, expect
from rasura.kinds import checked_kinds
from rasura.methods import Strength
from rasura.methods.contract import (
    Method,
    Outcome,
    Problem,
    as_method,
    name_of,
    outcome_of,
    problem_of,
)
from rasura.progress import Progress, reporting
from rasura.trials import Task, Trial, accuracy, explore

FORGOTTEN = 0.01
"""Accuracy on a class that was never seen stays below this; the audit holds retrained references to it too."""


@checked_kinds
@dataclass(frozen=True)
class Search:
    """What a strength is searched for, and how long.

    Attributes:
        budget: settings that are tried, at most. 1 or more.
        forget_accuracy: accuracy on the examples to forget, at most, that counts as forgotten. 0 up to, not including,
            1; by default `FORGOTTEN` for classes, as a retrained model does not name what it never saw. For samples, on
            which a retrained model is as good as on unseen examples: the original's accuracy on unseen examples of
            their classes, and the tolerance. Canaries, whose labels are wrong, need less than that.
        tolerance: loss of accuracy on the examples to keep that is accepted. 0 up to, not including, 1.
        validation: share of the training examples of each class that is kept aside, above 0, up to 0.5; or their
            positions in the training data: better, where there are examples that the model was not trained on.
    """

    budget: int = 8
    forget_accuracy: float | None = None
    tolerance: float = 0.02
    validation: float | tuple[int, ...] = 0.2

    def __post_init__(self) -> None:
        if not isinstance(self.budget, int) or self.budget < 1:
            raise InputError(f"budget: {self.budget!r}; allowed: a whole number, 1 or more")
        for name in ("forget_accuracy", "tolerance"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise InputError(f"{name}: {value}; allowed: 0 up to, not including, 1")
        share = isinstance(self.validation, float) and 0 < self.validation <= 0.5
        if not share and not isinstance(self.validation, tuple):
            raise InputError(f"validation: {self.validation}; allowed: above 0, up to 0.5, or a tuple of positions")


def search_strength(
    model: nn.Module,
    data: Data,
    request: Request,
    method: Method,
    search: Search | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Outcome:
    """`forget` with the weakest setting of the method's strength field that forgets and keeps accuracy.

    A share of the training examples is kept aside; the method sees the others only, and each setting is judged by those
    aside (a request for samples is judged by the samples themselves, as all of them must be forgotten). By the held-out
    part of the data, by which an audit judges, no setting is judged; for samples it gives one number, the original's
    accuracy on unseen examples, unless `Search.validation` names some. Where the model was trained on the examples
    aside and the method was not, the loss of accuracy there is overstated; `Search.validation` takes positions of
    examples that were left out of training, where nothing is.

    Settings are halved in on: the first is the method's own, and each failure says whether the next must be stronger or
    weaker, by which of the two it misses by more. If half of the budget shows none that does, the fields that the
    method names as `otherwise` are changed too, unless the user has set one. Strength and effect need not go together
    (an ascent that stops when it has forgotten may do less harm with longer steps), so what is left of the budget is
    spent on both sides of the nearest setting. One that would do may still be missed.

    Args:
        model: any trained classifier; it is not changed.
        data: what it was trained on.
        request: what is to be forgotten.
        method: a method with a `strength`; its other fields stay, save those of `otherwise`.
        search: what counts as forgotten, tolerance and budget.
        seed: of the split, and of every trial.
        progress: default: a bar on stderr.

    Returns:
        The outcome with the very model that was judged. Its record has every trial under "search"; if no
        setting forgets within the tolerance, the first warning says by how much the nearest one missed.

    Raises:
        InputError: a method without strength, samples of whose classes there is no unseen example, positions to
            validate on that leave a part without examples, or a method that failed with every setting that was tried.
    """
    check_seed(seed)
    method, asked = as_method(method), ordered(model, data, as_request(request))
    search = Search() if search is None else search
    expect("search", search, Search, "a rasura.Search")
    strength, data, request = _strength_of(method), asked.data, asked.request
    with reporting(progress) as report:
        whole = problem_of(model, data, request, seed, report)
        doubts = check_order(model, data, whole.forget_classes, by_number=asked.by_number)
        problem, aside = _kept_aside(whole, data, search.validation)
        unseen = aside["retain"] if isinstance(search.validation, tuple) else data.test
        wanted = _wanted(search, whole, unseen)
        before = {part: accuracy(model, examples) for part, examples in aside.items()}
        limits = {"forget": wanted, "retain": before["retain"] - search.tolerance}
        trials, best = explore(Task(problem, strength, aside, limits), method, search.budget)
        if best is None:
            raise InputError(f"{name_of(method)}: no setting worked ({trials[-1].error}); allowed: other settings")
        chosen = best.trial
        record = {
            "field": strength.field,
            "range": [strength.weakest, strength.strongest],
            "forget_accuracy": wanted,
            "tolerance": search.tolerance,
            "budget": search.budget,
            "aside": {part: len(examples) for part, examples in aside.items()},
            "before": before,
            "trials": [asdict(trial) for trial in trials],
            "chosen": chosen.setting,
            "besides": chosen.besides,
            "reached": chosen.reached,
        }
        seconds = sum(trial.seconds for trial in trials)
        outcome = outcome_of(whole, data, request, best.method, best.model, best.details, seconds, search=record)
    missed = () if chosen.reached else (_shortfall(chosen, strength, before, limits, len(trials)),)
    return replace(outcome, warnings=(*missed, *asked.warnings, *doubts, *outcome.warnings))


def _strength_of(method: Method) -> Strength:
    strength = getattr(type(method), "strength", None)
    if not isinstance(strength, Strength):
        raise InputError(f"strength: {name_of(method)} has none to search; allowed: methods with a `strength`")
    return strength


def _wanted(search: Search, problem: Problem, unseen: Examples) -> float:
    """Accuracy on the examples to forget that counts as forgotten."""
    if search.forget_accuracy is not None:
        return search.forget_accuracy
    if problem.forget_classes:
        return FORGOTTEN
    return min(1.0, _accuracy_as(problem.model, unseen, problem.forget.labels) + search.tolerance)


def _accuracy_as(model: nn.Module, examples: Examples, labels: Tensor) -> float:
    """Accuracy where classes are as frequent as in `labels`; classes without an example are left out."""
    parts = [(examples.labels == number, int((labels == number).sum())) for number in labels.unique().tolist()]
    parts = [(rows, count) for rows, count in parts if rows.any()]
    if not parts:
        raise InputError("validation: no unseen example of the samples' classes; allowed: some, or forget_accuracy")
    shares = [count * accuracy(model, examples.take(rows)) for rows, count in parts]
    return sum(shares) / sum(count for _, count in parts)


def _kept_aside(
    problem: Problem, data: Data, validation: float | tuple[int, ...]
) -> tuple[Problem, dict[str, Examples]]:
    """The problem without the examples kept aside, and these; samples to forget are not split."""

    def split(part: str, examples: Examples) -> tuple[Examples, Examples]:
        if isinstance(validation, tuple):
            return _rows_aside(part, examples, data.train.rows[mask_of(validation, len(data.train))])
        return _share_aside(examples, validation, problem.seed)

    retain, kept = split("retain", problem.retain)
    forget, going = problem.forget, problem.forget
    if problem.forget_classes:
        forget, going = split("forget", problem.forget)
    return replace(problem, forget=forget, retain=retain), {"forget": going, "retain": kept}


def _rows_aside(part: str, examples: Examples, rows: Tensor) -> tuple[Examples, Examples]:
    aside = torch.isin(examples.rows, rows)
    if not 0 < int(aside.sum()) < len(examples):
        raise InputError(
            f"validation: {int(aside.sum())} of the {len(examples)} examples to {part}; allowed: some of them, not all"
        )
    return examples.take(~aside), examples.take(aside)


def _share_aside(examples: Examples, share: float, seed: int) -> tuple[Examples, Examples]:
    """All but a share of each class, and this share: at least one example of every class on each side."""
    generator = torch.Generator().manual_seed(seed)
    aside = torch.zeros(len(examples), dtype=torch.bool)
    for number in examples.labels.unique().tolist():
        of_class = (examples.labels == number).nonzero()[:, 0]
        if len(of_class) < 2:
            raise InputError(f"data: class {number} has 1 training example; allowed: 2 or more, to keep some aside")
        order = torch.randperm(len(of_class), generator=generator)
        aside[of_class[order[: max(1, round(share * len(of_class)))]]] = True
    return examples.take(~aside), examples.take(aside)


def _shortfall(
    chosen: Trial, strength: Strength, before: dict[str, float], limits: dict[str, float], tries: int
) -> str:
    assert chosen.retain_accuracy is not None
    lost = before["retain"] - chosen.retain_accuracy
    besides = "".join(f" with {name} {value}" for name, value in chosen.besides.items())
    return (
        f"strength: none of {tries} settings of {strength.field} leaves accuracy on the examples to forget at "
        f"{limits['forget']:.1%} or less and costs the others {before['retain'] - limits['retain']:.1%} or less; the "
        f"nearest, {chosen.setting:g}{besides}, leaves {chosen.forget_accuracy:.1%} and costs {lost:.1%}"
    )
