"""What a net computes inside. `tap` holds the only hooks of the package; everything that reads activations uses it."""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rasura.data import Examples, are_images
from rasura.data.examples import Inputs
from rasura.errors import InputError
from rasura.models import MISFITS, device_of, logits_of, misfit, own_outputs, to_device
from rasura.progress import Progress, silent
from rasura.training import evaluating

MOST_STAGES = 8
"""A depth profile shows at most so many stages."""


@dataclass(frozen=True, order=True)
class Point:
    """A place in a net: what goes into a module, or what comes out of it."""

    module: str
    side: Literal["input", "output"] = "output"


@dataclass(frozen=True)
class Anatomy:
    """The parts of a net that the package looks at, in the order in which they run.

    Attributes:
        stages: modules, outermost first choice, whose outputs make the depth profile; the head is not among them.
        operators: every learnable linear map (Linear, Conv1d/2d/3d, Hugging Face's Conv1D), the head last.
        head: the last operator whose outputs are the logits; where there is none, and code makes logits of what the
            last operator gives, that one.
        norms: operator → the BatchNorm that takes its output directly.
    """

    stages: tuple[str, ...]
    operators: tuple[str, ...]
    head: str
    norms: Mapping[str, str]

    @property
    def points(self) -> tuple[Point, ...]:
        """The outputs of the stages, and the input of the head: where the audit reads."""
        return (*(Point(stage) for stage in self.stages), Point(self.head, "input"))


def is_operator(module: nn.Module) -> bool:
    """Whether a module is a learnable linear map."""
    linear = isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))
    return linear or (type(module).__name__ == "Conv1D" and hasattr(module, "nf"))


@contextlib.contextmanager
def tap(model: nn.Module, receive: Mapping[Point, Callable[[Tensor], Tensor | None]]) -> Iterator[None]:
    """While the block runs, each forward pass hands the tensor at every point to its function.

    A function that returns a tensor puts it in the place of the one it was given. Hooks are removed when the block
    ends, however it ends.

    Raises:
        InputError: a point names a module that the model does not have.
    """
    modules, handles = dict(model.named_modules()), []
    fast = torch.backends.mha.get_fastpath_enabled()
    try:
        # PyTorch's fused attention skips the modules inside a transformer layer, and their hooks with them.
        torch.backends.mha.set_fastpath_enabled(False)
        for point, function in receive.items():
            if point.module not in modules:
                raise InputError(f"layer: the model has no module {point.module!r}; allowed: a name of named_modules()")
            handles.append(_attach(modules[point.module], point, function))
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for handle in handles:
            handle.remove()


@torch.no_grad()
def features(
    model: nn.Module,
    examples: Examples,
    points: Sequence[Point],
    batch_size: int = 512,
    progress: Progress = silent,
    label: str = "features",
) -> tuple[dict[Point, Tensor], Tensor]:
    """Pooled activations `[N, d]` at each point, and the logits `[N, K]`, of all examples in one forward pass.

    Feature maps are averaged over pixels; token sequences give the first token and the mean of all (see `pooled`).
    Float32, on the CPU; the model runs in eval mode.
    """
    found: dict[Point, list[Tensor]] = {point: [] for point in points}
    outputs, device = [], device_of(model)

    def keep(point: Point) -> Callable[[Tensor], None]:
        return lambda tensor: found[point].append(pooled(tensor).to("cpu", torch.float32, copy=True))

    with evaluating(model), tap(model, {point: keep(point) for point in points}):
        for done, (inputs, _) in enumerate(examples.batches(batch_size), start=1):
            outputs.append(logits_of(model, fast_layout(to_device(inputs, device))).float().cpu())
            progress(label, done, math.ceil(len(examples) / batch_size))
    for point, parts in found.items():
        if sum(map(len, parts)) != len(examples):
            raise InputError(f"layer: {point.module} does not run once per batch; allowed: layers that do")
    return {point: torch.cat(parts) for point, parts in found.items()}, torch.cat(outputs)


def pooled(tensor: Tensor) -> Tensor:
    """One vector per example.

    `[B, d]` stays; maps `[B, C, H, W]` (or `[B, H, W, C]`, when the two middle sides alone are equal) give the mean
    over pixels `[B, C]`; tokens `[B, T, d]` give the first token beside the mean over tokens, `[B, 2d]`: a class
    token holds what the mean does not.
    """
    if tensor.ndim <= 2:
        return tensor.reshape(len(tensor), -1)
    if tensor.ndim == 3:
        return torch.cat([tensor[:, 0], tensor.mean(1)], dim=1)
    if tensor.ndim == 4 and tensor.shape[1] == tensor.shape[2] != tensor.shape[3]:
        return tensor.mean((1, 2))
    return tensor.flatten(2).mean(2)


