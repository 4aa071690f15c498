"""The parts of anyone's net: stages, linear maps, and those that give its answers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rasura.activations.taps import Point, is_operator, tap
from rasura.data.examples import Inputs
from rasura.errors import InputError
from rasura.models import MISFITS, device_of, logits_of, misfit, own_outputs, to_device
from rasura.training import evaluating

MOST_STAGES = 8
"""A depth profile shows at most so many stages."""


@dataclass(frozen=True)
class Anatomy:
    """The parts of a net that the package looks at, in the order in which they run.

    Attributes:
        stages: modules, outermost first choice, whose outputs make the depth profile; no head is among them.
        operators: every learnable linear map (Linear, Conv1d/2d/3d, Hugging Face's Conv1D), the heads last.
        heads: the operators that give the answers. One, if its outputs are the logits; where there is none and code
            makes logits of what operators give, all of these: the members of an ensemble.
        norms: operator → the BatchNorm that takes its output directly.
    """

    stages: tuple[str, ...]
    operators: tuple[str, ...]
    heads: tuple[str, ...]
    norms: Mapping[str, str]

    @property
    def head(self) -> str:
        """The last of the heads."""
        return self.heads[-1]

    @property
    def points(self) -> tuple[Point, ...]:
        """The outputs of the stages, and the inputs of the heads: where the audit reads."""
        return (*map(Point, self.stages), *(Point(head, "input") for head in self.heads))


class NoLinearMapError(InputError):
    """No learnable linear map of a net runs."""


@torch.no_grad()
def anatomy(model: nn.Module, inputs: Inputs) -> Anatomy:
    """Find stages, operators and heads by running the model on a small batch.

    Stages are found from the outside in: a module that holds more than half of the operators, or a head and more, is
    opened, until none does; of the parts that hold an operator, at most eight are kept, evenly spaced, the last always.

    Raises:
        NoLinearMapError: there are no operators.
        InputError: inputs that the model cannot take.
    """
    calls, logits = _trace(model, inputs)
    modules = dict(model.named_modules())
    operators = tuple(dict.fromkeys(name for name, _, _ in calls if is_operator(modules[name])))
    if not operators:
        kinds = sorted({type(module).__name__ for module in modules.values()})
        raise NoLinearMapError(
            f"model: no learnable linear map runs ({', '.join(kinds)}); allowed: Linear or Conv layers"
        )
    own = own_outputs(model, logits)
    direct = [name for name, _, output in calls if name in operators and _is(output, own)]
    heads = tuple(direct[-1:]) or _feeding(model, inputs, operators, own.shape[1]) or operators[-1:]
    operators = (*(name for name in operators if name not in heads), *heads)
    parts = _parts(modules, operators, heads, list(dict.fromkeys(name for name, _, _ in calls)))
    return Anatomy(tuple(_thinned(parts, MOST_STAGES)), operators, heads, _norms(calls, modules))


@torch.no_grad()
def unreadable(model: nn.Module, inputs: Inputs, parts: Anatomy) -> dict[str, str]:
    """Stages and heads that cannot be read as one vector per example, with the reason.

    They do not take every example by itself: with a small batch twice over, their rows are not twice the same.
    """
    (calls, logits), (again, _) = _trace(model, inputs), _trace(model, _doubled(inputs))
    once, twice = ({name: output.tensor for name, _, output in found} for found in (calls, again))
    found = {}
    for name in (*parts.stages, *parts.heads):
        tensor, double = once[name], twice.get(name)
        rows = len(tensor)
        if double is None or len(double) != 2 * rows:
            found[name] = "its rows are not examples"
        elif rows != len(logits) and not torch.allclose(double[:rows].float(), tensor.float(), rtol=1e-3, atol=1e-4):
            found[name] = "its rows are not one example after another"
    return found


class _Seen:
    """A tensor as it passed by: held, so that ids stay unique, with its version, which in-place changes raise."""

    def __init__(self, tensor: Tensor):
        self.tensor = tensor
        self.mark = id(tensor), 0 if tensor.is_inference() else tensor._version


_Call = tuple[str, _Seen | None, _Seen]


def _trace(model: nn.Module, inputs: Inputs) -> tuple[list[_Call], Tensor]:
    """Every module's calls in the order of their ends: name, first input, output; and the logits."""
    calls: list[_Call] = []
    entered: dict[str, _Seen] = {}
    names = [name for name, module in model.named_modules() if name or is_operator(module)]

    def enter(name: str) -> Callable[[Tensor], None]:
        return lambda tensor: entered.__setitem__(name, _Seen(tensor))

    def leave(name: str) -> Callable[[Tensor], None]:
        return lambda tensor: calls.append((name, entered.get(name), _Seen(tensor)))

    points = {Point(name, "input"): enter(name) for name in names} | {Point(name): leave(name) for name in names}
    with evaluating(model), tap(model, points):
        try:
            logits = logits_of(model, to_device(inputs, device_of(model)))
        except MISFITS as error:
            raise misfit(inputs, error) from error
    return calls, logits


def _is(output: _Seen, logits: Tensor) -> bool:
    return output.tensor.shape == logits.shape and torch.allclose(output.tensor.to(logits.dtype), logits)


def _feeding(model: nn.Module, inputs: Inputs, operators: tuple[str, ...], classes: int) -> tuple[str, ...]:
    """The operators whose outputs reach the logits past no other operator; of those, the ones that name classes.

    Each output is cut off from what it was made of: the logits' gradient then ends at the first operators on its way.
    """
    cuts: list[tuple[str, Tensor]] = []

    def cut(name: str) -> Callable[[Tensor], Tensor | None]:
        def replace(tensor: Tensor) -> Tensor | None:
            if tensor.is_inference() or not tensor.is_floating_point():
                return None
            cuts.append((name, tensor.detach().requires_grad_()))
            return cuts[-1][1].clone()

        return replace

    with torch.enable_grad(), evaluating(model), tap(model, {Point(name): cut(name) for name in operators}):
        total = logits_of(model, to_device(inputs, device_of(model))).sum()
    if not cuts or not total.requires_grad:
        return ()
    slopes = torch.autograd.grad(total, [leaf for _, leaf in cuts], allow_unused=True)
    reached = [(name, leaf) for (name, leaf), slope in zip(cuts, slopes, strict=True) if slope is not None]
    naming = [(name, leaf) for name, leaf in reached if classes in (leaf.shape[1], leaf.shape[-1])]
    return tuple(dict.fromkeys(name for name, _ in naming or reached))


def _parts(
    modules: dict[str, nn.Module], operators: tuple[str, ...], heads: tuple[str, ...], order: list[str]
) -> list[str]:
    """The net taken apart as far as it is needed: parts that hold operators, but no head."""

    def inside(name: str) -> int:
        return sum(operator == name or operator.startswith(f"{name}.") for operator in operators)

    def opened(name: str) -> list[str]:
        prefix = f"{name}." if name else ""
        children = [f"{prefix}{child}" for child, _ in modules[name].named_children()]
        grown = [part for child in children for part in ([child] if child in order else opened(child))]
        return sorted(grown, key=order.index)

    def is_large(name: str) -> bool:
        return inside(name) > len(operators) / 2 or (inside(name) > 1 and _holds(name, heads))

    parts = opened("")
    while True:
        large = next((part for part in parts if is_large(part) and opened(part)), None)
        if large is None:
            break
        at = parts.index(large)
        parts[at : at + 1] = opened(large)
    return [part for part in parts if inside(part) and not _holds(part, heads)]


def _doubled(inputs: Inputs) -> Inputs:
    if isinstance(inputs, Tensor):
        return torch.cat([inputs, inputs])
    return {name: torch.cat([column, column]) for name, column in inputs.items()}


def _holds(part: str, operators: tuple[str, ...]) -> bool:
    return any(operator == part or operator.startswith(f"{part}.") for operator in operators)


def _thinned(parts: list[str], most: int) -> list[str]:
    if len(parts) <= most:
        return parts
    return [parts[round((k + 1) * len(parts) / most) - 1] for k in range(most)]


def _norms(calls: list[_Call], modules: dict[str, nn.Module]) -> dict[str, str]:
    made = {output.mark: name for name, _, output in calls if is_operator(modules[name])}
    return {
        made[entered.mark]: name
        for name, entered, _ in calls
        if isinstance(modules[name], nn.modules.batchnorm._BatchNorm) and entered and entered.mark in made
    }
