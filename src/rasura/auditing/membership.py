"""Membership inference: do a model's outputs tell the examples it was trained on from others of their class?

Every score here is higher for an example that looks more like a member. Members and non-members must be of the same
classes: a model that lost a class is unsure of all its examples, seen or not, so that a comparison with other classes
measures accuracy.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rasura.errors import InputError

LEAST_LOGIT = -1e4
"""What a logit of −∞ counts as, and every one below: lower than any net's, and exact enough beside them."""
DIRECTIONS = {"loss": -1, "entropy": -1, "margin": 1, "modified_entropy": -1, "log_odds": 1}
"""The signals, and the sign that makes each higher for members."""


@dataclass(frozen=True, eq=False)
class Signals:
    """What a model's outputs say of each example, float64 `[N]`, all finite.

    Attributes:
        loss: cross-entropy of the true class in nats, 0 or more.
        entropy: of the predicted distribution in nats, 0 to log K.
        margin: logit of the true class minus the highest other one; below 0 where the model names another class.
        modified_entropy: entropy that knows the true class: 0 where the model is sure of it, large where it is sure of
            another class (`signals` has the formula).
        log_odds: log(p / (1 − p)) of the true class, the logit-scaled confidence of likelihood-ratio attacks.
        masked: bool `[N]`, whether the true class's logit is cut off: −∞, below `LEAST_LOGIT`, or no such column. What
            is left in the other signals may still tell members; that they do not is no sign of forgetting.
    """

    loss: np.ndarray
    entropy: np.ndarray
    margin: np.ndarray
    modified_entropy: np.ndarray
    log_odds: np.ndarray
    masked: np.ndarray

    def score(self, signal: str) -> np.ndarray:
        """One of `DIRECTIONS`, turned so that higher looks more like a member."""
        return DIRECTIONS[signal] * getattr(self, signal)


def signals(logits: np.ndarray | Tensor, labels: np.ndarray | Tensor) -> Signals:
    """The signals that membership attacks read from logits.

    Modified entropy is −(1 − p_y) log p_y − Σ_{k≠y} p_k log(1 − p_k).

    A logit mask makes the loss of every forgotten example infinite: all tie, and the usual AUC of 0.5 says "not a
    member" of a model that forgot nothing. Here a masked logit counts as `LEAST_LOGIT`, whether the mask is −∞, −1e9 or
    a column left out, so loss is 10,000 + logsumexp(the other logits): finite, and still ordered, because training on
    an example lowers the other logits too. Outputs from before the mask say more, where there are any.

    Args:
        logits: `[N, K]`, finite or −∞.
        labels: `[N]`, the true classes. A label that is no column, say K where a model with K outputs lost its last
            class, counts as masked. A column cut out of the middle must be put back as −∞.

    Raises:
        InputError: fewer than two columns, another number of labels than of rows, NaN or +∞ logits.

    Source: Song and Mittal, USENIX Security 2021 (modified entropy); Yeom et al., CSF 2018 (loss); Carlini et al., S&P
    2022 (log-odds).

    >>> found = signals(np.log([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]]), np.array([0, 0]))
    >>> found.loss.round(4).tolist(), found.log_odds.round(4).tolist()
    ([0.6931, 1.3863], [0.0, -1.0986])
    """
    wide, truth = torch.as_tensor(logits).detach().cpu().double(), torch.as_tensor(labels).detach().cpu().long()
    if wide.ndim != 2 or wide.shape[1] < 2 or truth.shape != wide.shape[:1]:
        raise InputError(f"logits: {tuple(wide.shape)} with labels {tuple(truth.shape)}; allowed: [N, K ≥ 2] with [N]")
    if (wide.isnan() | wide.isposinf()).any():
        raise InputError("logits: NaN or +∞; allowed: finite logits, or −∞ where a mask cuts a class off")
    absent = (truth < 0) | (truth >= wide.shape[1])
    if absent.any():
        wide = torch.cat([wide, torch.full((len(wide), 1), -torch.inf, dtype=wide.dtype)], dim=1)
        truth = truth.where(~absent, wide.shape[1] - 1)
    wide = wide.clamp(min=LEAST_LOGIT)
    true, others = wide.gather(1, truth[:, None])[:, 0], _without(wide, truth)
    log_odds = true - others.logsumexp(1)
    found = {
        "loss": torch.logaddexp(-log_odds, torch.zeros_like(log_odds)),
        "entropy": -(wide.softmax(1) * wide.log_softmax(1)).sum(1),
        "margin": true - others.amax(1),
        "modified_entropy": _modified_entropy(wide, truth),
        "log_odds": log_odds,
        "masked": true <= LEAST_LOGIT,
    }
    return Signals(**{name: values.numpy() for name, values in found.items()})


def _without(logits: Tensor, columns: Tensor) -> Tensor:
    """The logits with one column of each row at −∞."""
    return logits.scatter(1, columns[:, None], -torch.inf)


