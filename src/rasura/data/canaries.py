"""Canaries: training examples whose labels were made wrong, so that a model that names them so must have seen them."""

import re
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rasura.data.dataset import Data
from rasura.errors import InputError


@dataclass(frozen=True)
class Canaries:
    """How many training examples get a wrong label, and the seed that they and their labels are drawn with.

    Attributes:
        count: 1 or more, fewer than there are training examples.
        seed: 0 or more.
    """

    count: int
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("count", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise InputError(f"canaries: {name} {getattr(self, name)}; allowed: {least} or more")

    @property
    def words(self) -> str:
        """What data that hold them are called by."""
        return f"canaries:{self.count}@{self.seed}"

    def positions(self, planted: Data) -> Tensor:
        """int64 `[count]`, ascending: where in the training examples they are.

        Raises:
            InputError: other data, by their name.
        """
        if not planted.name.endswith(f" with {self.words}"):
            raise InputError(f"samples: {planted.name} holds no {self.words}; allowed: data {self.words}:…")
        return self._drawn(planted)[0].sort().values

    def planted(self, data: Data) -> Data:
        """The data with these labels changed, each to another class, all equally likely; held-out ones stay true.

        Raises:
            InputError: there are not more training examples than canaries, or the data has one class.

        >>> from rasura.data.sources import load_data
        >>> digits = load_data("digits")
        >>> planted = Canaries(20, seed=7).planted(digits)
        >>> rows = Canaries(20, seed=7).positions(planted)
        >>> int((planted.train.labels != digits.train.labels).sum()), planted.name
        (20, 'digits with canaries:20@7')
        >>> bool((planted.train.labels[rows] != digits.train.labels[rows]).all())
        True
        """
        if len(data.classes) < 2:
            raise InputError(f"canaries: the data has {len(data.classes)} class; allowed: 2 or more")
        rows, generator = self._drawn(data)
        labels = data.train.labels.clone()
        steps = torch.randint(1, len(data.classes), (self.count,), generator=generator)
        labels[rows] = (labels[rows] + steps) % len(data.classes)
        return replace(data, train=replace(data.train, labels=labels), name=f"{data.name} with {self.words}")

    def _drawn(self, data: Data) -> tuple[Tensor, torch.Generator]:
        if self.count >= len(data.train):
            raise InputError(f"canaries: {self.count} of {len(data.train)} training examples; allowed: fewer than all")
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randperm(len(data.train), generator=generator)[: self.count], generator


def canaries_of(words: str) -> Canaries | None:
    """`100` or `100@7` (drawn with seed 7) as canaries; None for other words.

    >>> canaries_of("100@7"), canaries_of("all")
    (Canaries(count=100, seed=7), None)
    """
    found = re.fullmatch(r"(\d+)(?:@(\d+))?", words)
    return Canaries(int(found[1]), int(found[2] or 0)) if found else None