class Moments:
    """Streamed count, mean and, if asked for, scatter of vectors, in float64 (Chan, Golub and LeVeque, 1983).

    Attributes:
        count: vectors seen.
        mean: `[d]`.
        scatter: `[d, d]`, the sum of outer products of deviations from the mean; None if not asked for.
    """

    def __init__(self, dimension: int, scatter: bool = False, device: torch.device | str = "cpu"):
        self.count = 0
        self.mean = torch.zeros(dimension, dtype=torch.float64, device=device)
        self.scatter = torch.zeros(dimension, dimension, dtype=torch.float64, device=device) if scatter else None

    def update(self, vectors: Tensor) -> None:
        """Take in `[n, d]` vectors."""
        if not len(vectors):
            return
        vectors = vectors.double()
        mean = vectors.mean(0)
        scatter = None if self.scatter is None else (vectors - mean).T @ (vectors - mean)
        self._merge(len(vectors), mean, scatter)

    def merge(self, other: "Moments") -> None:
        """Take in what another has seen."""
        if other.count:
            self._merge(other.count, other.mean, other.scatter)

    @property
    def covariance(self) -> Tensor:
        """`[d, d]`, the scatter divided by the count."""
        assert self.scatter is not None
        return self.scatter / max(self.count, 1)

    def _merge(self, count: int, mean: Tensor, scatter: Tensor | None) -> None:
        total = self.count + count
        step = mean - self.mean
        if self.scatter is not None:
            assert scatter is not None
            self.scatter += scatter + torch.outer(step, step) * (self.count * count / total)
        self.mean = self.mean + step * (count / total)
        self.count = total


@torch.no_grad()
def stream(
    model: nn.Module,
    examples: Examples,
    points: Sequence[Point],
    receive: Callable[[Point, Tensor, Tensor], Tensor | None],
    batch_size: int = 256,
    progress: Progress = silent,
    label: str = "statistics",
) -> None:
    """One forward pass in eval mode that hands `(point, tensor, labels)` to `receive` for every point and batch.

    A tensor that `receive` returns goes on in the place of the one it was given.
    """
    device, labels = device_of(model), torch.empty(0)

    def hand(point: Point) -> Callable[[Tensor], Tensor | None]:
        return lambda tensor: receive(point, tensor, labels)

    with evaluating(model), tap(model, {point: hand(point) for point in points}):
        for done, (inputs, labels_of_batch) in enumerate(examples.batches(batch_size), start=1):
            labels = labels_of_batch
            logits_of(model, fast_layout(to_device(inputs, device)))
            progress(label, done, math.ceil(len(examples) / batch_size))


def moments(
    model: nn.Module,
    examples: Examples,
    points: Sequence[Point],
    classes: int,
    pool: Callable[[Point, Tensor], Tensor],
    progress: Progress = silent,
) -> dict[Point, list[Moments]]:
    """Streamed mean of each class at each point: `result[point][class]`.

    Args:
        pool: makes one vector per example of the tensor at a point.
    """
    found: dict[Point, list[Moments]] = {}

    def receive(point: Point, tensor: Tensor, labels: Tensor) -> None:
        vectors = pool(point, tensor)
        per_class = found.setdefault(point, [Moments(vectors.shape[1], device=vectors.device) for _ in range(classes)])
        for number in labels.unique().tolist():
            per_class[number].update(vectors[(labels == number).to(vectors.device)])

    stream(model, examples, points, receive, progress=progress)
    return found


@torch.no_grad()
def anatomy(model: nn.Module, inputs: Inputs) -> Anatomy:
    """Find stages, operators and head by running the model once on a small batch.

    Stages are found from the outside in: a module that holds more than half of the operators, or the head and more, is
    opened, until none does; of the parts that hold an operator, at most eight are kept, evenly spaced, the last always.

    Raises:
        InputError: the model has no learnable linear map that runs.
    """
    calls, logits = _trace(model, inputs)
    modules = dict(model.named_modules())
    operators = tuple(dict.fromkeys(name for name, _, _ in calls if is_operator(modules[name])))
    if not operators:
        kinds = sorted({type(module).__name__ for module in modules.values()})
        raise InputError(f"model: no learnable linear map runs ({', '.join(kinds)}); allowed: Linear or Conv layers")
    wanted = own_outputs(model, logits)
    heads = [name for name, _, output in calls if name in operators and _is(output, wanted)]
    head = heads[-1] if heads else operators[-1]
    operators = (*(name for name in operators if name != head), head)
    order = list(dict.fromkeys(name for name, _, _ in calls))
    return Anatomy(_stages(modules, operators, order), operators, head, _norms(calls, modules))


