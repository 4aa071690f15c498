"""What the conformance suite is played on: a small original, models retrained without one class, real images."""

import functools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rasura.data import Data, Examples, ForgetClasses, Standardise, load_data
from rasura.models import to_card, with_card
from rasura.randomness import seeded
from rasura.training import Recipe, fit

CLASSES = ("T-shirt/top", "Trouser", "Dress", "Sandal", "Sneaker", "Bag")
FORGET, LIKEST = "Sneaker", "Sandal"
"""The class to forget, and the one that models which never saw it take it for."""
TRAIN, HELD_OUT, HELD_OUT_FORGET = 240, 80, 160
"""Images of each class."""
SIDE = 14
"""Images of 28×28 are averaged to this side."""
WIDTHS = (64, 32)
RECIPE = Recipe(epochs=12, batch_size=64, learning_rate=0.002)
REFERENCES = 6


class Net(nn.Module):
    """Two layers and a linear head on flattened images `[B, 1, 14, 14]`: trained in a fifth of a second."""

    block2: Any
    head: Any
    """Of open type, for cases put other layers there."""

    def __init__(self, classes: int = len(CLASSES), widths: tuple[int, int] = WIDTHS):
        super().__init__()
        self.block1 = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, widths[0]), nn.ReLU())
        self.block2 = nn.Sequential(nn.Linear(widths[0], widths[1]), nn.ReLU())
        self.head = nn.Linear(widths[1], classes)

    def inside(self, images: Tensor) -> Tensor:
        """Head inputs `[B, d]`."""
        return self.block2(self.block1(images))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.inside(images))


@dataclass(frozen=True, eq=False)
class Inputs:
    """What an audit is given (see `rasura.audit`)."""

    model: nn.Module
    data: Data
    request: ForgetClasses
    original: nn.Module
    references: tuple[nn.Module, ...]


@dataclass(frozen=True, eq=False)
class Stage:
    """Trained models that cases are made of.

    Attributes:
        data: six classes of Fashion-MNIST at 14×14 pixels; more images of the forget class are held out than of others.
        request: the class to forget.
        original: trained on all classes.
        references: retrained without the class, with other seeds.
        retrained: one more of these, which no audit has as a reference.
    """

    data: Data
    request: ForgetClasses
    original: Net
    references: tuple[Net, ...]
    retrained: Net

    @property
    def forget(self) -> int:
        """The number of the class to forget."""
        return self.data.classes.index(FORGET)

    @property
    def retained(self) -> list[int]:
        """The numbers of the other classes."""
        return [number for number in range(len(self.data.classes)) if number != self.forget]

    def inputs(self, model: nn.Module) -> Inputs:
        """An audit of `model` beside the stage's original and references."""
        return Inputs(model, self.data, self.request, self.original, self.references)


@functools.cache
def stage() -> Stage:
    """The stage, trained once per process: about two seconds on one core."""
    data = small_data()
    retrained = [trained(data, seed, without=(FORGET,)) for seed in range(1, REFERENCES + 2)]
    return Stage(data, ForgetClasses(FORGET), trained(data, 0), tuple(retrained[1:]), retrained[0])


def small_data() -> Data:
    """Six classes of the embedded Fashion-MNIST, at 14×14 pixels."""
    whole = load_data("fashion-mini")
    numbers = [whole.classes.index(name) for name in CLASSES]
    train = _first(whole.train, dict.fromkeys(numbers, TRAIN))
    test = _first(whole.test, dict.fromkeys(numbers, HELD_OUT) | {whole.classes.index(FORGET): HELD_OUT_FORGET})
    bright = train[0].float() / 255
    standardise = Standardise((float(bright.mean()),), (float(bright.std()),))
    return Data.from_tensors(train, test, classes=CLASSES, name="fashion-mini at 14×14", standardise=standardise)


def _first(examples: Examples, counts: dict[int, int]) -> tuple[Tensor, Tensor]:
    """The first images of some classes, at half the side, and their labels: the classes are numbered anew."""
    rows = [(examples.labels == number).nonzero()[:count, 0] for number, count in counts.items()]
    labels = torch.cat([torch.full_like(members, number) for number, members in enumerate(rows)])
    images = torch.as_tensor(examples.stored(torch.cat(rows))).float()
    return F.avg_pool2d(images, 2).round().to(torch.uint8), labels


def trained(
    data: Data,
    seed: int,
    without: Sequence[str] = (),
    recipe: Recipe = RECIPE,
    widths: tuple[int, int] = WIDTHS,
) -> Net:
    """A net trained from scratch without some classes; its card says so."""
    with seeded(seed):
        net = Net(len(data.classes), widths)
    gone = torch.isin(data.train.labels, torch.tensor([data.classes.index(name) for name in without]))
    fit(net, data.train.take(~gone), recipe, seed)
    with_card(net, to_card(None, data, training={"recipe": asdict(recipe), "seed": seed, "without": list(without)}))
    return net


def images_of(examples: Examples) -> Tensor:
    """All of them as model inputs `[N, 1, 14, 14]`."""
    images, _ = examples.batch(torch.arange(len(examples)))
    assert isinstance(images, Tensor)
    return images
