"""The online code beside scikit-learn, and on labels whose length is known."""

import itertools
import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from rasura.auditing import code_length as module
from rasura.auditing.code_length import code_length
from rasura.auditing.decoders import standardised


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def rare(count: int, share: float) -> Tensor:
    """Labels of which exactly this share is true, in no order."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(3)) < share * count


def by_sklearn(features: Tensor, forget: Tensor, penalty: float) -> float:
    """The online code at one penalty, block by block."""
    count = len(forget)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0)).numpy()
    inputs, labels = standardised(features).double().numpy()[order], forget.numpy()[order]
    ends = [math.ceil(count * share) for share in (0.05, 0.1, 0.2, 0.4, 1)]
    bits = float(ends[0])
    for known, end in itertools.pairwise(ends):
        # Two rows of weights as in a softmax: scikit-learn's penalty on one row is half as strong.
        probe = LogisticRegression(C=2 / (known * penalty), tol=1e-8, max_iter=5000).fit(inputs[:known], labels[:known])
        odds = probe.predict_proba(inputs[known:end])[np.arange(end - known), labels[known:end].astype(int)]
        bits -= np.log2((known * odds + 1) / (known + 2)).sum()
    return bits


@pytest.mark.parametrize("penalty", [1e-1, 1e-2, 1e-3])
def test_the_code_agrees_with_scikit_learn_s_regressions(penalty, monkeypatch):
    monkeypatch.setattr(module, "PENALTIES", (penalty,))
    monkeypatch.setattr(module, "BLOCK_ENDS", (0.05, 0.1, 0.2, 0.4, 1.0))
    features = normal(400, 10)
    forget = features[:, 0] + 0.5 * normal(400, seed=1) > 0.5
    assert code_length(features, forget).bits == pytest.approx(by_sklearn(features, forget, penalty), rel=0.005)


def test_the_penalty_is_the_one_that_coded_earlier_blocks_best(monkeypatch):
    features = normal(600, 10)
    forget = features[:, 0] > 0.3
    alone = []
    for penalty in module.PENALTIES:
        with monkeypatch.context() as patch:
            patch.setattr(module, "PENALTIES", (penalty,))
            alone.append(code_length(features, forget).bits)
    assert min(alone) * 0.99 < code_length(features, forget).bits < min(alone) * 1.2


def test_coin_flips_cannot_be_told_in_fewer_bits_than_labels():
    found = code_length(normal(1000, 20), rare(1000, 0.5))
    assert found.uniform == 1000
    assert found.frequencies == pytest.approx(1000)
    assert 0.85 < found.compression < 1


def test_a_rare_class_that_features_say_nothing_of_costs_what_its_frequency_costs():
    found = code_length(normal(2000, 8), rare(2000, 0.1))
    assert found.frequencies == pytest.approx(2000 * (0.1 * math.log2(10) + 0.9 * math.log2(10 / 9)))
    assert 0.98 < found.bits / found.frequencies < 1.1


def test_the_better_features_tell_the_class_the_fewer_bits():
    forget = rare(1000, 0.2)
    lengths = [code_length(normal(1000, 12) + apart * forget[:, None], forget).bits for apart in (0, 0.3, 0.6, 2)]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[-1] < 0.1 * lengths[0]


def test_a_class_that_takes_many_labels_to_learn_costs_more_than_one_learnt_at_once():
    """What accuracy does not show: both are told perfectly in the end."""
    forget = rare(1000, 0.5)
    sign = 2.0 * forget[:, None] - 1
    at_once = torch.cat([20 * sign, normal(1000, 60)], dim=1)
    late = torch.cat([0.7 * sign + 0.01 * normal(1000, 1, seed=1), 3 * normal(1000, 60)], dim=1)
    late = late @ torch.linalg.qr(normal(61, 61, seed=2))[0]
    assert code_length(at_once, forget).bits < 0.5 * code_length(late, forget).bits


@pytest.mark.parametrize("forget", [torch.zeros(50).bool(), torch.ones(50).bool(), torch.arange(50) < 1])
def test_labels_of_one_kind_are_told_in_few_bits(forget):
    found = code_length(normal(50, 100), forget)
    assert 1 < found.bits < 30
    assert found.frequencies < 8


def test_the_seed_decides_the_order():
    features, forget = normal(300, 5), rare(300, 0.3)
    state = torch.get_rng_state()
    assert code_length(features, forget, 1) == code_length(features, forget, 1)
    assert code_length(features, forget, 1) != code_length(features, forget, 2)
    assert torch.equal(state, torch.get_rng_state())