class _Seen:
    """A tensor as it passed by: held, so that ids stay unique, with its version, which in-place changes raise."""

    def __init__(self, tensor: Tensor):
        self.tensor = tensor
        self.mark = id(tensor), 0 if tensor.is_inference() else tensor._version


def _trace(model: nn.Module, inputs: Inputs) -> tuple[list[tuple[str, _Seen | None, _Seen]], Tensor]:
    """Every module's calls in the order of their ends: name, first input, output; and the logits."""
    calls: list[tuple[str, _Seen | None, _Seen]] = []
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


def _stages(modules: dict[str, nn.Module], operators: tuple[str, ...], order: list[str]) -> tuple[str, ...]:
    def inside(name: str) -> int:
        return sum(operator == name or operator.startswith(f"{name}.") for operator in operators)

    def opened(name: str) -> list[str]:
        prefix = f"{name}." if name else ""
        children = [f"{prefix}{child}" for child, _ in modules[name].named_children()]
        grown = [part for child in children for part in ([child] if child in order else opened(child))]
        return sorted(grown, key=order.index)

    def is_large(name: str) -> bool:
        return inside(name) > len(operators) / 2 or (inside(name) > 1 and _holds(name, operators[-1]))

    parts = opened("")
    while True:
        large = next((part for part in parts if is_large(part) and opened(part)), None)
        if large is None:
            break
        at = parts.index(large)
        parts[at : at + 1] = opened(large)
    kept = [part for part in parts if inside(part) and inside(part) and not _holds(part, operators[-1])]
    return tuple(_thinned(kept, MOST_STAGES))


def _holds(part: str, operator: str) -> bool:
    return operator == part or operator.startswith(f"{part}.")


def _thinned(parts: list[str], most: int) -> list[str]:
    if len(parts) <= most:
        return parts
    return [parts[round((k + 1) * len(parts) / most) - 1] for k in range(most)]


def _norms(calls: list[tuple[str, _Seen | None, _Seen]], modules: dict[str, nn.Module]) -> dict[str, str]:
    made = {output.mark: name for name, _, output in calls if is_operator(modules[name])}
    return {
        made[entered.mark]: name
        for name, entered, _ in calls
        if isinstance(modules[name], nn.modules.batchnorm._BatchNorm) and entered and entered.mark in made
    }


def _attach(module: nn.Module, point: Point, function: Callable[[Tensor], Tensor | None]) -> Any:
    if point.side == "input":

        def before(_: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
            if arguments and isinstance(arguments[0], Tensor):
                changed = function(arguments[0])
                return None if changed is None else ((changed, *arguments[1:]), named)
            first = next((key for key, value in named.items() if isinstance(value, Tensor)), None)
            changed = None if first is None else function(named[first])
            return None if changed is None else (arguments, {**named, first: changed})

        return module.register_forward_pre_hook(before, with_kwargs=True)

    def after(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        tensor = _tensor_in(output)
        changed = None if tensor is None else function(tensor)
        return None if changed is None else _with_tensor(output, changed)

    return module.register_forward_hook(after)


def _tensor_in(output: Any) -> Tensor | None:
    """The tensor that a module's output is, or begins with: blocks of Hugging Face models return tuples or dicts."""
    if isinstance(output, Tensor):
        return output
    values = output.values() if isinstance(output, Mapping) else output if isinstance(output, (tuple, list)) else ()
    return next((value for value in values if isinstance(value, Tensor)), None)


def _with_tensor(output: Any, changed: Tensor) -> Any:
    if isinstance(output, Tensor):
        return changed
    if isinstance(output, (tuple, list)):
        at = next(k for k, value in enumerate(output) if isinstance(value, Tensor))
        values = [*output[:at], changed, *output[at + 1 :]]
        return type(output)(*values) if hasattr(output, "_fields") else type(output)(values)
    key = next(key for key, value in output.items() if isinstance(value, Tensor))
    output[key] = changed
    return output


def fast_layout(inputs: Inputs) -> Inputs:
    """Images in channels-last order: convolutions of small nets run about twice as fast on the CPU."""
    if are_images(inputs):
        return inputs.contiguous(memory_format=torch.channels_last)
    return inputs
