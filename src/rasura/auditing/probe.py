"""The examples that an audit looks at: which they are, how they are split, what they may not contain."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rasura.auditing.near_copies import near_copies
from rasura.data import Data, Examples, Request, resolve
from rasura.errors import InputError

FOLDS = 5
LEAST_EXAMPLES = 2 * FOLDS
"""Held-out examples of a forget class below which nothing can be cross-fitted."""
MOST_FORGOTTEN, MOST_RETAINED = 1_000, 2_000
"""Held-out examples that are decoded: of each forget class, and of all retained classes together, evenly. More would
make intervals a little narrower and every decoder slower."""
LEAST_RETAINED = 50
"""Where there are many retained classes, each still gives so many."""
MOST_OVERLAP = 0.01
"""Share of held-out examples that may also occur in the training data; they are left out. More is refused."""

MOST_COPIES = 0.05
"""Share of held-out images that may lie within two grey levels of a training image: real data sets hold a few."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """Training examples that are to be forgotten, each beside a held-out example of its class.

    Attributes:
        members: the P training examples.
        rows: int64 `[P]`, their positions in the training data.
        held_out: int64 `[P]`, positions of the others among the probe's examples.
        folds: int64 `[P]`, 0..4, stratified by class.
    """

    members: Examples
    rows: Tensor
    held_out: Tensor
    folds: Tensor


@dataclass(frozen=True, eq=False)
class Probe:
    """Held-out examples, split for cross-fitting.

    Attributes:
        examples: held-out examples that do not occur in the training data, at most so many of each class.
        rows: int64 `[N]`, their positions in the data's held-out part.
        labels: int64 `[N]`.
        forget: bool `[N]`, true for examples of a forget class.
        folds: int64 `[N]`, 0..4, stratified by class.
        halves: int64 `[N]`, 0 or 1, stratified by class: one half gives few-shot labels while the other is scored.
        classes: K.
        forget_classes: numbers of the classes that were to be forgotten; empty for a sample request.
        pairs: training examples of the request beside held-out ones; None for a class request with fewer than ten.
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
    pairs: Pairs | None
    overlap: int


def make_probe(data: Data, request: Request, seed: int) -> Probe:
    """The probe of a request, the same for every model that is audited on it.

    Raises:
        InputError: held-out examples that overlap with the training data by more than one in a hundred, or five in a
            hundred that are training images retouched; fewer than ten held-out examples of a class to forget, or of all
            others; fewer than ten training examples to forget. Of other classes there may be fewer, or none.
    """
    parts = resolve(request, data)
    forget_classes = parts.forget_classes
    seen = set(data.train.origins())
    clean = torch.tensor([print_ not in seen for print_ in data.test.origins()], dtype=torch.bool)
    overlap = int((~clean).sum())
    if overlap > MOST_OVERLAP * len(data.test):
        raise InputError(
            f"data: {overlap} of {len(data.test)} held-out examples occur in the training data too; allowed: at most "
            f"{MOST_OVERLAP:.0%}. Hold out examples that the model was not trained on"
        )
    for number in forget_classes:
        count = int((data.test.labels[clean] == number).sum())
        if count < LEAST_EXAMPLES:
            raise InputError(
                f"data: {count} held-out examples of {data.classes[number]!r}; allowed: {LEAST_EXAMPLES} or more of a "
                "class to forget (--held-out SHARE holds more out of data without a test part)"
            )
    others = int((~torch.isin(data.test.labels[clean], torch.tensor(forget_classes))).sum())
    if others < LEAST_EXAMPLES:
        raise InputError(f"data: {others} held-out examples to keep; allowed: {LEAST_EXAMPLES} or more")
    rows = _chosen(data, clean, forget_classes, seed)
    examples = data.test.take(rows)
    copies, looked_at = near_copies(examples, data.train)
    if copies > MOST_COPIES * looked_at:
        raise InputError(
            f"data: {copies} of {looked_at} held-out images are training images retouched; allowed: at most "
            f"{MOST_COPIES:.0%}. Hold out examples that the model was not trained on"
        )
    pairs = _pairs(parts.forget, parts.forget_rows, examples.labels, seed)
    if pairs is None and not forget_classes:
        raise InputError(
            "request: fewer than ten training examples to forget that have a held-out one of their class beside them; "
            f"allowed: {LEAST_EXAMPLES} or more"
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
        pairs=pairs,
        overlap=overlap,
    )


def _chosen(data: Data, clean: Tensor, forget_classes: tuple[int, ...], seed: int) -> Tensor:
    """Positions of the examples to decode, in order: `MOST_FORGOTTEN` of each forget class, the others evenly."""
    generator = torch.Generator().manual_seed(seed + 2)
    others = max(1, len(data.classes) - len(forget_classes))
    each = max(LEAST_RETAINED, MOST_RETAINED // others)
    chosen = []
    for number in range(len(data.classes)):
        members = (clean & (data.test.labels == number)).nonzero()[:, 0]
        most = MOST_FORGOTTEN if number in forget_classes else each
        chosen.append(members[torch.randperm(len(members), generator=generator)[:most]])
    return torch.cat(chosen).sort().values


def _pairs(forgotten: Examples, rows: Tensor, held_out: Tensor, seed: int) -> Pairs | None:
    """As many pairs of each class as both sides can give, `MOST_FORGOTTEN` at most; None if there are too few."""
    generator = torch.Generator().manual_seed(seed + 3)
    members, others = [], []
    for number in forgotten.labels.unique().tolist():
        ours, theirs = (labels.eq(number).nonzero()[:, 0] for labels in (forgotten.labels, held_out))
        most = min(len(ours), len(theirs), MOST_FORGOTTEN)
        members.append(ours[torch.randperm(len(ours), generator=generator)[:most]])
        others.append(theirs[torch.randperm(len(theirs), generator=generator)[:most]])
    chosen = torch.cat(members)
    if len(chosen) < LEAST_EXAMPLES:
        return None
    folds = _stratified(forgotten.labels[chosen], FOLDS, seed + 4)
    return Pairs(forgotten.take(chosen), rows[chosen], torch.cat(others), folds)


def _stratified(labels: Tensor, parts: int, seed: int) -> Tensor:
    """A part number per example; every class is spread evenly over the parts."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.empty_like(labels)
    for number in labels.unique().tolist():
        members = (labels == number).nonzero()[:, 0]
        order = torch.randperm(len(members), generator=generator)
        found[members[order]] = torch.arange(len(members)) % parts
    return found
