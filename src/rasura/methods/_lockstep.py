"""One forward pass over many micro-batches that wait for each other at chosen places.

What is found at a place over all micro-batches can change the weights before any of them goes on: statistics of every
layer on a model that is already edited upstream, in a single pass.
"""

import threading
from collections.abc import Callable, Collection, Sequence

import torch
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
    turns, device = _Turns(len(parts)), device_of(model)
    ways: list[list[Point]] = [[] for _ in parts]

    def stop(point: Point) -> Callable[[Tensor], Tensor | None]:
        def at(tensor: Tensor) -> Tensor | None:
            first, way = ways[0], ways[turns.current]
            way.append(point)
            if first[len(way) - 1 : len(way)] != [point]:
                other = first[min(len(way), len(first)) - 1].module
                raise InputError(f"model: examples take different ways ({other}, {point.module}); allowed: one")
            gather(point, tensor, parts[turns.current].labels)
            if turns.current == len(parts) - 1:
                act(point)
                progress(label, len(way), len(points))
            if point not in passing:
                turns.pass_on()
            return resume(point, tensor)

        return at

    def run(number: int) -> None:
        # Gradients are a setting of the thread.
        with torch.no_grad():
            inputs, _ = parts[number].batch(torch.arange(len(parts[number])))
            logits_of(model, fast_layout(to_device(inputs, device)))

    with evaluating(model), tap(model, {point: stop(point) for point in points}):
        turns.work(run)


class _Turns:
    """Threads of which one works at a time, in turn: the only way to stop a forward pass halfway and go on later."""

    def __init__(self, number: int):
        self.number = number
        self.current = 0
        self.gates = [threading.Semaphore(0) for _ in range(number)]
        self.done = [False] * number
        self.failure: BaseException | None = None

    def work(self, run: Callable[[int], None]) -> None:
        """Run `run(k)` for every k, each in a thread; the first failure ends all and is raised here."""
        threads = [threading.Thread(target=self._one, args=(run, k), daemon=True) for k in range(self.number)]
        for thread in threads:
            thread.start()
        self.gates[0].release()
        try:
            for thread in threads:
                thread.join()
        except BaseException as interrupt:  # from the keyboard: hooks must not go while threads still run
            self.failure = self.failure or interrupt
            for thread in threads:
                thread.join()
        if self.failure is not None:
            raise self.failure

    def pass_on(self) -> None:
        """Let the next one work; returns when it is this one's turn again."""
        mine = self.current
        self._wake_next()
        self._wait(mine)

    def _one(self, run: Callable[[int], None], number: int) -> None:
        try:
            self._wait(number)
            run(number)
        except _EndedError:
            pass
        except BaseException as error:
            self.failure = self.failure or error
        self.done[number] = True
        self._wake_next()

    def _wake_next(self) -> None:
        following = [(self.current + step) % self.number for step in range(1, self.number + 1)]
        waiting = next((number for number in following if not self.done[number]), None)
        if waiting is not None:
            self.current = waiting
            self.gates[waiting].release()

    def _wait(self, number: int) -> None:
        self.gates[number].acquire()
        if self.failure is not None:
            raise _EndedError


class _EndedError(Exception):
    """Another thread failed."""
