"""The held-out examples that an audit decodes from: which they are, how they are split, what they may not contain."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rasura.data import Data, Examples, ForgetClasses, Request, resolve
from rasura.errors import InputError

FOLDS = 5
LEAST_EXAMPLES = 2 * FOLDS
"""Held-out examples of a forget class below which nothing can be cross-fitted."""
MOST_OVERLAP = 0.01
"""Share of held-out examples that may also occur in the training data; they are left out. More is refused."""


@dataclass(frozen=True, eq=False)
class Probe:
    """Held-out examples, split for cross-fitting.

    Attributes:
        examples: held-out examples that do not occur in the training data.
        rows: int64 `[N]`, their positions in the data's held-out part.
        labels: int64 `[N]`.
        forget: bool `[N]`, true for examples of a forget class.
        folds: int64 `[N]`, 0..4, stratified by class.
        halves: int64 `[N]`, 0 or 1, stratified by class: one half gives few-shot labels while the other is scored.
        classes: K.
        forget_classes: numbers of the classes that were to be forgotten.
        overlap: how many held-out examples were left out because the training data holds them too.
    """

    examples: Examples
    rows: Tensor
    labels: Tensor
    forget: Tensor
    folds: Tensor
    halves: Tensor
    classes: int
    forget_classes: tuple[int, ...]
    overlap: int


def make_probe(data: Data, request: Request, seed: int) -> Probe:
    """The probe of a class request, the same for every model that is audited on it.

    Raises:
        InputError: a sample request; held-out examples that overlap with the training data by more than one in a
            hundred; fewer than ten held-out examples of a class.
    """
    if not isinstance(request, ForgetClasses):
        raise InputError("request: the audit takes class requests; allowed: ForgetClasses")
    forget_classes = resolve(request, data).forget_classes
    seen = set(data.train.fingerprints())
    clean = torch.tensor([print_ not in seen for print_ in data.test.fingerprints()], dtype=torch.bool)
    overlap = int((~clean).sum())
    if overlap > MOST_OVERLAP * len(data.test):
        raise InputError(
            f"data: {overlap} of {len(data.test)} held-out examples occur in the training data too; allowed: at most "
            f"{MOST_OVERLAP:.0%}. Hold out examples that the model was not trained on"
        )
    rows = clean.nonzero()[:, 0]
    examples = data.test.take(rows)
    for number, name in enumerate(data.classes):
        count = int((examples.labels == number).sum())
        if count < LEAST_EXAMPLES:
            raise InputError(
                f"data: {count} held-out examples of {name!r}; allowed: {LEAST_EXAMPLES} or more of every class"
            )
    return Probe(
        examples=examples,
        rows=rows,
        labels=examples.labels,
        forget=torch.isin(examples.labels, torch.tensor(forget_classes)),
        folds=_stratified(examples.labels, FOLDS, seed),
        halves=_stratified(examples.labels, 2, seed + 1),
        classes=len(data.classes),
        forget_classes=forget_classes,
        overlap=overlap,
    )


def _stratified(labels: Tensor, parts: int, seed: int) -> Tensor:
    """A part number per example; every class is spread evenly over the parts."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.empty_like(labels)
    for number in labels.unique().tolist():
        members = (labels == number).nonzero()[:, 0]
        order = torch.randperm(len(members), generator=generator)
        found[members[order]] = torch.arange(len(members)) % parts
    return found