def _modified_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    log_share = logits.log_softmax(1)
    top = logits.argmax(1)
    # 1 − p loses all digits for the one class whose p may be next to 1: there it is the sum of the others.
    log_rest = torch.log1p(-_without(log_share, top).exp())
    log_rest = log_rest.scatter(1, top[:, None], _without(log_share, top).logsumexp(1, keepdim=True))
    of_wrong = (log_share.exp() * log_rest).scatter(1, labels[:, None], 0).sum(1)
    of_true = log_rest.gather(1, labels[:, None]).exp() * log_share.gather(1, labels[:, None])
    return -of_true[:, 0] - of_wrong


def placements(members: np.ndarray, nonmembers: np.ndarray) -> np.ndarray:
    """For each member, the share of non-members that score lower, `[n_members]`; ties count half. Its mean is the AUC.

    >>> placements(np.array([1.0, 2.0, 5.0]), np.array([0.0, 2.0])).tolist()
    [0.5, 0.75, 1.0]

    Source: Pepe and Cai, Biometrics 60, 2004.
    """
    _check_scores(members, nonmembers)
    ordered = np.sort(nonmembers)
    below, through = (np.searchsorted(ordered, members, side) for side in ("left", "right"))
    return (below + through) / (2 * len(ordered))


def auc(members: np.ndarray, nonmembers: np.ndarray) -> float:
    """How often a member scores above a non-member, 0..1; ties count half.

    0.5: the score cannot tell them apart. 1: every member scores higher (has the lower loss, where −loss is the score).
    Below 0.5: members look *less* like members than unseen examples do, as after relabelling or gradient ascent.

    It is an average: a few examples that are surely remembered hardly move it (`true_positive_rate` shows those). It
    says nothing by itself: drift between training and held-out data gives retrained models an AUC other than 0.5 too.

    >>> auc(np.array([1.0, 2.0, 5.0]), np.array([0.0, 2.0]))
    0.75
    """
    return float(placements(members, nonmembers).mean())


def true_positive_rate(members: np.ndarray, nonmembers: np.ndarray, at: float = 0.01) -> float:
    """Share of members above the threshold that at most a share `at` of non-members pass, 0..1.

    Conservative with few non-members: the threshold is one of their scores, at most ⌊at · n⌋ of them pass it, and a tie
    with it is no detection. With fewer than 1 / at of them not one may pass, so the rate is that at no false positives.

    >>> true_positive_rate(np.array([1.0, 2.0, 5.0]), np.array([0.0, 2.0]))
    0.3333333333333333

    Source: Carlini et al., S&P 2022.
    """
    if not 0 < at < 1:
        raise InputError(f"at: {at}; allowed: between 0 and 1")
    _check_scores(members, nonmembers)
    passing = int(at * len(nonmembers) + 1e-9)
    return float((members > np.sort(nonmembers)[-1 - passing]).mean())


def roc_points(members: np.ndarray, nonmembers: np.ndarray, most: int = 100) -> np.ndarray:
    """False and true positive rates for a plot, `[P ≤ most, 2]`, from (0, 0) to (1, 1), both rising."""
    from sklearn.metrics import roc_curve

    _check_scores(members, nonmembers)
    truth = np.concatenate([np.ones(len(members)), np.zeros(len(nonmembers))])
    false, true, _ = roc_curve(truth, np.concatenate([members, nonmembers]))
    kept = np.unique(np.linspace(0, len(false) - 1, min(most, len(false))).round().astype(int))
    return np.stack([false, true], axis=1)[kept]


def _check_scores(members: np.ndarray, nonmembers: np.ndarray) -> None:
    for name, scores in (("members", members), ("nonmembers", nonmembers)):
        if not len(scores) or np.isnan(scores).any():
            raise InputError(f"{name}: {len(scores)} scores, {np.isnan(scores).sum()} NaN; allowed: some, none NaN")


def attack(found: Signals, members: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Scores `[N]` of a logistic regression on loss, entropy and margin that did not see the example it scores.

    It learns the direction too: members whose loss is *higher* than that of unseen examples also stand out, so an AUC
    above that of retrained models means "can be told apart", not "still known"; the loss says which.

    Args:
        found: the signals of members and non-members.
        members: bool `[N]`.
        folds: `[N]`, the fold in which each example is left out; members and non-members spread evenly over them.

    Raises:
        InputError: a fold without whose examples there are no members or no non-members.

    Differs: the usual attack learns from *retained* training examples, which a model that forgot a class treats quite
    differently; this one learns from the forgotten ones themselves and is the stronger.
    """
    from sklearn.linear_model import LogisticRegression

    design = np.stack([found.loss, found.entropy, found.margin], axis=1)
    scores = np.empty(len(design))
    for fold in np.unique(folds):
        held = folds == fold
        if len(np.unique(members[~held])) < 2:
            raise InputError(f"folds: without fold {fold} only one kind is left; allowed: members and non-members")
        centred = design - design[~held].mean(0)
        scaled = centred / np.maximum(design[~held].std(0), 1e-12)
        reader = LogisticRegression(class_weight="balanced", solver="newton-cholesky")
        said = reader.fit(scaled[~held], members[~held]).decision_function(scaled)
        # On one scale: else folds that learned nothing rank between those that did, and chance lies below 0.5.
        scores[held] = (said[held] - said[~held].mean()) / max(said[~held].std(), 1e-12)
    return scores
