"""Canaries: training examples whose labels were made wrong, so that a model that names them so must have seen them."""

import re
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rasura.data.dataset import Data
from rasura.errors import InputError, check_seed

PREFIX = "canaries:"
"""What data and requests in words begin with that are about canaries."""


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
        if self.count < 1:
            raise InputError(f"canaries: count {self.count}; allowed: 1 or more")
        check_seed(self.seed)

    @property
    def words(self) -> str:
        """As they are asked for."""
        return f"{PREFIX}{self.count}@{self.seed}"

    def mark(self, data: Data) -> str:
        """How the name of data ends that hold them: a part of these is other data."""
        return f" with {self.words} of {len(data.train)}"

    def positions(self, planted: Data) -> Tensor:
        """int64 `[count]`, ascending: where in the training examples they are.

        Raises:
            InputError: other data, by their name.
        """
        if not planted.name.endswith(self.mark(planted)):
            raise InputError(f"samples: {planted.name} holds no {self.words}; allowed: data {self.words}:…")
        return self._drawn(planted)[0].sort().values

    def planted(self, data: Data) -> Data:
        """The data with these labels changed, each to another class, all equally likely; held-out ones stay true.

        Raises:
            InputError: there are not more training examples than canaries, or canaries already.

        >>> from rasura.data.sources import load_data
        >>> digits = load_data("digits")
        >>> planted = Canaries(20, seed=7).planted(digits)
        >>> rows = Canaries(20, seed=7).positions(planted)
        >>> int((planted.train.labels != digits.train.labels).sum()), planted.name
        (20, 'digits with canaries:20@7 of 1198')
        >>> bool((planted.train.labels[rows] != digits.train.labels[rows]).all())
        True
        """
        if PREFIX in data.name:
            raise InputError(f"canaries: {data.name}; allowed: data without canaries")
        rows, generator = self._drawn(data)
        labels = data.train.labels.clone()
        steps = torch.randint(1, len(data.classes), (self.count,), generator=generator)
        labels[rows] = (labels[rows] + steps) % len(data.classes)
        return replace(data, train=replace(data.train, labels=labels), name=data.name + self.mark(data))

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
    found = re.fullmatch(r"(\d{1,99})(?:@(\d{1,99}))?", words)
    return Canaries(int(found[1]), int(found[2] or 0)) if found else None
