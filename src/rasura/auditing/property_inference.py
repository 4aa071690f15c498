"""Property inference: can one tell from a model as a whole that a class was in its training data?"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from rasura.auditing.membership import auc
from rasura.errors import InputError

LEAST_MODELS = 2
"""Models of each kind: one is left out at a time, and the rest must still hold both kinds."""


@dataclass(frozen=True)
class PropertyInference:
    """What a meta-classifier says of a model that may have been trained with the class.

    Attributes:
        model: its log-odds that the audited model was trained with the class.
        trained_with: the same for each model that was, left out of its training.
        trained_without: the same for each model that was not.
    """

    model: float
    trained_with: tuple[float, ...]
    trained_without: tuple[float, ...]

    @property
    def auc(self) -> float:
        """How well it tells models that are known, 0..1. Only if this is near 1 does its word on another one count."""
        return auc(np.array(self.trained_with), np.array(self.trained_without))

    @property
    def chance(self) -> float:
        """Share of models without the class, the audited one counted among them, that look trained with it as much.

        A one-sided p-value: at least 1 / (J + 1) with J such models.
        """
        return (1 + sum(one >= self.model for one in self.trained_without)) / (1 + len(self.trained_without))


def property_inference(trained_with: np.ndarray, trained_without: np.ndarray, model: np.ndarray) -> PropertyInference:
    """Train a meta-classifier on models with and without the class, and ask it about another model.

    A logistic regression on a fixed-length description of each model, by `answers` (what it says of other classes) or
    `weight_spectrum` (its parameters); any other with one row per model will do. Models it is judged by are left out in
    turn. It finds what the description holds and no more, and needs shadow models: originals and references by the
    same recipe with other seeds. With few of them it can only find coarse traces.

    Args:
        trained_with: descriptions of models trained with the class, `[P ≥ 2, D]`.
        trained_without: of retrained models, `[J ≥ 2, D]`.
        model: of the audited model, `[D]`.

    Raises:
        InputError: fewer than two models of a kind, descriptions of different lengths, or values that are not finite.

    Source: Ateniese et al., IJSN 10, 2015 (meta-classifier over shadow models); Zhang, Tople and Ohrimenko, USENIX
    Security 2021 (from outputs).
    Differs: linear, because there are models by the handful. The property is "the class was trained on", where the
    sources ask for its share. The paper whose table names a "property inference" does not say what it is.
    """
    for name, rows in (("trained_with", trained_with), ("trained_without", trained_without)):
        if rows.ndim != 2 or len(rows) < LEAST_MODELS or rows.shape[1:] != model.shape:
            allowed = f"[{LEAST_MODELS} or more, D] for [D]"
            raise InputError(f"{name}: {rows.shape} beside a model of {model.shape}; allowed: {allowed}")
    known = np.concatenate([trained_with, trained_without])
    truth = np.arange(len(known)) < len(trained_with)
    if not np.isfinite(known).all() or not np.isfinite(model).all():
        raise InputError("descriptions: NaN or infinite values; allowed: finite ones")
    apart = [_log_odds(np.delete(known, k, 0), np.delete(truth, k), known[k]) for k in range(len(known))]
    return PropertyInference(
        _log_odds(known, truth, model), tuple(apart[: len(trained_with)]), tuple(apart[len(trained_with) :])
    )


def _log_odds(known: np.ndarray, truth: np.ndarray, model: np.ndarray) -> float:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    reader = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000))
    return float(reader.fit(known, truth).decision_function(model[None])[0])


def answers(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """A model seen from outside: its mean predicted distribution on the examples of each class, `[classes · K]`.

    Args:
        logits: `[N, K]` on the same held-out examples for every model. To look past an output mask give the columns and
            the examples of the retained classes only.
        labels: `[N]`.
    """
    share = torch.as_tensor(logits).double().softmax(1).numpy()
    return np.concatenate([share[labels == number].mean(0) for number in np.unique(labels)])


def weight_spectrum(model: nn.Module) -> np.ndarray:
    """A model seen from inside: the singular values of every weight, in the modules' order.

    They do not depend on the order of hidden units, in which models that do the same differ.

    Source: Ganju et al., CCS 2018, on why the order must not count.
    Differs: they sort units or sum over them; singular values are unchanged by any rotation of units.
    """
    weights = [one.detach().cpu().double().flatten(1) for one in model.parameters() if one.ndim > 1]
    return torch.cat([torch.linalg.svdvals(one) for one in weights]).numpy()
