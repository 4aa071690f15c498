"""Synthetic counterfactuals: images that silence forget-selective units and excite retain-selective ones."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rasura.activations import Point, tap
from rasura.data import examples_from
from rasura.methods._generator import LATENT, Pair, Pixels
from rasura.methods._selectivity import Units, mean_activation
from rasura.models import logits_of
from rasura.progress import Progress, silent
from rasura.training import Batch, Recipe, fit


@dataclass(frozen=True, eq=False)
class Objective:
    """Eq. 5 of CNR and its three terms, each a mean over the images.

    Attributes:
        judge: the original model, frozen, in eval mode.
        discriminator: logits of being a real image of the forgotten classes.
        pixels: the range of the model's inputs.
        units: chosen coordinates per stage.
        alpha: weight of exciting retain-selective units over silencing forget-selective ones.
        realism: weight of looking real to the discriminator.
        smoothness: weight of total variation.
    """

    judge: nn.Module
    discriminator: nn.Module
    pixels: Pixels
    units: Mapping[Point, Units]
    alpha: float
    realism: float
    smoothness: float

    def terms(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Selective (eq. 6), realistic (−log D) and smooth (total variation) term of images `[B, C, H, W]` in −1..1."""
        real = F.softplus(-self.discriminator(images)).mean()
        return self.selective(images), real, total_variation(images).mean()

    def selective(self, images: Tensor) -> Tensor:
        """Eq. 6: mean over stages of the forget units' activation less alpha times the retain units'."""
        with outputs_at(self.judge, self.units) as seen:
            logits_of(self.judge, self.pixels.stretched(images))
        parts = [
            mean_activation(seen[point], one.forget) - self.alpha * mean_activation(seen[point], one.retain)
            for point, one in self.units.items()
        ]
        return torch.stack(parts).mean()

    def __call__(self, images: Tensor) -> Tensor:
        """The weighted sum (eq. 5)."""
        selective, real, smooth = self.terms(images)
        return selective + self.realism * real + self.smoothness * smooth


@contextmanager
def outputs_at(model: nn.Module, points: Collection[Point]) -> Iterator[dict[Point, Tensor]]:
    """While the block runs, what comes out at each point of the latest forward pass."""
    seen: dict[Point, Tensor] = {}

    def keep(point: Point) -> "_Keeping":
        return _Keeping(seen, point)

    with tap(model, {point: keep(point) for point in points}):
        yield seen


@dataclass(frozen=True, eq=False)
class _Keeping:
    seen: dict[Point, Tensor]
    point: Point

    def __call__(self, tensor: Tensor) -> None:
        self.seen[self.point] = tensor


def total_variation(images: Tensor) -> Tensor:
    """`[B]`: sum over pixels and channels of √(vertical² + horizontal² difference); 0 beyond the border."""
    down = F.pad(images[:, :, 1:] - images[:, :, :-1], (0, 0, 0, 1))
    right = F.pad(images[:, :, :, 1:] - images[:, :, :, :-1], (0, 1))
    squared = down.square() + right.square()
    return torch.where(squared > 0, squared.clamp(min=1e-12).sqrt(), squared).sum((1, 2, 3))


class _Codes(nn.Module):
    """Latent codes as parameters, so that `fit` can optimise them."""

    def __init__(self, start: Tensor):
        super().__init__()
        self.values = nn.Parameter(start)


def synthesise(
    pair: Pair,
    objective: Objective,
    count: int,
    steps: int,
    rate: float,
    seed: int,
    progress: Progress = silent,
) -> tuple[Tensor, list[float]]:
    """Optimise the codes of `count` images, by Adam, for eq. 5.

    Returns:
        Images `[count, C, H, W]` in −1..1 on the CPU, and the objective at every step and at the end, which is the mean
        over images. With 0 steps they are what the generator makes of normal codes.
    """
    generator, device = torch.Generator().manual_seed(seed), next(pair.parameters()).device
    codes = _Codes(torch.randn(count, LATENT, generator=generator).to(device))
    course: list[float] = []

    def loss(made: nn.Module, _: Batch) -> Tensor:
        value = objective(pair.generator(made.get_parameter("values")))
        course.append(value.item())
        return value

    if steps:
        recipe = Recipe(steps, count, "adamw", rate, weight_decay=0, schedule="constant", clip=0)
        rows = examples_from(torch.zeros(count, 1), torch.zeros(count).long())
        with _frozen(pair):
            fit(codes, rows, recipe, seed, loss, progress=progress, label="cnr: synthesis")
    with torch.no_grad():
        images = pair.generator(codes.values)
        course.append(objective(images).item())
    return images.cpu(), course


@contextmanager
def _frozen(pair: Pair) -> Iterator[None]:
    """No gradients for the weights of a pair inside the block."""
    pair.requires_grad_(False)
    try:
        yield
    finally:
        pair.requires_grad_(True)
