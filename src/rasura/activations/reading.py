"""Passes over examples that read what a net computes inside."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from rasura.activations.pooling import pooling_of
from rasura.activations.taps import Point, tap
from rasura.data import Examples, are_images
from rasura.data.examples import Inputs
from rasura.errors import InputError
from rasura.models import device_of, logits_of, to_device
from rasura.progress import Progress, silent
from rasura.training import evaluating


@torch.no_grad()
def features(
    model: nn.Module,
    examples: Examples,
    points: Sequence[Point],
    batch_size: int = 512,
    progress: Progress = silent,
    label: str = "features",
    unread: set[str] | None = None,
) -> tuple[dict[Point, Tensor], Tensor]:
    """Pooled activations `[N, d]` at each point, and the logits `[N, K]`, of all examples in one forward pass.

    Feature maps are averaged over pixels; token sequences give the first token and the mean of all (see `pooled`).
    A layer that runs several times in a pass is read at its last run; one that takes an example as several rows, one
    after another, gives their mean. Float32, on the CPU; the model runs in eval mode.

    Args:
        model: any net.
        examples: N of them.
        points: where to read.
        batch_size: examples at a time.
        progress: called per batch.
        label: what the progress bar says.
        unread: where given, layers that cannot be read are added to it, and their points left out.

    Raises:
        InputError: a layer that does not run, or whose rows are not examples.
    """
    found: dict[Point, list[Tensor]] = {point: [] for point in points}
    latest: dict[Point, Tensor] = {}
    outputs, device = [], device_of(model)

    with evaluating(model), pooling_of(model) as pool:

        def keep(point: Point) -> Callable[[Tensor], None]:
            return lambda tensor: latest.__setitem__(point, pool(tensor).to("cpu", torch.float32, copy=True))

        with tap(model, {point: keep(point) for point in points}):
            for done, (inputs, labels) in enumerate(examples.batches(batch_size), start=1):
                latest.clear()
                outputs.append(logits_of(model, fast_layout(to_device(inputs, device))).float().cpu())
                for point, vectors in latest.items():
                    if len(vectors) % len(labels) == 0:
                        found[point].append(_by_example(vectors, len(labels)))
                progress(label, done, math.ceil(len(examples) / batch_size))
    failed = [point.module for point, parts in found.items() if sum(map(len, parts)) != len(examples)]
    if failed and unread is None:
        raise InputError(f"layer: {failed[0]} does not run on every example; allowed: layers that do")
    for module in failed:
        assert unread is not None
        unread.add(module)
    whole = {point: torch.cat(parts) for point, parts in found.items() if point.module not in failed}
    return whole, torch.cat(outputs)


def _by_example(vectors: Tensor, count: int) -> Tensor:
    return vectors if len(vectors) == count else vectors.unflatten(0, (count, -1)).mean(1)


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


def fast_layout(inputs: Inputs) -> Inputs:
    """Images in channels-last order: convolutions of small nets run about twice as fast on the CPU."""
    if are_images(inputs):
        return inputs.contiguous(memory_format=torch.channels_last)
    return inputs
