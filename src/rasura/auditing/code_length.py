"""How many bits it takes to say which examples are of the forget class, given their features."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rasura.auditing.decoders import PENALTIES, fit_logistic, scores, standardised

BLOCK_ENDS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.0625, 0.125, 0.25, 0.5, 1.0)
"""Shares of the labels after which the online code fits its probe anew (Voita and Titov, 2020)."""


@dataclass(frozen=True)
class CodeLength:
    """Bits that it takes to tell someone who has the features which examples are of the forget class.

    Attributes:
        bits: by the online code; lower means that the features tell more, and sooner.
        uniform: at one bit per label.
        frequencies: by a code that knows how frequent the forget class is, and nothing else.
    """

    bits: float
    uniform: float
    frequencies: float

    @property
    def compression(self) -> float:
        """How many times shorter than the uniform code; above `uniform / frequencies` features say something."""
        return self.uniform / self.bits


def code_length(features: Tensor, forget: Tensor, seed: int = 0) -> CodeLength:
    """Minimum description length of the forget/retain labels given the features, by the online code.

    Labels are sent in blocks, each coded by a logistic regression fitted to the blocks before, the first one at one bit
    per label. A probe that needs many labels to become good pays for it, also where accuracy would not show.

    Source: Voita and Titov, EMNLP 2020, online code; the same blocks.

    Differs: the regression's ridge penalty is the one that has coded the earlier blocks best, which the receiver knows
    too. The probabilities p of a regression fitted to n labels are sent as (n p + 1) / (n + 2): a surprise costs at
    most log2(n + 2) bits instead of any number.

    Args:
        features: `[N, d]`, finite.
        forget: bool `[N]`, true for examples of the forget class.
        seed: of the order in which labels are sent; the length varies a little with it.
    """
    count, labels = len(forget), forget.long()
    place = torch.empty(count, dtype=torch.int64)
    place[torch.randperm(count, generator=torch.Generator().manual_seed(seed))] = torch.arange(count)
    ends = torch.tensor(sorted({math.ceil(share * count) for share in BLOCK_ENDS}))
    known, block = ends[:-1], torch.bucketize(place, ends, right=True)
    design, fitted, bits = standardised(features), None, []
    for penalty in PENALTIES:
        fitted = fit_logistic(design, labels, (place < known[:, None]).float(), penalty, 2, start=fitted)
        right = scores(design, fitted).double().softmax(1)[torch.arange(count), labels]
        sent = -((right * known + 1) / (known + 2)).log2()
        bits.append(torch.stack([sent[block == at + 1, at].sum() for at in range(len(known))]))
    so_far = torch.stack(bits).cumsum(1) - torch.stack(bits)
    coded = torch.stack(bits)[so_far.argmin(0), torch.arange(len(known))]
    share = float(forget.double().mean())
    entropy = -sum(part * math.log2(part) for part in (share, 1 - share) if part > 0)
    return CodeLength(float(ends[0] + coded.sum()), float(count), count * entropy)
