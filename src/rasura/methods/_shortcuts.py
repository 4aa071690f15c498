"""The last sum before the head: which linear maps write into it, and what a shortcut carries past them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from rasura.activations import Point, is_operator, tap
from rasura.data.examples import Inputs
from rasura.models import device_of, logits_of, to_device
from rasura.training import evaluating

SUMS = {torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__iadd__, Tensor.__radd__}

Mark = tuple[int, int]
"""Which tensor, and which version of it: changes in place raise the version."""


@dataclass(frozen=True)
class LastSum:
    """What goes into the sum behind a map.

    Attributes:
        maps: the modules of the maps whose outputs are its parts and go nowhere else, the map itself first.
        carried: where its other part can be read before the map runs; None where there is none, where it is another
            map's output that goes nowhere else, or where no module sees it that runs once.
    """

    maps: tuple[str, ...]
    carried: Point | None = None


class _Passing:
    """Where every tensor was seen, and what was added to the output that is looked for."""

    def __init__(self) -> None:
        self.held: list[Tensor] = []  # so that ids stay unique
        self.seen: dict[Mark, list[Point]] = {}
        self.times: dict[Point, int] = {}
        self.of_maps: dict[Mark, str] = {}
        self.before: dict[Mark, list[Point]] = {}
        self.output: Mark | None = None
        self.other: Mark | None = None

    def note(self, point: Point, tensor: Tensor) -> Mark:
        """Take in a tensor that passes a point."""
        self.held.append(tensor)
        self.times[point] = self.times.get(point, 0) + 1
        self.seen.setdefault(_mark(tensor), []).append(point)
        return _mark(tensor)

    def snapshot(self) -> None:
        """Remember what was seen so far."""
        self.before = {mark: list(points) for mark, points in self.seen.items()}

    def added(self, first: Any, second: Any) -> None:
        """Take in a sum: if the output is a part of it, the other part is what was carried past."""
        if not (isinstance(first, Tensor) and isinstance(second, Tensor)) or first.shape != second.shape:
            return
        marks = _mark(first), _mark(second)
        if self.output in marks:
            self.held += [first, second]
            self.other = marks[1 - marks.index(self.output)]

    def found(self, name: str, modules: Mapping[str, nn.Module]) -> LastSum:
        """What went into the sum behind the map of this name."""
        if self.other is None:
            return LastSum((name,))
        if self.other in self.of_maps and not self._is_taken(self.seen[self.other]):
            return LastSum((name, self.of_maps[self.other]))
        # While an attention is opened, what passes as its output goes into its last projection.
        readable = (
            point
            for point in self.before.get(self.other, [])
            if self.times[point] == 1
            and not (point.side == "output" and isinstance(modules[point.module], nn.MultiheadAttention))
        )
        return LastSum((name,), next(readable, None))

    def _is_taken(self, points: list[Point]) -> bool:
        """Whether a module makes something else of a tensor that passed these points: more than handing it on."""
        ends = {point.module for point in points if point.side == "output"}
        return any(point.side == "input" and point.module not in ends for point in points)


class _Sums(TorchFunctionMode):
    """Shows every sum of two tensors before it is computed, in place or not."""

    def __init__(self, passing: _Passing):
        self.passing = passing

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in SUMS and len(args) == 2 and (kwargs or {}).get("alpha", 1) == 1:
            self.passing.added(*args)
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def last_sum(model: nn.Module, inputs: Inputs, name: str, norms: Mapping[str, str]) -> LastSum:
    """The sum that the output of a map goes into.

    Args:
        inputs: a small batch.
        name: the map's module; of an attention's output projection, the attention.
        norms: operator → the BatchNorm that takes its output: what is added to that one's output counts.
    """
    passing, modules = _Passing(), dict(model.named_modules())
    ends = {norms.get(one, one): one for one, module in modules.items() if _is_map(module)}

    def enter(point: Point) -> Callable[[Tensor], None]:
        def note(tensor: Tensor) -> None:
            passing.note(point, tensor)
            if point.module == name:
                passing.snapshot()

        return note

    def leave(point: Point) -> Callable[[Tensor], None]:
        def note(tensor: Tensor) -> None:
            mark = passing.note(point, tensor)
            if point.module in ends:
                passing.of_maps[mark] = ends[point.module]
            if ends.get(point.module) == name:
                passing.output = mark

        return note

    taps: dict[Point, Callable[[Tensor], None]] = {Point(one, "input"): enter(Point(one, "input")) for one in modules}
    taps |= {Point(one): leave(Point(one)) for one in modules if one}
    with evaluating(model), tap(model, taps), _Sums(passing):
        logits_of(model, to_device(inputs, device_of(model)))
    return passing.found(name, modules)


def _is_map(module: nn.Module) -> bool:
    return is_operator(module) or isinstance(module, nn.MultiheadAttention)


def _mark(tensor: Tensor) -> Mark:
    return id(tensor), 0 if tensor.is_inference() else tensor._version
