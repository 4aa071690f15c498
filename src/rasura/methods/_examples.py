"""What the gradient methods do with examples: read two sets as one, relabel, and see whether enough is forgotten."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from rasura.data import Examples
from rasura.errors import InputError
from rasura.methods.contract import Problem
from rasura.training import predict

EXAMINED = 128
"""Examples to forget, at most, on which a running ascent is watched."""


class _Both:
    """The model inputs of two sets of examples as one map-style source: the first set's rows come first."""

    def __init__(self, first: Examples, second: Examples):
        self.parts = first, second

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __getitem__(self, row: int) -> Any:
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: list[int]) -> list[Any]:
        border, found = len(self.parts[0]), {}
        for part, start, end in [(self.parts[0], 0, border), (self.parts[1], border, len(self))]:
            chosen = [row for row in rows if start <= row < end]
            if chosen:
                inputs, _ = part.batch(torch.tensor(chosen) - start)
                found |= dict(zip(chosen, _items(inputs), strict=True))
        return [found[row] for row in rows]


def joined(first: Examples, second: Examples) -> Examples:
    """Both sets as one; positions below `len(first)` are the first set's. The sources may differ."""
    labels = torch.cat([first.labels, second.labels])
    return Examples(_Both(first, second), labels, torch.arange(len(labels)))


def other_labels(problem: Problem) -> Tensor:
    """For each example to forget a label drawn evenly from the retained classes that are not its own: int64 `[N]`.

    Raises:
        InputError: no other class is left.
    """
    allowed = torch.ones(len(problem.forget), problem.classes)
    allowed[:, [*problem.forget_classes, *problem.gone]] = 0
    allowed[torch.arange(len(allowed)), problem.forget.labels] = 0
    if not allowed.any(1).all():
        raise InputError(f"classes: none of {problem.classes} is left to relabel to; allowed: 1 or more retained")
    return torch.multinomial(allowed, 1, generator=torch.Generator().manual_seed(problem.seed))[:, 0]


def some(examples: Examples, count: int, seed: int) -> Examples:
    """At most `count` examples, drawn from `seed`."""
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(seed))
    return examples.take(order[:count])


def some_of_each(examples: Examples, count: int, seed: int) -> Examples:
    """At most `count` examples of each class, drawn from `seed`, in the order of `examples`."""
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(seed))
    chosen = [order[examples.labels[order] == number][:count] for number in examples.labels.unique().tolist()]
    return examples.take(torch.cat(chosen).sort().values)


def reached(problem: Problem, target: float) -> Callable[[nn.Module], bool]:
    """Whether a model recognises at most a share `target` of (a fixed sample of) the examples to forget."""
    watched = some(problem.forget, EXAMINED, problem.seed)
    return lambda model: bool((predict(model, watched).argmax(1) == watched.labels).double().mean() <= target)


def float_inputs(method: str, examples: Examples) -> None:
    """Whether inputs can be moved along a gradient.

    Raises:
        InputError: the inputs are tokens or columns.
    """
    inputs, _ = examples.batch(torch.arange(1))
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        raise InputError(f"data: {method} changes inputs by gradients; allowed: images or other tensors of floats")


def _items(inputs: Any) -> list[Any]:
    if isinstance(inputs, Tensor):
        return list(inputs)
    return [dict(zip(inputs, row, strict=True)) for row in zip(*inputs.values(), strict=True)]
