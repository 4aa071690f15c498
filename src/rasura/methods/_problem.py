"""What a method is given, and the protocol that it keeps."""

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from torch import nn

from rasura.data import Examples
from rasura.errors import InputError
from rasura.methods._found import name_of
from rasura.models import copy_of
from rasura.progress import Progress, silent
from rasura.training import Recipe

Reads = Literal["forget", "retain"]
PARTS: tuple[Reads, ...] = "forget", "retain"


@dataclass(frozen=True, eq=False)
class Problem:
    """A trained model and what it must forget. A method sees only the examples that it declares to read.

    Attributes:
        model: the trained model. A method never changes it.
        forget: training examples to forget; a method that uses them without declaring so is refused.
        retain: training examples to keep; likewise.
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
        return copy_of(self.model).requires_grad_(True)

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


class UndeclaredError(InputError):
    """A method uses examples that it does not declare to read."""


def only_declared(method: Method, problem: Problem) -> Problem:
    """The problem without the examples that the method does not declare to read."""
    hidden: dict[str, Any] = {part: _Undeclared(part, name_of(method)) for part in PARTS if part not in method.reads}
    return replace(problem, **hidden)


class _Undeclared:
    """In the place of examples that a method does not declare to read."""

    def __init__(self, part: str, method: str):
        self._reason = f"reads: {method} uses problem.{part}; allowed: what it declares, so add {part!r} to `reads`"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise UndeclaredError(self._reason)

    def __len__(self) -> int:
        raise UndeclaredError(self._reason)
