"""How many bits it takes to say which examples are of the forget class, given their features."""

import itertools
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
    count, share = len(forget), float(forget.double().mean())
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    design, labels = standardised(features)[order], forget[order].long()
    ends = sorted({math.ceil(end * count) for end in BLOCK_ENDS})
    blocks = itertools.pairwise(ends)
    bits = torch.tensor(
        [[_bits(design, labels, *block, penalty) for penalty in PENALTIES] for block in blocks], dtype=torch.float64
    )
    best_so_far = (bits.cumsum(0) - bits).argmin(1, keepdim=True)
    entropy = -sum(part * math.log2(part) for part in (share, 1 - share) if part > 0)
    return CodeLength(ends[0] + float(bits.gather(1, best_so_far).sum()), float(count), count * entropy)


def _bits(design: Tensor, labels: Tensor, known: int, end: int, penalty: float) -> float:
    """What the labels from `known` to `end` cost if a regression fitted to those before names their probabilities."""
    fitted = fit_logistic(design[:known], labels[:known], torch.ones(1, known), penalty, 2)
    odds = scores(design[known:end], fitted)[:, :, 0].double().softmax(1)
    right = odds.gather(1, labels[known:end, None])
    return -float(((known * right + 1) / (known + 2)).log2().sum())
