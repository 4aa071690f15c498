"""Means and scatters of activations, gathered batch by batch."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from rasura.activations.reading import stream
from rasura.activations.taps import Point
from rasura.data import Examples
from rasura.progress import Progress, silent


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
