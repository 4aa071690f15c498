"""Pairs of a training example that is to be forgotten and a held-out one of its class: can a model tell them apart?

Only examples of the same class are compared: between classes, any classifier tells members from others.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rasura.auditing.decoded import HEAD_SWAP, UNWRAPPED, Anchor
from rasura.auditing.decoders import fit_logistic, standardised
from rasura.auditing.likelihood_ratio import lira, rmia
from rasura.auditing.membership import attack, placements, roc_points, signals, true_positive_rate
from rasura.auditing.probe import Probe
from rasura.auditing.reading import Reading

LOSS, ENTROPY, MARGIN, LOG_ODDS = "loss", "entropy", "margin", "log-odds"
ATTACK, FEATURES, RMIA, LIRA = "attack", "features", "rmia", "lira"
PENALTY = 1e-2
"""Ridge penalty of the regressions, which have few examples for their features."""
PARTS = "logits", "said", "inner"
"""What signals are made of."""


@dataclass(frozen=True, eq=False)
class Members:
    """How one model treats each pair.

    Attributes:
        train_rows: int64 `[P]`, positions of the training examples.
        held_out_rows: int64 `[P]`, positions of the held-out ones.
        labels: int32 `[P]`, the class of both.
        values: per signal, float32 `[2, P]`: held-out example, training example; higher looks more like training.
    """

    train_rows: np.ndarray
    held_out_rows: np.ndarray
    labels: np.ndarray
    values: dict[str, np.ndarray]


def remember(on_probe: Reading, on_members: Reading, probe: Probe, anchor: Anchor | None) -> Members:
    """Every signal on every pair of the probe.

    Args:
        on_probe: what the model shows on the probe.
        on_members: what it shows on the pairs' training examples.
        probe: holds the pairs.
        anchor: the original's head; None leaves its signal out.
    """
    pairs = probe.pairs
    assert pairs is not None
    said, head_said, read = (
        torch.cat([held_out[pairs.held_out], train])
        for held_out, train in ((getattr(on_probe, part), getattr(on_members, part)) for part in PARTS)
    )
    labels = pairs.members.labels.repeat(2)
    seen = signals(said, labels)
    values = {LOSS: -seen.loss, ENTROPY: -seen.entropy, MARGIN: seen.margin, LOG_ODDS: seen.log_odds}
    trained_on = np.arange(len(labels)) >= len(pairs.rows)
    values[ATTACK] = attack(seen, trained_on, pairs.folds.repeat(2).numpy())
    values[FEATURES] = _read(read, pairs.folds)
    if head_said.shape == said.shape:
        values[UNWRAPPED] = -signals(head_said, labels).loss
    if anchor is not None and anchor.head.weight.shape[1] == read.shape[1]:
        values[HEAD_SWAP] = -signals(anchor.head(read), labels).loss
    return Members(
        pairs.rows.numpy(),
        probe.rows[pairs.held_out].numpy(),
        pairs.members.labels.to(torch.int32).numpy(),
        {name: np.asarray(value, dtype=np.float32).reshape(2, -1) for name, value in values.items()},
    )


def pair_values(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """One number per pair `[P]` whose mean is the area under the curve, and whose scatter gives its standard error.

    The share of held-out examples that lie below this pair's training example, plus the share of training examples that
    lie above its held-out one, minus the area, each within the pair's class; ties count half. The structural components
    of DeLong, DeLong and Clarke-Pearson (Biometrics 44, 1988) for as many training as held-out examples of each class.

    Args:
        values: `[2, P]`, held-out and training examples; higher looks more like training.
        labels: `[P]`, the class of both.

    >>> pair_values(np.array([[0.1, 0.4], [0.3, 0.9]]), np.zeros(2)).tolist()
    [0.75, 0.75]
    """
    found = np.empty(len(labels))
    for number in np.unique(labels):
        inside = labels == number
        held_out, train = values[:, inside]
        below = placements(train, held_out)
        found[inside] = below + 1 - placements(held_out, train) - below.mean()
    return found


def expected_scatter(pairs: int, classes: int = 1) -> float:
    """Standard deviation of the area under the curve over models that rank members and others at random.

    √((2 P + K) / 12 P²), where pairs of K classes are ranked class by class. With K = 1, retrained models scatter no
    more, as they agree in part on what is hard.

    Source: Mann and Whitney, Annals of Mathematical Statistics 18, 1947.
    """
    return float(np.sqrt((2 * pairs + classes) / 12) / pairs)


def roc_curves(members: Mapping[str, Members]) -> dict[str, Any]:
    """Every model's curve of the attack on its outputs, and its true positive rate at a false positive rate of 1 %."""
    found: dict[str, Any] = {"true_positive_rate": {}, "roc": {}}
    for role, one in members.items():
        held_out, train = one.values[ATTACK]
        found["true_positive_rate"][role] = round(true_positive_rate(train, held_out), 5)
        found["roc"][role] = [[round(float(x), 4) for x in point] for point in roc_points(train, held_out)]
    return found


def relative_likelihood(own: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Robust membership inference `[2, P]` (`rmia`).

    Args:
        own: `[2, P]`, the model's log-likelihoods of the true classes.
        others: `[J, 2, P]`, those of retrained models, none of which has seen the training examples.
    """
    return np.stack([rmia(np.exp(own[part]), np.exp(others[:, part])) for part in (0, 1)])


def deviations(own: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Log-odds `[2, P]` in deviations from those of retrained models `[J, 2, P]` (`lira`)."""
    return np.stack([lira(own[part], others[:, part]) for part in (0, 1)])


def _read(vectors: Tensor, folds: Tensor) -> np.ndarray:
    """Log-odds `[2P]` of being a training example, by logistic regressions that saw neither example of the pair."""
    design, both = standardised(vectors), folds.repeat(2)
    truth = (torch.arange(len(vectors)) >= len(folds)).long()
    weights = torch.stack([(both != fold).float() for fold in range(int(folds.max()) + 1)])
    fitted = fit_logistic(design, truth, weights, PENALTY, 2)
    odds = torch.einsum("nd,dkp->nkp", design, fitted[:-1]) + fitted[-1]
    read = (odds[:, 1] - odds[:, 0])[torch.arange(len(both)), both]
    for fold in range(int(folds.max()) + 1):
        # Each fold has a regression of its own: on one scale, or examples of different folds could not be ranked.
        read[both == fold] = standardised(read[both == fold, None])[:, 0]
    return read.numpy()
