"""One forward pass over many micro-batches that wait for each other at chosen places.

What is found at a place over all micro-batches can change the weights before any of them goes on: statistics of every
layer on a model that is already edited upstream, in a single pass.
"""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

import torch
from greenlet import getcurrent, greenlet
from torch import Tensor, nn

from rasura.activations import Point, fast_layout, tap
from rasura.data import Examples
from rasura.errors import InputError
from rasura.models import device_of, logits_of, to_device
from rasura.progress import Progress, silent
from rasura.training import evaluating


def lockstep(
    model: nn.Module,
    examples: Examples,
    points: Sequence[Point],
    gather: Callable[[Point, Tensor, Tensor], None],
    act: Callable[[Point], None],
    resume: Callable[[Point, Tensor], Tensor | None],
    batch_size: int,
    passing: Collection[Point] = (),
    progress: Progress = silent,
    label: str = "statistics",
) -> None:
    """Run all examples through the model in micro-batches that stop at every point until the last has arrived.

    Activations of all micro-batches are alive at the same time: memory grows with the number of examples. The order of
    everything is fixed: micro-batch by micro-batch between two stops.

    Args:
        model: runs in eval mode, without gradients.
        examples: at least one.
        points: where to look. Each must be passed once per forward pass, in the same order by every micro-batch.
        gather: called with each micro-batch's tensor and labels as it arrives.
        act: called once when all have arrived.
        resume: called per micro-batch as it goes on; a tensor that it returns goes on in the place of its own.
        batch_size: examples per micro-batch.
        passing: points at which nobody stops, as nothing is changed there: a micro-batch that goes on finds its
            activations in the cache.

    Raises:
        InputError: micro-batches take different ways through the model.
    """
    parts = [examples.take(index) for index in torch.arange(len(examples)).split(batch_size)]
    device = device_of(model)
    ways: list[list[Point]] = [[] for _ in parts]

    def run(number: int) -> None:
        inputs, _ = parts[number].batch(torch.arange(len(parts[number])))
        logits_of(model, fast_layout(to_device(inputs, device)))

    # A forward pass that stops halfway needs a stack of its own. Greenlets are stacks within one thread; between
    # threads PyTorch would keep a pool of workers for each, which get into each other's way.
    passes = {greenlet(partial(run, number)): number for number in range(len(parts))}

    def stop(point: Point) -> Callable[[Tensor], Tensor | None]:
        def at(tensor: Tensor) -> Tensor | None:
            number = passes[getcurrent()]
            first, way = ways[0], ways[number]
            way.append(point)
            if first[len(way) - 1 : len(way)] != [point]:
                other = first[min(len(way), len(first)) - 1].module
                raise InputError(f"model: examples take different ways ({other}, {point.module}); allowed: one")
            gather(point, tensor, parts[number].labels)
            if number == len(parts) - 1:
                act(point)
                progress(label, len(way), len(points))
            if point not in passing:
                _let_others_pass()
            return resume(point, tensor)

        return at

    with torch.no_grad(), evaluating(model), tap(model, {point: stop(point) for point in points}):
        _take_turns(list(passes))


def _take_turns(passes: Sequence[greenlet]) -> None:
    """Let each go on to its next stop, in turn, until all have ended; the first failure ends all and is raised."""
    before = _settings()
    kept = dict.fromkeys(passes, before)
    try:
        while waiting := [one for one in passes if not one.dead]:
            for one in waiting:
                _set(kept[one])
                one.switch()
                kept[one] = _settings()
    finally:
        try:
            for one in passes:
                if not one.dead:
                    one.throw()  # ends it where it stopped, so that what it opened is closed
        finally:
            _set(before)


def _let_others_pass() -> None:
    """Stop here; returns when it is this pass's turn again."""
    parent = getcurrent().parent
    assert parent is not None
    parent.switch()


def _settings() -> tuple[Any, ...]:
    """Gradients and autocast, which a net may switch within its forward pass: PyTorch keeps them for the thread."""
    casts = {kind: (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in ("cpu", "cuda")}
    return torch.is_grad_enabled(), torch.is_autocast_cache_enabled(), casts


def _set(settings: tuple[Any, ...]) -> None:
    gradients, cached, casts = settings
    torch.set_grad_enabled(gradients)
    torch.set_autocast_cache_enabled(cached)
    for kind, (enabled, dtype) in casts.items():
        torch.set_autocast_enabled(kind, enabled)
        torch.set_autocast_dtype(kind, dtype)
